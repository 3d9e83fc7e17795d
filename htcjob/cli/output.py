"""
Results on standard output: all of their bytes, or an error that ends the command with 74.

Python's own `sys.stdout` drops what a full disk or a non-blocking pipe does not take of one write, where
PYTHONUNBUFFERED is set; drops all where it was started with standard output closed; and has no way to write a
name that its encoding lacks. `take_standard_output` puts another one in its place.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PATIENCE_S = 5.0
"""Seconds for which a non-blocking pipe may take nothing; one that blocks may for ever, as with cat."""

_BUFFER_BYTES = 64 * 1024


class OutputError(OSError):
    """Standard output has not taken all that was written."""


class _Whole(io.RawIOBase):
    """File descriptor 1, for a `BufferedWriter`: raises one OutputError, and takes all that comes then."""

    name = "<stdout>"

    def __init__(self, *, is_closed: bool) -> None:
        self._is_closed = is_closed
        self.error: OutputError | None = None
        """Why results are lost, once they are. Python flushes again at its end, and must not complain."""

    def writable(self) -> bool:
        """Whether it can be written."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return 1

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return not self._is_closed and os.isatty(1)

    def write(self, data: ReadableBuffer) -> int:
        """Write some of *data*; return how many bytes."""
        if self.error is None:
            try:
                return self._write(data)
            except OSError as error:
                self.error = OutputError(error.errno, error.strerror)
                raise self.error from None
        return memoryview(data).nbytes

    def _write(self, data: ReadableBuffer) -> int:
        if self._is_closed:
            raise OSError(errno.EBADF, "it is closed")
        while True:
            try:
                return os.write(1, data)
            except BlockingIOError:
                import select

                poller = select.poll()
                poller.register(1, select.POLLOUT)
                if not poller.poll(_PATIENCE_S * 1000):
                    raise OSError(errno.EAGAIN, "nobody reads it") from None


_whole: _Whole | None = None


def take_standard_output() -> None:
    """
    Put a `sys.stdout` of ours in the place of Python's own, and fill standard descriptors that are closed.

    What its encoding lacks is written as an escape. One that is not Python's own (a test's) stays.
    """
    global _whole
    _fill_standard_descriptors()
    stream = sys.stdout
    if stream is not sys.__stdout__:
        return
    _whole = _Whole(is_closed=stream is None)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_whole, _BUFFER_BYTES),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",
        newline="\n",
        line_buffering=_whole.isatty(),
    )


def _fill_standard_descriptors() -> None:
    """Open /dev/null for a closed 0, 1 or 2: a file opened under that number would receive our messages."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            try:
                os.open(os.devnull, os.O_RDWR)
            except OSError:  # a bare root without it; what is written there is lost as well
                with suppress(OSError):
                    os.open("/", os.O_RDONLY)


def write(text: str = "", *, end: str = "\n") -> None:
    """
    Write a line of results; it may wait in the buffer until `finish`.

    Raises:
        OutputError: standard output does not take it.
    """
    sys.stdout.write(text + end)


def write_bytes(data: bytes) -> None:
    """
    Write *data* as it is; one command writes either lines or bytes.

    Raises:
        OutputError: standard output does not take it.
    """
    sys.stdout.buffer.write(data)


def finish() -> OutputError | None:
    """Write what is still in the buffer; return why results are lost, if any are."""
    try:
        sys.stdout.flush()
    except OutputError as error:
        return error
    return _whole.error if _whole is not None else None
