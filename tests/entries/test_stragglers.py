"""The straggler rule."""

import threading

import pytest

from htcjob.entries.stragglers import ENOUGH, LEAST_S, Stragglers


def test_the_rule_needs_enough_entries_and_takes_their_median():
    """Ten of them; one that took for ever changes nothing, and commands of milliseconds have a second."""
    stragglers = Stragglers(5)
    for n in range(ENOUGH):
        assert stragglers.timeout_s() is None
        stragglers.add(1000.0 if n == 3 else 2.0 + n / 10)
    assert stragglers.timeout_s() == pytest.approx(5 * (2.5 + 2.6) / 2)
    quick = Stragglers(5)
    threads = [threading.Thread(target=lambda: [quick.add(0.01) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert quick.timeout_s() == LEAST_S
