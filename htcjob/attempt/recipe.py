"""
One attempt, top to bottom:

1. the injected environment becomes a `JobContext` (`env.py`), and the bearer token is checked;
2. the stores are opened;
3. the chunk of this array index is located in the manifest;
4. what is committed already is left out;
5. the rest flows through stage-in -> work -> stage-out -> commit (`pipeline.py`);
6. the ending is decided, once, by a pure function (`outcome.decide`);
7. the exit record is written, last.

With no manifest configured there is nothing to stage: the command is only supervised (`_run_plain`).
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from htcjob import __version__
from htcjob.environment.context import (
    JobContext,
    command_environment,
    metadata_server,
    read_context,
    termination_log,
)
from htcjob.errors import (
    AbsentError,
    BadKeyError,
    CommandNotStartedError,
    ConfigurationError,
    HtcjobError,
    TokenError,
    TransientError,
    UnwritableError,
    UsageError,
)
from htcjob.logs.events import DEBUG, ERROR, INFO, WARNING, event, utc
from htcjob.machine.limits import has_memory_limit
from htcjob.outcome.endings import Ending, Facts, FailureBudget, decide
from htcjob.outcome.results import EntryResult, signal_name
from htcjob.supervise.bounded_call import OVERTIME_S, TooLongError, within
from htcjob.supervise.command import check_program, run_command
from htcjob.supervise.signals import Signals
from htcjob.trouble import in_words, is_passing, of_error

if TYPE_CHECKING:
    from htcjob.entries.each import Act
    from htcjob.entries.pipeline import Pipeline
    from htcjob.ledger.ledger import Ledger
    from htcjob.logs.redact import Secret
    from htcjob.manifest.chunk import Share
    from htcjob.manifest.manifest import Manifest
    from htcjob.retry import RetryPolicy
    from htcjob.run_options import Plan
    from htcjob.storage.contract import Store
    from htcjob.supervise.last_resort import LastResort

RECORD_S = 30.0
"""How long task storage has for the exit record of a plain command, after its end."""

TERMINATION_LOG_S = 1.0
"""How long the termination log has: it is a local file, or none that anybody can wait for."""

SYSTEM_TEMPORARY = "/tmp"  # noqa: S108 - only the parent of a fresh directory with a random name


def run_attempt(
    plan: Plan, *, environ: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[Ending, BaseException | None]:
    """
    Make one attempt; give how it ended, and the error that stopped it, if one did. Never raises.

    Args:
        plan: What the user asked for.
        environ: The injected environment.
        flags: What the command line says of the job's context; it wins over *environ*.
    """
    attempt = Attempt(plan, environ)
    with attempt, Signals() as signals, _memory_guard(signals):
        if plan.deadline_s is not None:
            signals.stop_after(plan.deadline_s - plan.grace_s)
        last_resort: LastResort | None = None
        try:
            context = attempt.context = read_context(environ, flags=flags)
            with warned_early(attempt, context, signals):
                if context.manifest is None and not plan.entries:
                    _run_plain(attempt, context, signals)
                else:
                    last_resort = guard(attempt, signals)
                    work(attempt, context, signals)
        except Exception as error:  # whatever it is, it has an ending
            attempt.facts.error = error
        ending = end(attempt, signals)
        if last_resort is not None:
            last_resort.close()
    return ending, attempt.facts.error


class Attempt:
    """
    What one attempt has found out so far.

    Args:
        plan: What the user asked for.
        environ: The injected environment.
        act: Does the work of one entry in place of the plan's command (`each.Each`).
    """

    def __init__(self, plan: Plan, environ: Mapping[str, str], *, act: Act | None = None) -> None:
        self.plan = plan
        self.environ = environ
        self.act = act
        self.facts = Facts(plan.max_failures or FailureBudget(), permanent_exit=plan.permanent_exit)
        self.started_at = time.time()
        self.started = time.monotonic()
        self.context: JobContext | None = None
        self.chunk = range(0)
        self.ledger: Ledger | None = None
        self.pipeline: Pipeline | None = None
        self.ending: Ending | None = None
        """Once it is decided and written down."""
        self._is_over = threading.Event()

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()

    def end_in(self, seconds: float, last_words: Callable[[], int]) -> None:
        """
        End this process by `os._exit` where the attempt is not over by then; costs a thread that waits.

        Called in a signal handler, so by means that take no lock.
        """

        def watch() -> None:
            if not self._is_over.wait(seconds):
                status = os.EX_SOFTWARE
                try:
                    status = last_words()
                finally:
                    os._exit(status)

        # The kernel may hand a signal to any thread that takes it, and the main thread would not wake.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with suppress(RuntimeError):  # this machine gives no thread
                _thread.start_new_thread(watch, ())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def warned_early(attempt: Attempt, context: JobContext, signals: Signals) -> AbstractContextManager[object]:
    """Stop ahead of the platform's own limit, and at the cloud's notice where that is asked for."""
    if context.ends_at is not None:
        _stop_before(context.ends_at, attempt.plan.grace_s, signals)
    cloud = attempt.plan.preemption_notice
    if cloud is None:
        return nullcontext()
    from htcjob.attempt.preemption import Notices

    return Notices(cloud, metadata_server(attempt.environ, cloud), signals.stop_by_notice)


def _stop_before(ends_at: int, grace_s: float, signals: Signals) -> None:
    """Stop a grace period before the platform does, unless the attempt's own deadline is earlier."""
    left_s = ends_at - time.time()
    if left_s <= 0:
        # The limit of a job that has ended, inherited; or one that the platform does not enforce.
        event(__name__, WARNING, "platform_limit_ignored", ended_at=utc(ends_at))
        return
    stop_in_s = left_s - grace_s
    if signals.stops_in_s is None or stop_in_s < signals.stops_in_s:
        signals.stop_after(stop_in_s)


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
    from htcjob.job_stores import open_job_stores
    from htcjob.ledger.ledger import Ledger
    from htcjob.ledger.run_identity import RunIdentity
    from htcjob.manifest.chunk import Share, chunk_bounds
    from htcjob.manifest.entry_list import EntryList
    from htcjob.retry import RetryPolicy
    from htcjob.transfer.transfers import Transfers

    plan, facts = attempt.plan, attempt.facts
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
    claims = _claims(context, retry)

    # 2. stores
    if attempt.act is None:
        _check_command(plan, attempt.environ)
    patterns = OutputPatterns(plan.outputs)
    variables = _variables(context) | claims
    crew = None
    if plan.call is not None:
        from htcjob.entries.crew import Crew

        environment = command_environment(
            attempt.environ, extra=variables, pass_credentials=plan.pass_credentials
        )
        crew = resources.enter_context(Crew(plan, environment=environment, signals=signals))
    stores = open_job_stores(context, retry)

    # 3. the manifest, and the chunk in it
    share = Share(context.array_index, context.require_array_size(), plan.balance)
    manifest: Manifest | EntryList
    if context.manifest is None or plan.entries:
        manifest = EntryList(plan.entries)
        attempt.chunk = chunk_bounds(
            array_index=share.array_index, array_size=share.array_size, n_entries=manifest.n_entries
        )
    else:
        manifest, attempt.chunk = open_manifest(context.manifest, share, stores.project, retry, stores.open)
    facts.chunk_size = len(attempt.chunk)

    # 4. what is committed already
    ledger = attempt.ledger = Ledger(stores.task, plan.run or manifest.default_run, retry)
    ledger.open_run(RunIdentity.of(manifest), plan.program)
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
    parent = plan.work_dir or attempt.environ.get("TMPDIR") or SYSTEM_TEMPORARY
    with _scratch_directory(parent) as scratch, Transfers(retry) as transfers, resources:
        pipeline = attempt.pipeline = Pipeline(
            context=context,
            plan=plan,
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
        if plan.is_each:
            from htcjob.entries.disk_budget import DiskBudget
            from htcjob.entries.each import Each

            stragglers = None
            if plan.timeout_factor is not None:
                from htcjob.entries.stragglers import Stragglers

                stragglers = Stragglers(plan.timeout_factor)
            disk = DiskBudget.of(scratch, plan.disk_budget_bytes)
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
    _write_exit_record(attempt, ending, signals.stopped_at)
    attempt.ending = ending
    return ending


def _check_command(plan: Plan, environ: Mapping[str, str]) -> None:
    """Refuse a command that cannot work, before anything is fetched or recorded."""
    program = plan.command[0] if plan.command else plan.python or sys.executable
    if "{" not in program and (missing := check_program(program, environ.get("PATH"))):
        raise CommandNotStartedError(missing.exit_status, missing.start_error or "")
    if not plan.is_each:
        for word in plan.command:
            if word in ("{entry}", "{key}", "{input}", "{stem}", "{output_dir}"):
                raise UsageError(f"{word} is filled in only with --each")


def _run_plain(attempt: Attempt, context: JobContext, signals: Signals) -> None:
    """
    Only supervise the command: no store, no token and no array variables are needed.

    A token that is there and of no use may still be what the command is for, so that is said.
    """
    plan = attempt.plan
    # Our own waits end at a signal here, so what ends the rest costs nothing until one comes.
    signals.on_stop = lambda signum: attempt.end_in(
        plan.grace_s + OVERTIME_S, lambda: _last_words(attempt, signals, signum)
    )
    if signals.stop_signal is not None:
        signals.on_stop(signals.stop_signal)
    if plan.is_each:
        raise ConfigurationError(
            "--each and --call need entries: name a manifest with --manifest or HTCJOB_MANIFEST"
        )
    if context.token is not None:
        _look_at(context.token)
    if context.task_store is not None:
        # Here and not in the other thread, where an import takes three times as long.
        import htcjob.storage.local.store  # noqa: F401
        from htcjob.job_stores import open_with_own_credentials
        from htcjob.ledger.ledger import Ledger
        from htcjob.retry import RetryPolicy

        url = context.task_store
        try:
            task = within(RECORD_S, lambda: open_with_own_credentials(url))
            attempt.ledger = Ledger(task, plan.run or "default", RetryPolicy(sleep=signals.sleep))
        except TooLongError:
            event(__name__, WARNING, "exit_record_not_written", cause=f"{url}: it cannot be opened in time")
    extra = _variables(context)
    ends_in_s = [limit_s for limit_s in (plan.timeout_s, signals.stops_in_s) if limit_s is not None]
    if ends_in_s:
        extra["HTCJOB_DEADLINE"] = utc(time.time() + min(ends_in_s))
    attempt.facts.is_plain = True
    attempt.facts.command = run_command(
        plan.command,
        environment=command_environment(attempt.environ, extra=extra, pass_credentials=plan.pass_credentials),
        signals=signals,
        timeout_s=plan.timeout_s,
        grace_s=plan.grace_s,
        lends_terminal=True,
    )


def _look_at(token: Secret) -> None:
    """Warn of a token that is malformed or has ended."""
    from htcjob.htc_api.bearer_token import decode_token

    try:
        decode_token(token)
    except TokenError as error:
        event(__name__, WARNING, "token_not_usable", cause=str(error))


def _variables(context: JobContext) -> dict[str, str]:
    """Give the variables that every command gets."""
    variables = {
        "HTCJOB_ARRAY_INDEX": str(context.array_index),
        "HTCJOB_ATTEMPT": str(context.attempt),
    }
    if context.array_size is not None:
        variables["HTCJOB_ARRAY_SIZE"] = str(context.array_size)
    return variables


def _claims(context: JobContext, retry: RetryPolicy) -> dict[str, str]:
    """Check the bearer token, where there is one, and give its user-defined claims as variables."""
    if context.token is None:
        return {}
    import re

    from htcjob.htc_api.bearer_token import decode_token

    token = decode_token(context.token, jwks=context.jwks, retry=retry)
    variables = {}
    for name, value in token.user_claims().items():
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise TokenError(f"claim {name!r} of the bearer token cannot be an environment variable")
        variables[f"HTCJOB_CLAIM_{re.sub(r'[^A-Za-z0-9_]', '_', name)}"] = value
    return variables


def open_manifest(
    url_or_key: str,
    share: Share,
    project: Store,
    retry: RetryPolicy,
    open_url: Callable[[str, str], Store],
) -> tuple[Manifest, range]:
    """
    Open the manifest, a key of project storage or a full URL, and find a job's positions in it.

    Args:
        url_or_key: As given.
        share: The job's.
        project: Project storage.
        retry: What a transient failure is met with.
        open_url: Opens the store of a full URL for a key in it (`JobStores.open`).

    Raises:
        AbsentError: it is not there.
        ConfigurationError: it is no key and no URL of an object.
    """
    from htcjob.manifest.opening import open_chunk
    from htcjob.storage.keys import check_key
    from htcjob.storage.urls import is_url, split_object_url

    store, key = project, url_or_key.removeprefix("./")
    try:
        if is_url(url_or_key):
            store_url, key = split_object_url(url_or_key)
            store = open_url(store_url, key)
        else:
            check_key(key)
        return open_chunk(store, key, share, retry)
    except BadKeyError as error:
        from htcjob.manifest.names import why_no_key

        what = str(error) if is_url(url_or_key) else why_no_key(url_or_key, error.reason, project.url)
        raise ConfigurationError(f"--manifest (HTCJOB_MANIFEST) {what}") from None
    except AbsentError as error:
        # The answer to a HEAD has no words; a listing says when it is the whole bucket that is not there.
        next(retry.call(lambda: store.list(key)), None)
        raise AbsentError(
            "manifest",
            error.url,
            f"{error.reason}; --manifest (HTCJOB_MANIFEST) is a key of project storage, or a URL",
        ) from error


@contextmanager
def _scratch_directory(parent: str) -> Iterator[str]:
    """Give a directory of our own below *parent*, with links resolved; it goes when the context ends."""
    from htcjob.entries.work_directories import remove_tree
    from htcjob.storage.keys import real_path

    base = real_path(parent)
    path = os.path.join(base, f"htcjob-{os.urandom(6).hex()}")
    try:
        with suppress(FileExistsError):  # what is there instead, or hid it, the next call says
            os.makedirs(base, exist_ok=True)
        os.mkdir(path, 0o700)
    except OSError as error:
        if is_passing(error):
            raise TransientError("work directory", path, in_words(error)) from error
        raise UnwritableError(
            "work directory", path, f"{error.strerror}; choose another place with --work-dir"
        ) from error
    try:
        yield path
    finally:
        remove_tree(path)


def guard(attempt: Attempt, signals: Signals, *, at_once: Callable[[int], None] | None = None) -> LastResort:
    """
    See to it that what hangs does not hold an attempt that was asked to stop.

    Args:
        attempt: That attempt.
        signals: Where stop signals arrive; one may have come already.
        at_once: Called with the signal that asks it to stop, in another thread.
    """
    from htcjob.supervise.last_resort import LastResort

    last_resort = LastResort(
        signals.request_in,
        after_s=attempt.plan.grace_s + OVERTIME_S,
        last_words=lambda signum: _last_words(attempt, signals, signum),
        at_once=at_once,
    )
    if signals.stop_signal is not None:
        last_resort.begin(signals.stop_signal)
    return last_resort


def _last_words(attempt: Attempt, signals: Signals, signum: int) -> int:
    """Return the exit status of an attempt that hangs after a request to stop, said and written down."""
    facts, ending = attempt.facts, attempt.ending
    if ending is None:
        signals.ask_to_stop(signum)  # which the main thread may not have done
        facts.stop_signal, facts.stop_cause = signum, signals.stop_cause
        if not facts.is_plain:
            facts.command = None
        if facts.command is None:
            what, said = ("command", "no end") if facts.is_plain else ("storage", "no answer")
            facts.error = TransientError("wait", what, f"{said} within the grace period")
        ending = decide(facts)
        _write_termination_log(attempt, _exit_record(attempt, ending))
    # All may be committed, and the user's own program still hang: that is no success of the program. A
    # plain command has ended, or hangs: its own status is the truth.
    status = ending.exit_status if facts.is_plain else ending.exit_status or 128 + signum
    event(__name__, ERROR, "given_up", exit_status=status, message=ending.message)
    return status


def _store_exit_record(
    attempt: Attempt, record: Mapping[str, object], stopped_at: float | None
) -> Mapping[str, object]:
    """
    Write the exit record to task storage, where there is one, and give it as it was written.

    A plain command's status is the truth, and the record a copy: it is waited for only so long.
    """
    ledger = attempt.ledger
    if ledger is None:
        return record
    if not attempt.facts.is_plain:
        return ledger.write_exit_record(record)
    patience_s = RECORD_S
    if stopped_at is not None:
        left_s = stopped_at + attempt.plan.grace_s + OVERTIME_S - time.monotonic()
        patience_s = min(patience_s, max(left_s - OVERTIME_S / 4, OVERTIME_S / 4))
    try:
        return within(patience_s, lambda: ledger.write_exit_record(record))
    except TooLongError:
        url = ledger.store.url
        raise TransientError("put", url, f"no answer within {patience_s:.1f} s") from None


def _write_exit_record(attempt: Attempt, ending: Ending, stopped_at: float | None) -> None:
    """Write how the attempt ended: to task storage, to the termination log, and to the log."""
    record: Mapping[str, object] = _exit_record(attempt, ending)
    event(
        __name__,
        DEBUG if attempt.facts.is_plain else INFO,
        "attempt_ended",
        termination_reason=ending.reason.value,
        exit_status=ending.exit_status,
        elapsed_s=record["elapsed_s"],
        outputs=record["staged_out"],
        message=ending.message if ending.exit_status == 0 else None,  # else it is the last line of all
    )
    try:
        record = _store_exit_record(attempt, record, stopped_at)
    except Exception as error:
        event(__name__, WARNING, "exit_record_not_written", cause=_survived(error))
    _write_termination_log(attempt, record)


def _write_termination_log(attempt: Attempt, record: Mapping[str, object]) -> None:
    path = attempt.context.termination_log if attempt.context else termination_log(attempt.environ)
    if path:
        try:
            from htcjob.ledger.exit_records import exit_record_json

            data = exit_record_json(record)

            def write() -> None:
                with open(path, "wb", opener=_open_at_once) as file:
                    file.write(data)

            within(TERMINATION_LOG_S, write)
        except Exception as error:
            event(__name__, WARNING, "termination_log_not_written", path=path, cause=_survived(error))


def _survived(error: Exception) -> str:
    """Return in words what changes nothing of how the attempt has ended; raises what is a fault of ours."""
    if not isinstance(error, HtcjobError) and of_error(error) is None:
        raise error
    return in_words(error)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a named pipe that nobody reads is an error, not the end of all progress."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _exit_record(attempt: Attempt, ending: Ending) -> dict[str, object]:
    facts, context, command = attempt.facts, attempt.context, attempt.facts.command
    staging = attempt.pipeline.staging if attempt.pipeline else None
    peak = attempt.pipeline.peak_memory_bytes if attempt.pipeline else 0
    return {
        "htcjob": __version__,
        "platform": context.platform if context else None,
        "job_id": context.job_id[:200] if context and context.job_id else None,
        "array_index": context.array_index if context else None,
        "array_size": context.array_size if context else None,
        "attempt": context.attempt if context else None,
        "attempt_from": context.attempt_variable or None if context else None,
        "run": attempt.ledger.run if attempt.ledger else None,
        "termination_reason": ending.reason.value,
        "exit_status": ending.exit_status,
        "command_exit_status": command.exit_status if command else None,
        "command_signal": signal_name(command.signal) if command and command.signal else None,
        "chunk": [attempt.chunk.start, attempt.chunk.stop],
        "entries": {
            "chunk": facts.chunk_size,
            "already_done": facts.already_done,
            **{result.value: facts.results[result] for result in EntryResult},
            "left": facts.left,
        },
        "staged_in": staging.staged_in if staging else 0,
        "staged_out": staging.staged_out if staging else 0,
        "peak_memory_bytes": max(peak, command.peak_memory_bytes if command else 0),
        "started_at": utc(attempt.started_at),
        "elapsed_s": round(time.monotonic() - attempt.started, 3),
        "message": ending.message,
    }
