"""
One attempt, top to bottom:

1. the injected environment becomes a `JobContext` (`environment/`), and the bearer token is checked;
2. the stores are opened;
3. the chunk of this array index is located in the manifest;
4. what is committed already is left out;
5. the rest flows through stage-in -> work -> stage-out -> commit (`pipeline.py`);
6. the ending is decided, once, by a pure function (`outcome.decide`);
7. the exit record is written, last.

With no manifest configured there is nothing to stage: the command is only supervised (`run_plain`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING

from htcjob import __version__
from htcjob.attempt.attempt import Attempt
from htcjob.attempt.command_variables import claim_variables, job_variables
from htcjob.attempt.exit_record import write_exit_record
from htcjob.attempt.plain import run_plain
from htcjob.environment.context import JobContext, read_context
from htcjob.environment.variables import command_environment
from htcjob.errors import CommandNotStartedError, UsageError
from htcjob.logs.events import INFO, WARNING, event
from htcjob.machine.limits import has_memory_limit
from htcjob.outcome.endings import Ending, decide
from htcjob.supervise.command import check_program
from htcjob.supervise.signals import Signals

if TYPE_CHECKING:
    from htcjob.manifest.entry_list import EntryList
    from htcjob.manifest.manifest import Manifest
    from htcjob.run_options import RunOptions
    from htcjob.supervise.last_resort import LastResort


SYSTEM_TEMPORARY = "/tmp"  # noqa: S108 - only the parent of a fresh directory with a random name


def run_attempt(
    options: RunOptions, *, environ: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[Ending, BaseException | None]:
    """
    Make one attempt; give how it ended, and the error that stopped it, if one did. Never raises.

    Args:
        options: What the user asked for.
        environ: The injected environment.
        flags: What the command line says of the job's context; it wins over *environ*.
    """
    attempt = Attempt(options, environ)
    with attempt, Signals() as signals, _memory_guard(signals):
        if options.deadline_s is not None:
            signals.stop_after(options.deadline_s - options.grace_s)
        last_resort: LastResort | None = None
        try:
            context = attempt.context = read_context(environ, flags=flags)
            with _told_early(attempt, context, signals):
                if context.manifest is None and not options.entries:
                    run_plain(attempt, context, signals)
                else:
                    from htcjob.attempt.early_end import guard

                    last_resort = guard(attempt, signals)
                    work(attempt, context, signals)
        except Exception as error:  # whatever it is, it has an ending
            attempt.facts.error = error
        ending = end(attempt, signals)
        if last_resort is not None:
            last_resort.close()
    return ending, attempt.facts.error


def _told_early(attempt: Attempt, context: JobContext, signals: Signals) -> AbstractContextManager[object]:
    """Stop early (`warned_early`), where anything tells when."""
    if context.ends_at is None and attempt.options.preemption_notice is None:
        return nullcontext()
    from htcjob.attempt.early_end import warned_early

    return warned_early(attempt, context, signals)


def _memory_guard(signals: Signals) -> AbstractContextManager[object]:
    """Give the memory guard, where there is a limit to guard."""
    if not has_memory_limit():
        return nullcontext()
    from htcjob.machine.cgroup_memory import CgroupMemory
    from htcjob.supervise.memory_guard import MemoryGuard

    try:
        return MemoryGuard(signals.children, CgroupMemory())
    except OSError as error:
        event(__name__, WARNING, "memory_not_watched", cause=str(error))
        return nullcontext()


def work(attempt: Attempt, context: JobContext, signals: Signals) -> None:
    """Steps 1 to 5."""
    with ExitStack() as resources:
        _work(attempt, context, signals, resources)


def _work(attempt: Attempt, context: JobContext, signals: Signals, resources: ExitStack) -> None:
    # Not imported at the top: a plain entrypoint, started a million times, needs none of these.
    from htcjob.entries.outputs import OutputPatterns, Writers
    from htcjob.entries.pipeline import Pipeline
    from htcjob.entries.staging import Staging
    from htcjob.entries.work_directories import scratch_directory
    from htcjob.job_stores import open_job_stores
    from htcjob.ledger.ledger import Ledger
    from htcjob.ledger.run_identity import RunIdentity
    from htcjob.manifest.chunk import Share, chunk_bounds
    from htcjob.manifest.entry_list import EntryList
    from htcjob.manifest.opening import open_manifest
    from htcjob.retry import RetryPolicy
    from htcjob.transfer.transfers import Transfers

    options, facts = attempt.options, attempt.facts
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
    # 1. the token, where there is one; the context is read already
    retry = RetryPolicy(sleep=signals.sleep)
    claims = claim_variables(context, retry)

    # 2. stores
    if attempt.act is None:
        _check_command(options, attempt.environ)
    patterns = OutputPatterns(options.outputs)
    variables = job_variables(context) | claims
    crew = None
    if options.call is not None:
        from htcjob.entries.crew import Crew

        environment = command_environment(
            attempt.environ, extra=variables, pass_credentials=options.pass_credentials
        )
        crew = resources.enter_context(Crew(options, environment=environment, signals=signals))
    stores = open_job_stores(context, retry)

    # 3. the manifest, and the chunk in it
    share = Share(context.array_index, context.require_array_size(), options.balance)
    manifest: Manifest | EntryList
    if context.manifest is None or options.entries:
        manifest = EntryList(options.entries)
        attempt.chunk = chunk_bounds(
            array_index=share.array_index, array_size=share.array_size, n_entries=manifest.n_entries
        )
    else:
        manifest, attempt.chunk = open_manifest(context.manifest, share, stores.project, retry, stores.open)
    facts.chunk_size = len(attempt.chunk)

    # 4. what is committed already
    ledger = attempt.ledger = Ledger(stores.task, options.run or manifest.default_run, retry)
    ledger.open_run(RunIdentity.of(manifest), options.program)
    done = ledger.done(attempt.chunk)
    facts.already_done = len(done)
    event(
        __name__,
        INFO,
        "chunk_located",
        entries=manifest.n_entries,
        start=attempt.chunk.start,
        stop=attempt.chunk.stop,
        already_done=len(done),
    )
    if crew is not None:
        crew.reduce(facts.left)
    if facts.left == 0:
        return

    # 5. the rest
    parent = options.work_dir or attempt.environ.get("TMPDIR") or SYSTEM_TEMPORARY
    with scratch_directory(parent) as scratch, Transfers(retry) as transfers, resources:
        pipeline = attempt.pipeline = Pipeline(
            context=context,
            options=options,
            staging=Staging(stores.project, stores.task, transfers, open_store=stores.open),
            ledger=ledger,
            signals=signals,
            facts=facts,
            environ=attempt.environ,
            variables=variables,
            scratch=scratch,
            patterns=patterns,
            writers=Writers({key: position for position, keys in done.items() for key in keys}),
        )
        ledger.on_committed = pipeline.committed
        left = (entry for entry in manifest.entries(attempt.chunk) if entry.position not in done)
        if options.is_each:
            from htcjob.entries.disk_budget import DiskBudget
            from htcjob.entries.each import Each

            stragglers = None
            if options.timeout_factor is not None:
                from htcjob.entries.stragglers import Stragglers

                stragglers = Stragglers(options.timeout_factor)
            disk = DiskBudget.of(scratch, options.disk_budget_bytes)
            Each(pipeline, disk, stragglers, crew, attempt.act).work_on(left)
        else:
            pipeline.work_on_chunk(list(left))
        patterns.warn()


def end(attempt: Attempt, signals: Signals) -> Ending:
    """Steps 6 and 7, whatever came before: write what is still in memory, decide, write the exit record."""
    facts = attempt.facts
    try:
        if attempt.ledger is not None:
            attempt.ledger.close()
    except Exception as error:
        facts.error = facts.error or error
    facts.stop_signal = signals.stop_signal
    facts.stop_cause = signals.stop_cause
    ending = decide(facts)
    write_exit_record(attempt, ending, signals.stopped_at)
    attempt.ending = ending
    return ending


def _check_command(options: RunOptions, environ: Mapping[str, str]) -> None:
    """Refuse a command that cannot work, before anything is fetched or recorded."""
    program = options.command[0] if options.command else options.python or sys.executable
    if "{" not in program and (missing := check_program(program, environ.get("PATH"))):
        raise CommandNotStartedError(missing.exit_status, missing.start_error or "")
    if not options.is_each:
        for word in options.command:
            if word in ("{entry}", "{key}", "{input}", "{stem}", "{output_dir}"):
                raise UsageError(f"{word} is filled in only with --each")
