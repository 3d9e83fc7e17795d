"""How an attempt ended, as it is told to task storage, to the termination log and to the log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from htcjob import __version__
from htcjob.environment.variables import termination_log
from htcjob.errors import HtcjobError, TransientError
from htcjob.logs.events import DEBUG, INFO, WARNING, event, utc
from htcjob.outcome.results import EntryResult, signal_name
from htcjob.supervise.bounded_call import OVERTIME_S, TooLongError, within
from htcjob.trouble import in_words, of_error, open_at_once

if TYPE_CHECKING:
    from htcjob.attempt.attempt import Attempt
    from htcjob.outcome.endings import Ending

RECORD_S = 30.0
"""Seconds that task storage has for the exit record of a plain command, after its end."""

TERMINATION_LOG_S = 1.0
"""Seconds that the termination log has: it is a local file, or not worth a wait."""


def write_exit_record(attempt: Attempt, ending: Ending, stopped_at: float | None) -> None:
    """Write how the attempt ended: to task storage, to the termination log, and to the log."""
    record: Mapping[str, object] = exit_record_of(attempt, ending)
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
    write_termination_log(attempt, record)


def _store_exit_record(
    attempt: Attempt, record: Mapping[str, object], stopped_at: float | None
) -> Mapping[str, object]:
    """
    Write the exit record to task storage, where there is one, and return it as it was written.

    A plain command's own status is what counts, and the record a copy: it is waited for up to a bound.
    """
    ledger = attempt.ledger
    if ledger is None:
        return record
    if not attempt.facts.is_plain:
        return ledger.write_exit_record(record)
    patience_s = RECORD_S
    if stopped_at is not None:
        left_s = stopped_at + attempt.options.grace_s + OVERTIME_S - time.monotonic()
        patience_s = min(patience_s, max(left_s - OVERTIME_S / 4, OVERTIME_S / 4))
    try:
        return within(patience_s, lambda: ledger.write_exit_record(record))
    except TooLongError:
        url = ledger.store.url
        raise TransientError("put", url, f"no answer within {patience_s:.1f} s") from None


def write_termination_log(attempt: Attempt, record: Mapping[str, object]) -> None:
    """Write how the attempt ended to the platform's termination log, where there is one."""
    path = attempt.context.termination_log if attempt.context else termination_log(attempt.environ)
    if path:
        try:
            from htcjob.ledger.exit_records import exit_record_json

            data = exit_record_json(record)

            def write() -> None:
                with open(path, "wb", opener=open_at_once) as file:
                    file.write(data)

            within(TERMINATION_LOG_S, write)
        except Exception as error:
            event(__name__, WARNING, "termination_log_not_written", path=path, cause=_survived(error))


def exit_record_of(attempt: Attempt, ending: Ending) -> dict[str, object]:
    """Return the members of the exit record."""
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


def _survived(error: Exception) -> str:
    """Return an error that changes nothing about the ending in words; raise it if it is a bug of ours."""
    if not isinstance(error, HtcjobError) and of_error(error) is None:
        raise error
    return in_words(error)
