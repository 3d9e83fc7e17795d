"""
The memory guard: ends the biggest command before the kernel ends any process that it likes.

At the limit of a control group the kernel may end htcjob itself, or the whole container (Kubernetes with
cgroup v2, https://github.com/kubernetes/kubernetes/pull/117793), and then no record says which entry it was.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress

from htcjob.logs.events import event
from htcjob.machine import proc
from htcjob.machine.cgroup_memory import FULL_SHARE, CgroupMemory, MemoryUse
from htcjob.supervise.children import Children, RunningCommand
from htcjob.supervise.kernel import signal_group

log = logging.getLogger(__name__)

FILLED_PER_S = 4e9
"""Bytes that commands fill in a second at most: two of them, writing zeros as fast as they can."""

LONGEST_PAUSE_S, SHORTEST_PAUSE_S = 1.0, 0.002
"""Between two looks. In between it depends on how soon the limit could be reached."""

FUTILE_PAUSE_S = 0.1
"""After a look that found memory full and nothing to end: to look through all processes takes a while."""

SETTLE_S = 2.0
"""Seconds in which what an ended command leaves in a tmpfs is removed, before another one is ended."""


class MemoryGuard:
    """
    Watches our control group's memory, from `__enter__` to `__exit__`, in a thread of its own.

    Where it is full (`cgroup_memory.FULL_SHARE`), the command with the most memory is sent SIGKILL with
    everything it started, and `RunningCommand.shortage` says so. The next one is chosen only when that one's
    memory is back, or others have filled it again; the same holds where the kernel has ended one first.
    Where memory would be full without any command, none is ended.

    Args:
        children: The commands.
        memory: Closed in `__exit__`.
    """

    def __init__(self, children: Children, memory: CgroupMemory) -> None:
        self._children = children
        self._memory = memory
        self._victim: tuple[int, RunningCommand] | None = None
        self._used_then = 0
        """Bytes in use when the victim had gone, or the kernel's was going."""
        self._settled_at: float | None = None
        """When the memory of what has been ended, by us or the kernel, is waited for no longer."""
        self._oom_kills = 0
        """Processes that the kernel had ended when it was asked last."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryGuard:
        self._children.memory = self._memory
        self._oom_kills = self._memory.oom_kills()
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread is left; the kernel's kills are known all the same
            event(log, logging.WARNING, "memory_not_watched", cause=str(error))
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._children.memory = None
        self._memory.close()

    def _watch(self) -> None:
        pause_s = 0.0
        try:
            while not self._over.wait(pause_s):
                pause_s = self._check()
        except (OSError, ValueError) as error:  # the group is gone, or holds something else than numbers
            event(log, logging.WARNING, "memory_not_watched", cause=str(error))

    def _check(self) -> float:
        """End a command where one must be ended; return the seconds until the next look."""
        use = self._memory.use()
        if use is None:
            return LONGEST_PAUSE_S
        if use.room_bytes > 0:
            self._victim = self._settled_at = None
            pause_s = (use.limit_bytes - use.used_bytes) / FILLED_PER_S
            return min(max(pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
        with self._children.lock:  # no process id changes hands meanwhile
            if self._is_next_due(use) and not self._choose(use):
                return FUTILE_PAUSE_S
        return SHORTEST_PAUSE_S

    def _is_next_due(self, use: MemoryUse) -> bool:
        """Whether another victim may be chosen; makes sure that the last one is gone."""
        if self._victim is not None:
            pid, command = self._victim
            if self._children.running.get(pid) is command:
                _kill(pid, self._families().get(pid, []))  # what it has started meanwhile
                return False
        oom_kills = self._memory.oom_kills()  # one that ends shows no memory, and others would look big
        if oom_kills > self._oom_kills or (self._victim is not None and self._settled_at is None):
            self._oom_kills = oom_kills
            self._settled_at, self._used_then = time.monotonic() + SETTLE_S, use.used_bytes
        if self._settled_at is None:
            return True
        return use.used_bytes > self._used_then or time.monotonic() >= self._settled_at

    def _choose(self, use: MemoryUse) -> bool:
        """End the biggest command; False: there is none, or ending it would win nothing."""
        running = self._children.running
        families = self._families()
        sizes = {pid: sum(map(proc.memory_of, families.get(pid, []))) for pid in running}
        of_others = use.used_bytes - use.tmpfs_bytes - sum(sizes.values())
        if not sizes or of_others >= use.limit_bytes * FULL_SHARE:
            return False
        pid = max(sizes, key=lambda pid: sizes[pid])
        self._victim, self._settled_at = (pid, running[pid]), None
        running[pid].shortage = str(use)
        _kill(pid, families.get(pid, []))
        return True

    def _families(self) -> dict[int, list[int]]:
        """
        Return the process ids of every running command's processes, itself included, by its own.

        A process belongs to the command whose group or session it is in, or else to its parent's; an orphan
        to the one that is known to have left it (`Children.owner_of`).
        """
        running, us = self._children.running, os.getpid()
        processes = proc.all_processes() if self._children.adopts else {}  # else /proc may be others'
        processes.pop(us, None)
        owners: dict[int, int | None] = {}
        for process in processes:
            line, at = [], process
            while at in processes and at not in owners and at not in line:
                line.append(at)
                parent, group, session = processes[at]
                owner = next((pid for pid in (at, group, session) if pid in running), None)
                if owner is None and parent == us:
                    owner = self._children.owner_of(at)
                if owner is not None:
                    owners[at] = owner
                else:
                    at = parent
            owners.update(dict.fromkeys(line, owners.get(at)))
        families: dict[int, list[int]] = {}
        for process, owner in owners.items():
            if owner is not None:
                families.setdefault(owner, []).append(process)
        return families


def _kill(group: int, others: list[int]) -> None:
    """Kill a command's process group, all at once, so that none of it sees another end; then the others."""
    signal_group(group, signal.SIGKILL)
    for pid in others:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
