"""Submissions: the arithmetic of arrays that are larger than a platform's batch."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.environment.context import read_context
from htcjob.manifest.chunk import chunk_bounds
from htcjob.submit.array_plan import MOST_OVERHEAD, plan_array, worthwhile_target_s

numbers = {
    "entries": st.integers(1, 10**7),
    "seconds_per_entry": st.floats(1e-3, 1e5),
    "target_s": st.floats(1e-2, 1e6),
    "start_s": st.floats(0, 100),
    "batch_size": st.integers(2, 10_000),
}


def test_five_million_entries_in_a_hundred_batches_of_a_thousand():
    """Every entry is in exactly one chunk of one job of one batch, as each job works it out for itself."""
    plan = plan_array(entries=5_000_000, seconds_per_entry=2.0, target_s=100.5, start_s=0.5)
    assert plan.array_size == 100_000
    assert [batch.size for batch in plan.batches] == [1000] * 100
    assert [batch.array_offset for batch in plan.batches] == list(range(0, 100_000, 1000))
    position = 0
    for batch in plan.batches:
        for index in range(batch.size):
            context = read_context(
                {
                    "AWS_BATCH_JOB_ARRAY_INDEX": str(index),
                    "AWS_BATCH_JOB_ARRAY_SIZE": str(batch.size),
                    "HTCJOB_ARRAY_SIZE": str(plan.array_size),
                    "HTCJOB_ARRAY_OFFSET": str(batch.array_offset),
                }
            )
            chunk = chunk_bounds(
                array_index=context.array_index,
                array_size=context.require_array_size(),
                n_entries=plan.entries,
            )
            assert chunk == range(position, position + 50)
            position = chunk.stop
    assert position == 5_000_000


@settings(deadline=None, derandomize=True, database=None)
@given(st.fixed_dictionaries({**numbers, "entries": st.integers(1, 20_000)}))
def test_the_batches_are_the_array(drawn):
    """They lie one behind the other, none is too large, and none of several is a single job."""
    plan = plan_array(**drawn)
    covered = 0
    for batch in plan.batches:
        assert batch.array_offset == covered
        assert 1 <= batch.size <= drawn["batch_size"]
        covered += batch.size
    assert covered == plan.array_size
    assert 1 not in [batch.size for batch in plan.batches] or plan.array_size == 1


@settings(deadline=None, derandomize=True, database=None)
@given(st.fixed_dictionaries(numbers))
def test_no_job_is_longer_than_the_target_unless_one_entry_is(drawn):
    """And with one job less, some job would be longer, or there would be a batch of one."""
    plan = plan_array(**drawn)
    assert plan.entries_per_job == 1 or plan.job_s <= drawn["target_s"] * (1 + 1e-9)
    if plan.array_size > 1 and plan.array_size % drawn["batch_size"] != 2 % drawn["batch_size"]:
        fewer = plan._replace(array_size=plan.array_size - 1)
        assert fewer.job_s > drawn["target_s"] * (1 - 1e-9)


@settings(deadline=None, derandomize=True, database=None)
@given(st.fixed_dictionaries(numbers))
def test_the_target_it_suggests_keeps_the_overhead_low(drawn):
    """It is suggested whenever start-up takes more than a tenth and a longer target can help."""
    first = plan_array(**drawn)
    better_s = worthwhile_target_s(first)
    if better_s is None:
        one_job_s = drawn["entries"] * drawn["seconds_per_entry"]
        assert first.overhead <= MOST_OVERHEAD or one_job_s < 18 * drawn["start_s"] * (1 + 1e-9)
        return
    second = plan_array(**{**drawn, "target_s": better_s})
    assert second.overhead <= MOST_OVERHEAD * (1 + 1e-9)
    assert better_s > drawn["target_s"]


@pytest.mark.parametrize(
    ("max_parallel", "elapsed_s"), [(None, 10.0), (1000, 10.0), (10, 10.0), (9, 20.0), (1, 100.0)]
)
def test_jobs_that_find_no_place_wait_for_the_next_round(max_parallel, elapsed_s):
    """Ten jobs of ten seconds in that many places."""
    plan = plan_array(
        entries=90, seconds_per_entry=1.0, target_s=10.0, start_s=1.0, max_parallel=max_parallel
    )
    assert (plan.array_size, plan.elapsed_s) == (10, elapsed_s)
    assert plan.all_jobs_s == 100.0
    assert plan.overhead == 0.1
