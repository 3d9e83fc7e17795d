"""
The program of a warm worker, by itself: for any Python from 3.8, it needs no installed htcjob.

    python program.py REQUESTS ANSWERS MODULE:FUNCTION

imports MODULE (found where we were started, or on sys.path), calls its `setup()` if it has one, and then
FUNCTION for each line of the file descriptor REQUESTS. The first line on ANSWERS says whether that can be
done; each other line is the answer to a request. Standard output and error are the function's own.

Here it only begins. The rest is imported, from the files beside this one, from htcjob's `trouble.py` and from
the standard library, before anything of the user's can be: a `json.py` of theirs is for their own code.
"""

import os
import sys

TRY_AGAIN = 75
"""Exit status of a worker that this machine keeps from working, for now."""


def begin() -> None:
    """Start the program in `run.py`."""
    at_start, path = frozenset(sys.modules), sys.path[:]
    folder = os.path.dirname(os.__file__)
    library = [entry for entry in path if entry == folder or os.path.basename(entry) == "lib-dynload"]
    package = type(sys)("htcjob_warm")
    here = os.path.dirname(os.path.abspath(__file__))
    package.__path__ = [here, os.path.dirname(os.path.dirname(here))]
    sys.modules[package.__name__] = package
    sys.path[:] = library or path
    try:
        __import__("htcjob_warm.run")
        sys.modules["htcjob_warm.run"].main(at_start, path, library)
    except (ImportError, AttributeError, OSError, MemoryError) as error:
        # No error of the user's code comes here. Our own files are there: so it is this machine, for now.
        sys.stderr.write(f"worker: {type(error).__name__}: {error}\n")
        raise SystemExit(TRY_AGAIN) from None


if __name__ == "__main__":
    begin()
