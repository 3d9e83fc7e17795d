"""Container-side job runtime for high-throughput computing. Start reading in `attempt/recipe.py`."""

from typing import TYPE_CHECKING

__version__ = "0.2.0"
__all__ = ["Job", "JobEntry", "__version__"]

if TYPE_CHECKING:
    from htcjob.python_api.job import Job, JobEntry
else:

    def __getattr__(name: str) -> object:
        """Import the Python API when it is first used: the command line never pays for it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module("htcjob.python_api.job"), name)
