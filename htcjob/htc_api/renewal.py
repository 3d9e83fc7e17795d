"""A value that expires, and is refreshed by one thread for all: ahead of its end, and never in a storm."""

from __future__ import annotations

import copy
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from htcjob.errors import HtcjobError, TransientError
from htcjob.logs.events import event

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
"""Upper bound of the pause after a failed fetch; it doubles with each further one."""
LONGEST_PAUSE_S = 20.0
"""Where the doubling ends."""
REFUSAL_PAUSE_S = 10.0
"""Seconds after a fetch caused by a refusal in which another one fetches nothing: age was not its cause."""

CLOCK_GRAIN_S = 0.001
"""Tolerance: a caller this early counts as on time."""


class Clock(Protocol):
    """The two clocks, as the module `time` has them."""

    def time(self) -> float:
        """Return seconds since the epoch: for the ends of values, which pass on a suspended machine too."""

    def monotonic(self) -> float:
        """Return seconds of a clock that nobody sets back: for pauses."""


SYSTEM_CLOCK = cast("Clock", time)


@dataclass(frozen=True, slots=True)
class _Held(Generic[T]):
    value: T
    expires_at: float | None
    renew_at: float | None


class Renewed(Generic[T]):
    """
    A value that ends, for any number of threads.

    * However many threads ask at once, one of them fetches; those that need the answer wait for it and get
      the same value or the same failure.
    * It is renewed ahead of its end. Meanwhile, and while that fails (one warning), the old one serves until
      its end.
    * After a failure nobody fetches for a while: as long as the other side asked for, else for a pause that
      doubles. Callers that need a value in the meantime get the failure again, with the rest of the pause as
      `retry_after_s` where it is transient.

    Args:
        name: What the log calls the value.
        fetch: Called with the old value; returns one and when it ends, in seconds since the epoch or None.
        ahead_s: How long before its end a value is renewed, in seconds …
        ahead_share: … and at most this share of its life.
        unknown_life_s: Seconds after which a value with no known end is renewed. None: only when it is
            refused.
        first: A value that is there already, and its end.
        clock: For tests.
    """

    def __init__(
        self,
        name: str,
        fetch: Callable[[T | None], tuple[T, float | None]],
        *,
        ahead_s: float,
        ahead_share: float,
        unknown_life_s: float | None = None,
        first: tuple[T, float | None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._ahead_s, self._ahead_share = ahead_s, ahead_share
        self._unknown_life_s = unknown_life_s
        self._clock = clock
        self._changed = threading.Condition()
        # Everything below is used with that lock only.
        self._held: _Held[T] | None = self._hold(*first) if first else None
        self._is_fetching = False
        self._failure: HtcjobError | None = None
        self._failures = 0
        self._pause_until = self._no_refusal_until = float("-inf")

    def current(self) -> T:
        """
        Return a value that has not ended, fetched or renewed where that is needed.

        Raises:
            HtcjobError: what `fetch` raised.
        """
        with self._changed:
            while True:
                held = self._held
                if held is not None and not self._is_due(held):
                    return held.value
                serves = held is not None and (
                    held.expires_at is None or self._clock.time() < held.expires_at
                )
                is_pausing = self._pause_s() > 0
                if held is not None and serves and (self._is_fetching or is_pausing):
                    return held.value
                if self._is_fetching:
                    self._changed.wait()  # bounded by the time-outs of the fetch
                elif self._failure is not None and is_pausing:
                    raise self._again(self._failure)
                else:
                    self._is_fetching = True
                    break
        try:
            return self._fetch_for_all(held, is_refusal=False)
        except HtcjobError:
            if held is None or not serves:
                raise
            return held.value

    def refused(self, value: T) -> bool:
        """
        Note that *value* was not accepted; return True when there is another now, fetched if need be.

        Raises:
            HtcjobError: what `fetch` raised.
        """
        with self._changed:
            while self._is_fetching and self._held is not None and self._held.value == value:
                self._changed.wait()
            held = self._held
            if held is None or held.value != value:
                return True
            if not self._is_due(held) and self._clock.monotonic() < self._no_refusal_until:
                return False
            if self._failure is not None and self._pause_s():
                raise self._again(self._failure)
            self._is_fetching = True
        return self._fetch_for_all(held, is_refusal=True) != value

    def _fetch_for_all(self, held: _Held[T] | None, *, is_refusal: bool) -> T:
        """Fetch a value, outside the lock, and share it or the failure with all other threads."""
        fetched: _Held[T] | None = None
        failure: HtcjobError | None = None
        try:
            fetched = self._hold(*self._fetch(held.value if held else None))
            return fetched.value
        except HtcjobError as error:
            failure = error  # and on, below
        finally:
            with self._changed:
                self._is_fetching = False
                if fetched is not None:
                    self._held, self._failure, self._failures = fetched, None, 0
                    self._pause_until = float("-inf")
                    if is_refusal:
                        self._no_refusal_until = self._clock.monotonic() + REFUSAL_PAUSE_S
                elif failure is not None:
                    self._note(failure)
                self._changed.notify_all()
        if held is not None and self._failures == 1:
            event(log, logging.WARNING, "not_renewed", what=self._name, cause=str(failure))
        raise self._again(failure) from failure

    def _hold(self, value: T, expires_at: float | None) -> _Held[T]:
        now = self._clock.time()
        if expires_at is not None:
            ahead_s = min(self._ahead_s, max(0.0, expires_at - now) * self._ahead_share)
            return _Held(value, expires_at, expires_at - ahead_s)
        life_s = self._unknown_life_s
        return _Held(value, None, None if life_s is None else now + life_s)

    def _is_due(self, held: _Held[T]) -> bool:
        return held.renew_at is not None and self._clock.time() >= held.renew_at

    def _pause_s(self) -> float:
        rest_s = self._pause_until - self._clock.monotonic()
        return rest_s if rest_s > CLOCK_GRAIN_S else 0.0

    def _note(self, error: HtcjobError) -> None:
        import random  # at the first failure only: most jobs see none

        bound_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 10))
        asked_s: float = getattr(error, "retry_after_s", None) or 0.0
        self._failures += 1
        self._failure = error
        # Random, because a thousand jobs meet the same outage.
        pause_s = max(random.uniform(bound_s / 2, bound_s), asked_s)
        self._pause_until = self._clock.monotonic() + pause_s

    def _again(self, failure: HtcjobError) -> HtcjobError:
        """Return the failure as an exception of its own: each thread adds its traceback."""
        if isinstance(failure, TransientError):
            return failure.again(retry_after_s=self._pause_s())
        return copy.copy(failure)
