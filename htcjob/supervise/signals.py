"""
The signals that this process is sent, and their effect.

Some ask this attempt to stop, some to pause, and others are warnings, as batch systems send them ahead of the
end. All go to a command that has the whole chunk, or is a plain entrypoint: as PID 1 or not, on a terminal
or not, a person's or a platform's signal does to it what it would do without us. A command that may finish is
one of many, and knows nothing of the platform: it gets the signals of a person at a terminal, no more.
"""

from __future__ import annotations

import os
import resource  # `children.py` has it already
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from htcjob.outcome.results import signal_name
from htcjob.supervise.children import Children, RunningCommand
from htcjob.supervise.kernel import WakeUp, signal_group
from htcjob.supervise.stop_requests import STOP_SIGNALS, StopRequests
from htcjob.supervise.terminal import Terminal, is_orphaned

_PAUSING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""Signals that suspend a job until SIGCONT."""

_NOT_PASSED_ON = {
    *(signal.SIGKILL, signal.SIGSTOP),  # never seen
    signal.SIGCHLD,  # about children of ours
    *(signal.SIGPIPE, signal.SIGXFSZ),  # about what we write ourselves; Python ignores them
    # A fault of ours; a handler that returns to it would never end.
    *(
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGABRT,
        signal.SIGSYS,
    ),
}


_FOR_ALL = {signal.SIGINT, signal.SIGCONT, *_PAUSING}
"""Signals of a person at a terminal; commands that may finish get them too."""

_HARMLESS = {signal.SIGCONT, signal.SIGWINCH, signal.SIGURG, *_PAUSING}
"""Signals that end no process which does not ask for it."""

LATE_S = 0.5
"""Seconds by which a signal for every process of a job reaches us later than the command that it ended."""

MOMENT_S = 0.02
"""Seconds that every failed command waits for a signal on which it may have exited: ours may come yet."""


class Signals(StopRequests):
    """
    The signals this process is sent, from `__enter__` to `__exit__`.

    They go to every running command's process group at once. Must be entered in the main thread, which is
    where signals arrive; commands may run in any. A signal that was ignored when we started (`nohup`) stays
    ignored.
    """

    def __init__(self) -> None:
        super().__init__()
        self._came: dict[int, float] = {}
        """When each signal was sent to us last by somebody else, of those that may end a process."""
        self.children = Children()
        self.terminal: Terminal | None = None
        """Our controlling terminal, where we have one."""
        self.set_by_us: tuple[int, ...] = ()
        """Signals that we ignore and that a command must not inherit as ignored."""
        self._missed: list[int] = []
        """Signals that came while a command was being started."""
        self._is_suspending = False
        """Whether the commands were stopped by us, with us."""
        self._previous: dict[int, Any] = {}
        self._wake: WakeUp
        self._main_thread = 0
        """The thread in which handlers run; 0: it is not told of signals any more, or not yet."""
        self._is_alarm_due = False
        """The alarm of `stop_after` is still to come."""

    def __enter__(self) -> Signals:
        super().__enter__()
        self._main_thread = threading.get_ident()
        self._wake = WakeUp()
        self._wake.install()
        self.terminal = Terminal.find()
        for signum in signal.valid_signals() - _NOT_PASSED_ON:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._receive)
        if self.terminal is not None:
            # With a handler, our own output on a terminal that a command holds could never be written.
            self.set_by_us = tuple({signal.SIGTTIN, signal.SIGTTOU} & self._previous.keys())
            for ignored in self.set_by_us:
                signal.signal(ignored, signal.SIG_IGN)
        # Where it is ignored, the kernel reaps children itself and their exit status is lost.
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._see_children)
        return self

    def __exit__(self, *error: object) -> None:
        self.children.close()
        if self.stops_in_s is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._set_back()
        self._main_thread = 0
        self._wake.restore()
        self._wake.close()
        if self.terminal is not None:
            self.terminal.close()
        super().__exit__(*error)

    def _set_back(self) -> None:
        """Put back for every signal its former handler."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def set_alarm(self, seconds: float) -> None:
        """Set the timer of this process, whose signal is SIGALRM."""
        self._is_alarm_due = True
        self._previous.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, self._receive))
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))

    def excuse(self, code: int, *, may_finish: bool, since: float, cpu_s: float) -> str:
        """
        Return the outside cause of a command's end, in words, as far as we know; empty: there is none.

        A batch system may send its warnings and requests to stop to every process of a job: what such a
        signal ends, or moves to end itself, is not to blame. A command that we send all signals has ended
        because of one only where that killed it; its own exit status is its own verdict.

        Args:
            code: Its exit status, or -n for signal n.
            may_finish: We do not send it warnings and requests to stop.
            since: When it began, by the monotonic clock.
            cpu_s: Seconds of CPU time that it has used.
        """
        if code == 0 or (code > 0 and not may_finish):
            return ""
        signum = -code if code < 0 else code - 128  # as a shell says it of what it ran
        is_used_up = signum == signal.SIGXCPU or (signum == signal.SIGKILL and cpu_s >= _longest_cpu_s())
        if may_finish and is_used_up:
            return "its CPU time was used up (ulimit -t)"
        until = time.monotonic() + (LATE_S if signum in self._previous else MOMENT_S)
        while True:
            came = list(self._came.items())  # at once: a handler may add to it meanwhile
            known = [told for told, at in came if told == signum or (may_finish and at >= since)]
            if known or not may_finish or time.monotonic() >= until:
                return f"{signal_name(known[0])} was sent to the job" if known else ""
            time.sleep(MOMENT_S / 4)

    @contextmanager
    def many_commands(self) -> Iterator[None]:
        """
        Let a command's end wake only the thread that waits for it, as long as the context lasts.

        SIGCHLD would wake the main thread, and `LastResort`'s, and for commands as short as `true` that is
        a third of all the time. Must be entered in the main thread. A job that needs the terminal must not
        run meanwhile.
        """
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.children.is_told = False
        try:
            yield
        finally:
            self.children.is_told = True
            signal.signal(signal.SIGCHLD, before)
            self.children.reap()

    def wait_readable(self, descriptors: Sequence[int], until: float | None) -> list[int]:
        """
        Return the descriptors that are readable before the moment *until*; orphans are reaped meanwhile.

        In the main thread a signal ends the wait, with none of them, so that its handler runs at once: also
        one that arrives just before poll(2), or in another thread, which poll(2) would not see.
        """
        if threading.get_ident() != self._main_thread:
            return self.children.wait_readable(descriptors, until)
        ready = self.children.wait_readable([*descriptors, self._wake.reader], until)
        if self._wake.reader in ready:
            self._wake.read()
            ready.remove(self._wake.reader)
        return ready

    def start(self, spawn: Callable[[], int], command: RunningCommand, *, lends_terminal: bool) -> int:
        """
        Start a command and return its process id; signals go to its process group too, until `wait`.

        A command that may finish is not told of a request to stop, so that it uses its grace period to
        finish, nor of warnings; a person's Ctrl-C (SIGINT) reaches every command. A job of our session gets
        the terminal when it asks for it, or at once where *lends_terminal*.
        """
        with self.children.lock:
            self._missed.clear()
            pid = self.children.start(spawn, command)
            for signum in dict.fromkeys([*filter(None, [self.stop_signal]), *self._missed]):
                self._pass_on(signum, {pid: command})
        if lends_terminal and self.terminal is not None and self.terminal.is_ours:
            self.terminal.lend(pid)
        self._see_stopped()  # it may have asked for the terminal before we knew it
        return pid

    def wait(self, pid: int) -> tuple[int, resource.struct_rusage]:
        """
        Wait for a command; return its wait status and what it used.

        Where the command had the terminal to itself, and a person ended it by Ctrl-C or Ctrl-\\, we have
        been asked to stop, and so has the script around us.
        """
        status, usage = self.children.wait(pid)
        if self.terminal is not None and self.terminal.borrower == pid:
            self.terminal.take_back()
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGINT, signal.SIGQUIT):
                os.killpg(os.getpgrp(), os.WTERMSIG(status))
        return status, usage

    def _receive(self, signum: int, _frame: FrameType | None) -> None:
        if signum == signal.SIGALRM and self._is_alarm_due and (request := self.request_in(signum)):
            signum, self._is_alarm_due = request, False
        elif signum not in _HARMLESS and not self.is_noticed:
            self._came[signum] = time.monotonic()
        if signum in STOP_SIGNALS:
            self.ask_to_stop(signum)
        if signum in _PAUSING and self.terminal is not None and is_orphaned():
            return  # as the kernel would: nobody could make us go on
        if signum == signal.SIGCONT:
            self._is_suspending = False
            if self.terminal is not None:
                self.terminal.lend_again()
        with self.children.lock:  # a process group that is signalled is not reaped meanwhile
            if self.children.is_starting:  # in this very thread, or the lock were not ours
                self._missed.append(signum)
            self._pass_on(signum, self.children.running)
        if signum in _PAUSING:
            self._is_suspending = True
            # The kernel refuses it to PID 1; the commands are stopped all the same.
            os.kill(os.getpid(), signal.SIGSTOP)

    def _pass_on(self, signum: int, commands: dict[int, RunningCommand]) -> None:
        for pid, command in commands.items():
            if command.may_finish and signum not in _FOR_ALL:
                continue
            # The kernel does not stop a process group without a parent in its session, except by SIGSTOP.
            is_discarded = signum in _PAUSING and not command.is_job
            signal_group(pid, signal.SIGSTOP if is_discarded else signum)

    def _see_children(self, _signum: int, _frame: FrameType | None) -> None:
        self.children.reap()
        self._see_stopped()

    def _see_stopped(self) -> None:
        """Act on jobs that the terminal has stopped."""
        if self.terminal is None:
            return
        with self.children.lock:
            for pid, command in self.children.running.items():
                if command.is_job and not self._is_suspending:
                    with suppress(ChildProcessError):
                        if stopped := os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG):
                            self._job_stopped(pid, stopped.si_status, self.terminal)

    def _job_stopped(self, pid: int, signum: int, terminal: Terminal) -> None:
        """Lend the terminal to a job that needs it, or stop with the job, as a shell expects of its own."""
        wants_terminal = signum in (signal.SIGTTIN, signal.SIGTTOU)
        if wants_terminal and terminal.is_ours:
            terminal.lend(pid)
        if wants_terminal and terminal.foreground == pid:
            signal_group(pid, signal.SIGCONT)
        elif is_orphaned():
            if wants_terminal:  # which will never come; what the kernel sends to a group nobody can continue
                signal_group(pid, signal.SIGHUP)
            signal_group(pid, signal.SIGCONT)
        elif signum in _PAUSING or terminal.borrower == pid:
            terminal.pause_loan()
            self._is_suspending = True
            os.killpg(os.getpgrp(), signal.SIGSTOP)


def for_commands(requests: StopRequests) -> Signals:
    """Return *requests* as what starts commands; `htcjob.Job`, which has others, starts none."""
    assert isinstance(requests, Signals)  # noqa: S101 - for mypy
    return requests


def _longest_cpu_s() -> float:
    """Return the CPU seconds after which the kernel ends a process, by the limit that commands inherit."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    return float("inf") if hard == resource.RLIM_INFINITY else hard - 0.5  # it counts in ticks
