"""The one retry policy. Stores must not retry: their callers do, by this policy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from htcjob.errors import TransientError
from htcjob.logs.events import event
from htcjob.trouble import is_passing

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")
log = logging.getLogger(__name__)


def _sleep(seconds: float) -> bool:
    import time

    time.sleep(seconds)
    return False


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How often, and for how long in all, to try again after a transient failure.

    The life of credentials needs no bound here: every try asks for them anew (`storage/bucket.py`) and they
    are renewed in time. When they cannot be, that is an `UnauthenticatedError` or a `TokenError`, and no
    further try is made.
    """

    retries: int = 8
    """Tries after the first failure."""
    total_s: float = 120.0
    """Seconds from the first failure after which no further try begins."""
    first_wait_s: float = 0.2
    """Upper bound of the first wait; it doubles each time. Waits are random below their bound (full
    jitter), because a thousand jobs start together."""
    longest_wait_s: float = 20.0
    """Where the doubling ends."""
    sleep: Callable[[float], bool] = _sleep
    """Waits that many seconds; returns True when a stop signal cut the wait short: one more try is made,
    then no other."""

    def call(self, operation: Callable[[], T]) -> T:
        """
        Return what *operation* returns, trying again while it raises `TransientError`.

        Raises:
            TransientError: the last one, when tries or time are used up, or a stop signal came.
        """
        try:
            return operation()
        except TransientError as error:
            # The library is imported at the first failure only: most jobs never need it.
            return _try_again(self, operation, error)


def _try_again(policy: RetryPolicy, operation: Callable[[], T], first: TransientError) -> T:
    try:
        import tenacity
    except Exception as error:
        if not is_passing(error):
            raise
        raise first from None  # no file descriptor is left to read it with, say

    failures = [first]
    interrupted = False

    def try_once() -> T:
        if failures:  # tenacity's first try is the one that has just failed
            raise failures.pop()
        return operation()

    full_jitter = tenacity.wait_random_exponential(multiplier=policy.first_wait_s, max=policy.longest_wait_s)

    def wait_s(state: RetryCallState) -> float:
        asked_s = getattr(_failure(state), "retry_after_s", None)
        return max(full_jitter(state), asked_s or 0.0)

    def sleep(seconds: float) -> None:
        nonlocal interrupted
        interrupted = policy.sleep(seconds)

    limit = tenacity.stop_any(
        tenacity.stop_after_attempt(1 + policy.retries),
        tenacity.stop_before_delay(policy.total_s),
    )
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=wait_s,
        stop=lambda state: interrupted or limit(state),
        sleep=sleep,
        before_sleep=_announce,
        reraise=True,
    )
    return retrying(try_once)


def _announce(state: RetryCallState) -> None:
    event(
        log,
        logging.WARNING,
        "retry",
        number=state.attempt_number,
        wait_s=round(state.upcoming_sleep, 2),
        cause=str(_failure(state)),
    )


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
