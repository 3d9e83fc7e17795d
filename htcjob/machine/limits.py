"""CPUs and memory that we may use, by quota, affinity and limit; the machine may have more."""

from __future__ import annotations

import os
from collections.abc import Iterator

from htcjob.machine.proc import content_of


def cpus(root: str = "/") -> float:
    """
    Return the CPUs that we may use, at least a fraction of one.

    That is the least of our affinity (`taskset`, Kubernetes' static policy, `docker --cpuset-cpus`) and every
    CFS quota above us (`docker --cpus`, Kubernetes' limits), cgroup v1 or v2. `os.cpu_count` knows neither.

    Args:
        root: The directory that has /proc and /sys.
    """
    try:
        allowed = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # not Linux
        allowed = float(os.cpu_count() or 1)
    return min([allowed, *_quotas(root)])


def available_memory(root: str = "/") -> int | None:
    """
    Return the bytes of memory that could be used without swapping; None: the kernel does not say.

    Args:
        root: The directory that has /proc.
    """
    for line in (_read(os.path.join(root, "proc/meminfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.removesuffix("kB")) * 1024
    return None


def has_memory_limit(root: str = "/") -> bool:
    """Whether our control group, or one above it, has a memory limit. Cheap: every job asks."""
    return any(memory_limit(group) is not None for group in control_groups("memory", root))


def memory_limit(group: str) -> int | None:
    """Return the memory limit of the control group with that folder, in bytes; None: it has none."""
    # https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    # https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = (_read(os.path.join(group, name)) or "").strip()
        if text.isdecimal() and int(text) < NO_MEMORY_LIMIT:
            return int(text)
    return None


NO_MEMORY_LIMIT = 1 << 60
"""Version 1 says "unlimited" by the largest number of pages that it can count, times their size."""


def control_groups(controller: str, root: str = "/") -> Iterator[str]:
    """
    Yield the folders of our control group and of those above it, ours first; some may not be there.

    Args:
        controller: The name of a controller of version 1; a group of version 2 has all of them.
        root: The directory that has /proc and /sys.
    """
    mounts = os.path.join(root, "sys/fs/cgroup")
    for line in (_read(os.path.join(root, "proc/self/cgroup")) or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:  # version 2
            base = mounts
        elif controller in controllers.split(","):
            base = os.path.join(mounts, controller)
        else:
            continue
        # In a container the path is often the host's, and not there: its own group is then the top one.
        folder = path.strip("/")
        while True:
            yield os.path.join(base, folder)
            if not folder:
                break
            folder = os.path.dirname(folder)


def _quotas(root: str) -> Iterator[float]:
    """Yield the quotas of our control group and of those above it, in CPUs."""
    for group in control_groups("cpu", root):
        yield from _quota(group)


def _quota(group: str) -> Iterator[float]:
    # https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    # https://docs.kernel.org/scheduler/sched-bwc.html#management (version 1)
    words = (_read(os.path.join(group, "cpu.max")) or "").split()
    if not words:
        names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
        words = [(_read(os.path.join(group, name)) or "").strip() for name in names]
    if len(words) == 2 and all(word.isdecimal() and int(word) > 0 for word in words):  # not "max", not -1
        yield int(words[0]) / int(words[1])


def _read(path: str) -> str | None:
    """Return a small file of the kernel's; None: it is not there, as many of them are not."""
    try:
        return content_of(path).decode("ascii", errors="replace")
    except OSError:
        return None
