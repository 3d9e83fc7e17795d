"""How many jobs a run needs, and in which batches they are submitted. Pure arithmetic."""

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
    """Jobs in it; never 1 beside other batches, for a platform tells a single job no index."""
    array_offset: int
    """Jobs in the batches before it: what HTCJOB_ARRAY_OFFSET adds to the platform's index."""


class Submission(NamedTuple):
    """A run as it is to be submitted; made by `plan_submission`."""

    entries: int
    """Of the manifest, 1 or more."""
    seconds_per_entry: float
    """What the user's program takes for one of them."""
    start_s: float
    """What every job takes besides."""
    array_size: int
    """Jobs in all batches together."""
    batch_size: int
    """Jobs in each batch but the last, which may have fewer."""
    max_parallel: int | None
    """Jobs that run at the same time; None: all."""

    @property
    def entries_per_job(self) -> int:
        """Entries of the longest chunk; others have at most one less."""
        return -(-self.entries // self.array_size)

    @property
    def job_s(self) -> float:
        """Seconds of the longest job."""
        return self.start_s + self.entries_per_job * self.seconds_per_entry

    @property
    def elapsed_s(self) -> float:
        """Seconds of the whole run: one job after the other in every place there is."""
        rounds = -(-self.array_size // self.max_parallel) if self.max_parallel else 1
        return rounds * self.job_s

    @property
    def all_jobs_s(self) -> float:
        """Seconds of all jobs together: what is paid for."""
        return self.array_size * self.start_s + self.entries * self.seconds_per_entry

    @property
    def overhead(self) -> float:
        """Share of that for start-up, 0 to 1."""
        return self.array_size * self.start_s / self.all_jobs_s

    @property
    def n_batches(self) -> int:
        """Arrays of the platform that the run takes."""
        return -(-self.array_size // self.batch_size)

    @property
    def batches(self) -> list[Batch]:
        """What to submit, in order."""
        offsets = range(0, self.array_size, self.batch_size)
        return [Batch(min(self.batch_size, self.array_size - offset), offset) for offset in offsets]


def plan_submission(
    *,
    entries: int,
    seconds_per_entry: float,
    target_s: float,
    start_s: float,
    batch_size: int = LARGEST_BATCH,
    max_parallel: int | None = None,
) -> Submission:
    """
    Give the smallest array whose jobs take no longer than a target.

    Where one entry alone takes longer, every job gets one.

    Args:
        entries: Of the manifest, 1 or more.
        seconds_per_entry: What the user's program takes for one of them, above 0.
        target_s: Seconds that a job may take, its start-up included.
        start_s: What every job takes besides its entries, 0 or more.
        batch_size: Jobs that the platform takes in one batch, 2 or more.
        max_parallel: Jobs that run at the same time, 1 or more; None: all.
    """
    # A little more, not to lose an entry where a decimal fraction has no exact binary one.
    fitting = (target_s - start_s) / seconds_per_entry * (1 + 1e-12)
    array_size = -(-entries // math.floor(min(max(fitting, 1), entries)))
    if array_size > 1 and array_size % batch_size == 1:
        array_size += 1
    return Submission(entries, seconds_per_entry, start_s, array_size, batch_size, max_parallel)


def worthwhile_target_s(submission: Submission) -> float | None:
    """
    Give the target that keeps the share of start-up at `MOST_OVERHEAD`.

    None: it is no more already, or one job for all entries has more.
    """
    if submission.overhead <= MOST_OVERHEAD:
        return None
    work_s = submission.entries * submission.seconds_per_entry
    # One job fewer than may be, because a batch of one job would get a second one.
    most_jobs = math.floor(work_s * MOST_OVERHEAD / (1 - MOST_OVERHEAD) / submission.start_s) - 1
    if most_jobs < 1:
        return None
    return submission.start_s + -(-submission.entries // most_jobs) * submission.seconds_per_entry
