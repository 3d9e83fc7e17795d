"""The way of a whole chunk: all entries are fetched, the command runs once, and its results are committed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from htcjob.entries.command_files import entries_file_line, failures_said_by_command, said_by_command
from htcjob.entries.pipeline import Work
from htcjob.entries.staging import lie_apart
from htcjob.entries.work_directories import WorkDirectory, in_work_directory
from htcjob.errors import HtcjobError
from htcjob.logs.events import event
from htcjob.outcome.results import CommandResult, EntryResult, judge_command

if TYPE_CHECKING:
    from htcjob.entries.pipeline import Pipeline
    from htcjob.ledger.records import Output, Record
    from htcjob.manifest.entry import Entry

log = logging.getLogger(__name__)


class _Done(NamedTuple):
    """Times and memory of the command, for the chunk as a whole."""

    result: CommandResult
    outputs: Sequence[Output]
    stage_in_s: float
    stage_out_s: float


@dataclass(slots=True)
class WholeChunk:
    """The steps of all entries together."""

    pipeline: Pipeline

    def work_on(self, entries: Sequence[Entry]) -> None:
        """Stage in all entries and run the command once; commit all that it does not report as failed."""
        pipeline = self.pipeline
        directory = WorkDirectory.make(os.path.join(pipeline.scratch, "chunk"))
        started = time.monotonic()
        with pipeline.staging.shown("stage_in", len(entries)):
            inputs = self._stage_in(entries, directory)
        stage_in_s = time.monotonic() - started
        event(log, logging.INFO, "stage_in_done", objects=len(inputs), elapsed_s=round(stage_in_s, 2))
        staged = [entry for entry in entries if entry.position in inputs]
        if not staged or pipeline.signals.stop_signal is not None or pipeline.is_budget_spent():
            return

        result = pipeline.facts.command = self._run(staged, inputs, directory)
        verdict, _ = judge_command(result)
        if verdict is not EntryResult.DONE or result.stopped_by is not None:
            pipeline.facts.command_message = said_by_command(directory.message_file)
            return

        failures = failures_said_by_command(directory.failures_file, set(inputs.values()))
        started = time.monotonic()
        keys = pipeline.patterns.find(directory.outputs)
        with pipeline.staging.shown("stage_out", len(keys)):
            outputs = pipeline.staging.stage_out(directory.outputs, keys)
        stage_out_s = time.monotonic() - started
        event(log, logging.INFO, "stage_out_done", objects=len(outputs), elapsed_s=round(stage_out_s, 2))
        reasons = {entry.position: failures.get(inputs[entry.position]) for entry in staged}
        pipeline.commit(self._records(staged, reasons, _Done(result, outputs, stage_in_s, stage_out_s)))

    def _stage_in(self, entries: Sequence[Entry], directory: WorkDirectory) -> dict[int, str]:
        """
        Return the local path of every entry by position; those that cannot be fetched are recorded.

        After a stop signal no further one is fetched.
        """
        pipeline = self.pipeline
        inputs: dict[int, str] = {}
        failures = []
        apart = lie_apart(entries)

        def stage_in(entry: Entry) -> str:
            return pipeline.stage_in(entry, directory.inputs, folder=apart.get(entry.position, ""))

        wanted = takewhile(lambda _: pipeline.signals.stop_signal is None, entries)
        with closing(pipeline.staging.transfers.each(stage_in, wanted)) as found:
            for entry, path in zip(entries, found, strict=False):
                if isinstance(path, HtcjobError):
                    failures.append(pipeline.stage_in_failed(entry, path))
                else:
                    inputs[entry.position] = path
        if failures:
            pipeline.commit(failures)
        return inputs

    def _run(
        self, staged: Sequence[Entry], inputs: Mapping[int, str], directory: WorkDirectory
    ) -> CommandResult:
        """Run the command, with the list of its inputs."""
        lines = [entries_file_line(entry, inputs[entry.position]) for entry in staged]
        path = directory.entries_file
        with in_work_directory(path), open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        options = self.pipeline.options
        files = {"HTCJOB_ENTRIES_FILE": path, "HTCJOB_FAILURES_FILE": directory.failures_file}
        result = self.pipeline.run(
            options.command, directory, files, may_finish=False, timeout_s=options.timeout_s
        )
        event(
            log,
            logging.INFO,
            "command_ended",
            exit_status=result.exit_status,
            elapsed_s=round(result.elapsed_s, 2),
        )
        return result

    def _records(
        self, staged: Sequence[Entry], reasons: Mapping[int, str | None], done: _Done
    ) -> list[Record]:
        """
        Return the records of a chunk whose command ended well.

        Outputs, times and memory are recorded once, with the first entry of the set.

        Args:
            staged: The entries that the command had.
            reasons: By position, why the command reports an entry as failed; None: it does not.
            done: Times and memory of the command.
        """
        first = next((entry for entry in staged if reasons[entry.position] is None), staged[0])
        records = []
        for entry in staged:
            message = reasons[entry.position]
            record = self.pipeline.record(
                entry,
                EntryResult.DONE if message is None else EntryResult.FAILED,
                message=message or "",
                work=Work.of(done.result) if entry is first else Work(done.result.exit_status),
                stage_in_s=done.stage_in_s if entry is first else 0.0,
            )
            if entry is first:
                record = replace(record, outputs=tuple(done.outputs), stage_out_s=done.stage_out_s)
            else:
                record = replace(record, outputs_at=first.position)
            records.append(record)
        return records
