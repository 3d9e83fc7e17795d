"""`htcjob chunk`, `check` and `env`: look at a job without doing its work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from htcjob.cli.endings import printable, say_ending
from htcjob.cli.options import balance_option, job_options, look_table
from htcjob.cli.output import write
from htcjob.environment.context import read_context
from htcjob.environment.variables import current_environ, injected, unknown
from htcjob.errors import ConfigurationError, HtcjobError
from htcjob.logs.redact import redact
from htcjob.manifest.chunk import Share, chunk_bounds
from htcjob.outcome.endings import Ending, ending_of_error
from htcjob.retry import RetryPolicy

if TYPE_CHECKING:
    from htcjob.environment.context import JobContext
    from htcjob.manifest.manifest import Manifest


@click.command(epilog=look_table())
@job_options
@balance_option
@click.option("--entries", type=click.IntRange(min=0), help="Entries of an imagined manifest; none is read.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs.")
def chunk(entries: int | None, as_json: bool, balance: str, **flags: Any) -> None:
    """
    Show the entries that an array index gets.

    One line per entry: its position in the manifest, from 0, and the entry. With --entries N, just the range.

    \b
    Example:
      htcjob chunk --entries 5001 --array-size 1000 --array-index 0
    """
    context = read_context(current_environ(), flags=flags)
    manifest: Manifest | None = None
    if entries is None:
        manifest, bounds = _open_manifest(context, balance)
    else:
        bounds = chunk_bounds(
            array_index=context.array_index, array_size=context.require_array_size(), n_entries=entries
        )
    if as_json:
        write(
            json.dumps(
                {
                    "array_index": context.array_index,
                    "array_size": context.array_size,
                    "manifest_entries": manifest.n_entries if manifest else entries,
                    "chunk": [bounds.start, bounds.stop],
                    "entries": None if manifest is None else [e.text for e in manifest.entries(bounds)],
                }
            )
        )
        return
    if manifest is None:
        write(f"{bounds.start} {bounds.stop}")
        return
    for entry in manifest.entries(bounds):
        note = f"\t# {entry.problem}" if entry.problem else ""
        write(f"{entry.position}\t{printable(redact(entry.text))}{note}")


@click.command(name="env", epilog=look_table())
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs.")
def environment(as_json: bool) -> int:
    """
    Show what the platform injected, secrets redacted, and what htcjob makes of it.

    \b
    Example:
      htcjob env
    """
    environ = current_environ()
    variables = injected(environ)
    if not as_json:  # shown first, because they are what one looks for when they make no sense
        for name, value in variables:
            write(f"{name}={printable(value)}")
    try:
        context = read_context(environ)
    except ConfigurationError as error:
        ending = ending_of_error(error)
        if as_json:
            write(json.dumps({"variables": dict(variables), "problem": redact(ending.message)}))
        return say_ending(ending)
    meaning = {name: _shown(getattr(context, name)) for name in _CONTEXT_FIELDS}
    if as_json:
        write(json.dumps({"variables": dict(variables), "context": meaning}))
        return 0
    if variables:
        write()
    for name, meant in meaning.items():
        write(f"{name + ':':<17}{'-' if meant is None else meant}")
    return 0


_CONTEXT_FIELDS = (
    "platform",
    "array_index",
    "array_size",
    "attempt",
    "project_id",
    "task_id",
    "job_id",
    "region",
    "token",
    "refresh_token",
    "api_url",
    "jwks",
    "project_store",
    "task_store",
    "manifest",
    "termination_log",
)


@click.command(epilog=look_table())
@job_options
@balance_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs.")
def check(as_json: bool, balance: str, **flags: Any) -> int:
    """
    Check environment, token and storage; no work is done.

    Every step says ok, or what is missing. A variable that is not read, but named almost like one of ours, is
    a note. A small object is written to task storage and removed again. Exits with the status that the first
    problem would give to htcjob run.

    \b
    Example:
      htcjob check --manifest list.txt --project-store . --task-store out
    """
    steps = []
    first_problem: Ending | None = None
    for name, step in _steps(flags, balance):
        try:
            said, is_ok = step(), True
        except HtcjobError as error:
            ending = ending_of_error(error)
            said, is_ok = redact(ending.message), False
            first_problem = first_problem or ending
        steps.append({"step": name, "ok": is_ok, "message": said})
        if not as_json:
            write(f"{'ok' if is_ok else 'PROBLEM':<8} {name:<12} {said}")
        if name == "environment" and not is_ok:
            break  # nothing else can be known
    for said in _mistyped():
        steps.append({"step": "variables", "ok": True, "message": said})
        if not as_json:
            write(f"{'note':<8} {'variables':<12} {said}")
    if as_json:
        write(json.dumps(steps))
    return say_ending(first_problem) if first_problem else 0


def _steps(flags: dict[str, Any], balance: str) -> Iterator[tuple[str, Callable[[], str]]]:
    contexts: list[JobContext] = []

    def environment_step() -> str:
        context = read_context(current_environ(), flags=flags)
        contexts.append(context)
        size = "?" if context.array_size is None else context.array_size
        return f"{context.platform}: array index {context.array_index} of {size}, attempt {context.attempt}"

    def token_step() -> str:
        from htcjob.htc_api.bearer_token import decode_token
        from htcjob.logs.events import utc

        if contexts[0].token is None:
            return "none injected"
        token = decode_token(contexts[0].token, jwks=contexts[0].jwks, retry=RetryPolicy())
        until = "never expires" if token.expires_at is None else f"valid until {utc(token.expires_at)}"
        return f"{'verified' if token.is_verified else 'decoded, not verified'}, {until}"

    def manifest_step() -> str:
        manifest, bounds = _open_manifest(contexts[0], balance)
        bad = sum(entry.problem is not None for entry in manifest.entries(bounds))
        said = (
            f"{manifest.n_entries} entries, of which {len(bounds)} for this job, from position {bounds.start}"
        )
        return f"{said}, {bad} of them bad" if bad else said

    def task_storage_step() -> str:
        from htcjob.job_stores import require_task_store
        from htcjob.ledger.layout import trial_key

        store = require_task_store(contexts[0], RetryPolicy())
        key = trial_key(os.urandom(6).hex())
        store.put_bytes(b"", key)
        store.delete(key)
        return f"{store.url} can be written"

    yield "environment", environment_step
    yield "token", token_step
    yield "manifest", manifest_step
    yield "task storage", task_storage_step


def _mistyped() -> Iterator[str]:
    """Say which variables are probably mistyped: `htcjob run` does not see them."""
    from htcjob.cli.commands.run import run

    options = [option.envvar for option in run.params if isinstance(option.envvar, str)]
    for name, like in unknown(current_environ(), options):
        yield f"{printable(name)} is not read: did you mean {like}?"


def _open_manifest(context: JobContext, balance: str) -> tuple[Manifest, range]:
    from htcjob.job_stores import open_project_store, open_with_own_credentials
    from htcjob.manifest.opening import open_manifest

    if context.manifest is None:
        raise ConfigurationError("no manifest is known: set --manifest or HTCJOB_MANIFEST")
    project = open_project_store(context, RetryPolicy())
    share = Share(context.array_index, context.require_array_size(), balance)
    return open_manifest(
        context.manifest, share, project, RetryPolicy(), lambda url, _key: open_with_own_credentials(url)
    )


def _shown(value: object) -> object:
    return value if isinstance(value, (int, type(None))) else printable(redact(str(value)))
