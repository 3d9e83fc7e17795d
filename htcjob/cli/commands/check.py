"""`htcjob check`: environment, token and storage of a job, without doing its work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from htcjob.cli.commands.chunk import open_manifest_of
from htcjob.cli.messages import printable, say_ending
from htcjob.cli.options import balance_option, job_options, look_rows
from htcjob.cli.output import write
from htcjob.environment.context import read_context
from htcjob.environment.variables import current_environ, unknown
from htcjob.errors import HtcjobError
from htcjob.job_stores import JobStores
from htcjob.logs.redact import redact
from htcjob.outcome.endings import Ending, ending_of_error
from htcjob.retry import RetryPolicy

if TYPE_CHECKING:
    from htcjob.environment.context import JobContext


@click.command(epilog=look_rows())
@job_options
@balance_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def check(as_json: bool, balance: str, **flags: Any) -> int:
    """
    Check environment, token and storage; no work is done.

    Every step says ok, or what is missing. A note names each variable that is not read, but looks like a
    misspelt one of ours. A small object is written to task storage and removed again. Exits with the status
    that htcjob run would give for the first problem.

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
            break  # without it nothing else can be checked
    for said in _mistyped():
        steps.append({"step": "variables", "ok": True, "message": said})
        if not as_json:
            write(f"{'note':<8} {'variables':<12} {said}")
    if as_json:
        write(json.dumps(steps))
    return say_ending(first_problem) if first_problem else 0


def _steps(flags: dict[str, Any], balance: str) -> Iterator[tuple[str, Callable[[], str]]]:
    retry = RetryPolicy()
    contexts: list[JobContext] = []
    stores: list[JobStores] = []

    def environment_step() -> str:
        context = read_context(current_environ(), flags=flags)
        contexts.append(context)
        stores.append(JobStores(context, retry))
        size = "?" if context.array_size is None else context.array_size
        return f"{context.platform}: array index {context.array_index} of {size}, attempt {context.attempt}"

    def token_step() -> str:
        from htcjob.htc_api.bearer_token import decode_token
        from htcjob.logs.events import utc

        if contexts[0].token is None:
            return "none injected"
        token = decode_token(contexts[0].token, jwks=contexts[0].jwks, retry=retry)
        until = "never expires" if token.expires_at is None else f"valid until {utc(token.expires_at)}"
        return f"{'verified' if token.is_verified else 'decoded, not verified'}, {until}"

    def manifest_step() -> str:
        manifest, bounds = open_manifest_of(contexts[0], stores[0], retry, balance=balance)
        bad = sum(entry.problem is not None for entry in manifest.entries(bounds))
        said = (
            f"{manifest.n_entries} entries, of which {len(bounds)} for this job, from position {bounds.start}"
        )
        return f"{said}, {bad} of them bad" if bad else said

    def task_storage_step() -> str:
        from htcjob.ledger.layout import trial_key

        store = stores[0].task
        key = trial_key(os.urandom(6).hex())
        retry.call(lambda: store.put_bytes(b"", key))
        retry.call(lambda: store.delete(key))
        return f"{store.url} can be written"

    yield "environment", environment_step
    yield "token", token_step
    yield "manifest", manifest_step
    yield "task storage", task_storage_step


def _mistyped() -> Iterator[str]:
    """Yield a note for each variable that is probably mistyped: `htcjob run` does not read it."""
    from htcjob.cli.commands.run import run

    options = [option.envvar for option in run.params if isinstance(option.envvar, str)]
    for name, like in unknown(current_environ(), options):
        yield f"{printable(name)} is not read: did you mean {like}?"
