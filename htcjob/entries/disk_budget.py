"""The bound on disk space that entries fetched ahead may take."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field

SHARE = 0.5
"""Share of the free space at the beginning, where the user sets no budget: commands need the rest."""


@dataclass(slots=True)
class DiskBudget:
    """
    Bytes of files in the work directory, and their bound. May be used from any thread.

    With a bound of the user's, the size of an input is asked for before it is fetched. Else, to save that
    request, an input counts as large as the largest so far until it is there.
    """

    limit_bytes: int
    is_exact: bool
    """Whether the user gave the bound."""
    used_bytes: int = 0
    largest_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, directory: str, limit_bytes: int | None) -> DiskBudget:
        """Return the budget for *directory*: the user's, or else a share of the free space there."""
        if limit_bytes is not None:
            return cls(limit_bytes, is_exact=True)
        status = os.statvfs(directory)
        return cls(int(status.f_bavail * status.f_frsize * SHARE), is_exact=False)

    def take(self, size_bytes: int | None, *, is_forced: bool) -> DiskShare | None:
        """
        Return a share of *size_bytes*; None: that much is not left.

        Args:
            size_bytes: None: as much as the largest so far.
            is_forced: Take it however little is left.
        """
        with self._lock:
            if size_bytes is None:
                size_bytes = self.largest_bytes
            if self.used_bytes + size_bytes > self.limit_bytes and not is_forced:
                return None
            self._count(size_bytes, before_bytes=0)
        return DiskShare(self, size_bytes)

    def count(self, size_bytes: int, *, before_bytes: int) -> None:
        """Count *size_bytes* for a share that counted *before_bytes* until now."""
        with self._lock:
            self._count(size_bytes, before_bytes=before_bytes)

    def _count(self, size_bytes: int, *, before_bytes: int) -> None:
        self.used_bytes += size_bytes - before_bytes
        self.largest_bytes = max(self.largest_bytes, size_bytes)


@dataclass(slots=True)
class DiskShare:
    """The part of a budget that one entry takes until it gives it back; used by one thread at a time."""

    _budget: DiskBudget
    size_bytes: int
    _is_over: bool = False

    def resize(self, size_bytes: int) -> None:
        """Count *size_bytes* from now on, whatever is left: the files are there already."""
        if not self._is_over:
            self._budget.count(size_bytes, before_bytes=self.size_bytes)
            self.size_bytes = size_bytes

    def give_back(self) -> None:
        """Release all of it; a second call changes nothing."""
        self.resize(0)
        self._is_over = True


def size_of_tree(directory: str) -> int:
    """Return the bytes of the files below *directory*; a file that is removed meanwhile counts as empty."""
    size_bytes = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                size_bytes += os.lstat(os.path.join(folder, name)).st_size
    return size_bytes
