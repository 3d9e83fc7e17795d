"""Retries: only of transient failures, bounded in number and time, and announced."""

import pytest

from htcjob.errors import DeniedError, TokenError, TransientError, UnauthenticatedError
from htcjob.logs import events as logs
from htcjob.retry import RetryPolicy


class Flaky:
    """Fails so many times, then gives 'ok'."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.left = failures
        self.calls = 0
        self.error = error or TransientError("get", "s3://b/k", "throttled")

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "ok"


def policy(**members) -> tuple[RetryPolicy, list[float]]:
    waits: list[float] = []

    def sleep(seconds: float) -> bool:
        waits.append(seconds)
        return False

    return RetryPolicy(**{"sleep": sleep, **members}), waits


def test_a_transient_failure_is_tried_again():
    """Three failures and then success is success, after three waits."""
    retry, waits = policy()
    operation = Flaky(3)
    assert retry.call(operation) == "ok"
    assert operation.calls == 4
    assert len(waits) == 3


def test_other_failures_are_not_tried_again():
    """A denial is final at once."""
    retry, waits = policy()
    operation = Flaky(1, DeniedError("get", "u", "no"))
    with pytest.raises(DeniedError):
        retry.call(operation)
    assert operation.calls == 1
    assert waits == []


@pytest.mark.parametrize(
    "over", [UnauthenticatedError("get", "u", "expired"), TokenError("the bearer token has expired")]
)
def test_no_try_is_made_past_the_life_of_the_credentials(over):
    """Credentials that end between two tries and cannot be renewed end the trying."""
    retry, waits = policy()
    failures = iter([TransientError("get", "u", "reset"), over])

    def operation() -> None:
        raise next(failures)

    with pytest.raises(type(over)):
        retry.call(operation)
    assert len(waits) == 1


def test_tries_are_bounded_and_the_last_failure_is_what_is_raised():
    """retries=4 means five calls in all."""
    retry, _ = policy(retries=4)
    operation = Flaky(100)
    with pytest.raises(TransientError, match="throttled"):
        retry.call(operation)
    assert operation.calls == 5


def test_waits_are_jittered_below_a_doubling_bound():
    """No wait is longer than its bound, and they are not all the same."""
    retry, waits = policy(retries=12, first_wait_s=1.0, longest_wait_s=8.0, total_s=1e9)
    with pytest.raises(TransientError):
        retry.call(Flaky(100))
    bounds = [min(2.0**n, 8.0) for n in range(12)]
    assert all(0 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert len(set(waits)) > 6


def test_the_other_sides_wish_to_wait_is_honoured():
    """Retry-After is the least we wait."""
    retry, waits = policy()
    assert retry.call(Flaky(1, TransientError("get", "u", "slow down", retry_after_s=7.5))) == "ok"
    assert waits[0] >= 7.5


def test_no_try_begins_after_the_total_time():
    """A wait that would pass the bound is not begun."""
    retry, waits = policy(total_s=5.0)
    with pytest.raises(TransientError):
        retry.call(Flaky(1, TransientError("get", "u", "slow down", retry_after_s=60)))
    assert waits == []


def test_a_stop_signal_ends_the_waiting():
    """After an interrupted wait there is one more try and no other."""
    retry, _ = policy(sleep=lambda _: True)
    operation = Flaky(100)
    with pytest.raises(TransientError):
        retry.call(operation)
    assert operation.calls == 2


def test_each_retry_is_one_warning_with_wait_and_cause(capsys):
    """The log says what failed and how long we wait."""
    logs.set_up(log_format="text", level="info")
    retry, _ = policy()
    retry.call(Flaky(2))
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 2
    assert all(" WARNING retry number=" in line for line in shown)
    assert all("wait_s=" in line and "get s3://b/k: throttled" in line for line in shown)
