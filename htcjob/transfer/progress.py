"""
How much has been moved so far: a live line on a terminal, a log line now and then elsewhere.

No timer and no thread: the threads that work or wait call `add` or `tick`, which show a line when it is due.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from htcjob.environment.variables import current_environ
from htcjob.logs.events import event

log = logging.getLogger(__name__)

LOG_EVERY_S = 30.0
"""Seconds between two log lines; a shorter transfer logs none."""
SHOW_AFTER_S = 0.5
"""Seconds before the live line appears, so that a quick transfer does not flicker."""
SHOW_EVERY_S = 0.2
"""Seconds between two states of the live line."""
ERASE = "\r\033[K"
"""Back to the beginning of the line, and clear it (ECMA-48 EL)."""


class Progress:
    """
    How far something has come. May be used from any thread.

    Args:
        what: The activity, in a word: `stage_in`.
        objects: How many there will be; None: not known.
        size_bytes: How many bytes that will be; None: not known.
        stream: Where the live line goes, if that is a terminal that can show one. Default: standard error.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        what: str,
        *,
        objects: int | None = None,
        size_bytes: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._objects_in_all, self._bytes_in_all = objects, size_bytes
        self._objects = self._bytes = 0
        self._stream = stream or sys.stderr
        self._is_live = _is_terminal(self._stream)
        self._clock = clock
        self._began = clock()
        self._due_at = self._began + (SHOW_AFTER_S if self._is_live else LOG_EVERY_S)
        self._is_shown = False
        self._lock = threading.RLock()
        """Guards everything above. Reentrant, because a log line of ours comes back to `filter`."""

    @property
    def tick_s(self) -> float:
        """Seconds between two calls of `tick` that make sense."""
        return SHOW_EVERY_S if self._is_live else LOG_EVERY_S

    def __enter__(self) -> Progress:
        if self._is_live:
            for handler in logging.getLogger("htcjob").handlers:
                handler.addFilter(self)
        return self

    def __exit__(self, *_error: object) -> None:
        self._erase()
        for handler in logging.getLogger("htcjob").handlers:
            handler.removeFilter(self)

    def filter(self, _record: logging.LogRecord) -> bool:
        """Clear the live line for a log line; it comes back with its next state."""
        self._erase()
        return True

    def expect(self, *, objects: int = 0, size_bytes: int = 0) -> None:
        """Add to the totals, of a list that is read while its objects are moved."""
        with self._lock:
            self._objects_in_all = (self._objects_in_all or 0) + objects
            self._bytes_in_all = (self._bytes_in_all or 0) + size_bytes

    def add(self, *, objects: int = 0, size_bytes: int = 0) -> None:
        """Add to the numbers that have been moved."""
        with self._lock:
            self._objects += objects
            self._bytes += size_bytes
        self.tick()

    def tick(self) -> None:
        """Show a line, if one is due."""
        now = self._clock()
        if now < self._due_at:  # read without the lock: at worst, the next call shows the line
            return
        with self._lock:
            if now < self._due_at:
                return
            self._due_at = now + self.tick_s
            if self._is_live:
                self._is_shown = True
                self._write(ERASE + self._line(now))
            else:
                event(
                    log,
                    logging.INFO,
                    "transfer_progress",
                    what=self._what,
                    objects=self._objects,
                    objects_in_all=self._objects_in_all,
                    size_bytes=self._bytes,
                    size_bytes_in_all=self._bytes_in_all,
                    elapsed_s=round(now - self._began, 1),
                )

    def _line(self, now: float) -> str:
        elapsed_s = now - self._began
        objects, size = str(self._objects), size_in_words(self._bytes)
        if self._objects_in_all:
            objects += f"/{self._objects_in_all}"
        if self._bytes_in_all:
            size += f"/{size_in_words(self._bytes_in_all)}"
        rate = size_in_words(self._bytes / max(elapsed_s, 0.001))
        return f"{self._what} {objects} files, {size}, {rate}/s, {elapsed_s:.0f} s"

    def _erase(self) -> None:
        with self._lock:
            if self._is_shown:
                self._is_shown = False
                self._write(ERASE)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a terminal that went away is no reason to stop
            self._is_live = False


def size_in_words(size_bytes: float) -> str:
    """Return a number of bytes for people: `512 B`, `1.5 MB` (a million and a half)."""
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    size, unit = size_bytes / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if size >= 1000:
            size, unit = size / 1000, larger
    return f"{size:.1f} {unit}"


def _is_terminal(stream: TextIO | None) -> bool:
    # Python has no standard error at all when it was started with that closed.
    return stream is not None and stream.isatty() and current_environ().get("TERM", "dumb") != "dumb"
