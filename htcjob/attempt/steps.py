"""Steps 2 to 5 of the recipe, which only an attempt with entries takes, and their preparation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from htcjob import __version__
from htcjob.attempt.command_variables import claim_variables, job_variables
from htcjob.entries.outputs import OutputPatterns, Writers
from htcjob.entries.pipeline import Pipeline
from htcjob.entries.placeholders import OURS
from htcjob.entries.staging import Staging
from htcjob.entries.work_directories import ScratchDirectory
from htcjob.environment.variables import command_environment
from htcjob.errors import CommandNotStartedError, UsageError
from htcjob.job_stores import open_job_stores
from htcjob.ledger.ledger import Ledger
from htcjob.ledger.run_identity import RunIdentity
from htcjob.logs.events import INFO, event
from htcjob.manifest.chunk import Share
from htcjob.manifest.entry_list import EntryList
from htcjob.manifest.opening import open_manifest
from htcjob.retry import RetryPolicy
from htcjob.supervise.command import check_program
from htcjob.supervise.signals import for_commands
from htcjob.transfer.transfers import Transfers

if TYPE_CHECKING:
    from htcjob.attempt.attempt import Attempt
    from htcjob.entries.crew import Crew
    from htcjob.environment.context import JobContext
    from htcjob.job_stores import JobStores
    from htcjob.manifest.entry import Entry
    from htcjob.manifest.manifest import Manifest
    from htcjob.run_options import RunOptions
    from htcjob.supervise.stop_requests import StopRequests


class Tools(NamedTuple):
    """The things that all steps use."""

    context: JobContext
    signals: StopRequests
    """Where stop signals arrive."""
    retry: RetryPolicy
    """The retry policy of this attempt; its waits end at a stop signal."""
    patterns: OutputPatterns
    """Which files are outputs."""
    variables: Mapping[str, str]
    """Environment variables that every command gets."""
    scratch: ScratchDirectory
    """The attempt's own directory."""
    crew: Crew | None
    """The workers, where a function is called; they import while the attempt looks for its chunk."""


class Left(NamedTuple):
    """The part of the chunk that is not committed yet."""

    entries: Iterator[Entry]
    """Read as they are asked for."""
    writers: Writers
    """The entry that each output of the committed part belongs to."""


@contextmanager
def prepare(attempt: Attempt, context: JobContext, signals: StopRequests) -> Iterator[Tools]:
    """
    Log the start, refuse options that cannot work before anything is fetched, and yield the steps' tools.

    Raises:
        CommandNotStartedError: there is no such command, or no such interpreter.
        TokenError: the bearer token is malformed, or has ended.
        UsageError: a placeholder is never filled in, or a glob can match nothing.
    """
    options = attempt.options
    event(
        __name__,
        INFO,
        "attempt_started",
        version=__version__,
        platform=context.platform,
        array_index=context.array_index,
        array_size=context.array_size,
        attempt=context.attempt,
    )
    retry = RetryPolicy(sleep=signals.sleep)
    claims = claim_variables(context, retry)
    if attempt.loop is None:
        _check_command(options, attempt.environ)
    patterns = OutputPatterns(options.outputs)
    variables = job_variables(context) | claims
    # The workers end before the directories in which they may still be writing are removed.
    with (
        ScratchDirectory(options.work_dir or attempt.environ.get("TMPDIR")) as scratch,
        _crew(attempt, variables, signals) as crew,
    ):
        yield Tools(context, signals, retry, patterns, variables, scratch, crew)


def _check_command(options: RunOptions, environ: Mapping[str, str]) -> None:
    """Refuse a command that cannot work."""
    program = options.command[0] if options.command else options.python or sys.executable
    if "{" not in program and (missing := check_program(program, environ.get("PATH"))):
        raise CommandNotStartedError(missing.exit_status, missing.start_error or "")
    if not options.is_each:
        for word in options.command:
            if word in OURS:
                raise UsageError(f"{word} is filled in only with --each")


def _crew(
    attempt: Attempt, variables: Mapping[str, str], signals: StopRequests
) -> AbstractContextManager[Crew | None]:
    """Return the workers, where a function is called."""
    options = attempt.options
    if options.call is None:
        return nullcontext()
    from htcjob.entries.crew import Crew

    environment = command_environment(
        attempt.environ, extra=variables, pass_credentials=options.pass_credentials
    )
    return Crew(options, environment=environment, signals=for_commands(signals))


def open_stores(tools: Tools) -> JobStores:
    """Step 2: open project and task storage."""
    return open_job_stores(tools.context, tools.retry)


def locate_chunk(attempt: Attempt, stores: JobStores, tools: Tools) -> Manifest | EntryList:
    """Step 3: find this job's chunk, and return the manifest."""
    context, options = tools.context, attempt.options
    share = Share(context.array_index, context.require_array_size(), options.balance)
    manifest: Manifest | EntryList
    if context.manifest is None or options.entries:
        manifest = EntryList(options.entries)
        attempt.chunk = share.by_number(manifest.n_entries)
    else:
        manifest, attempt.chunk = open_manifest(
            context.manifest, share, project=stores.project, retry=tools.retry, open_url=stores.open
        )
    attempt.facts.chunk_size = len(attempt.chunk)
    return manifest


def leave_out_committed(
    attempt: Attempt, manifest: Manifest | EntryList, stores: JobStores, tools: Tools
) -> Left:
    """Step 4: open the run's ledger, and return the entries that it does not list as done."""
    options, chunk = attempt.options, attempt.chunk
    ledger = attempt.ledger = Ledger(stores.task, options.run or manifest.default_run, tools.retry)
    ledger.open_run(RunIdentity.of(manifest), options.program)
    done = ledger.done(chunk)
    attempt.facts.already_done = len(done)
    event(
        __name__,
        INFO,
        "chunk_located",
        entries=manifest.n_entries,
        start=chunk.start,
        stop=chunk.stop,
        already_done=len(done),
    )
    return Left(
        (entry for entry in manifest.entries(chunk) if entry.position not in done),
        Writers({key: position for position, keys in done.items() for key in keys}),
    )


def flow(attempt: Attempt, left: Left, stores: JobStores, tools: Tools) -> None:
    """Step 5: take the entries that are left through stage-in, work, stage-out and commit."""
    if tools.crew is not None:
        tools.crew.reduce(attempt.facts.left)
    if attempt.facts.left == 0:
        return
    with Transfers(tools.retry) as transfers:
        assert attempt.ledger is not None  # noqa: S101 - for mypy
        pipeline = attempt.pipeline = Pipeline(
            context=tools.context,
            options=attempt.options,
            staging=Staging(stores.project, stores.task, transfers, open_store=stores.open),
            ledger=attempt.ledger,
            signals=tools.signals,
            facts=attempt.facts,
            environ=attempt.environ,
            variables=tools.variables,
            scratch=tools.scratch.make(),
            patterns=tools.patterns,
            writers=left.writers,
        )
        attempt.ledger.on_committed = pipeline.committed
        if attempt.options.is_each:
            _one_by_one(attempt, pipeline, left, tools)
        else:
            from htcjob.entries.whole_chunk import WholeChunk

            WholeChunk(pipeline).work_on(list(left.entries))
        tools.patterns.warn()


def _one_by_one(attempt: Attempt, pipeline: Pipeline, left: Left, tools: Tools) -> None:
    from htcjob.entries.disk_budget import DiskBudget
    from htcjob.entries.each import OneByOne

    stragglers, factor = None, attempt.options.timeout_factor
    if factor is not None:
        from htcjob.entries.stragglers import Stragglers

        stragglers = Stragglers(factor)
    disk = DiskBudget.of(pipeline.scratch, attempt.options.disk_budget_bytes)
    act = attempt.loop.act if attempt.loop is not None else None
    OneByOne(pipeline, disk, stragglers, tools.crew, act).work_on(left.entries)
