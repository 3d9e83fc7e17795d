"""How much of the disk may be taken by what is fetched ahead."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field

SHARE = 0.5
"""Part of what is free at the beginning, where the user sets no budget: commands need the rest."""


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
        """Give the budget for *directory*: the user's, or else a share of what is free there."""
        if limit_bytes is not None:
            return cls(limit_bytes, is_exact=True)
        status = os.statvfs(directory)
        return cls(int(status.f_bavail * status.f_frsize * SHARE), is_exact=False)

    def take(self, size_bytes: int | None, *, is_forced: bool) -> DiskShare | None:
        """
        Give a share of so many bytes; None: there is not that much left, and it need not be.

        Args:
            size_bytes: None: as much as the largest so far.
            is_forced: It is taken however much is left.
        """
        with self._lock:
            if size_bytes is None:
                size_bytes = self.largest_bytes
            if self.used_bytes + size_bytes > self.limit_bytes and not is_forced:
                return None
            self._count(size_bytes, before_bytes=0)
        return DiskShare(self, size_bytes)

    def count(self, size_bytes: int, *, before_bytes: int) -> None:
        """Count a share with so many bytes, where it had so many before."""
        with self._lock:
            self._count(size_bytes, before_bytes=before_bytes)

    def _count(self, size_bytes: int, *, before_bytes: int) -> None:
        self.used_bytes += size_bytes - before_bytes
        self.largest_bytes = max(self.largest_bytes, size_bytes)


@dataclass(slots=True)
class DiskShare:
    """The part of a budget that one entry takes, until it gives it back; used by one thread at a time."""

    _budget: DiskBudget
    size_bytes: int
    _is_over: bool = False

    def resize(self, size_bytes: int) -> None:
        """Count with so many bytes from now on: they are on disk already, or no longer."""
        if not self._is_over:
            self._budget.count(size_bytes, before_bytes=self.size_bytes)
            self.size_bytes = size_bytes

    def give_back(self) -> None:
        """Take nothing any more; a second time changes nothing."""
        self.resize(0)
        self._is_over = True


def size_of_tree(directory: str) -> int:
    """Give the bytes of the files below *directory*; one that is removed meanwhile has none."""
    size_bytes = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                size_bytes += os.lstat(os.path.join(folder, name)).st_size
    return size_bytes
