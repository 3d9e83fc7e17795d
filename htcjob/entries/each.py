"""
The way of one entry when the command runs once per entry: fetched, worked on, staged out, committed.

`flow.py` decides when a step is taken; the steps are here. Trouble with one entry does not touch the others.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from htcjob.entries.command_files import said_by_command
from htcjob.entries.disk_budget import DiskBudget, DiskShare, size_of_tree
from htcjob.entries.flow import Flow, Next
from htcjob.entries.pipeline import Work
from htcjob.entries.placeholders import fill_in, values_of
from htcjob.entries.work_directories import WorkDirectories, WorkDirectory, in_work_directory
from htcjob.errors import (
    HtcjobError,
    ShortageError,
    StorageError,
    TransientError,
    UnwritableError,
)
from htcjob.logs.events import event
from htcjob.outcome.results import EntryResult, judge_command, stops_attempt

if TYPE_CHECKING:
    from htcjob.entries.crew import Crew
    from htcjob.entries.pipeline import Pipeline
    from htcjob.entries.stragglers import Stragglers
    from htcjob.ledger.records import Record
    from htcjob.manifest.entry import Entry
    from htcjob.outcome.results import CommandResult

log = logging.getLogger(__name__)


@dataclass(slots=True)
class StagedEntry:
    """The things an entry holds from the start of its fetch until it leaves, or begins anew."""

    entry: Entry
    directory: WorkDirectory
    """Its own directories."""
    share: DiskShare
    """Its share of the disk budget."""
    path: str = ""
    """Path of its input."""
    stage_in_s: float = 0.0
    record: Record | None = None
    """The result of its command; its outputs are not staged out yet."""
    is_vacated: bool = True
    """No process that was told of its directory is alive."""


@dataclass(slots=True)
class EntryState:
    """One entry on its way."""

    entry: Entry
    staged: StagedEntry | None = None
    """The things it holds now; None: nothing yet, or nothing any more."""
    size_bytes: int | None = None
    """Size of its input, once storage has told it."""
    tries: int = 0
    """Failed tries so far, each of which is followed by another one."""
    is_over: bool = False
    """Its result is committed."""


Act = Callable[[StagedEntry, int, float | None], "tuple[CommandResult, object, str]"]
"""Works on an entry, as the worker of that number, for at most that many seconds; returns the ending, the
value for the record, and the reason in words if it failed."""


@dataclass(slots=True)
class OneByOne:
    """The steps of one entry, for `Flow`."""

    pipeline: Pipeline
    disk: DiskBudget
    stragglers: Stragglers | None
    """Sets the time limit, where it is a multiple of the time that others took."""
    crew: Crew | None = None
    """The Python processes of the workers, where a function is called."""
    act: Act | None = None
    """Works on an entry, where neither a command nor a warm worker does."""
    _is_given_up: bool = False
    """No further entry is worked on: the failure budget is spent, or the command cannot be run at all."""
    _directories: WorkDirectories = field(init=False)
    _unfilled: set[str] = field(default_factory=set)
    """Words that look like placeholders and are none; there is one warning for each."""

    def __post_init__(self) -> None:
        self._directories = WorkDirectories(self.pipeline.scratch)

    def work_on(self, entries: Iterable[Entry]) -> None:
        """Take all entries through the steps; after a stop signal, only those that have begun."""
        pipeline = self.pipeline
        flow = Flow(
            map(EntryState, entries),
            self,
            workers=pipeline.options.workers,
            prefetch=pipeline.options.prefetch,
            is_stopped=self._is_stopped,
        )
        with pipeline.signals.many_commands():
            flow.run()
        if self.crew is not None:
            self.crew.hang_up()
            pipeline.ledger.flush()  # while the processes end

    def _is_stopped(self) -> bool:
        return self._is_given_up or self.pipeline.signals.stop_signal is not None

    def fetch(self, state: EntryState, *, is_alone: bool) -> Next:
        """Stage in."""
        started = time.monotonic()
        try:
            staged = state.staged = self._begin(state, is_alone=is_alone)
            if staged is None:
                return Next.POSTPONE
            self._fetch(staged)
        except HtcjobError as error:
            self._leave(state)
            if isinstance(error, UnwritableError) and not is_alone:
                return Next.POSTPONE  # the disk is full, maybe of files that others have fetched
            if isinstance(error, TransientError) and self._is_stopped():
                return Next.LEAVE  # cut short
            self._settle(state, self.pipeline.stage_in_failed(state.entry, error))
            return Next.FINISH
        staged.stage_in_s = time.monotonic() - started
        return Next.WORK

    def _begin(self, state: EntryState, *, is_alone: bool) -> StagedEntry | None:
        """Return the things an entry needs to be fetched; None: there is no disk space."""
        if state.size_bytes is None and self.disk.is_exact and state.entry.problem is None:
            state.size_bytes = self.pipeline.staging.size_of(state.entry)
        share = self.disk.take(state.size_bytes, is_forced=is_alone)
        if share is None:
            return None
        try:
            return StagedEntry(state.entry, self._directories.lend(), share)
        except HtcjobError:
            share.give_back()
            raise

    def _fetch(self, staged: StagedEntry) -> None:
        entry, outputs = staged.entry, staged.directory.outputs
        staged.path = self.pipeline.stage_in(entry, staged.directory.inputs)
        with in_work_directory(staged.path):
            staged.share.resize(os.path.getsize(staged.path))
        if "/" in entry.key and not entry.is_url:  # so that an output may be named after its entry
            with in_work_directory(outputs):
                os.makedirs(os.path.join(outputs, os.path.dirname(entry.key)), exist_ok=True)

    def work(self, state: EntryState, worker: int) -> Next:
        """Run the command, or call the function."""
        staged = state.staged
        assert staged is not None  # noqa: S101 - for mypy
        timeout_s = (
            self.pipeline.options.timeout_s if self.stragglers is None else self.stragglers.timeout_s()
        )
        act = self.act or (self._run if self.pipeline.options.call is None else self._call)
        result, value, problem = act(staged, worker, timeout_s)
        self.pipeline.note_memory(result.peak_memory_bytes)
        staged.is_vacated = result.has_no_survivors
        if result.is_unusable:
            self.pipeline.facts.command = result  # no entry can be worked on: that ends the attempt
            self._is_given_up = True
        if result.is_unusable or result.stopped_by is not None:
            self._leave(state)
            return Next.LEAVE
        verdict, message = judge_command(result)
        record = self.pipeline.record(
            state.entry,
            verdict,
            message=message if result.excuse or verdict is EntryResult.OUT_OF_MEMORY else problem or message,
            work=Work.of(result),
            value=value,
            stage_in_s=staged.stage_in_s,
        )
        if verdict is EntryResult.DONE:
            if self.stragglers is not None:
                self.stragglers.add(result.elapsed_s)
            staged.record = record
            if self.disk.is_exact:
                staged.share.resize(size_of_tree(staged.directory.root))
        else:
            if verdict is EntryResult.OUT_OF_MEMORY:
                self._leave(state)  # before the next entry begins: its files may be in memory, and fill it
            self._settle(state, record)
        return Next.FINISH

    def _run(
        self, staged: StagedEntry, _worker: int, timeout_s: float | None
    ) -> tuple[CommandResult, object, str]:
        entry, command = staged.entry, self.pipeline.options.command
        argv = self._argv(values_of(entry, staged.path, staged.directory))
        names = {"HTCJOB_ENTRY": entry.text, "HTCJOB_KEY": entry.key, "HTCJOB_INPUT": staged.path}
        result = self.pipeline.run(argv, staged.directory, names, may_finish=True, timeout_s=timeout_s)
        # A program whose name is made of the entry may be unusable for this one only.
        result = result._replace(is_unusable=result.is_unusable and argv[0] == command[0])
        return result, None, said_by_command(staged.directory.message_file)

    def _call(
        self, staged: StagedEntry, worker: int, timeout_s: float | None
    ) -> tuple[CommandResult, object, str]:
        entry = staged.entry
        request = {
            "input": staged.path,
            "output_dir": staged.directory.outputs,
            "entry": entry.text,
            "key": entry.key,
            "params": entry.parameters,
        }
        assert self.crew is not None  # noqa: S101 - for mypy
        answer = self.crew.workers[worker].call(request, timeout_s=timeout_s)
        if answer.result.is_unusable and any(other.has_been_ready for other in self.crew.workers):
            raise ShortageError(f"worker cannot be started again: {answer.result.start_error}")
        return answer

    def finish(self, state: EntryState) -> Next:
        """Stage out, commit, and remove the entry's files."""
        staged = state.staged
        try:
            if staged is not None and staged.record is not None:
                self._settle(state, self._stage_out(staged.record, staged.directory))
        finally:
            self._leave(state)
        return Next.LEAVE if state.is_over else Next.AGAIN

    def _settle(self, state: EntryState, record: Record) -> None:
        """Commit the result of an entry, whose outputs are in storage, unless it is tried again."""
        is_worth_it = record.result is EntryResult.RETRY and not self._is_stopped()
        if is_worth_it and state.tries < self.pipeline.options.retry_entry:
            state.tries += 1
            event(
                log,
                logging.WARNING,
                "entry_again",
                position=record.position,
                entry=record.entry,
                number=state.tries,
                message=record.message,
            )
            return
        state.is_over = True
        self.pipeline.commit([record])
        if self.pipeline.is_budget_spent():
            self._is_given_up = True

    def _leave(self, state: EntryState) -> None:
        """Take back all that an entry holds, if it still holds anything."""
        staged, state.staged = state.staged, None
        if staged is not None:
            self._directories.take_back(staged.directory, staged.path, is_vacated=staged.is_vacated)
            staged.share.give_back()

    def _argv(self, values: Mapping[str, str]) -> list[str]:
        """Return the command with its placeholders filled in."""
        command = self.pipeline.options.command
        argv = [fill_in(word, values) for word in command]
        for word in argv:
            if re.fullmatch(r"\{\w+\}", word) and word in command and word not in self._unfilled:
                self._unfilled.add(word)
                event(log, logging.WARNING, "placeholder_not_filled", word=word, known=sorted(values))
        return argv

    def _stage_out(self, record: Record, directory: WorkDirectory) -> Record:
        """Stage out the outputs of a finished entry, and return its record with them."""
        started = time.monotonic()
        pipeline = self.pipeline
        claimed: list[str] = []
        try:
            keys = pipeline.patterns.find(directory.outputs)
            pipeline.writers.claim(keys, record.position)
            claimed = keys
            outputs = pipeline.staging.stage_out(directory.outputs, keys)
        except StorageError as error:
            if stops_attempt(error, staging_out=True):
                raise
            pipeline.writers.let_go(claimed)
            return replace(record, result=EntryResult.FAILED, message=f"stage-out: {error}")
        return replace(record, message="", outputs=tuple(outputs), stage_out_s=time.monotonic() - started)
