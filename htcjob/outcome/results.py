"""What became of a command, and of the entry that it worked on."""

from __future__ import annotations

import signal
from enum import Enum
from typing import NamedTuple

from htcjob.errors import (
    HtcjobError,
    PermanentError,
    ShortageError,
    TokenError,
    TransientError,
    UnauthenticatedError,
    UnwritableError,
)


class EntryResult(str, Enum):
    """What became of one entry in one attempt."""

    DONE = "done"
    """Its outputs are in task storage."""
    FAILED = "failed"
    """For good: trying it again unchanged would end the same way."""
    RETRY = "retry"
    """Transient trouble; worth another attempt."""
    TIMED_OUT = "timed_out"
    """Its command was stopped because it took longer than the timeout."""
    OUT_OF_MEMORY = "out_of_memory"
    """Its command was stopped because it needed more memory than there is."""


FAILED_FOR_GOOD = (EntryResult.FAILED, EntryResult.TIMED_OUT, EntryResult.OUT_OF_MEMORY)
"""Results that another attempt would only repeat."""

TRY_AGAIN = 75
"""The one status that asks the platform for another attempt; a command may end with it too."""


class CommandResult(NamedTuple):
    """How one run of the command ended."""

    exit_status: int
    """As a shell would say it: its own 0–255, 126, 127, or 128+n when signal n ended it."""
    signal: int | None = None
    """The signal that ended it."""
    timed_out: bool = False
    """We stopped it at its timeout; stays true even if it then exits 0."""
    stopped_by: int | None = None
    """The signal that asked the attempt to stop while it ran."""
    excuse: str = ""
    """What outside the command may have ended it: its ending is then no verdict on its entry."""
    shortage: str = ""
    """What was short, where it was ended for want of memory."""
    start_error: str | None = None
    """Why it could not be started."""
    is_unusable: bool = False
    """The program itself is the reason: it would not start for another entry either."""
    has_no_survivors: bool = False
    """No process that it started is alive."""
    elapsed_s: float = 0.0
    """Wall time."""
    cpu_s: float = 0.0
    """User and system time of the command and the children it waited for."""
    peak_memory_bytes: int = 0
    """Resident memory of its largest single process (`ru_maxrss`)."""


def stops_attempt(error: HtcjobError, *, staging_out: bool) -> bool:
    """
    Whether *error* is about the storage as a whole rather than about one entry.

    Credentials that are refused, a token that has ended and a full disk concern every entry. Otherwise an
    input that cannot be fetched concerns its own entry, and so does an output that can never be put (a name
    that is too long); task storage that does not take results now, or denies them, concerns all.
    """
    if isinstance(error, (UnauthenticatedError, TokenError, UnwritableError)):
        return True
    return staging_out and not isinstance(error, PermanentError)


def judge_stage_in(error: HtcjobError) -> EntryResult:
    """Return the result of an entry whose input could not be staged in."""
    return EntryResult.RETRY if isinstance(error, (TransientError, ShortageError)) else EntryResult.FAILED


def judge_command(result: CommandResult) -> tuple[EntryResult, str]:
    """Return the result of an entry by its command's ending, and the reason in words."""
    verdict, message = _judge_ending(result)
    if verdict is EntryResult.FAILED and result.excuse:
        return EntryResult.RETRY, f"{message}: {result.excuse}"
    return verdict, message


def _judge_ending(result: CommandResult) -> tuple[EntryResult, str]:
    if result.timed_out:
        return EntryResult.TIMED_OUT, f"timed out after {result.elapsed_s:.1f} s"
    if result.shortage:
        return EntryResult.OUT_OF_MEMORY, f"out of memory: {result.shortage}"
    if result.start_error is not None:
        return EntryResult.FAILED, result.start_error
    if result.signal is not None:
        return EntryResult.FAILED, f"killed by {signal_name(result.signal)}"
    if result.exit_status == 0:
        return EntryResult.DONE, ""
    if result.exit_status == TRY_AGAIN:
        return EntryResult.RETRY, f"asked to be tried again (exit status {TRY_AGAIN})"
    return EntryResult.FAILED, f"exit status {result.exit_status}"


def status_of_code(code: int) -> int:
    """
    Return the exit status, 0–255, of a process, as a shell would show it.

    Args:
        code: As `subprocess` and `os.waitstatus_to_exitcode` have it: -n where signal n ended the process.
    """
    return code if code >= 0 else 128 - code


def signal_name(number: int) -> str:
    """Return the name of a signal, for example `SIGTERM`; real-time signals by number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
