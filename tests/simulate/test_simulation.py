"""What a simulation decides by itself: how many attempts at a time, and the exit status of it all."""

from __future__ import annotations

import pytest

from htcjob.simulate import simulation
from htcjob.simulate.array import AttemptEnd, Simulation
from htcjob.simulate.containers import Box
from htcjob.simulate.simulation import SimulatedRun, attempts_at_a_time


def end(array_index: int, attempt: int, exit_status: int, *, will_retry: bool = False) -> AttemptEnd:
    return AttemptEnd(array_index, attempt, exit_status, 1.0, will_retry, None)


@pytest.fixture
def simulated(tmp_path):
    described = Simulation(
        array_size=3,
        indices=range(3),
        parallel=1,
        retries=2,
        timeout_s=None,
        preempt_percent=0,
        project_store=str(tmp_path),
        task_store=str(tmp_path),
        directory=str(tmp_path),
    )
    return SimulatedRun(described, box=None, arguments=["--", "true"])


@pytest.mark.parametrize(
    ("ends", "has_collisions", "expected"),
    [
        ([end(0, 1, 0), end(1, 1, 0)], False, 0),
        ([end(0, 1, 0), end(1, 1, 0)], True, 65),
        ([end(1, 1, 65), end(0, 1, 66)], True, 66),
        ([end(0, 1, 75, will_retry=True), end(0, 2, 0)], False, 0),
    ],
)
def test_the_status_is_that_of_the_first_index_that_failed(simulated, ends, has_collisions, expected):
    """By index and not by time, each with its last attempt; a collision is a failure of its own."""
    simulated.ends = ends
    assert simulated.exit_status(has_collisions=has_collisions) == expected


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (None, 4),
        (Box("image"), 4),
        (Box("image", cpus=2), 2),
        (Box("image", cpus=8), 1),
        (Box("image", memory_bytes=400), 2),
        (Box("image", cpus=4, memory_bytes=400), 1),
        (Box("image", memory_bytes=4000), 1),
    ],
)
def test_as_many_attempts_as_cpus_and_memory_allow(monkeypatch, box, expected):
    """On a machine of 4 CPUs and 1,000 bytes of memory; never none."""
    monkeypatch.setattr(simulation, "cpus", lambda: 4.0)
    monkeypatch.setattr(simulation, "available_memory", lambda: 1000)
    assert attempts_at_a_time(box) == expected
