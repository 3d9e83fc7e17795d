"""
The memory that our control group may use and uses, read cheaply and often: cgroup v1 and v2.

Imported only where there is a limit (`limits.has_memory_limit`); the memory guard of `supervise/` acts on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from htcjob.machine.limits import NO_MEMORY_LIMIT, control_groups
from htcjob.trouble import let_go

FULL_SHARE = 0.95
"""Share of a limit at which memory counts as full: the kernel acts at all of it, on any process."""

_LONGEST_FILE = 1 << 16
"""Bytes that are read of a file; memory.stat has 4 thousand."""


class MemoryUse(NamedTuple):
    """How full a control group is."""

    used_bytes: int
    """Bytes that the kernel cannot take back: not the page cache of files on a disk, but files in a tmpfs."""
    limit_bytes: int
    """Bytes that it may use."""
    tmpfs_bytes: int = 0
    """The part that is files in a tmpfs, or shared memory; known where the group is full."""

    @property
    def room_bytes(self) -> float:
        """Bytes that are left until it counts as full; 0 or less: it is."""
        return self.limit_bytes * FULL_SHARE - self.used_bytes

    def __str__(self) -> str:
        return f"{self.used_bytes / 1e6:.0f} MB of {self.limit_bytes / 1e6:.0f} MB in use"


class CgroupMemory:
    """
    Our control group and those above it. Any thread may ask.

    Args:
        root: The directory that has /proc and /sys.

    Raises:
        OSError: a file of theirs cannot be opened.
    """

    def __init__(self, root: str = "/") -> None:
        self._groups: list[_Group] = []
        try:
            for folder in control_groups("memory", root):
                for names in (_VERSION_2, _VERSION_1):
                    if os.path.exists(os.path.join(folder, names.limit)):
                        self._groups.append(_Group(folder, names))
        except OSError:
            self.close()
            raise

    def use(self) -> MemoryUse | None:
        """
        Return the use of the group that has the least room; None: no group has a limit any more.

        Raises:
            OSError: a file cannot be read: the group has been removed, say.
        """
        uses = [use for group in self._groups if (use := group.use()) is not None]
        return min(uses, key=lambda use: use.room_bytes, default=None)

    def oom_kills(self) -> int:
        """Return how many processes of our group the kernel has ended for want of memory; 0: none known."""
        with suppress(OSError):
            for group in self._groups[:1]:
                return group.oom_kills()
        return 0

    def close(self) -> None:
        """Close the files."""
        for group in self._groups:
            group.close()


class _Names(NamedTuple):
    """Names of the files of a version, and of the lines in them."""

    limit: str
    usage: str
    events: str
    cache: tuple[bytes, ...]
    """Lines of memory.stat that count what the kernel can take back."""
    tmpfs: bytes


_VERSION_2 = _Names(
    "memory.max",
    "memory.current",
    "memory.events",
    (b"active_file", b"inactive_file", b"slab_reclaimable"),
    b"shmem",
)
_VERSION_1 = _Names(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.oom_control",
    (b"total_active_file", b"total_inactive_file"),
    b"total_shmem",
)


class _Group:
    """One control group; its files stay open, for they are read many times a second."""

    def __init__(self, folder: str, names: _Names) -> None:
        self._names = names
        self._files: dict[str, int] = {}
        try:
            for name in (names.limit, names.usage, "memory.stat"):
                self._files[name] = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC)
            with suppress(OSError):  # a kernel that does not count them
                path = os.path.join(folder, names.events)
                self._files[names.events] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise

    def use(self) -> MemoryUse | None:
        """Return how full it is; None: it has no limit."""
        limit = self._read(self._names.limit).strip()
        if not limit.isdigit() or int(limit) >= NO_MEMORY_LIMIT:
            return None
        use = MemoryUse(int(self._read(self._names.usage)), int(limit))
        if use.room_bytes > 0:
            return use  # that it is less without the page cache does not matter
        lines = dict(self._lines("memory.stat"))
        cache = sum(lines.get(name, 0) for name in self._names.cache)
        return use._replace(
            used_bytes=max(use.used_bytes - cache, 0), tmpfs_bytes=lines.get(self._names.tmpfs, 0)
        )

    def oom_kills(self) -> int:
        return dict(self._lines(self._names.events)).get(b"oom_kill", 0)

    def close(self) -> None:
        for descriptor in self._files.values():
            let_go(descriptor)
        self._files.clear()

    def _read(self, name: str) -> bytes:
        return os.pread(self._files[name], _LONGEST_FILE, 0) if name in self._files else b""

    def _lines(self, name: str) -> Iterator[tuple[bytes, int]]:
        """Yield the lines `name number` of a file."""
        for line in self._read(name).splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdigit():
                yield words[0], int(words[1])
