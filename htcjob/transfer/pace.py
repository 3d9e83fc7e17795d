"""How fast storage lets us go: pure decisions, without threads and without a clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Pace:
    """
    How many transfers may go on at once, and when the next one may begin.

    Additive increase, multiplicative decrease, as TCP does (RFC 5681 §3.1): an answer "slow down" halves the
    number and lets nothing begin for a while; from then on it grows by one with each round of successes.
    Moments are seconds of the caller's clock.
    """

    most: int
    """Transfers at once while nobody complains."""
    first_pause_s: float
    """Upper bound of the first pause; it doubles as long as nothing succeeds. Pauses are random below their
    bound, because a thousand jobs are throttled at the same moment."""
    longest_pause_s: float
    """Where the doubling ends."""
    longest_asked_s: float
    """A longer wait that the server asks for is ignored: no retry would wait that long either."""
    draw: Callable[[], float] = random.random
    """Returns a random number from 0 to 1."""
    at_once: int = field(init=False)
    """Transfers that may go on at once."""
    begin_at: float = field(init=False, default=float("-inf"))
    """Nothing may begin before this moment."""
    _slowed_at: float = field(init=False, default=float("-inf"))
    _pauses: int = field(init=False, default=0)
    """Pauses since the last success."""
    _successes: int = field(init=False, default=0)
    """Successes of the present round."""

    def __post_init__(self) -> None:
        self.at_once = self.most

    def throttled(self, *, began_at: float, now: float, retry_after_s: float | None = None) -> None:
        """
        Note the answer "slow down" to a transfer.

        Transfers that began before the pace was slowed say nothing of the new pace: of a burst of such
        answers, only the first one slows it. Each of them may still say how long to wait.
        """
        asked_s = retry_after_s or 0.0
        if asked_s <= self.longest_asked_s:
            self.begin_at = max(self.begin_at, now + asked_s)
        if began_at < self._slowed_at:
            return
        bound_s = min(self.first_pause_s * 2.0 ** min(self._pauses, 30), self.longest_pause_s)
        self.begin_at = max(self.begin_at, now + self.draw() * bound_s)
        self.at_once = max(self.at_once // 2, 1)
        self._slowed_at = now
        self._pauses += 1
        self._successes = 0

    def succeeded(self, *, began_at: float) -> None:
        """Note the success of a transfer."""
        if began_at < self._slowed_at:
            return
        self._pauses = 0
        self._successes += 1
        if self._successes >= self.at_once:
            self.at_once = min(self.at_once + 1, self.most)
            self._successes = 0
