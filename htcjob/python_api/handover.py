"""
Entries handed to the user's own loop, one at a time, and the loop's answer to each.

The flow's worker offers an entry and waits; the loop takes it and answers. Neither knows the other's thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from htcjob.attempt.attempt import LoopLeftError
from htcjob.errors import UsageError
from htcjob.outcome.results import TRY_AGAIN, CommandResult
from htcjob.supervise.worker import CallResult
from htcjob.supervise.worker_program.values import checked_value, cpu_s, peak_memory_bytes

if TYPE_CHECKING:
    from htcjob.entries.each import StagedEntry
    from htcjob.supervise.stop_requests import StopRequests

_UNANSWERED = "the loop left it unanswered: call commit(), fail() or retry() for every entry"


class JobEntry:
    """
    One entry, for the body of a loop over `Job.entries`: its input is there, and so is an output directory.

    The body calls one of `commit`, `fail` and `retry`, once. From then on its files are no longer the body's.
    """

    def __init__(self, staged: StagedEntry, handover: Handover) -> None:
        entry = staged.entry
        self.key: str = entry.key
        """The object's key in project storage, or its full URL."""
        self.text: str = entry.text
        """The manifest line as it stands."""
        self.parameters: Mapping[str, object] = entry.parameters
        """The other members of a JSON line."""
        self.position: int = entry.position
        """Place in the manifest, from 0."""
        self.path: str = staged.path
        """The local input file."""
        self.output_dir: str = staged.directory.outputs
        """The directory for outputs; their path below it is their key in task storage. The folders of the
        entry's key are there."""
        self._handover = handover

    def __repr__(self) -> str:
        return f"<JobEntry {self.position} {self.key!r}>"

    def commit(self, value: object = None) -> None:
        """
        Report it as done: the files in `output_dir` are staged out, then its record is written.

        Returns at once; both happen while the loop goes on. Where an output cannot be put, the entry is not
        done. Without effect after a stop signal whose grace period has nearly run out.

        Args:
            value: Kept in the record; any JSON value.

        Raises:
            TypeError, ValueError: *value* cannot be recorded: it is no JSON value, longer than 64 KiB as
                JSON, or nested more than 100 deep.
            UsageError: this entry has been answered before.
        """
        self._say(0, value=checked_value(value, "what commit() was given"))

    def fail(self, message: str) -> None:
        """
        Report it as failed for good, with the reason in one line for a person.

        Raises:
            UsageError: this entry has been answered before.
        """
        self._say(1, problem=message)

    def retry(self, message: str) -> None:
        """
        Report it as worth another try, with the reason in one line for a person.

        The next try is made in this attempt, after all others, as far as `retry_entry` allows; otherwise the
        entry is left for the next attempt.

        Raises:
            UsageError: this entry has been answered before.
        """
        self._say(TRY_AGAIN, problem=message)

    def _say(self, exit_status: int, *, value: object = None, problem: str = "") -> None:
        self._handover.answer(self, exit_status, value, " ".join(str(problem).split()))


class Handover:
    """
    Between the flow's worker, the loop, and a request to stop; each of them in a thread of its own.

    Args:
        signals: Where stop signals arrive.
        finish_s: Seconds after a stop signal in which the loop may finish the entry in its hands.
    """

    def __init__(self, signals: StopRequests, *, finish_s: float) -> None:
        self._signals = signals
        self._finish_s = finish_s
        self._process = os.getpid()
        self._changed = threading.Condition()
        """Guards all fields below."""
        self._finish_by: float | None = None
        """When the loop is waited for no longer."""
        self._offered: JobEntry | None = None
        self._in_hand: JobEntry | None = None
        """The entry that the loop has, until it is answered."""
        self._answer: CallResult | None = None
        """The loop's answer to it."""
        self._begun = self._cpu_s = 0.0
        """When it was taken, and the CPU seconds of this process then."""
        self._is_loop_over = self._is_flow_over = False

    def act(self, staged: StagedEntry, _worker: int, _timeout_s: float | None) -> CallResult:
        """
        Offer an entry to the loop, and wait for its answer.

        Raises:
            LoopLeftError: the loop takes no more.
        """
        entry = JobEntry(staged, self)
        with self._changed:
            self._offered = entry
            self._changed.notify_all()
            while self._answer is None:
                if self._is_loop_over:
                    raise LoopLeftError
                if self._is_given_up(is_begun=self._in_hand is entry):
                    self._offered = self._in_hand = None
                    stop_signal = self._signals.stop_signal
                    return CallResult(CommandResult(1, stopped_by=stop_signal))
                self._wait()
            answer, self._answer = self._answer, None
            return answer

    def flow_ended(self) -> None:
        """Note that there are no more entries."""
        with self._changed:
            self._is_flow_over = True
            self._changed.notify_all()

    def await_loop(self) -> None:
        """Wait until the loop has ended, or is waited for no longer."""
        with self._changed:
            while not (self._is_loop_over or self._is_given_up(is_begun=True)):
                self._wait()

    def take(self) -> JobEntry | None:
        """
        Return the next entry; None: there is none. The one before should have been answered.

        A child that the body forked gets none, and its answers are ignored: it has a copy of all this, and of
        a lock that may never be released.
        """
        if os.getpid() != self._process:
            return None
        with self._changed:
            self._let_go()
            while self._offered is None and not self._is_flow_over and self._signals.stop_signal is None:
                self._changed.wait()
            if self._offered is None or self._signals.stop_signal is not None:
                return None
            self._in_hand, self._offered = self._offered, None
            self._begun, self._cpu_s = time.monotonic(), cpu_s()
            return self._in_hand

    def answer(self, entry: JobEntry, exit_status: int, value: object, problem: str) -> None:
        """Take the loop's answer to *entry*."""
        if os.getpid() != self._process:
            raise UsageError(
                f"entry {entry.key!r} is not this process's, which was forked from that of the job"
            )
        with self._changed:
            if entry is self._in_hand:
                self._end(exit_status, value, problem)
            elif not self._is_given_up(is_begun=True):
                raise UsageError(f"entry {entry.key!r} has been answered before: answer each entry once")

    def loop_ended(self, *, is_orderly: bool) -> None:
        """
        Take no further entry.

        Args:
            is_orderly: An unanswered entry in hand was forgotten, and is recorded as that; otherwise it was
                the cause, and nothing is recorded.
        """
        with self._changed:
            if is_orderly:
                self._let_go()
            self._in_hand = None
            self._is_loop_over = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Note that a stop signal came."""
        with self._changed:
            self._finish_by = time.monotonic() + self._finish_s
            self._changed.notify_all()

    def _is_given_up(self, *, is_begun: bool) -> bool:
        return self._finish_by is not None and (not is_begun or time.monotonic() >= self._finish_by)

    def _wait(self) -> None:
        self._changed.wait(None if self._finish_by is None else max(self._finish_by - time.monotonic(), 0.0))

    def _let_go(self) -> None:
        if self._in_hand is not None:
            self._end(TRY_AGAIN, None, _UNANSWERED)

    def _end(self, exit_status: int, value: object, problem: str) -> None:
        result = CommandResult(
            exit_status,
            elapsed_s=time.monotonic() - self._begun,
            cpu_s=cpu_s() - self._cpu_s,
            peak_memory_bytes=peak_memory_bytes(),
        )
        self._in_hand, self._answer = None, CallResult(result, value, problem)
        self._changed.notify_all()
