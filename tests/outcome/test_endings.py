"""Verdicts: every combination of facts has one ending, and it is never too good."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcjob import errors
from htcjob.outcome.endings import Facts, FailureBudget, decide, ending_of_error
from htcjob.outcome.reasons import StopCause, TerminationReason
from htcjob.outcome.results import CommandResult, EntryResult

OK = CommandResult(0)


def facts(chunk_size=10, *, done=0, failed=0, retry=0, timed_out=0, **members) -> Facts:
    found = Facts(FailureBudget())
    for name, value in {"chunk_size": chunk_size, **members}.items():
        assert hasattr(found, name)
        setattr(found, name, value)
    found.results.update(
        {
            EntryResult.DONE: done,
            EntryResult.FAILED: failed,
            EntryResult.RETRY: retry,
            EntryResult.TIMED_OUT: timed_out,
        }
    )
    return found


R = TerminationReason


@pytest.mark.parametrize(
    ("collected", "reason", "status"),
    [
        (facts(0), R.EMPTY_CHUNK, 0),
        (facts(done=10), R.SUCCEEDED, 0),
        (facts(done=4, already_done=6), R.SUCCEEDED, 0),
        (facts(already_done=10), R.SUCCEEDED, 0),
        (facts(done=9), R.WORK_LEFT, 75),
        (facts(), R.WORK_LEFT, 75),
        (facts(done=9, retry=1), R.WORK_LEFT, 75),
        (facts(done=9, failed=1), R.ENTRIES_FAILED, 65),
        (facts(done=9, failed=1, budget=FailureBudget(1)), R.SUCCEEDED, 0),
        (facts(done=8, failed=2, budget=FailureBudget(1)), R.ENTRIES_FAILED, 65),
        (facts(done=8, failed=2, budget=FailureBudget(20, is_percent=True)), R.SUCCEEDED, 0),
        (facts(done=7, failed=3, budget=FailureBudget(20, is_percent=True)), R.ENTRIES_FAILED, 65),
        (facts(done=8, failed=1, retry=1, budget=FailureBudget(1)), R.WORK_LEFT, 75),
        (facts(done=8, failed=1, retry=1), R.ENTRIES_FAILED, 65),
        (facts(done=8, timed_out=2), R.TIMED_OUT, 124),
        (facts(done=9, stop_signal=15, stop_cause=StopCause.DEADLINE), R.WORK_LEFT, 75),
        (facts(done=10, stop_signal=15, stop_cause=StopCause.DEADLINE), R.SUCCEEDED, 0),
        (
            facts(
                error=errors.TransientError("put", "x", "y"), stop_signal=15, stop_cause=StopCause.DEADLINE
            ),
            R.WORK_LEFT,
            75,
        ),
        (facts(command=CommandResult(0, stopped_by=15), stop_cause=StopCause.DEADLINE), R.WORK_LEFT, 75),
        (
            facts(0, is_plain=True, command=CommandResult(0, stopped_by=15), stop_cause=StopCause.DEADLINE),
            R.TIMED_OUT,
            124,
        ),
        (
            facts(0, is_plain=True, command=CommandResult(3), stop_cause=StopCause.DEADLINE),
            R.COMMAND_FAILED,
            3,
        ),
        (facts(done=9, failed=1, permanent_exit=0), R.ENTRIES_FAILED, 0),
        (facts(done=8, timed_out=2, permanent_exit=0), R.TIMED_OUT, 0),
        (facts(done=8, failed=1, permanent_exit=0), R.WORK_LEFT, 75),
        (facts(done=8, failed=1, retry=1, permanent_exit=0), R.WORK_LEFT, 75),
        (facts(done=8, failed=1, permanent_exit=0, has_given_up=True), R.ENTRIES_FAILED, 65),
        (facts(done=8, timed_out=1, failed=1), R.ENTRIES_FAILED, 65),
        (facts(done=3, stop_signal=15), R.PREEMPTED, 143),
        (facts(done=10, stop_signal=15), R.SUCCEEDED, 0),
        (facts(done=9, failed=1, stop_signal=15), R.ENTRIES_FAILED, 65),
        (facts(done=3, stop_signal=2), R.PREEMPTED, 130),
        (facts(command=CommandResult(7)), R.COMMAND_FAILED, 7),
        (facts(command=CommandResult(75)), R.COMMAND_FAILED, 75),
        (facts(command=CommandResult(137, signal=9)), R.COMMAND_KILLED, 137),
        (facts(command=CommandResult(137, signal=9, shortage="5 MB of 5 MB in use")), R.OUT_OF_MEMORY, 137),
        (facts(command=CommandResult(137, signal=9, shortage="x", stopped_by=15)), R.PREEMPTED, 143),
        (facts(command=CommandResult(137, signal=9, shortage="x", timed_out=True)), R.TIMED_OUT, 124),
        (facts(command=CommandResult(126, shortage="x", start_error="too big")), R.OUT_OF_MEMORY, 137),
        (facts(done=3, stop_signal=15, stop_cause=StopCause.NOTICE), R.PREEMPTED, 143),
        (facts(command=CommandResult(0, timed_out=True)), R.TIMED_OUT, 124),
        (facts(command=CommandResult(143, signal=15, stopped_by=15)), R.PREEMPTED, 143),
        (facts(command=CommandResult(0, stopped_by=15)), R.PREEMPTED, 143),
        (facts(command=OK), R.WORK_LEFT, 75),
        (facts(command=OK, done=10), R.SUCCEEDED, 0),
        (facts(command=OK, done=9, failed=1), R.ENTRIES_FAILED, 65),
        (facts(0, command=OK, is_plain=True), R.SUCCEEDED, 0),
        (facts(0, command=CommandResult(0, stopped_by=15), is_plain=True), R.SUCCEEDED, 0),
        (facts(0, command=CommandResult(42, stopped_by=15), is_plain=True), R.COMMAND_FAILED, 42),
        (facts(0, command=CommandResult(127, start_error="?"), is_plain=True), R.COMMAND_NOT_FOUND, 127),
        (facts(0, command=CommandResult(126, start_error="?"), is_plain=True), R.COMMAND_NOT_EXECUTABLE, 126),
        (facts(0, command=CommandResult(127), is_plain=True), R.COMMAND_FAILED, 127),
        (facts(done=10, error=errors.TransientError("put", "x", "y")), R.STORAGE_UNAVAILABLE, 75),
        (facts(done=10, error=ZeroDivisionError()), R.INTERNAL_ERROR, 70),
    ],
)
def test_facts_have_the_ending_that_the_table_gives(collected, reason, status):
    """The first fact that forces an ending decides, and no other reason or exit status is given."""
    ending = decide(collected)
    assert (ending.reason, ending.exit_status) == (reason, status)
    assert ending.message
    assert "\n" not in ending.message


@given(
    st.builds(
        facts,
        st.integers(0, 5),
        done=st.integers(0, 5),
        failed=st.integers(0, 5),
        retry=st.integers(0, 5),
        timed_out=st.integers(0, 5),
        already_done=st.integers(0, 5),
        stop_signal=st.sampled_from([None, signal.SIGTERM]),
        stop_cause=st.sampled_from(StopCause),
        budget=st.sampled_from([FailureBudget(), FailureBudget(2), FailureBudget(50, is_percent=True)]),
        command=st.sampled_from([None, OK, CommandResult(3), CommandResult(0, stopped_by=15)]),
        error=st.sampled_from([None, ValueError("x"), errors.UsageError("x")]),
    )
)
def test_zero_is_said_only_when_nothing_is_left(collected):
    """Exit status 0 with an entry neither committed nor allowed to fail does not exist."""
    ending = decide(collected)
    assert 0 <= ending.exit_status <= 255
    if ending.exit_status == 0:
        assert collected.error is None
        assert collected.left <= 0
        assert collected.budget.allows(failed=collected.failed, chunk_size=collected.chunk_size)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UsageError("x"), 64),
        (errors.AbsentError("get", "u", "r"), 66),
        (errors.UnwritableError("put", "u", "r"), 74),
        (errors.PermanentError("put", "u", "r"), 74),
        (errors.TransientError("put", "u", "r"), 75),
        (errors.DeniedError("put", "u", "r"), 77),
        (errors.UnauthenticatedError("put", "u", "r"), 77),
        (errors.TokenError("x"), 77),
        (errors.ConfigurationError("x"), 78),
        (errors.RunMismatchError("x"), 78),
        (KeyError("x"), 70),
    ],
)
def test_errors_have_the_exit_status_of_their_kind(error, status):
    """Whose failure it is decides the status, from birth to exit."""
    assert ending_of_error(error).exit_status == status


def test_every_error_of_ours_has_an_ending_of_its_own():
    """No exception of ours is taken for a bug."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.HtcjobError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        arguments = {
            errors.BadKeyError: ("k", "r"),
            errors.CommandNotStartedError: (127, "r"),
            errors.DisorderError: ("op", "url", "b", "a"),
        }.get(kind)
        if arguments is None:
            arguments = ("op", "url", "why") if issubclass(kind, errors.StorageError) else ("why",)
        assert ending_of_error(kind(*arguments)).reason is not R.INTERNAL_ERROR, kind
