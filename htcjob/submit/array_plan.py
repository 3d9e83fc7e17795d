"""How many jobs a run needs, and in which batches they are submitted: pure arithmetic."""

from __future__ import annotations

import math
from typing import NamedTuple

LARGEST_BATCH = 1000
"""Jobs in one batch of Rescale HTC (`batchSize`, 1 to 1,000); AWS Batch takes arrays of 2 to 10,000."""

MOST_OVERHEAD = 0.1
"""Share of a job's time for its start-up that is worth a warning."""


class Batch(NamedTuple):
    """One array of the platform; several of them make the array of a run."""

    size: int
    """Jobs in it; never 1 beside other batches, because a platform gives a single job no index."""
    array_offset: int
    """Jobs in the batches before it: what HTCJOB_ARRAY_OFFSET adds to the platform's index."""


class ArrayPlan(NamedTuple):
    """The array that a run needs; made by `plan_array`."""

    entries: int
    """Entries of the manifest, 1 or more."""
    seconds_per_entry: float
    """Seconds that the user's program takes for one entry."""
    start_s: float
    """Seconds that every job takes besides its entries."""
    array_size: int
    """Jobs in all batches together."""
    batch_size: int
    """Jobs in each batch but the last, which may have fewer."""
    max_parallel: int | None
    """Jobs that run at the same time; None: all."""

    @property
    def entries_per_job(self) -> int:
        """Entries of the longest chunk; others have at most one fewer."""
        return -(-self.entries // self.array_size)

    @property
    def job_s(self) -> float:
        """Seconds of the longest job."""
        return self.start_s + self.entries_per_job * self.seconds_per_entry

    @property
    def elapsed_s(self) -> float:
        """Seconds of the whole run, when `max_parallel` jobs run at a time."""
        rounds = -(-self.array_size // self.max_parallel) if self.max_parallel else 1
        return rounds * self.job_s

    @property
    def all_jobs_s(self) -> float:
        """Seconds of all jobs together: the time that is paid for."""
        return self.array_size * self.start_s + self.entries * self.seconds_per_entry

    @property
    def overhead(self) -> float:
        """Share of `all_jobs_s` for start-up, 0 to 1."""
        return self.array_size * self.start_s / self.all_jobs_s

    @property
    def n_batches(self) -> int:
        """How many arrays of the platform the run takes."""
        return -(-self.array_size // self.batch_size)

    @property
    def batches(self) -> list[Batch]:
        """The batches to submit, in order."""
        offsets = range(0, self.array_size, self.batch_size)
        return [Batch(min(self.batch_size, self.array_size - offset), offset) for offset in offsets]


def plan_array(
    *,
    entries: int,
    seconds_per_entry: float,
    target_s: float,
    start_s: float,
    batch_size: int = LARGEST_BATCH,
    max_parallel: int | None = None,
) -> ArrayPlan:
    """
    Return the smallest array whose jobs take no longer than a target.

    Where one entry alone takes longer, every job gets one.

    Args:
        entries: Entries of the manifest, 1 or more.
        seconds_per_entry: Seconds that the user's program takes for one entry, above 0.
        target_s: Seconds that a job may take, its start-up included.
        start_s: Seconds that every job takes besides its entries, 0 or more.
        batch_size: Jobs that the platform takes in one batch, 2 or more.
        max_parallel: Jobs that run at the same time, 1 or more; None: all.
    """
    # A little more, so as not to lose an entry where a decimal fraction has no exact binary one.
    fitting = (target_s - start_s) / seconds_per_entry * (1 + 1e-12)
    array_size = -(-entries // math.floor(min(max(fitting, 1), entries)))
    if array_size > 1 and array_size % batch_size == 1:
        array_size += 1
    return ArrayPlan(entries, seconds_per_entry, start_s, array_size, batch_size, max_parallel)


def worthwhile_target_s(plan: ArrayPlan) -> float | None:
    """
    Return the target that keeps the share of start-up at `MOST_OVERHEAD`.

    None: the share is no more than that already, or even one job for all entries has more.
    """
    if plan.overhead <= MOST_OVERHEAD:
        return None
    work_s = plan.entries * plan.seconds_per_entry
    # One job fewer than possible, because a batch of one job would get a second one.
    most_jobs = math.floor(work_s * MOST_OVERHEAD / (1 - MOST_OVERHEAD) / plan.start_s) - 1
    if most_jobs < 1:
        return None
    return plan.start_s + -(-plan.entries // most_jobs) * plan.seconds_per_entry
