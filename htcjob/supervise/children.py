"""
The processes that fall to us: running commands, what they leave behind, and orphans.

An orphan is a process whose parent died: the kernel makes it our child, because we are PID 1 or a subreaper.
It differs from a child of our own in three ways: it is no running command, it was not there before the first
command, and its process group is not ours. So a library's helper (one that fetches a credential, say) keeps
its exit status; whatever starts a process of its own *in a new group* must start it through `Children.start`.
"""

from __future__ import annotations

import os
import resource  # `os.wait4` imports it, maybe when no file descriptor is left to do so
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from htcjob.machine import proc
from htcjob.supervise.kernel import (
    be_subreaper,
    end_group,
    let_die_first,
    wait_for_any,
    wait_readable,
)

if TYPE_CHECKING:
    from htcjob.machine.cgroup_memory import CgroupMemory

LEFTOVERS_GRACE_S = 2.0
"""Seconds that processes which outlive their command have after SIGTERM."""

REAP_S = 1.0
"""Seconds that an orphan which has ended waits at most, where nobody is told of each child's end."""


class RunningCommand:
    """A running command, or warm worker, as far as we know it; its process group bears its process id."""

    __slots__ = ("is_job", "mark", "may_finish", "oom_kills", "shortage")

    def __init__(self, *, may_finish: bool, is_job: bool, mark: bytes | None) -> None:
        self.may_finish = may_finish
        """Whether a request to stop is kept from it."""
        self.is_job = is_job
        """Whether it is in our session, as a shell's job is, rather than in one of its own."""
        self.mark = mark
        """A variable (`NAME=value`) that only its processes have in their environment."""
        self.shortage = ""
        """How short memory was when the memory guard ended it, in words; empty: the guard did not."""
        self.oom_kills = 0
        """Processes that the kernel had ended for want of memory when it began."""


class Children:
    """
    Running commands and orphans; every method may be called from any thread.

    Never waits for a child that it does not own.
    """

    def __init__(self) -> None:
        self.running: dict[int, RunningCommand] = {}
        """Commands that were started and are still to be waited for, by process id."""
        self.lock = threading.RLock()
        """Held where a process id must not change hands; signal handlers of its thread come in between."""
        self.is_starting = False
        """Whether a child may exist that `running` does not name yet."""
        self.is_told = True
        """Whether `reap` is called at each child's end; if not, threads that wait call it now and then."""
        self._is_reaping_due = False
        self._adopts: bool | None = None
        """Whether orphans come to us and can be seen; None: not arranged yet."""
        self.memory: CgroupMemory | None = None
        """Our control group's, where it is limited and watched."""
        self._earlier: frozenset[int] = frozenset()
        """Children that were ours before the first command."""

    def close(self) -> None:
        """End any orphan that is left, and let orphans go where they went before."""
        self.end_leftovers(None, grace_s=LEFTOVERS_GRACE_S)
        if self._adopts:
            be_subreaper(False)

    @property
    def adopts(self) -> bool:
        """Whether orphans come to us, so that everything a command leaves behind can be found."""
        return bool(self._adopts)

    def start(self, spawn: Callable[[], int], command: RunningCommand) -> int:
        """Start *command* by *spawn*, which returns its process id and puts it into a group of its own."""
        self.begin(command)
        with self.lock:
            if self._adopts is None:
                self._adopts = be_subreaper(True) and proc.sees_itself()
                self._earlier = frozenset(proc.children() if self._adopts else ())
            self.is_starting = True
            try:
                pid = spawn()
                self.running[pid] = command
            finally:
                self.is_starting = False
        if self.memory is not None:
            let_die_first(pid)
        if self._is_reaping_due:
            self.reap()
        return pid

    def wait(self, pid: int) -> tuple[int, resource.struct_rusage]:
        """Wait for a command; return its wait status and what it used."""
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with self.lock:
            del self.running[pid]
            _, status, usage = os.wait4(pid, 0)
        self.reap()  # orphans may have been hidden behind it
        return status, usage

    def begin(self, command: RunningCommand) -> None:
        """Note what `shortage` needs: *command*, or another entry of a warm worker's, begins now."""
        if self.memory is not None:
            command.oom_kills = self.memory.oom_kills()

    def shortage(self, command: RunningCommand, code: int) -> str:
        """
        Return how short memory was when *command* ended, in words; empty: that is not why it ended.

        It is when the memory guard killed it, or when it was killed, or a shell says so of what it ran, and
        meanwhile the kernel has killed a process of ours for want of memory.

        Args:
            command: One that has ended.
            code: Its exit status, or -n for signal n: one that ended by itself at that very moment has
                ended by itself.
        """
        if code == -signal.SIGKILL and command.shortage:
            return command.shortage
        is_killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        if is_killed and self.memory is not None and self.memory.oom_kills() > command.oom_kills:
            return "killed by the kernel"
        return ""

    def reap(self) -> None:
        """Reap the orphans that have ended; for SIGCHLD, in a signal handler or anywhere."""
        with self.lock:
            self._is_reaping_due = self.is_starting
            if self.is_starting or self._adopts is None:
                return
            with suppress(ChildProcessError):
                while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    if not self._is_orphan(ended.si_pid):
                        return  # its owner is about to wait for it; the rest is reaped then
                    os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)

    def wait_readable(self, descriptors: Sequence[int], until: float | None) -> list[int]:
        """Like `kernel.wait_readable`, and reap orphans meanwhile."""
        while not self.is_told:
            look_at = time.monotonic() + REAP_S
            if until is not None and until <= look_at:
                break
            if ready := wait_readable(descriptors, look_at):
                return ready
            self.reap()
        return wait_readable(descriptors, until)

    def end_leftovers(self, command: int | None, *, grace_s: float) -> bool:
        """
        End what *command* left running: SIGTERM, and SIGKILL when the grace period is over.

        Returns whether it is certain that nothing which it started is alive.

        That is its process group and every orphan it left, whatever group, session or name it took. Must be
        called between the command's end and `wait`, while its process id is still its own. An orphan that
        does not show where it comes from is the last command's that runs; None: ends all that are left.
        Takes twice the grace period at most. Does nothing where orphans do not come to us (`adopts`).
        """
        if not self._adopts:
            return False
        for signum in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + grace_s
            told = set()
            if command is not None:
                told.add(command)
                end_group(command, signum)
            while True:
                left, others = self._left_by(command)
                if not left:
                    return not others
                for group in {group for _, group in left} - told:
                    told.add(group)
                    end_group(group, signum)
                if not wait_for_any([pid for pid, _ in left], until):
                    break
        return False

    def owner_of(self, pid: int) -> int | None:
        """Return the running command that left the orphan *pid*, a child of ours; None: none is known."""
        with self.lock, suppress(ProcessLookupError):
            if self._is_orphan(pid):
                return next((command for command in self.running if self._is_of(pid, command)), None)
        return None

    def _left_by(self, command: int | None) -> tuple[list[tuple[int, int]], list[int]]:
        """Return the living orphans of *command*, with their process groups, and all other living orphans."""
        found, others = [], []
        with self.lock:
            for pid in proc.children():
                with suppress(ChildProcessError, ProcessLookupError):  # reaped in a signal handler meanwhile
                    if (
                        self._is_orphan(pid)
                        and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None  # else it is reaped
                    ):
                        if self._is_of(pid, command):
                            found.append((pid, os.getpgid(pid)))
                        else:
                            others.append(pid)
        return found, others

    def _is_orphan(self, pid: int) -> bool:
        if pid in self.running or pid in self._earlier:
            return False
        try:
            return os.getpgid(pid) != os.getpgrp()
        except ProcessLookupError:
            return False

    def _is_of(self, pid: int, command: int | None) -> bool:
        """Whether an orphan is that command's."""
        others = self.running.keys() - {command}
        if not others:
            return True
        if command is None:
            return False
        belongs_to = {os.getpgid(pid), os.getsid(pid)}
        if command in belongs_to:
            return True
        mark = self.running[command].mark
        if belongs_to & others or mark is None:
            return False
        return proc.has_variable(pid, mark)
