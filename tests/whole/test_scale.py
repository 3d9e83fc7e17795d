"""The simulation of scale: its sums, where they can be worked out by hand."""

import numpy as np
import pytest

from benchmarks.scale_model import Design, parts, requests_in_bins, simulate

PLAIN = Design(
    name="plain",
    start_s=2.0,
    start_requests=4,
    start_bytes=1000,
    listed_s=0.0,
    listed_bytes=0.0,
    entry_s=0.5,
    entry_requests=2,
    entry_bytes=100,
    has_ledger=False,
)


def run(design: Design, *, places: int, jobs: int = 12, entries: int = 48):
    return simulate(design, jobs=jobs, entries=entries, work_s=1.5, spread=1e-6, places=places)


@pytest.mark.parametrize(("places", "rounds"), [(12, 1), (20, 1), (4, 3), (5, 3), (1, 12)])
def test_jobs_wait_for_a_place(places, rounds):
    """Each takes 2 s to start and 4 entries of 0.5 + 1.5 s: 10 s."""
    assert run(PLAIN, places=places).elapsed_s == pytest.approx(rounds * 10.0, rel=1e-4)


def test_what_is_asked_for_is_the_sum_over_jobs_and_entries():
    """Whatever the number of places; a list that is not indexed is read by every job."""
    for places in (1, 5, 12):
        found = run(PLAIN, places=places)
        assert found.requests == pytest.approx(12 * 4 + 48 * 2)
        assert found.moved_bytes == pytest.approx(12 * 1000 + 48 * 100)
        assert found.overhead == pytest.approx(1 - 6 / 10, rel=1e-4)
    listed = run(PLAIN._replace(listed_bytes=10, listed_s=0.25), places=12)
    assert listed.moved_bytes == pytest.approx(12 * (1000 + 10 * 48) + 48 * 100)
    assert listed.elapsed_s == pytest.approx(10.0 + 0.25 * 48, rel=1e-4)


def test_the_busiest_second_is_that_of_the_start():
    """Twelve jobs send 2 requests a second each while they start, then 1."""
    assert run(PLAIN, places=12).peak == pytest.approx(24, rel=1e-3)
    assert run(PLAIN._replace(start_requests=0), places=12).peak == pytest.approx(12, rel=1e-3)


def test_no_request_is_lost_between_two_seconds():
    """Intervals of any length, at any place, empty ones too."""
    began = np.array([0.0, 0.25, 3.0, 7.5, 7.5])
    ended = np.array([10.0, 0.75, 3.0, 8.25, 9.0])
    requests = np.array([20.0, 5.0, 3.0, 0.0, 6.0])
    found = requests_in_bins(began, ended, requests)
    assert found.sum() == pytest.approx(34)
    assert found[0] == pytest.approx(2 + 5)
    assert found[3] == pytest.approx(2 + 3)
    assert found[8] == pytest.approx(2 + 4)


@pytest.mark.parametrize(
    ("seconds", "entries", "expected"),
    [(0.1, 1, 1), (0.1, 0, 0), (0.6, 10, 2), (3.4, 100, 3), (61.0, 900, 7), (600.0, 1500, 26), (3.0, 1, 1)],
)
def test_parts_of_the_ledger_are_written_at_growing_intervals(seconds, entries, expected):
    """After 0.5 s, twice as long each time, from then on every 30 s, and at the end."""
    assert parts(seconds, entries) == expected
