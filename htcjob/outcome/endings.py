"""How an attempt ends: all facts in, one ending out, decided from these facts alone."""

from __future__ import annotations

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
    UsageError,
)
from htcjob.outcome.reasons import EXIT_STATUS, StopCause, TerminationReason
from htcjob.outcome.results import FAILED_FOR_GOOD, CommandResult, EntryResult, judge_command, signal_name
from htcjob.trouble import Trouble, in_words, is_passing, of_error


class FailureBudget(NamedTuple):
    """How many entries of a chunk may fail for good."""

    limit: float = 0
    """Entries, or percent of the chunk."""
    is_percent: bool = False
    """Whether `limit` is in percent."""

    def allows(self, *, failed: int, chunk_size: int) -> bool:
        """Whether *failed* of *chunk_size* entries are within the budget."""
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
        """Why that signal came."""
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
    Return the ending of an attempt.

    The first of these that holds: an error stopped the attempt (where it was asked to stop, a passing error
    counts as that stop); the command of the whole chunk did not end well; the attempt was asked to stop with
    work left; more entries failed than the budget allows (behind the next one with --permanent-exit 0); work
    is left; the chunk was empty; success.
    """
    if facts.error is not None:
        is_passing_trouble = isinstance(facts.error, TransientError) or is_passing(facts.error)
        if facts.stop_signal is not None and is_passing_trouble:
            meanwhile = f"; meanwhile {in_words(facts.error)}; run the same again"
            if facts.stop_cause is StopCause.DEADLINE:
                return _ending(TerminationReason.WORK_LEFT, f"stopped at its deadline{meanwhile}")
            return _stopped(facts, facts.stop_signal, meanwhile)
        return ending_of_error(facts.error)
    if facts.command is not None:
        ending = _ending_at_deadline(facts) or _ending_of_command(facts, facts.command)
        if ending is not None:
            return ending
        if facts.is_plain:
            return _ending(TerminationReason.SUCCEEDED, "command ended with exit status 0")
    if facts.stop_signal is not None and facts.left > 0:
        left = (
            f" with {facts.left} of {facts.chunk_size} entries left; what is done is kept, run the same again"
        )
        if facts.stop_cause is StopCause.DEADLINE:
            return _ending(TerminationReason.WORK_LEFT, f"stopped at its deadline{left}")
        return _stopped(facts, facts.stop_signal, left)
    is_within_budget = facts.budget.allows(failed=facts.failed, chunk_size=facts.chunk_size)
    # With --permanent-exit 0 the entries that are left come before those that failed.
    is_for_good = facts.permanent_exit != 0 or facts.has_given_up or not facts.left
    if not is_within_budget and is_for_good:
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
    """Return the ending of an attempt that *error* stopped."""
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
    return Ending(TerminationReason.PREEMPTED, 128 + signal_number, f"stopped by {by}{detail}")


def _ending_at_deadline(facts: Facts) -> Ending | None:
    """Return the ending of an attempt whose command was stopped at the deadline; None if it was not."""
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
    """Return the ending that the command of a whole chunk forces; None when it ended well."""
    message = facts.command_message
    if command.timed_out:
        return _ending(TerminationReason.TIMED_OUT, f"command timed out after {command.elapsed_s:.1f} s")
    if command.stopped_by is not None and not facts.is_plain:
        # A status of 0 after SIGTERM says that the command ended tidily, not that its work was done.
        return _stopped(
            facts,
            command.stopped_by,
            " before the command had finished; nothing is committed, run the same again",
        )
    if command.stopped_by is not None and command.signal == command.stopped_by:
        return _stopped(facts, command.stopped_by, " before the command had finished")
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
