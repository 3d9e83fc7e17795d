"""A clock that only tests move."""

from __future__ import annotations

import threading


class FakeClock:
    """Both clocks of `renewal.Clock`, and a `sleep` for `RetryPolicy` that moves them."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._passed = 0.0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def time(self) -> float:
        with self._lock:
            return self._now

    def monotonic(self) -> float:
        with self._lock:
            return self._passed

    def move(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds
            self._passed += seconds

    def set_back(self, seconds: float) -> None:
        """What an administrator does: only the clock on the wall changes."""
        with self._lock:
            self._now -= seconds

    def sleep(self, seconds: float) -> bool:
        self.slept.append(seconds)
        self.move(seconds)
        return False
