"""
Entries flow stage-in -> work -> stage-out -> commit.

Two ways: `each.py` runs the command once per entry, `work_on_chunk` once for all of them. Both keep the order
that the whole project rests on: outputs first, the commit record last.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from htcjob.entries.staging import Staging, lie_apart
from htcjob.entries.work_directories import (
    Place,
    entries_file_line,
    failures_said_by_command,
    in_work_directory,
    said_by_command,
)
from htcjob.environment.variables import command_environment
from htcjob.errors import BadKeyError, HtcjobError
from htcjob.ledger.ledger import Ledger
from htcjob.ledger.records import Record
from htcjob.logs.events import event, utc
from htcjob.outcome.endings import Facts
from htcjob.outcome.results import CommandResult, EntryResult, judge_command, judge_stage_in, stops_attempt
from htcjob.supervise.command import run_command
from htcjob.supervise.signals import Signals

if TYPE_CHECKING:
    from htcjob.entries.outputs import OutputPatterns, Writers
    from htcjob.environment.context import JobContext
    from htcjob.manifest.entry import Entry
    from htcjob.run_options import RunOptions

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pipeline:
    """What all ways of this attempt's entries share; may be used from any thread."""

    context: JobContext
    options: RunOptions
    staging: Staging
    ledger: Ledger
    signals: Signals
    facts: Facts
    """Where results are counted."""
    environ: Mapping[str, str]
    """The environment that the command's is made from."""
    variables: Mapping[str, str]
    """What every command of this attempt gets besides."""
    scratch: str
    """This attempt's own directory, links resolved; the caller makes and removes it."""
    patterns: OutputPatterns
    """What is staged out."""
    writers: Writers
    """Which entry each output is of, earlier attempts' too."""
    peak_memory_bytes: int = 0
    """Of the largest process so far."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Of what is counted here; entries end in several threads."""
    _inherited: dict[str, str] | None = None
    """The part of a command's environment that is the same for all."""

    def work_on_chunk(self, entries: Sequence[Entry]) -> None:
        """Stage in all entries and run the command once; what it does not report as failed is committed."""
        place = Place.make(os.path.join(self.scratch, "chunk"))
        started = time.monotonic()
        with self.staging.shown("stage_in", len(entries)):
            inputs = self._stage_in_all(entries, place)
        stage_in_s = time.monotonic() - started
        event(log, logging.INFO, "stage_in_done", objects=len(inputs), elapsed_s=round(stage_in_s, 2))
        staged = [entry for entry in entries if entry.position in inputs]
        if not staged or self.signals.stop_signal is not None or self.is_budget_spent():
            return

        lines = [entries_file_line(entry, inputs[entry.position]) for entry in staged]
        with in_work_directory(place.entries_file), open(place.entries_file, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        files = {"HTCJOB_ENTRIES_FILE": place.entries_file, "HTCJOB_FAILURES_FILE": place.failures_file}
        result = self.facts.command = self.run(
            self.options.command, place, files, may_finish=False, timeout_s=self.options.timeout_s
        )
        event(
            log,
            logging.INFO,
            "command_ended",
            exit_status=result.exit_status,
            elapsed_s=round(result.elapsed_s, 2),
        )
        verdict, _ = judge_command(result)
        if verdict is not EntryResult.DONE or result.stopped_by is not None:
            self.facts.command_message = said_by_command(place.message_file)
            return

        failures = failures_said_by_command(place.failures_file, set(inputs.values()))
        started = time.monotonic()
        keys = self.patterns.find(place.outputs)
        with self.staging.shown("stage_out", len(keys)):
            outputs = self.staging.stage_out(place.outputs, keys)
        stage_out_s = time.monotonic() - started
        event(log, logging.INFO, "stage_out_done", objects=len(outputs), elapsed_s=round(stage_out_s, 2))
        # What the command made and used as a whole is said once, with the first entry of the set.
        first = next((entry for entry in staged if inputs[entry.position] not in failures), staged[0])
        together = {
            "outputs": tuple(outputs),
            "stage_in_s": stage_in_s,
            "work_s": result.elapsed_s,
            "stage_out_s": stage_out_s,
            "cpu_s": result.cpu_s,
            "peak_memory_bytes": result.peak_memory_bytes,
        }
        records = []
        for entry in staged:
            message = failures.get(inputs[entry.position])
            records.append(
                self.record(
                    entry,
                    EntryResult.DONE if message is None else EntryResult.FAILED,
                    message=message or "",
                    exit_status=result.exit_status,
                    **(together if entry is first else {"outputs_at": first.position}),
                )
            )
        self.commit(records)

    def _stage_in_all(self, entries: Sequence[Entry], place: Place) -> dict[int, str]:
        """
        Give the local path of every entry by position; those that cannot be fetched are recorded.

        After a stop signal no further one is fetched.
        """
        inputs: dict[int, str] = {}
        failures = []
        apart = lie_apart(entries)

        def stage_in(entry: Entry) -> str:
            return self.stage_in(entry, place.inputs, folder=apart.get(entry.position, ""))

        wanted = takewhile(lambda _: self.signals.stop_signal is None, entries)
        transfers = self.staging.transfers
        with closing(transfers.each(stage_in, wanted)) as found:
            for entry, path in zip(entries, found, strict=False):
                if isinstance(path, HtcjobError):
                    failures.append(self.stage_in_failed(entry, path))
                else:
                    inputs[entry.position] = path
        if failures:
            self.commit(failures)
        return inputs

    def stage_in(self, entry: Entry, directory: str, *, folder: str = "") -> str:
        """Fetch the object of *entry* (`Staging.stage_in`); a line that cannot be used is a `BadKeyError`."""
        if entry.problem is not None:
            raise BadKeyError(entry.text, entry.problem)
        return self.staging.stage_in(entry, directory, folder=folder)

    def stage_in_failed(self, entry: Entry, error: HtcjobError) -> Record:
        """Give the record of an entry that could not be fetched; raises what concerns every entry."""
        if stops_attempt(error, staging_out=False):
            raise error
        message = entry.problem or f"stage-in: {error}"
        return self.record(entry, judge_stage_in(error), message=message)

    def run(
        self,
        argv: Sequence[str],
        place: Place,
        variables: Mapping[str, str],
        *,
        may_finish: bool,
        timeout_s: float | None,
    ) -> CommandResult:
        """Run the command for what is in *place*; *variables* are those of this run alone."""
        environment = {**self.environment(), **variables, **place.variables()}
        ends_in_s = [limit_s for limit_s in (timeout_s, self.signals.stops_in_s) if limit_s is not None]
        if ends_in_s:
            environment["HTCJOB_DEADLINE"] = utc(time.time() + min(ends_in_s))
        result = run_command(
            argv,
            environment=environment,
            signals=self.signals,
            timeout_s=timeout_s,
            grace_s=self.options.grace_s,
            may_finish=may_finish,
        )
        self.note_memory(result.peak_memory_bytes)
        return result

    def environment(self) -> Mapping[str, str]:
        """Give the part of a command's environment that is the same for all."""
        if self._inherited is None:
            self._inherited = command_environment(
                self.environ, extra=self.variables, pass_credentials=self.options.pass_credentials
            )
        return self._inherited

    def note_memory(self, peak_bytes: int) -> None:
        """Note what a process needed."""
        with self._lock:
            self.peak_memory_bytes = max(self.peak_memory_bytes, peak_bytes)

    def record(self, entry: Entry, result: EntryResult, **members: object) -> Record:
        """Give the record of what became of *entry* now."""
        return Record(
            position=entry.position,
            entry=entry.text,
            result=result,
            array_index=self.context.array_index,
            attempt=self.context.attempt,
            ended_at=utc(time.time()),
            **members,  # type: ignore[arg-type]
        )

    def commit(self, records: Sequence[Record]) -> None:
        """Hand over *records*; what failed counts at once, what is done when the ledger has written it."""
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
        """Tell whether more entries failed than the user allows, so that no further one is to begin."""
        budget = self.options.max_failures
        is_spent = budget is not None and not budget.allows(
            failed=self.facts.failed, chunk_size=self.facts.chunk_size
        )
        self.facts.has_given_up |= is_spent
        return is_spent
