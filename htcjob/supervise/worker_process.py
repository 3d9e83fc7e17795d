"""The process of a warm worker: its start, the pipes to it and from it, and its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NamedTuple

from htcjob.errors import CommandNotStartedError, ShortageError
from htcjob.supervise.children import LEFTOVERS_GRACE_S, RunningCommand
from htcjob.supervise.kernel import EMPTY_STDIN, RESET, dies_with_us, exit_fd, signal_group
from htcjob.supervise.signals import Signals
from htcjob.trouble import let_go

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker_program", "program.py")


class WorkerProcess(NamedTuple):
    """One process, from `started` to `end`."""

    pid: int
    command: RunningCommand
    requests: int
    """The descriptor that requests are written to; it never blocks."""
    answers: int
    """The descriptor that answers are read from."""
    has_ended: int
    """A descriptor that is readable once the process has ended."""
    resources: ExitStack

    @classmethod
    def started(
        cls, target: str, *, python: str, environment: Mapping[str, str], signals: Signals
    ) -> WorkerProcess:
        """
        Start a process without waiting until it is ready.

        Args:
            target: `module:function`.
            python: The interpreter.
            environment: All variables of the process, HTCJOB_WORKER among them.
            signals: Where stop signals arrive.

        Raises:
            CommandNotStartedError: the interpreter cannot be started.
            ShortageError: this machine has no process or file descriptor left.
        """
        with ExitStack() as resources:
            try:
                with ExitStack() as theirs:
                    their_requests, requests = os.pipe()
                    theirs.callback(let_go, their_requests)
                    resources.callback(let_go, requests)
                    answers, their_answers = os.pipe()
                    resources.callback(let_go, answers)
                    theirs.callback(let_go, their_answers)
                    # Numbers that are free in the new process too: there they lose the close-on-exec flag.
                    numbers = []
                    for end in (their_requests, their_answers):
                        numbers.append(os.dup(end))
                        theirs.callback(let_go, numbers[-1])
                    moves = list(zip((their_requests, their_answers), numbers, strict=True))
                    argv = [python, PROGRAM, *map(str, numbers), target]
                    pid, command = _spawn(argv, moves, environment=environment, signals=signals)
                try:
                    resources.enter_context(dies_with_us(pid))
                    has_ended = resources.enter_context(exit_fd(pid))
                except BaseException:  # it must not go on unwatched
                    signal_group(pid, signal.SIGKILL)
                    signals.wait(pid)
                    raise
            except OSError as error:
                raise ShortageError(f"worker cannot be started now: {error.strerror}") from error
            os.set_blocking(requests, False)
            return cls(pid, command, requests, answers, has_ended, resources.pop_all())

    def send(self, data: bytes) -> bytes:
        """Write what the pipe has room for of *data* now, and return the rest."""
        try:
            while data:
                data = data[os.write(self.requests, data) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            return b""  # the process has ended, as will be seen
        return data

    def hang_up(self) -> None:
        """Let the process, which is idle, see that there are no more requests."""
        # Closes the pipe, and keeps the number taken until the others are closed.
        os.dup2(self.answers, self.requests, inheritable=False)

    def end(self, signals: Signals, *, grace_s: float) -> tuple[int, float]:
        """End the process and all that it started; return its exit status, or -n, and CPU seconds."""
        with self.resources:
            try:
                signals.children.end_leftovers(self.pid, grace_s=min(grace_s, LEFTOVERS_GRACE_S))
            finally:
                signal_group(self.pid, signal.SIGKILL)
                status, usage = signals.wait(self.pid)
        return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def _spawn(
    argv: list[str], moves: list[tuple[int, int]], *, environment: Mapping[str, str], signals: Signals
) -> tuple[int, RunningCommand]:
    """Start *argv* with *moves*, its descriptors by ours; return its process id, and what is known of it."""

    def spawn() -> int:
        return os.posix_spawnp(
            argv[0],
            argv,
            environment,
            file_actions=(*EMPTY_STDIN, *((os.POSIX_SPAWN_DUP2, end, number) for end, number in moves)),
            setsigdef=(*RESET, *signals.set_by_us),
            setsigmask=(signal.SIGINT,),  # until `worker_program` is ready for it
            setsid=True,
        )

    mark = f"HTCJOB_WORKER={environment['HTCJOB_WORKER']}".encode()
    command = RunningCommand(may_finish=True, is_job=False, mark=mark)
    try:
        return signals.start(spawn, command, lends_terminal=False), command
    except (FileNotFoundError, PermissionError) as error:
        status = 127 if isinstance(error, FileNotFoundError) else 126
        raise CommandNotStartedError(status, f"{argv[0]}: {error.strerror}") from error
