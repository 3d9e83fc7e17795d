"""
Runs a command: own process group, signals passed on, timeout, grace, leftovers ended.

The command owns its output: standard output and error are inherited, nothing is read or copied.
"""

from __future__ import annotations

import errno
import os
import resource  # `children.py` has it already
import signal
import stat
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from htcjob.errors import ShortageError
from htcjob.outcome.results import CommandResult, status_of_code
from htcjob.supervise.bounded_call import OVERTIME_S
from htcjob.supervise.children import LEFTOVERS_GRACE_S, RunningCommand
from htcjob.supervise.kernel import EMPTY_STDIN, RESET, carry_out, dies_with_us, exit_fd, signal_group
from htcjob.supervise.signals import Signals
from htcjob.supervise.stopping import Step, StoppedFor, Stopping
from htcjob.supervise.terminal import is_interactive
from htcjob.trouble import in_words, is_passing, look

START_WAITS_S = (0.05, 0.2, 0.5, 1.0)
"""Seconds before each further try to start a command that passing trouble keeps from starting: there is no
process left on this machine, say, or its program is still being written."""


def run_command(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    signals: Signals,
    timeout_s: float | None = None,
    grace_s: float = 30.0,
    may_finish: bool = False,
    lends_terminal: bool = False,
) -> CommandResult:
    """
    Run *argv* to its end, and return how it ended; raises nothing for what the command does.

    At the timeout the command's whole process group is sent SIGTERM, and SIGKILL when the grace period is
    over; the same when a stop signal came, which is passed on. The clock goes on while we are suspended.
    Whatever the command leaves behind, daemons in sessions of their own too, is ended (`Children`). When we
    are killed ourselves, so is its process group (`dies_with_us`). May be called from several threads.

    The command has a session of its own; where we have a controlling terminal, a process group of our
    session, so that it has that terminal too, as a shell's job would.

    Args:
        argv: Program and arguments; the program is looked up on PATH.
        environment: All variables of the command; HTCJOB_OUTPUT_DIR shows whose a daemon is, where
            several commands run at a time.
        signals: Where stop signals arrive.
        timeout_s: Seconds; None: no timeout.
        grace_s: Seconds from SIGTERM to SIGKILL.
        may_finish: For commands that are one of many and short: stop signals and warnings are not passed
            on, most of the grace period is for finishing, and standard input is empty instead of inherited;
            they have no terminal.
        lends_terminal: A person's Ctrl-C and Ctrl-Z are for the command, which may survive them. Otherwise
            they reach us first, and Ctrl-C stops the attempt, until the command reads from the terminal.

    Raises:
        ShortageError: this machine has no process or file descriptor left to start it.
    """
    started = time.monotonic()
    output_dir = environment.get("HTCJOB_OUTPUT_DIR")
    command = RunningCommand(
        may_finish=may_finish,
        is_job=signals.terminal is not None and not may_finish,
        mark=None if output_dir is None else os.fsencode(f"HTCJOB_OUTPUT_DIR={output_dir}"),
    )

    def spawn() -> int:
        return os.posix_spawnp(
            argv[0],
            list(argv),
            environment,
            file_actions=EMPTY_STDIN if may_finish else (),
            setsigdef=(*RESET, *signals.set_by_us),
            **({"setpgroup": 0} if command.is_job else {"setsid": True}),
        )

    lends_terminal = lends_terminal and is_interactive()
    try:
        pid = _started(lambda: signals.start(spawn, command, lends_terminal=lends_terminal), signals)
    except OSError as error:
        return _not_started(argv[0], error)
    except ValueError as error:  # a NUL in an argument or variable
        return CommandResult(126, start_error=f"command cannot be started: {error}")
    deadline = None if timeout_s is None else started + timeout_s
    stopping = Stopping(grace_s=grace_s, deadline=deadline, may_finish=may_finish)
    code, elapsed_s, has_no_survivors, usage = _watched(
        pid, stopping, signals, started=started, grace_s=grace_s
    )
    result = result_of(
        code,
        command,
        signals,
        stopped_for=stopping.stopped_for,
        started=started,
        elapsed_s=elapsed_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
    )
    return result._replace(
        has_no_survivors=has_no_survivors,
        peak_memory_bytes=usage.ru_maxrss * (1024 if sys.platform == "linux" else 1),
    )


def result_of(
    code: int,
    command: RunningCommand,
    signals: Signals,
    *,
    stopped_for: StoppedFor | None,
    started: float,
    elapsed_s: float,
    cpu_s: float,
) -> CommandResult:
    """
    Return the result of a command, or of a warm worker, that has ended.

    Args:
        code: Its exit status, or -n for signal n.
        command: What is known of it.
        signals: Where stop signals arrive.
        stopped_for: Why we stopped it, if we did.
        started: When it began, by the monotonic clock.
        elapsed_s: Seconds that it took.
        cpu_s: Seconds of CPU time that it has used.
    """
    may_finish = command.may_finish
    if stopped_for is None and signals.stop_signal is not None:
        # The signal and the exit came together. A command that was told to stop has not finished.
        stopped_for = StoppedFor.REQUEST if not may_finish or signals.may_have_ended(code) else None
    excuse = ""
    if stopped_for is None:
        excuse = signals.excuse(code, may_finish=may_finish, since=started, cpu_s=cpu_s)
    return CommandResult(
        exit_status=status_of_code(code),
        signal=-code if code < 0 else None,
        excuse=excuse,
        timed_out=stopped_for is StoppedFor.TIMEOUT,
        stopped_by=signals.stop_signal if stopped_for is StoppedFor.REQUEST else None,
        shortage=signals.children.shortage(command, code),
        elapsed_s=elapsed_s,
        cpu_s=cpu_s,
    )


def _watched(
    pid: int, stopping: Stopping, signals: Signals, *, started: float, grace_s: float
) -> tuple[int, float, bool, resource.struct_rusage]:
    """
    Wait for the command's end, and end what it leaves behind.

    Returns:
        Its exit status, or -n for signal n; the seconds that it took; whether, for sure, nothing that it
        started is alive; and what it used.
    """
    leftovers_grace_s = min(grace_s, LEFTOVERS_GRACE_S)
    with ExitStack() as protection:
        try:
            protection.enter_context(dies_with_us(pid))
            with exit_fd(pid) as ended:
                _await_exit(pid, ended, stopping, signals)
            elapsed_s = time.monotonic() - started
            if signals.stopped_at is not None:  # half of the overtime, for both steps of it
                ends_at = signals.stopped_at + grace_s + OVERTIME_S
                leftovers_grace_s = min(leftovers_grace_s, max(ends_at - time.monotonic(), 0.0) / 4)
            has_no_survivors = signals.children.end_leftovers(pid, grace_s=leftovers_grace_s)
        except BaseException as error:  # whatever failed here, the command must not go on unwatched
            signal_group(pid, signal.SIGKILL)
            if is_passing(error):
                raise ShortageError(f"command cannot be watched: {in_words(error)}") from error
            raise
        finally:
            status, usage = signals.wait(pid)
        if not signals.children.adopts:
            _end_group(pid, grace_s=leftovers_grace_s)
    return os.waitstatus_to_exitcode(status), elapsed_s, has_no_survivors, usage


def _started(start: Callable[[], int], signals: Signals) -> int:
    """Return what *start* returns, tried again at passing trouble; the last one is raised."""
    for wait_s in START_WAITS_S:
        try:
            return start()
        except OSError as error:
            if not is_passing(error) or signals.sleep(wait_s):
                raise
    return start()


def _await_exit(pid: int, exit_fd: int, stopping: Stopping, signals: Signals) -> None:
    """Wait for the command's exit, stopping it where it must be."""
    while True:
        watched = [exit_fd, signals.stop_fd] if stopping.listens else [exit_fd]
        ready = signals.wait_readable(watched, stopping.wait_until)
        step = stopping.step(
            time.monotonic(),
            has_ended=exit_fd in ready,
            stop_signal=signals.stop_signal if ready else None,
        )
        if step is Step.LEAVE:
            return
        carry_out(step, pid)


def _end_group(group: int, *, grace_s: float) -> None:
    """End what an ended command left in its group, where orphans are not ours: politely, then surely."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if not signal_group(group, signum):
            return
        until = time.monotonic() + grace_s
        while time.monotonic() < until:
            if not signal_group(group, 0):
                return
            time.sleep(0.01)


def check_program(program: str, path: str | None) -> CommandResult | None:
    """
    Return the result of a command whose program could not be started, or None when it looks startable.

    Asked before any work, so that a mistyped name costs nothing.

    Args:
        program: The command's first word.
        path: The PATH to look it up on; None: the system's default.
    """
    is_there = False
    for candidate in _candidates(program, path):
        try:
            status = look(candidate)
        except OSError as error:
            return _not_started(program, error)
        if status is None:
            continue
        is_there = True
        # It reports no errno; refused twice, it is not for a moment's trouble.
        if stat.S_ISREG(status.st_mode) and any(os.access(candidate, os.X_OK) for _ in range(2)):
            return None
    return _not_started(program, OSError(errno.EACCES if is_there else errno.ENOENT, "Permission denied"))


def _candidates(program: str, path: str | None) -> list[str]:
    """Return where a program may be, as a shell looks for it."""
    if os.path.dirname(program) or not program:
        return [program]
    folders = os.defpath if path is None else path
    return [os.path.join(folder, program) for folder in folders.split(os.pathsep)]


def _not_started(program: str, error: OSError) -> CommandResult:
    """Return 127 for not found and 126 for found and not executable, as a shell does, with what helps."""
    if is_passing(error):
        raise ShortageError(f"command cannot be started now: {program}: {error.strerror}") from error
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        hint = ""
        if os.path.dirname(program) and os.path.exists(program):
            hint = " (its first line names an interpreter that is not there)"
        elif not os.path.dirname(program) and os.path.isfile(program):
            hint = f" on PATH; write ./{program}"
        shown = program or "'' (an empty word)"
        return CommandResult(127, start_error=f"command not found: {shown}{hint}", is_unusable=True)
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
