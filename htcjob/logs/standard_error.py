"""
Standard error, for lines of ours: a reader that does not read holds no thread for longer than a moment.

A pipe, a socket or a terminal (^S) takes nothing while nobody reads. To make it non-blocking would change it
for the command too, which shares it; so it is opened once more, or asked before each write.
"""

from __future__ import annotations

import io
import os
import select
import stat
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer

WAIT_S = 1.0
"""Seconds that lines wait per burst, at most …"""
WAIT_SHARE = 0.05
"""… and their share of the total run time: a slow reader slows nobody down by more."""

_AT_ONCE = select.PIPE_BUF
"""Bytes that a pipe with any room takes without waiting."""


class BoundedWriter(io.BufferedIOBase):
    """
    A file descriptor that takes everything, and writes as much as it can; any thread may write.

    A line that is begun is ended before the next one. Lines that did not fit are counted, and their number
    is written as soon as there is room. Other trouble (a full disk, a reader that has gone) is no reason for
    more messages.

    Args:
        descriptor: Where to write; it may become another file while we are here, and is never closed.
    """

    name = "<stderr>"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.RLock()
        # Everything below is used with that lock only.
        self.words_for_lost: Callable[[int], str] = _words_for_lost
        """Returns a line that says how many lines were lost."""
        self._identity: tuple[int, int] | None = None
        """Device and inode of the file that `_own` and `_write` are for."""
        self._own: int | None = None
        """The same file, opened by us and non-blocking."""
        self._write: Callable[[bytes], int] = self._write_plainly
        self._rest = b""
        """The rest of a line that is begun."""
        self._lost = 0
        self._credit_s, self._credited_at = WAIT_S, time.monotonic()
        """How long we may wait, in seconds, and the moment for which that holds."""

    def writable(self) -> bool:
        """Whether it can be written: always."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def close(self) -> None:
        """Close the descriptor that we have opened ourselves."""
        if self._own is not None:
            os.close(self._own)
            self._own = None
        super().close()

    def may_wait(self) -> None:
        """Let the next line wait for its full time, however long the last ones have waited."""
        with self._lock:
            self._credit_s = WAIT_S

    def in_child(self) -> None:
        """Begin anew in a child: the thread that held the lock may not exist here."""
        self._lock = threading.RLock()

    def write(self, data: ReadableBuffer) -> int:
        """Write *data*, or count its lines as lost; return its length."""
        piece = bytes(data)
        with self._lock:
            self._look()
            if self._rest:
                self._rest = self._rest[self._put(self._rest) :]
            pending = (self.words_for_lost(self._lost).encode() if self._lost else b"") + piece
            if self._rest or not (written := self._put(pending)):
                self._lost += piece.count(b"\n")
            else:
                self._lost, self._rest = 0, pending[written:]
        return len(piece)

    def _put(self, data: bytes) -> int:
        """Write as much of *data* as there is room for within the time we may wait; return its length."""
        written = 0
        waited_until: float | None = None
        while written < len(data):
            try:
                written += self._write(data[written:])
            except BlockingIOError:
                now = time.monotonic()
                if waited_until is None:
                    waited_until = now + self._credit(now)
                elif now < waited_until:
                    time.sleep(0.001)  # there was room, and another process took it
                if not self._has_room(waited_until):
                    break
            except OSError:
                return len(data)
        if waited_until is not None:
            self._credit_s = max(waited_until - time.monotonic(), 0.0)
            self._credited_at = time.monotonic()
        return written

    def _credit(self, now: float) -> float:
        return min(WAIT_S, self._credit_s + WAIT_SHARE * (now - self._credited_at))

    def _has_room(self, until: float) -> bool:
        """Wait for room until that moment."""
        poller = select.poll()
        poller.register(self._descriptor if self._own is None else self._own, select.POLLOUT)
        left_ms = max(until - time.monotonic(), 0.0) * 1000
        return bool(poller.poll(left_ms))

    def _look(self) -> None:
        """Find out how to write this file without waiting; it may be another one than the last time."""
        try:
            status = os.fstat(self._descriptor)
        except OSError:
            return  # closed: to write says so too
        identity = status.st_dev, status.st_ino
        if identity == self._identity:
            return
        self._identity = identity
        if self._own is not None:
            os.close(self._own)
            self._own = None
        self._write = self._write_plainly
        if stat.S_ISSOCK(status.st_mode):
            self._write = self._send
        elif stat.S_ISFIFO(status.st_mode) or os.isatty(self._descriptor):
            self._write = self._write_where_there_is_room
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with suppress(OSError):  # no /proc, or it is another user's
                self._own = os.open(f"/proc/self/fd/{self._descriptor}", flags)
                self._write = self._write_own

    def _write_plainly(self, data: bytes) -> int:
        return os.write(self._descriptor, data)

    def _write_own(self, data: bytes) -> int:
        assert self._own is not None  # noqa: S101 - for mypy
        return os.write(self._own, data)

    def _write_where_there_is_room(self, data: bytes) -> int:
        if not self._has_room(0.0):
            raise BlockingIOError
        return os.write(self._descriptor, data[:_AT_ONCE])

    def _send(self, data: bytes) -> int:
        import socket

        with socket.socket(fileno=os.dup(self._descriptor)) as sender:
            return sender.send(data, socket.MSG_DONTWAIT)


_bounded: tuple[TextIO, TextIO] | None = None
"""The last standard error that was asked for, and the stream in its place."""


def standard_error() -> TextIO | None:
    """
    Return a stream in place of `sys.stderr`: the same file, through a `BoundedWriter`.

    That is `sys.stderr` itself where it is no file of the system; None: there is none.
    """
    global _bounded
    stream: TextIO | None = sys.stderr
    if stream is None or isinstance(getattr(stream, "buffer", None), BoundedWriter):
        return stream
    if _bounded is None or _bounded[0] is not stream:
        try:
            writer = BoundedWriter(stream.fileno())
        except (OSError, ValueError, AttributeError):
            return stream
        os.register_at_fork(after_in_child=writer.in_child)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = io.TextIOWrapper(writer, encoding, "backslashreplace", line_buffering=True, write_through=True)
        _bounded = stream, text
    return _bounded[1]


def may_wait(stream: TextIO | None) -> None:
    """Let the next line to *stream* wait for its full time."""
    writer = getattr(stream, "buffer", None)
    if isinstance(writer, BoundedWriter):
        writer.may_wait()


def _words_for_lost(lines: int) -> str:
    return f"htcjob: warning: {lines} lines are lost here: standard error took none for a while\n"
