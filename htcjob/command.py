"""
Runs a command: own session, signals passed on, timeout, grace, leftovers ended.

The command owns its output: standard output and error are inherited, nothing is read or copied.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from types import FrameType, TracebackType
from typing import Any

from htcjob.errors import ShortageError
from htcjob.outcome import CommandResult

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that ask this attempt to stop; they are passed on, and the grace period begins."""

PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH, signal.SIGALRM)
"""Signals that mean something to the command and nothing to us."""

LEFTOVERS_GRACE_S = 2.0
"""Seconds that processes which outlive their command have after SIGTERM."""

FINISHING_SHARE = 0.8
"""Part of the grace period in which a command that may finish is left alone; the rest is for SIGTERM."""

_EMPTY_STDIN = ((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),)

_RESET = tuple(
    signum
    for name in ("SIGPIPE", "SIGXFSZ", "SIGCHLD")
    if (signum := getattr(signal, name, None)) is not None
)
"""Python ignores the first two, whoever started us perhaps the last; a command must not inherit that."""


class Signals:
    """
    The signals this process is sent, from `__enter__` to `__exit__`.

    They go to every running command's process group at once. Must be entered in the main thread; a signal
    that was ignored when we started (`nohup`) stays ignored.
    """

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        """The first signal that asked us to stop."""
        self._groups: dict[int, bool] = {}
        """Process groups of running commands, and whether stop signals are passed on to them."""
        self._previous: dict[int, Any] = {}
        self._stop_read, self._stop_write = -1, -1

    def __enter__(self) -> Signals:
        self._stop_read, self._stop_write = os.pipe()
        for signum in (*STOPPING, *PASSED_ON):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._receive)
        # Where it is ignored, the kernel reaps children itself and their exit status is lost.
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        os.close(self._stop_read)
        os.close(self._stop_write)

    @property
    def stop_fd(self) -> int:
        """A file descriptor that is readable, for ever, once a stop signal came."""
        return self._stop_read

    def sleep(self, seconds: float) -> bool:
        """Wait, from any thread; True when a stop signal came, at once."""
        return bool(_poll([self._stop_read], time.monotonic() + seconds))

    @contextmanager
    def passed_on_to(self, group: int, *, may_finish: bool) -> Iterator[None]:
        """
        Send what arrives to the process group *group* too, while the context lasts.

        A command that *may_finish* is not told of a request to stop, so that it uses its grace period to
        finish; a person's Ctrl-C (SIGINT) reaches every command.
        """
        self._groups[group] = may_finish
        try:
            if self.stop_signal is not None:  # it came before the group was known
                self._pass_on(self.stop_signal)
            yield
        finally:
            del self._groups[group]

    def _receive(self, signum: int, _frame: FrameType | None) -> None:
        if signum in STOPPING and self.stop_signal is None:
            self.stop_signal = signum
            os.write(self._stop_write, b"!")
        self._pass_on(signum)

    def _pass_on(self, signum: int) -> None:
        for group, may_finish in tuple(self._groups.items()):
            if not may_finish or signum == signal.SIGINT or signum not in STOPPING:
                _signal_group(group, signum)


def run_command(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    signals: Signals,
    timeout_s: float | None = None,
    grace_s: float = 30.0,
    may_finish: bool = False,
) -> CommandResult:
    """
    Run *argv* to its end, and tell how it ended; raises nothing for what the command does.

    At the timeout the command's whole process group is sent SIGTERM, and SIGKILL when the grace period is
    over; the same when a stop signal came, which is passed on. Processes that it leaves behind in its
    group are ended too.

    Args:
        argv: Program and arguments; the program is looked up on PATH.
        environment: All variables of the command.
        signals: Where stop signals arrive.
        timeout_s: Seconds; None: no timeout.
        grace_s: Seconds from SIGTERM to SIGKILL.
        may_finish: For commands that are one of many and short: a stop signal is not passed on, most of
            the grace period is for finishing, and standard input is empty instead of inherited.

    Raises:
        ShortageError: this machine has no process or file descriptor left to start it.
    """
    started = time.monotonic()
    try:
        pid = os.posix_spawnp(
            argv[0],
            list(argv),
            environment,
            file_actions=_EMPTY_STDIN if may_finish else (),
            setsid=True,
            setsigdef=_RESET,
        )
    except OSError as error:
        return _not_started(argv[0], error)
    except ValueError as error:  # a NUL in an argument or variable
        return CommandResult(126, start_error=f"command cannot be started: {error}")
    try:
        with signals.passed_on_to(pid, may_finish=may_finish), _exit_fd(pid) as exit_fd:
            stop = _await_exit(
                pid,
                exit_fd,
                signals=signals,
                deadline=None if timeout_s is None else started + timeout_s,
                grace_s=grace_s,
                may_finish=may_finish,
            )
            _, status, usage = os.wait4(pid, 0)
    except BaseException:  # whatever failed here, the command must not go on unwatched
        _signal_group(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        raise
    elapsed_s = time.monotonic() - started
    _end_leftovers(pid, grace_s=min(grace_s, LEFTOVERS_GRACE_S))
    code = os.waitstatus_to_exitcode(status)
    if stop is None and signals.stop_signal is not None:
        # The signal and the exit came together. A command that was told to stop, or that died of the very
        # signal (a batch system may send it to every process of a job), has not finished.
        is_told = not may_finish or signals.stop_signal == signal.SIGINT
        stop = _Stop.SIGNAL if is_told or code == -signals.stop_signal else None
    return CommandResult(
        exit_status=code if code >= 0 else 128 - code,
        signal=-code if code < 0 else None,
        timed_out=stop is _Stop.TIMEOUT,
        stopped_by=signals.stop_signal if stop is _Stop.SIGNAL else None,
        elapsed_s=elapsed_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_memory_bytes=usage.ru_maxrss * (1024 if os.uname().sysname == "Linux" else 1),
    )


class _Stop(Enum):
    """Why we stopped a command."""

    TIMEOUT = "timeout"
    SIGNAL = "signal"


def _await_exit(
    pid: int,
    exit_fd: int,
    *,
    signals: Signals,
    deadline: float | None,
    grace_s: float,
    may_finish: bool,
) -> _Stop | None:
    """Wait for the command's exit, stopping it where it must be; tell why we stopped it, if we did."""
    stop: _Stop | None = None
    finish_by: float | None = None
    kill_at: float | None = None
    while True:
        alarms = [kill_at] if stop else [moment for moment in (deadline, finish_by) if moment is not None]
        watched = [exit_fd] if stop or finish_by else [exit_fd, signals.stop_fd]
        ready = _poll(watched, min((alarm for alarm in alarms if alarm is not None), default=None))
        now = time.monotonic()
        if exit_fd in ready:
            return stop
        if ready and may_finish and signals.stop_signal != signal.SIGINT:
            finish_by = now + grace_s * FINISHING_SHARE
        elif ready:
            stop, kill_at = _Stop.SIGNAL, now + grace_s
        elif all(alarm is None or now < alarm for alarm in alarms):
            continue  # poll came back early
        elif stop:
            _signal_group(pid, signal.SIGKILL)
            kill_at = None
        else:
            if deadline is not None and now >= deadline:
                stop, kill_at = _Stop.TIMEOUT, now + grace_s
            else:
                stop, kill_at = _Stop.SIGNAL, now + grace_s * (1 - FINISHING_SHARE)
            _signal_group(pid, signal.SIGTERM)
            _signal_group(pid, signal.SIGCONT)  # a stopped process takes SIGTERM only when it goes on


_LONGEST_POLL_MS = 2**31 - 1
"""poll(2) takes a C int."""


def _poll(descriptors: Sequence[int], until: float | None) -> list[int]:
    """Give the descriptors that are readable before the moment *until*; None: wait for ever."""
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    milliseconds = None if until is None else max(until - time.monotonic(), 0.0) * 1000
    if milliseconds is not None:
        milliseconds = min(milliseconds, _LONGEST_POLL_MS)  # whoever waits longer just comes again
    return [descriptor for descriptor, _ in poller.poll(milliseconds)]


@contextmanager
def _exit_fd(pid: int) -> Iterator[int]:
    """Give a descriptor that is readable once the process has ended; it is still to be waited for."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, before 5.3, or forbidden by a seccomp profile
        descriptor, write = os.pipe()

        def wait() -> None:
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            finally:
                os.close(write)

        threading.Thread(target=wait, daemon=True).start()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _signal_group(group: int, signum: int) -> bool:
    """Send *signum* to every process of *group*; False when there is none left to take it."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):  # macOS says "not permitted" of a group of zombies
        return False
    return True


def _end_leftovers(group: int, *, grace_s: float) -> None:
    """End what the command left running in its group: politely, then surely, within a bound."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if not _signal_group(group, signum):
            return
        until = time.monotonic() + grace_s
        pause_s = 0.001
        while time.monotonic() < until:
            with suppress(ChildProcessError):  # orphans are ours to reap when we are PID 1
                while os.waitpid(-group, os.WNOHANG)[0]:
                    pass
            if not _signal_group(group, 0):
                return
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)


def check_program(program: str, path: str | None) -> CommandResult | None:
    """
    Give the ending of a command whose program could not be started, or None when it looks startable.

    Asked before any work, so that a mistyped name costs nothing.

    Args:
        program: The command's first word.
        path: The PATH to look it up on; None: the system's default.
    """
    from shutil import which

    if which(program, path=path) is not None:
        return None
    candidate = program if os.path.dirname(program) else which(program, mode=os.F_OK, path=path)
    exists = candidate is not None and os.path.exists(candidate)
    return _not_started(program, OSError(errno.EACCES if exists else errno.ENOENT, "Permission denied"))


def _not_started(program: str, error: OSError) -> CommandResult:
    """Tell apart, as a shell does: 127 not found, 126 found and not executable; and say what helps."""
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        raise ShortageError(f"command cannot be started now: {error.strerror}") from error
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        hint = ""
        if os.path.dirname(program) and os.path.exists(program):
            hint = " (its first line names an interpreter that is not there)"
        elif not os.path.dirname(program) and os.path.isfile(program):
            hint = f" on PATH; write ./{program}"
        return CommandResult(127, start_error=f"command not found: {program}{hint}", is_unusable=True)
    hint = ""
    if error.errno == errno.EACCES and os.path.isfile(program):
        hint = "; chmod +x it?"
    elif error.errno == errno.ENOEXEC:
        hint = "; a script needs a first line such as #!/bin/sh"
    return CommandResult(
        126,
        start_error=f"command not executable: {program}: {error.strerror}{hint}",
        is_unusable=error.errno in (errno.EACCES, errno.ENOEXEC),
    )
