"""What became of an entry, and how an attempt ends: pure verdicts over collected facts."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from htcjob.errors import (
    AbsentError,
    CommandNotStartedError,
    ConfigurationError,
    DeniedError,
    FailureReportError,
    HtcjobError,
    PermanentError,
    ShortageError,
    TokenError,
    TransientError,
    UnauthenticatedError,
    UnwritableError,
    UsageError,
)
from htcjob.trouble import Trouble, in_words, is_passing, of_error


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


class TerminationReason(str, Enum):
    """Why an attempt ended. The reason is the truth, the exit status a hint."""

    SUCCEEDED = "succeeded"
    """Every entry of the chunk is committed, or its failures are inside the budget."""
    EMPTY_CHUNK = "empty_chunk"
    """There are fewer entries than jobs, and none was left for this one."""
    COMMAND_FAILED = "command_failed"
    """The command ended with a non-zero status of its own."""
    COMMAND_KILLED = "command_killed"
    """The command was ended by a signal that was not ours."""
    OUT_OF_MEMORY = "out_of_memory"
    """The command was ended because it needed more memory than there is."""
    COMMAND_NOT_EXECUTABLE = "command_not_executable"
    """The command exists and cannot be executed."""
    COMMAND_NOT_FOUND = "command_not_found"
    """There is no such command."""
    ENTRIES_FAILED = "entries_failed"
    """More entries failed for good than the budget allows."""
    TIMED_OUT = "timed_out"
    """The timeout ended the command, or every failed entry."""
    WORK_LEFT = "work_left"
    """Some entries met transient trouble; what is done is committed."""
    STORAGE_UNAVAILABLE = "storage_unavailable"
    """Transient storage trouble outlasted the retries."""
    PREEMPTED = "preempted"
    """A signal asked this attempt to stop while work was left."""
    INPUT_ABSENT = "input_absent"
    """The manifest is not there."""
    STAGING_FAILED = "staging_failed"
    """Files cannot be staged, for good: disk full, read-only, refused."""
    DENIED = "denied"
    """Storage denied access, or the bearer token is invalid or expired."""
    BAD_CONFIGURATION = "bad_configuration"
    """The injected environment is wrong, or the task holds another run."""
    BAD_USAGE = "bad_usage"
    """The command line is wrong."""
    INTERNAL_ERROR = "internal_error"
    """A bug in htcjob."""


class StopCause(Enum):
    """Who asked an attempt to stop."""

    SIGNAL = "signal"
    """Somebody else, by a signal."""
    DEADLINE = "deadline"
    """We ourselves, at the attempt's deadline."""
    NOTICE = "notice"
    """The cloud, which takes the machine away."""


EXIT_STATUS: Mapping[TerminationReason, int] = {
    TerminationReason.SUCCEEDED: 0,
    TerminationReason.EMPTY_CHUNK: 0,
    TerminationReason.BAD_USAGE: 64,
    TerminationReason.ENTRIES_FAILED: 65,
    TerminationReason.INPUT_ABSENT: 66,
    TerminationReason.INTERNAL_ERROR: 70,
    TerminationReason.STAGING_FAILED: 74,
    TerminationReason.STORAGE_UNAVAILABLE: 75,
    TerminationReason.WORK_LEFT: 75,
    TerminationReason.DENIED: 77,
    TerminationReason.BAD_CONFIGURATION: 78,
    TerminationReason.TIMED_OUT: 124,
    TerminationReason.COMMAND_NOT_EXECUTABLE: 126,
    TerminationReason.COMMAND_NOT_FOUND: 127,
    TerminationReason.OUT_OF_MEMORY: 128 + signal.SIGKILL,
}
"""Numbers of sysexits.h, GNU timeout and the shell. Reasons not here take the command's or a signal's."""

TRY_AGAIN = 75
"""The one status that asks the platform for another attempt; a command may end with it too."""

EXIT_TABLE = (
    ("0", "everything committed, or failures inside the budget, or an empty chunk", ""),
    ("the command's own", "whole-chunk mode: passed on", "the user knows"),
    ("64", "usage", "no"),
    ("65", "entries failed for good, beyond the budget", "no"),
    ("66", "manifest absent (an absent input is a failed entry: 65)", "no"),
    ("70", "a bug in htcjob", "no"),
    ("74", "staging impossible for good (disk full, refused, checksum never right)", "no"),
    ("75", "transient trouble outlasted the retries, or work is left", "yes"),
    ("77", "denied, or token invalid or expired and not renewable", "no"),
    ("78", "injected environment wrong, or run mismatch", "no"),
    ("124", "timeout, nothing left to try", "no"),
    ("126 / 127", "command not executable / not found", "no"),
    ("137", "out of memory (a command of a whole chunk, or a plain one), or killed", "killed: yes"),
    ("128+n", "ended by signal n (143 preempted or cancelled)", "yes"),
)
"""Status, meaning, try again?: the rows that `--help` and the README show."""


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
    """What from outside it has perhaps ended of: then its ending is no verdict on its entry."""
    shortage: str = ""
    """It was ended for want of memory: what was short."""
    start_error: str | None = None
    """Why it could not be started."""
    is_unusable: bool = False
    """The program itself is why: it would not start for another entry either."""
    is_all_over: bool = False
    """No process that it started is alive."""
    elapsed_s: float = 0.0
    """Wall time."""
    cpu_s: float = 0.0
    """User and system time of the command and the children it waited for."""
    peak_memory_bytes: int = 0
    """Resident memory of its largest single process (`ru_maxrss`)."""


class FailureBudget(NamedTuple):
    """How many entries of a chunk may fail for good."""

    limit: float = 0
    """Entries, or percent of the chunk."""
    is_percent: bool = False
    """Whether `limit` is in percent."""

    def allows(self, *, failed: int, chunk_size: int) -> bool:
        """Tell whether *failed* of *chunk_size* entries are within the budget."""
        return failed <= (self.limit * chunk_size / 100 if self.is_percent else self.limit)

    def __str__(self) -> str:
        return f"{self.limit:g}%" if self.is_percent else f"{self.limit:g}"


class Facts:
    """
    What is known of an attempt when it ends; collected on the way, judged once by `decide`.

    Args:
        budget: Failures that still count as success.
        permanent_exit: Exit status where nothing is left but entries that failed for good.
    """

    def __init__(self, budget: FailureBudget, *, permanent_exit: int = 65) -> None:
        self.budget = budget
        self.permanent_exit = permanent_exit
        self.chunk_size = 0
        """Entries in this job's chunk."""
        self.already_done = 0
        """Entries of the chunk that earlier attempts committed."""
        self.results = dict.fromkeys(EntryResult, 0)
        """Entries by what became of them in this attempt."""
        self.has_given_up = False
        """The budget was spent before all entries were tried."""
        self.command: CommandResult | None = None
        """The command of the whole chunk, or of a plain entrypoint."""
        self.is_plain = False
        """No manifest: the command's own status is the whole truth."""
        self.command_message = ""
        """Why that command failed, in its own words, where it left any."""
        self.first_failure = ""
        """The entry that failed first in this attempt, and why."""
        self.stop_signal: int | None = None
        """The signal that asked this attempt to stop."""
        self.stop_cause = StopCause.SIGNAL
        """Whose signal it was."""
        self.error: BaseException | None = None
        """What stopped the attempt before its end."""

    @property
    def failed(self) -> int:
        """Entries that failed for good in this attempt."""
        return sum(self.results[result] for result in FAILED_FOR_GOOD)

    @property
    def left(self) -> int:
        """Entries that are neither committed nor failed for good."""
        return self.chunk_size - self.already_done - self.results[EntryResult.DONE] - self.failed


FAILED_FOR_GOOD = (EntryResult.FAILED, EntryResult.TIMED_OUT, EntryResult.OUT_OF_MEMORY)
"""Results that another attempt would only repeat."""


class Ending(NamedTuple):
    """How an attempt ends."""

    reason: TerminationReason
    """Why."""
    exit_status: int
    """What the process exits with, 0–255."""
    message: str
    """One line for a person: the cause and, where there is one, the next step."""


def decide(facts: Facts) -> Ending:
    """
    Give the ending of an attempt.

    The first of these that holds: an error stopped the attempt (a passing one does not count when it was
    asked to stop); the command of the whole chunk did not end well; it was asked to stop with work left;
    more entries failed than the budget allows; work is left; success. Nothing is a success by default.
    """
    if facts.error is not None:
        is_no_verdict = isinstance(facts.error, TransientError) or is_passing(facts.error)
        if facts.stop_signal is not None and is_no_verdict:
            detail = f"meanwhile {in_words(facts.error)}; run the same again"
            if facts.stop_cause is StopCause.DEADLINE:
                return _ending(TerminationReason.WORK_LEFT, f"stopped at its deadline; {detail}")
            return _stopped(facts, facts.stop_signal, detail)
        return ending_of_error(facts.error)
    if facts.command is not None:
        ending = _ending_at_deadline(facts) or _ending_of_command(facts, facts.command)
        if ending is not None:
            return ending
        if facts.is_plain:
            return _ending(TerminationReason.SUCCEEDED, "command ended with exit status 0")
    if facts.stop_signal is not None and facts.left > 0:
        left = (
            f"with {facts.left} of {facts.chunk_size} entries left; what is done is kept, run the same again"
        )
        if facts.stop_cause is StopCause.DEADLINE:
            return _ending(TerminationReason.WORK_LEFT, f"stopped at its deadline {left}")
        return _stopped(facts, facts.stop_signal, left)
    is_inside = facts.budget.allows(failed=facts.failed, chunk_size=facts.chunk_size)
    # Where failures are no reason to try again, entries that are left are the news.
    is_for_good = facts.permanent_exit != 0 or facts.has_given_up or not facts.left
    if not is_inside and is_for_good:
        return _over_budget(facts)
    if facts.left > 0:
        return _ending(
            TerminationReason.WORK_LEFT,
            f"{facts.left} of {facts.chunk_size} entries left; what is done is kept, run the same again",
        )
    if facts.chunk_size == 0:
        return _ending(TerminationReason.EMPTY_CHUNK, "no entries for this array index")
    message = f"{facts.chunk_size - facts.failed} of {facts.chunk_size} entries committed"
    if facts.failed:
        message += f"; {facts.failed} failed, inside the budget of {facts.budget}"
    return _ending(TerminationReason.SUCCEEDED, message)


def ending_of_error(error: BaseException) -> Ending:
    """Give the ending of an attempt that *error* stopped."""
    if isinstance(error, CommandNotStartedError):
        return _not_started(error.exit_status, str(error))
    for kind, reason in _REASON_OF_ERROR:
        if isinstance(error, kind):
            return _ending(reason, str(error))
    trouble = of_error(error)
    if trouble is None:
        return _ending(TerminationReason.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
    if trouble is Trouble.PASSING:
        return _ending(TerminationReason.WORK_LEFT, f"{in_words(error)}; run the same again")
    return _ending(TerminationReason.STAGING_FAILED, in_words(error))


def stops_attempt(error: HtcjobError, *, staging_out: bool) -> bool:
    """
    Tell whether *error* is about the storage as a whole rather than about one entry.

    Credentials that are refused, a token that has ended and a full disk concern every entry. Otherwise an
    input that cannot be fetched concerns its own entry, and so does an output that can never be put (a name
    that is too long); task storage that does not take results now, or denies them, concerns all.
    """
    if isinstance(error, (UnauthenticatedError, TokenError, UnwritableError)):
        return True
    return staging_out and not isinstance(error, PermanentError)


def judge_stage_in(error: HtcjobError) -> EntryResult:
    """Give the result of an entry whose input could not be staged in."""
    return EntryResult.RETRY if isinstance(error, (TransientError, ShortageError)) else EntryResult.FAILED


def judge_command(result: CommandResult) -> tuple[EntryResult, str]:
    """Give the result of an entry from its command's ending, and the reason in words."""
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


def signal_name(number: int) -> str:
    """Give the name of a signal, for example `SIGTERM`; real-time signals by number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_REASON_OF_ERROR: tuple[tuple[type[BaseException], TerminationReason], ...] = (
    (UsageError, TerminationReason.BAD_USAGE),
    (ConfigurationError, TerminationReason.BAD_CONFIGURATION),
    (ShortageError, TerminationReason.WORK_LEFT),
    (TokenError, TerminationReason.DENIED),
    (FailureReportError, TerminationReason.ENTRIES_FAILED),
    (DeniedError, TerminationReason.DENIED),
    (UnauthenticatedError, TerminationReason.DENIED),
    (AbsentError, TerminationReason.INPUT_ABSENT),
    (TransientError, TerminationReason.STORAGE_UNAVAILABLE),
    (PermanentError, TerminationReason.STAGING_FAILED),
    # A bad key that reaches the attempt came from its configuration; one in a manifest fails its entry.
    (HtcjobError, TerminationReason.BAD_CONFIGURATION),
)
"""First match wins."""


def _ending(reason: TerminationReason, message: str) -> Ending:
    return Ending(reason, EXIT_STATUS[reason], message)


def _stopped(facts: Facts, signal_number: int, detail: str) -> Ending:
    is_notice = facts.stop_cause is StopCause.NOTICE
    by = "the cloud's preemption notice" if is_notice else signal_name(signal_number)
    return Ending(TerminationReason.PREEMPTED, 128 + signal_number, f"stopped by {by} {detail}")


def _ending_at_deadline(facts: Facts) -> Ending | None:
    """Give the ending of an attempt whose command was stopped at the deadline, if so it was."""
    is_deadline = facts.stop_cause is StopCause.DEADLINE
    if not is_deadline or facts.command is None or facts.command.stopped_by is None:
        return None
    if facts.is_plain:
        return _ending(TerminationReason.TIMED_OUT, "command stopped at the attempt's deadline")
    return _ending(
        TerminationReason.WORK_LEFT,
        "stopped at its deadline before the command had finished; nothing is committed, run the same again",
    )


def _ending_of_command(facts: Facts, command: CommandResult) -> Ending | None:
    """Give the ending that the command of a whole chunk forces, or None when it ended well."""
    message = facts.command_message
    if command.timed_out:
        return _ending(TerminationReason.TIMED_OUT, f"command timed out after {command.elapsed_s:.1f} s")
    if command.stopped_by is not None and not facts.is_plain:
        # A status of 0 after SIGTERM says that the command ended tidily, not that its work was done.
        return _stopped(
            facts,
            command.stopped_by,
            "before the command had finished; nothing is committed, run the same again",
        )
    if command.stopped_by is not None and command.signal == command.stopped_by:
        return _stopped(facts, command.stopped_by, "before the command had finished")
    if command.shortage:
        return _ending(TerminationReason.OUT_OF_MEMORY, f"command ran out of memory: {command.shortage}")
    if command.start_error is not None:
        return _not_started(command.exit_status, command.start_error)
    if command.excuse and not facts.is_plain:
        return _ending(
            TerminationReason.WORK_LEFT,
            f"{judge_command(command)[1]} before the command had finished; "
            "nothing is committed, run the same again",
        )
    if command.signal is not None:
        return Ending(
            TerminationReason.COMMAND_KILLED,
            command.exit_status,
            f"command killed by {signal_name(command.signal)}",
        )
    if command.exit_status != 0:
        return Ending(
            TerminationReason.COMMAND_FAILED,
            command.exit_status,
            f"command ended with exit status {command.exit_status}{': ' if message else ''}{message}",
        )
    return None


def _not_started(exit_status: int, message: str) -> Ending:
    is_found = exit_status == EXIT_STATUS[TerminationReason.COMMAND_NOT_EXECUTABLE]
    reason = TerminationReason.COMMAND_NOT_EXECUTABLE if is_found else TerminationReason.COMMAND_NOT_FOUND
    return _ending(reason, message)


def _over_budget(facts: Facts) -> Ending:
    message = f"{facts.failed} of {facts.chunk_size} entries failed"
    if facts.left:
        message += f", {facts.left} not tried: more than --max-failures {facts.budget} allows"
    if facts.first_failure:
        message += f"; the first: {facts.first_failure}"
    only_timeouts = facts.failed == facts.results[EntryResult.TIMED_OUT] and not facts.left
    reason = TerminationReason.TIMED_OUT if only_timeouts else TerminationReason.ENTRIES_FAILED
    if facts.permanent_exit == 0 and not facts.left:
        return Ending(reason, 0, message)
    return _ending(reason, message)
