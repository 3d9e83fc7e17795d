"""How much of the disk may be taken by what is fetched ahead."""

from __future__ import annotations

import os
import threading
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

    def take(self, size_bytes: int, *, is_forced: bool) -> bool:
        """Take so much, if there is that much left or it must be."""
        with self._lock:
            if self.used_bytes + size_bytes > self.limit_bytes and not is_forced:
                return False
            self.used_bytes += size_bytes
            self.largest_bytes = max(self.largest_bytes, size_bytes)
            return True

    def give_back(self, size_bytes: int) -> None:
        """Take no longer that much."""
        with self._lock:
            self.used_bytes -= size_bytes


def size_of_tree(directory: str) -> int:
    """Give the bytes of the files below *directory*."""
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(directory)
        for name in names
    )
