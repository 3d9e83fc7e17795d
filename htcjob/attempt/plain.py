"""An attempt without a manifest: there is nothing to stage, so the command is only supervised."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from htcjob.attempt.command_variables import job_variables
from htcjob.attempt.early_end import end_what_hangs_around_command
from htcjob.attempt.exit_record import RECORD_S
from htcjob.environment.variables import command_environment
from htcjob.errors import ConfigurationError, TokenError
from htcjob.logs.events import WARNING, event, utc
from htcjob.supervise.bounded_call import TooLongError, within
from htcjob.supervise.command import run_command
from htcjob.supervise.signals import for_commands

if TYPE_CHECKING:
    from htcjob.attempt.attempt import Attempt
    from htcjob.environment.context import JobContext
    from htcjob.logs.redact import Secret
    from htcjob.supervise.stop_requests import StopRequests


def run_plain(attempt: Attempt, context: JobContext, signals: StopRequests) -> None:
    """
    Only supervise the command; no store, no token and no array variables are needed.

    A token that is malformed or has ended is only warned of: the command may be about that very token.
    """
    options = attempt.options
    if options.is_each:
        raise ConfigurationError(
            "--each and --call need entries: name a manifest with --manifest or HTCJOB_MANIFEST"
            if attempt.loop is None
            else "htcjob.Job needs entries: name a manifest with HTCJOB_MANIFEST"
        )
    end_what_hangs_around_command(attempt, signals)
    if context.token is not None:
        _look_at(context.token)
    if context.task_store is not None:
        _open_ledger(attempt, context, signals)
    extra = job_variables(context)
    ends_in_s = [limit_s for limit_s in (options.timeout_s, signals.stops_in_s) if limit_s is not None]
    if ends_in_s:
        extra["HTCJOB_DEADLINE"] = utc(time.time() + min(ends_in_s))
    attempt.facts.is_plain = True
    attempt.facts.command = run_command(
        options.command,
        environment=command_environment(
            attempt.environ, extra=extra, pass_credentials=options.pass_credentials
        ),
        signals=for_commands(signals),
        timeout_s=options.timeout_s,
        grace_s=options.grace_s,
        lends_terminal=True,
    )


def _open_ledger(attempt: Attempt, context: JobContext, signals: StopRequests) -> None:
    """Open task storage for the exit record, if it can be opened in time."""
    # Here and not in the other thread, where an import takes three times as long.
    import htcjob.storage.local.store  # noqa: F401
    from htcjob.job_stores import JobStores
    from htcjob.ledger.ledger import Ledger
    from htcjob.retry import RetryPolicy

    retry = RetryPolicy(sleep=signals.sleep)
    stores = JobStores(context, retry)
    try:
        attempt.ledger = Ledger(
            within(RECORD_S, lambda: stores.task), attempt.options.run or "default", retry
        )
    except TooLongError:
        cause = f"{context.task_store}: it cannot be opened in time"
        event(__name__, WARNING, "exit_record_not_written", cause=cause)


def _look_at(token: Secret) -> None:
    """Warn of a token that is malformed or has ended."""
    from htcjob.htc_api.bearer_token import decode_token

    try:
        decode_token(token)
    except TokenError as error:
        event(__name__, WARNING, "token_not_usable", cause=str(error))
