"""The variables of batch platforms: one row per platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from htcjob.environment.values import Found, moment, shown, whole_number
from htcjob.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_OURS_INSTEAD = "or set HTCJOB_ARRAY_INDEX and HTCJOB_ARRAY_SIZE"


class Platform(NamedTuple):
    """
    How one platform tells a job its place in the array.

    The array index, from 0, is (*own_index* - first) / step: first is in the variable *first*, or else
    it is *counts_from*; step is in the variable *step*, or else 1.
    """

    name: str
    """As in `JobContext.platform`."""
    own_index: str
    """Variable that holds the platform's own index."""
    index_ends: str = ""
    """Variable whose value ends in `:<index>`; read where *own_index* is not set."""
    no_array: str = ""
    """Value of *own_index* that means: not an array job."""
    counts_from: int = 0
    """The platform's first index, where no variable says it."""
    first: str = ""
    """Variable with the array's lowest index; must be set where *own_index* is."""
    step: str = ""
    """Variable with the distance between two indices, 1 or more; must be set where *own_index* is."""
    last: str = ""
    """Variable with the array's highest index: (last - first) // step + 1 is the size."""
    size: tuple[str, ...] = ()
    """Variables with the array's size, 1 or more."""
    attempt: str = ""
    """Variable that counts the attempts."""
    attempt_from: int = 1
    """The value of *attempt* in the first attempt, if it is set there."""
    attempt_also: str = ""
    """Variable that counts attempts besides those of *attempt*; where it is not set, there are none."""
    tells_first_only: bool = False
    """*attempt* says whether it is the first one, but not which of the later ones."""
    job_ad: str = ""
    """Variable that names a file in which the job is described (`job_ad.py`), the attempt too."""
    ends_at: str = ""
    """Variable with the moment at which the platform ends the job, in seconds since the epoch."""
    job_id: str = ""
    """Variable that names the job for people."""
    only_with: tuple[str, ...] = ()
    """The row counts only when one of these is set; empty: always."""

    def is_here(self, environ: Mapping[str, str]) -> bool:
        """Whether the row counts in this environment."""
        return not self.only_with or any(environ.get(name) for name in self.only_with)

    def read_index(self, environ: Mapping[str, str]) -> Found | None:
        """
        Return the array index, from 0; None where the job is in no array of this platform.

        Raises:
            ConfigurationError: A variable is malformed, missing beside another, or off the array's
                steps; or the array's indices are an uneven list.
        """
        name, held = self.own_index, environ.get(self.own_index, "")
        text = held
        if not held:
            name, held = self.index_ends, environ.get(self.index_ends, "")
            _, colon, text = held.rpartition(":")
            if not colon:
                return None
        elif held == self.no_array:
            return None
        own = whole_number(name, text, held=held)
        first, step = self._grid(environ)
        index, rest = divmod(own - first, step)
        if index < 0 or rest:
            raise ConfigurationError(
                f"{name} holds {shown(held)}: expected {first} plus a multiple of {step}, as "
                f"{self.first or self.name} and {self.step or self.name} say; "
                f"{_OURS_INSTEAD}"
            )
        sizes = self.read_sizes(environ) if self.last else []
        if any(found.number != sizes[0].number for found in sizes):
            raise ConfigurationError(
                f"{', '.join(found.held for found in sizes)}: expected an even range of indices, "
                f"not a list; {_OURS_INSTEAD}"
            )
        return Found(index, name, f"{name}={shown(held)}")

    def read_sizes(self, environ: Mapping[str, str]) -> list[Found]:
        """
        Return every size of the array that the platform tells; they should agree.

        Raises:
            ConfigurationError: A variable is malformed, or missing beside another.
        """
        if self.no_array and environ.get(self.own_index) == self.no_array:
            return []
        sizes = []
        for name in self.size:
            if text := environ.get(name):
                number = whole_number(name, text, lowest=1)
                sizes.append(Found(number, name, f"{name}={shown(text)}"))
        if text := environ.get(self.last):
            first, step = self._grid(environ)
            last = whole_number(self.last, text, lowest=first)
            held = f"{self.last}={shown(text)}"
            sizes.append(Found((last - first) // step + 1, self.last, held))
        return sizes

    def read_attempt(self, environ: Mapping[str, str]) -> Found | None:
        """
        Return the attempt, from 1; None where the platform does not tell.

        Raises:
            ConfigurationError: The variable is malformed.
        """
        text, also = environ.get(self.attempt), environ.get(self.attempt_also)
        if not text:
            return None
        number = whole_number(self.attempt, text, lowest=self.attempt_from)
        held = f"{self.attempt}={shown(text)}"
        if also:
            number += whole_number(self.attempt_also, also)
            held += f", {self.attempt_also}={shown(also)}"
        return Found(number - self.attempt_from + 1, self.attempt, held)

    def read_end(self, environ: Mapping[str, str]) -> Found | None:
        """
        Return when the platform ends the job, in seconds since the epoch; None where it does not tell.

        Raises:
            ConfigurationError: The variable is malformed.
        """
        text = environ.get(self.ends_at)
        return moment(self.ends_at, text) if text else None

    def _grid(self, environ: Mapping[str, str]) -> tuple[int, int]:
        """Return the array's first index and the distance of two, as the platform counts."""
        first = self._beside(environ, self.first, lowest=0) if self.first else self.counts_from
        step = self._beside(environ, self.step, lowest=1) if self.step else 1
        return first, step

    def _beside(self, environ: Mapping[str, str], name: str, *, lowest: int) -> int:
        """Return the number in *name*, which the platform always sets beside the index."""
        text = environ.get(name)
        if not text:
            raise ConfigurationError(
                f"{name} is not set: expected it beside {self.own_index}, as {self.name} does; "
                f"{_OURS_INSTEAD}"
            )
        return whole_number(name, text, lowest=lowest)


PLATFORMS = (
    # The names are reserved by the API (htc-cli, v2/api/swagger.json). The index has AWS Batch's
    # name on every cloud. No size is injected, and AWS_BATCH_* may not be set by users: by the
    # tutorial's convention they set BATCH_JOB_ARRAY_SIZE.
    Platform(
        "rescale",
        own_index="AWS_BATCH_JOB_ARRAY_INDEX",
        index_ends="AWS_BATCH_JOB_ID",
        size=("BATCH_JOB_ARRAY_SIZE", "AWS_BATCH_JOB_ARRAY_SIZE"),
        attempt="AWS_BATCH_JOB_ATTEMPT",
        job_id="RESCALE_JOB_ID",
        only_with=(
            "RESCALE_HTC_PROJECT_ID",
            "RESCALE_HTC_TASK_ID",
            "RESCALE_HTC_BEARER_TOKEN",
            "RESCALE_JOB_ID",
            "RESCALE_TASK_ID",
            "RESCALE_PROJECT_ID",
        ),
    ),
    # https://docs.aws.amazon.com/batch/latest/userguide/job_env_vars.html and array_jobs.html: only
    # children of an array have an index, and their id is `<parent>:<index>`; attempts start at 1.
    Platform(
        "aws-batch",
        own_index="AWS_BATCH_JOB_ARRAY_INDEX",
        index_ends="AWS_BATCH_JOB_ID",
        size=("BATCH_JOB_ARRAY_SIZE", "AWS_BATCH_JOB_ARRAY_SIZE"),
        attempt="AWS_BATCH_JOB_ATTEMPT",
        job_id="AWS_BATCH_JOB_ID",
    ),
    # https://cloud.google.com/batch/docs/reference/rest/v1/projects.locations.jobs, TaskGroup:
    # every task has an index and a count, also when it is the only one; retries count from 0.
    Platform(
        "google-batch",
        own_index="BATCH_TASK_INDEX",
        size=("BATCH_TASK_COUNT",),
        attempt="BATCH_TASK_RETRY_ATTEMPT",
        attempt_from=0,
        job_id="BATCH_JOB_ID",
    ),
    # https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode: neither the
    # number of completions nor that of failures is injected; a pod template can set ours. With
    # backoffLimitPerIndex, pods have the annotations batch.kubernetes.io/job-index-failure-count, from
    # 0, and …/job-index-ignored-failure-count, once there is one; a variable can have either as its
    # value (fieldRef), not their sum. By convention it is named after the annotation.
    Platform(
        "kubernetes",
        own_index="JOB_COMPLETION_INDEX",
        attempt="JOB_INDEX_FAILURE_COUNT",
        attempt_from=0,
        attempt_also="JOB_INDEX_IGNORED_FAILURE_COUNT",
    ),
    # https://slurm.schedmd.com/job_array.html. SLURM_RESTART_COUNT is not set in the first attempt.
    # A list (`--array=1,3,7`) is refused: COUNT, MIN, MAX and STEP do not say which ids are in it.
    # SLURM_JOB_END_TIME (23.02 and newer) is the end by the time limit as it was when the job started.
    Platform(
        "slurm",
        own_index="SLURM_ARRAY_TASK_ID",
        first="SLURM_ARRAY_TASK_MIN",
        step="SLURM_ARRAY_TASK_STEP",
        last="SLURM_ARRAY_TASK_MAX",
        size=("SLURM_ARRAY_TASK_COUNT",),
        attempt="SLURM_RESTART_COUNT",
        attempt_from=0,
        ends_at="SLURM_JOB_END_TIME",
        job_id="SLURM_JOB_ID",
    ),
    # qsub(1): all four are "undefined" outside of arrays. RESTARTED says 0 or 1, so the third
    # attempt is called 2 as well. JOB_ID and RESTARTED are words that others use, too.
    Platform(
        "sge",
        own_index="SGE_TASK_ID",
        no_array="undefined",
        first="SGE_TASK_FIRST",
        step="SGE_TASK_STEPSIZE",
        last="SGE_TASK_LAST",
        attempt="RESTARTED",
        attempt_from=0,
        tells_first_only=True,
        job_id="JOB_ID",
        only_with=("SGE_TASK_ID",),
    ),
    # The indices are the user's own (`qsub -J 0-9`); where they start, their step and their number
    # are told nowhere. So they are taken as they are: `-J 1-10` needs HTCJOB_ARRAY_OFFSET=-1, and
    # without it job 10 of 10 fails. PBS_ARRAY_ID is no index but the id of the whole array.
    Platform("pbs", own_index="PBS_ARRAY_INDEX", job_id="PBS_JOBID"),
    # Torque, `qsub -t 0-9`: as PBS.
    Platform("torque", own_index="PBS_ARRAYID", job_id="PBS_JOBID"),
    # Indices are 1 or more, 0 means no array (`bsub -J "name[1-10]"`). LSB_JOBINDEX_END, the
    # highest one, is not read: `[5-10]` and `[1,4,10]` have the same as `[1-10]`, and a size made
    # from it would leave chunks to nobody, in silence. With HTCJOB_ARRAY_SIZE a wrong start shows
    # as an index that is not below the size; `[5-10]` works with HTCJOB_ARRAY_OFFSET=-4.
    Platform(
        "lsf",
        own_index="LSB_JOBINDEX",
        no_array="0",
        counts_from=1,
        step="LSB_JOBINDEX_STEP",
        job_id="LSB_JOBID",
    ),
    # flux-submit(1), --cc=IDSET: the ids are the user's own, as with PBS.
    Platform("flux", own_index="FLUX_JOB_CC", job_id="FLUX_JOB_ID"),
    # nomad, client/taskenv/env.go: every allocation has an index, from 0; none is told the count.
    Platform("nomad", own_index="NOMAD_ALLOC_INDEX", job_id="NOMAD_ALLOC_ID"),
    # HTCondor injects nothing but the name of a file that has the job's description, as it was when
    # this attempt started; by convention environment = "HTC_INDEX=$(Process) HTC_COUNT=1000".
    Platform("htcondor", own_index="HTC_INDEX", size=("HTC_COUNT",), job_ad="_CONDOR_JOB_AD"),
    # Fujitsu TCS, `pjsub --bulk --sparam 0-9`: as PBS.
    Platform("pjm", own_index="PJM_BULKNUM", job_id="PJM_JOBID"),
)
"""Every platform; where several say the same, the first one names the context."""
