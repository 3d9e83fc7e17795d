"""
Entries flow stage-in -> work -> stage-out -> commit.

Two ways: `each.py` runs the command once per entry, `whole_chunk.py` once for all of them. What they share is
here. Both keep the order that the whole project rests on: outputs first, the commit record last.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from htcjob.entries.staging import Staging
from htcjob.environment.variables import command_environment
from htcjob.errors import BadKeyError, HtcjobError
from htcjob.ledger.ledger import Ledger
from htcjob.ledger.records import Record
from htcjob.logs.events import event, utc
from htcjob.outcome.endings import Facts
from htcjob.outcome.results import CommandResult, EntryResult, judge_stage_in, stops_attempt
from htcjob.supervise.command import run_command
from htcjob.supervise.signals import for_commands
from htcjob.supervise.stop_requests import StopRequests

if TYPE_CHECKING:
    from htcjob.entries.outputs import OutputPatterns, Writers
    from htcjob.entries.work_directories import WorkDirectory
    from htcjob.environment.context import JobContext
    from htcjob.manifest.entry import Entry
    from htcjob.run_options import RunOptions

log = logging.getLogger(__name__)


class Work(NamedTuple):
    """What working on an entry took, for its record."""

    exit_status: int | None
    """Exit status of the command; None: it did not run."""
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0

    @classmethod
    def of(cls, result: CommandResult) -> Work:
        """Return the work of a command or a call."""
        return cls(result.exit_status, result.elapsed_s, result.cpu_s, result.peak_memory_bytes)


@dataclass(slots=True)
class Pipeline:
    """The common part of the ways that entries of one attempt take; may be used from any thread."""

    context: JobContext
    options: RunOptions
    staging: Staging
    ledger: Ledger
    signals: StopRequests
    facts: Facts
    """Where results are counted."""
    environ: Mapping[str, str]
    """The injected environment, from which the command's is made."""
    variables: Mapping[str, str]
    """Variables that every command of this attempt gets in addition."""
    scratch: str
    """This attempt's own directory, links resolved; the caller makes and removes it."""
    patterns: OutputPatterns
    """The files that are staged out."""
    writers: Writers
    """The entry that each output belongs to, those of earlier attempts included."""
    peak_memory_bytes: int = 0
    """Peak memory of the largest process so far."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Guards the counts: entries end in several threads."""
    _inherited: dict[str, str] | None = None
    """The part of a command's environment that is the same for all."""

    def stage_in(self, entry: Entry, directory: str, *, folder: str = "") -> str:
        """Fetch the object of *entry* (`Staging.stage_in`); a line that cannot be used is a `BadKeyError`."""
        if entry.problem is not None:
            raise BadKeyError(entry.text, entry.problem)
        return self.staging.stage_in(entry, directory, folder=folder)

    def stage_in_failed(self, entry: Entry, error: HtcjobError) -> Record:
        """Return the record of an entry that could not be fetched; raise what concerns every entry."""
        if stops_attempt(error, staging_out=False):
            raise error
        message = entry.problem or f"stage-in: {error}"
        return self.record(entry, judge_stage_in(error), message=message)

    def run(
        self,
        argv: Sequence[str],
        directory: WorkDirectory,
        variables: Mapping[str, str],
        *,
        may_finish: bool,
        timeout_s: float | None,
    ) -> CommandResult:
        """Run the command on the contents of *directory*; *variables* are those of this run alone."""
        environment = {**self.environment(), **variables, **directory.variables()}
        ends_in_s = [limit_s for limit_s in (timeout_s, self.signals.stops_in_s) if limit_s is not None]
        if ends_in_s:
            environment["HTCJOB_DEADLINE"] = utc(time.time() + min(ends_in_s))
        result = run_command(
            argv,
            environment=environment,
            signals=for_commands(self.signals),
            timeout_s=timeout_s,
            grace_s=self.options.grace_s,
            may_finish=may_finish,
        )
        self.note_memory(result.peak_memory_bytes)
        return result

    def environment(self) -> Mapping[str, str]:
        """Return the part of a command's environment that is the same for all."""
        if self._inherited is None:
            self._inherited = command_environment(
                self.environ, extra=self.variables, pass_credentials=self.options.pass_credentials
            )
        return self._inherited

    def note_memory(self, peak_bytes: int) -> None:
        """Note the peak memory of a process."""
        with self._lock:
            self.peak_memory_bytes = max(self.peak_memory_bytes, peak_bytes)

    def record(
        self,
        entry: Entry,
        result: EntryResult,
        *,
        message: str = "",
        work: Work | None = None,
        value: object = None,
        stage_in_s: float = 0.0,
    ) -> Record:
        """
        Return the record of *entry*, which ends now, without outputs.

        Args:
            entry: The entry.
            result: How it ended.
            message: Why it is not done, for a person.
            work: Time, CPU, memory and exit status of its command; None: it did not run.
            value: What the function returned, where one was called.
            stage_in_s: Seconds that its stage-in took.
        """
        work = work or Work(None)
        return Record(
            position=entry.position,
            entry=entry.text,
            result=result,
            message=message,
            exit_status=work.exit_status,
            array_index=self.context.array_index,
            attempt=self.context.attempt,
            value=value,
            stage_in_s=stage_in_s,
            work_s=work.elapsed_s,
            cpu_s=work.cpu_s,
            peak_memory_bytes=work.peak_memory_bytes,
            ended_at=utc(time.time()),
        )

    def commit(self, records: Sequence[Record]) -> None:
        """Hand over *records*; failures count at once, successes when the ledger has written them."""
        for record in records:
            if record.result is EntryResult.DONE:
                continue
            with self._lock:
                self.facts.results[record.result] += 1
                if not self.facts.first_failure:
                    shown = record.entry if len(record.entry) <= 100 else f"{record.entry[:100]}…"
                    self.facts.first_failure = f"{shown}: {record.message}"
            event(
                log,
                logging.WARNING,
                "entry_failed",
                position=record.position,
                entry=record.entry,
                result=record.result.value,
                message=record.message or None,
            )
        self.ledger.commit(records)

    def committed(self, records: Sequence[Record]) -> None:
        """Count the entries that are done now: the ledger has written their records."""
        for record in records:
            if record.result is EntryResult.DONE:
                self.facts.results[record.result] += 1
                event(log, logging.DEBUG, "entry_done", position=record.position, entry=record.entry)

    def is_budget_spent(self) -> bool:
        """Whether more entries failed than the user allows, so that no further one is to begin."""
        budget = self.options.max_failures
        is_spent = budget is not None and not budget.allows(
            failed=self.facts.failed, chunk_size=self.facts.chunk_size
        )
        self.facts.has_given_up |= is_spent
        return is_spent
