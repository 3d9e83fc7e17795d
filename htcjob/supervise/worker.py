"""
A warm worker: a Python process that imports once and is fed entries, supervised as a command is.

It runs `worker_program/`. Anything that goes wrong in it costs the entry in hand only: the process is ended
with everything it started, and the next entry gets a new one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import NamedTuple

from htcjob.errors import ShortageError
from htcjob.outcome.results import TRY_AGAIN, CommandResult, signal_name
from htcjob.supervise.children import LEFTOVERS_GRACE_S
from htcjob.supervise.command import result_of
from htcjob.supervise.kernel import carry_out, wait_readable
from htcjob.supervise.signals import Signals
from htcjob.supervise.stopping import Step, StoppedFor, Stopping
from htcjob.supervise.worker_answers import LONGEST_ANSWER_BYTES, NoAnswerError, Said, read_answer
from htcjob.supervise.worker_process import WorkerProcess

START_S = 600.0
"""Seconds that import and `setup` may take."""

_FULL_PIPE_S = 0.005
"""Seconds until more of a request is written that a pipe does not hold as a whole."""


class CallResult(NamedTuple):
    """How one call ended."""

    result: CommandResult
    """As if it had been a command; an exception is exit status 1."""
    value: object = None
    """The value that the function returned."""
    problem: str = ""
    """Why it did not, in its own words."""


class Worker:
    """
    One worker; used by one thread at a time.

    Args:
        target: `module:function`.
        python: The interpreter.
        environment: All variables of the process.
        number: From 0; no two that run have the same.
        signals: Where stop signals arrive.
        grace_s: Seconds from SIGTERM to SIGKILL.
    """

    def __init__(
        self,
        target: str,
        *,
        python: str,
        environment: Mapping[str, str],
        number: int,
        signals: Signals,
        grace_s: float,
    ) -> None:
        self._target = target
        self._python = python
        self._environment = {**environment, "HTCJOB_WORKER": str(number)}
        self._signals = signals
        self._grace_s = grace_s
        self._process: WorkerProcess | None = None
        self._pid: int | None = None
        """The process id of the one that answers, as it counts, once it is ready."""
        self._number = 0
        """The number of the request in hand; 0: there is none yet, and the first line is to come."""
        self._unread = b""
        self.has_been_ready = False
        """Whether it could be started once: import and `setup` are not what is wrong."""

    def start(self) -> None:
        """
        Start the process, if there is none, without waiting until it is ready.

        Raises:
            CommandNotStartedError: the interpreter cannot be started.
            ShortageError: this machine has no process or file descriptor left.
        """
        if self._process is None:
            self._process = WorkerProcess.started(
                self._target, python=self._python, environment=self._environment, signals=self._signals
            )
            self._pid, self._number, self._unread = None, 0, b""

    def call(self, request: Mapping[str, object], *, timeout_s: float | None) -> CallResult:
        """
        Call the function for *request*; return how that ended; raises nothing for what the function does.

        At the timeout the process group is sent SIGTERM, and SIGKILL when the grace period is over. After a
        request to stop it has most of the grace period to finish, as a command that may finish has.
        """
        if self._has_ended_idle():
            self._end()  # which is not the fault of this entry
        self.start()
        if self._pid is None and (answer := self._await_ready()) is not None:
            return answer
        assert self._process is not None  # noqa: S101 - for mypy
        self._signals.children.begin(self._process.command)
        self._number += 1
        data = json.dumps({**request, "number": self._number}).encode() + b"\n"
        started = time.monotonic()
        try:
            said, stop = self._await_answer(timeout_s, data)
        except NoAnswerError as error:
            _, cpu_s = self._end()
            result = CommandResult(1, elapsed_s=time.monotonic() - started, cpu_s=cpu_s)
            return CallResult(result, problem=f"the worker was ended, it gave no valid answer: {error}")
        elapsed_s = time.monotonic() - started
        if said is None:
            return self._ended(stop, elapsed_s)
        if said.is_last:
            self._end()
        result = CommandResult(
            exit_status=said.exit_status,
            stopped_by=self._signals.stop_signal if self._may_have_ended(said.exit_status) else None,
            elapsed_s=elapsed_s,
            excuse=self._excuse(said.exit_status, since=started, cpu_s=said.cpu_s),
            cpu_s=said.cpu_s,
            peak_memory_bytes=said.peak_memory_bytes,
        )
        return CallResult(result, said.value, said.problem)

    def _may_have_ended(self, exit_status: int) -> bool:
        """Whether a call that ended with that status has perhaps ended because of a request to stop."""
        code = 128 - exit_status if exit_status > 128 else exit_status
        return exit_status != 0 and self._signals.may_have_ended(code)

    def _excuse(self, code: int, *, since: float, cpu_s: float) -> str:
        return self._signals.excuse(code, may_finish=True, since=since, cpu_s=cpu_s)

    def hang_up(self) -> None:
        """Let the process, which is idle, see that there are no more requests."""
        if self._process is not None:
            self._process.hang_up()

    def close(self) -> None:
        """End the process after `hang_up`; it has a moment to do so itself."""
        if self._process is not None:
            wait_readable([self._process.has_ended], time.monotonic() + LEFTOVERS_GRACE_S)
            self._end()

    def dismiss(self) -> None:
        """End the process at once: there is nothing for it to do."""
        self._end()

    def _has_ended_idle(self) -> bool:
        """
        Whether the process ended, or is being ended by the memory guard, with no entry in hand.

        One that says something without being asked is as good as ended.
        """
        if self._process is None:
            return False
        signs = [self._process.has_ended, self._process.answers]
        has_ended = self._pid is not None and bool(wait_readable(signs, time.monotonic()))
        return has_ended or bool(self._process.command.shortage)

    def _await_ready(self) -> CallResult | None:
        """Wait until the process can take a request; return how the call ended when it never can."""
        said, stop, problem, shortage, status = None, None, "", "", 126
        try:
            said, stop = self._await_answer(START_S)
        except NoAnswerError as error:
            problem = f"it gave no valid answer before it was ready: {error}"
        if said is None and stop is StoppedFor.REQUEST:
            return self._ended(stop, 0.0)
        if said is not None and said.is_ready:
            self._pid, self.has_been_ready = said.pid, True
            return None
        if said is not None:
            problem, status = said.problem, said.exit_status
        elif not problem:
            result = self._ended(stop, START_S).result
            if result.excuse or result.stopped_by is not None:
                return CallResult(result)
            status, shortage = result.exit_status, result.shortage
            how = f"exit status {result.exit_status}" if result.signal is None else signal_name(result.signal)
            problem = (
                f"not ready after {START_S:g} s"
                if result.timed_out
                else f"ended with {how} before it was ready"
            )
        self._end()
        if status == TRY_AGAIN:
            raise ShortageError(f"worker cannot be started now: {self._target}: {problem}")
        return CallResult(
            CommandResult(
                126 if said is None else status,
                shortage=shortage,
                start_error=f"{self._target}: {problem}",
                is_unusable=True,
            )
        )

    def _await_answer(
        self, timeout_s: float | None, unsent: bytes = b""
    ) -> tuple[Said | None, StoppedFor | None]:
        """
        Send the request; return its answer, or None: the process has ended instead, and why we stopped it.

        Raises:
            NoAnswerError: what came is none; the process is still to be ended.
        """
        assert self._process is not None  # noqa: S101 - for mypy
        process = self._process
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        stopping = Stopping(grace_s=self._grace_s, deadline=deadline, may_finish=True)
        closed_by: float | None = None
        watched = {process.answers, process.has_ended}
        while True:
            if stopping.stopped_for is None and (said := self._said()):
                return said, None
            unsent = process.send(unsent)
            alarms = [
                stopping.wait_until,
                closed_by if stopping.stopped_for is None else None,
                time.monotonic() + _FULL_PIPE_S if unsent else None,
            ]
            until = min((alarm for alarm in alarms if alarm is not None), default=None)
            listens = [self._signals.stop_fd] if stopping.listens else []
            ready = self._signals.wait_readable([*watched, *listens], until)
            now = time.monotonic()
            if process.answers in ready:
                data = os.read(process.answers, 1 << 16)
                self._unread += data
                if stopping.stopped_for is not None:
                    self._unread = b""
                if not data:  # a process that ends closes it first
                    watched.discard(process.answers)
                    closed_by = now + LEFTOVERS_GRACE_S
                continue
            if not ready and stopping.stopped_for is None and closed_by is not None and now >= closed_by:
                raise NoAnswerError("it closed the pipe of its answers")
            stop_signal = self._signals.stop_signal if ready else None
            step = stopping.step(now, has_ended=process.has_ended in ready, stop_signal=stop_signal)
            if step is Step.LEAVE:
                return None, stopping.stopped_for
            carry_out(step, process.pid)

    def _said(self) -> Said | None:
        """Return the answer that has been read; None: there is more to come."""
        line, end, more = self._unread.partition(b"\n")
        if len(line) > LONGEST_ANSWER_BYTES:
            raise NoAnswerError(f"more than {LONGEST_ANSWER_BYTES} bytes without a line break")
        if not end:
            return None
        said = read_answer(line, number=self._number, pid=self._pid)
        if more:
            raise NoAnswerError("there is more than one")
        self._unread = b""
        return said

    def _ended(self, stopped_for: StoppedFor | None, elapsed_s: float) -> CallResult:
        """Return the result of a call in the middle of which the process ended."""
        assert self._process is not None  # noqa: S101 - for mypy
        command = self._process.command
        code, cpu_s = self._end()
        started = time.monotonic() - elapsed_s
        result = result_of(
            code,
            command,
            self._signals,
            stopped_for=stopped_for,
            started=started,
            elapsed_s=elapsed_s,
            cpu_s=cpu_s,
        )
        if code == 0:  # which is no success: the function did not return
            was_stopped = result.timed_out or result.stopped_by is not None
            excuse = "" if was_stopped else self._excuse(1, since=started, cpu_s=cpu_s)
            result = result._replace(exit_status=1, excuse=excuse)
            return CallResult(result, problem="the worker ended in the middle of it")
        return CallResult(result)

    def _end(self) -> tuple[int, float]:
        """End the process and all that it started; return its exit code and CPU seconds."""
        process, self._process = self._process, None
        return (0, 0.0) if process is None else process.end(self._signals, grace_s=self._grace_s)
