"""Container-side job runtime for high-throughput computing. Start reading in `runtime.py`."""

__version__ = "0.1.0"
