"""The straggler rule: how long an entry may take, from how long the others took."""

from __future__ import annotations

import threading
from bisect import insort

ENOUGH = 10
"""Entries that must be done before the rule sets a limit."""

LEAST_S = 1.0
"""Seconds that every entry may take: a command of milliseconds may wait that long for a CPU."""


class Stragglers:
    """
    The times of the entries done so far in this attempt. May be used from any thread.

    Args:
        factor: How many times the median an entry may take.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._sorted_s: list[float] = []
        self._lock = threading.Lock()

    def add(self, elapsed_s: float) -> None:
        """Note how long an entry took that is done."""
        with self._lock:
            insort(self._sorted_s, elapsed_s)

    def timeout_s(self) -> float | None:
        """Return the seconds that an entry which begins now may take; None: there is no limit yet."""
        with self._lock:
            n = len(self._sorted_s)
            if n < ENOUGH:
                return None
            median_s = (self._sorted_s[(n - 1) // 2] + self._sorted_s[n // 2]) / 2
        return max(self._factor * median_s, LEAST_S)
