"""
What batch platforms inject: one row per platform, and the names of all that is secret.

Only `env.py` uses this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from htcjob.errors import ConfigurationError
from htcjob.logs.redact import redact, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_DIGITS = 18
"""More would pass 64 bits, in which others may read our records."""
_LAST_MOMENT = 9_999_999_999
"""In the year 2286; a present moment in milliseconds is later."""
_LONGEST_SHOWN = 80


class Found(NamedTuple):
    """A number, and where it was found."""

    number: int
    """In our counting: indices from 0, attempts from 1."""
    name: str
    """The variable or flag."""
    held: str
    """`NAME='value'`, for messages."""


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
    """Variable with the distance of two indices, 1 or more; must be set where *own_index* is."""
    last: str = ""
    """Variable with the array's highest index: (last - first) // step + 1 is the size."""
    size: tuple[str, ...] = ()
    """Variables with the array's size, 1 or more."""
    attempt: str = ""
    """Variable that counts the attempts."""
    attempt_from: int = 1
    """What *attempt* says in the first one, when it says anything."""
    attempt_also: str = ""
    """Variable that counts others, not among those of *attempt*; nothing says the same as 0."""
    tells_first_only: bool = False
    """*attempt* says whether it is the first one, and not which of the later ones."""
    job_ad: str = ""
    """Variable that names a file in which the job is described (`job_ad.py`), the attempt too."""
    ends_at: str = ""
    """Variable with the moment at which the platform ends the job, in seconds since the epoch."""
    job_id: str = ""
    """Variable that names the job for people."""
    only_with: tuple[str, ...] = ()
    """The row counts only when one of these is set; empty: always."""

    def is_here(self, environ: Mapping[str, str]) -> bool:
        """Say whether the row counts in this environment."""
        return not self.only_with or any(environ.get(name) for name in self.only_with)

    def read_index(self, environ: Mapping[str, str]) -> Found | None:
        """
        Give the array index, from 0; None where the job is in no array of this platform.

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
                "or set HTCJOB_ARRAY_INDEX and HTCJOB_ARRAY_SIZE"
            )
        sizes = self.read_sizes(environ) if self.last else []
        if any(found.number != sizes[0].number for found in sizes):
            raise ConfigurationError(
                f"{', '.join(found.held for found in sizes)}: expected an even range of indices, "
                "not a list; or set HTCJOB_ARRAY_INDEX and HTCJOB_ARRAY_SIZE"
            )
        return Found(index, name, f"{name}={shown(held)}")

    def read_sizes(self, environ: Mapping[str, str]) -> list[Found]:
        """
        Give every size of the array that the platform tells; they should agree.

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
        Give the attempt, from 1; None where the platform does not tell.

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
        Give when the platform ends the job, in seconds since the epoch; None where it does not tell.

        Raises:
            ConfigurationError: The variable is malformed.
        """
        text = environ.get(self.ends_at)
        return moment(self.ends_at, text) if text else None

    def _grid(self, environ: Mapping[str, str]) -> tuple[int, int]:
        """Give the array's first index and the distance of two, in the platform's counting."""
        first = self._beside(environ, self.first, lowest=0) if self.first else self.counts_from
        step = self._beside(environ, self.step, lowest=1) if self.step else 1
        return first, step

    def _beside(self, environ: Mapping[str, str], name: str, *, lowest: int) -> int:
        """Give the number in *name*, which the platform always sets beside the index."""
        text = environ.get(name)
        if not text:
            raise ConfigurationError(
                f"{name} is not set: expected it beside {self.own_index}, as {self.name} does; "
                "or set HTCJOB_ARRAY_INDEX and HTCJOB_ARRAY_SIZE"
            )
        return whole_number(name, text, lowest=lowest)


def whole_number(name: str, text: str, *, lowest: int | None = 0, held: str | None = None) -> int:
    """
    Give the number that *text* is, in plain decimal digits.

    `int` would also take `" 3 "`, `+3`, `1_000` and other scripts' digits: signs that something
    else went wrong on the way.

    Args:
        name: The variable or flag, for the message.
        text: What to read; at most 18 digits.
        lowest: Smallest number allowed; None: any, with a minus sign if need be.
        held: All that the variable holds, where *text* is a part of it.

    Raises:
        ConfigurationError: *text* is anything else.
    """
    digits = text[1:] if lowest is None and text.startswith("-") else text
    if digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS:
        number = int(text)
        if lowest is None or number >= lowest:
            return number
    bound = "" if lowest is None else f", {lowest} or more"
    raise ConfigurationError(
        f"{name} holds {shown(text if held is None else held)}: "
        f"expected a whole number{bound}, in at most {_MOST_DIGITS} digits"
    )


def moment(name: str, text: str) -> Found:
    """
    Give the moment that *text* is, in whole seconds since the epoch.

    Raises:
        ConfigurationError: *text* is anything else, milliseconds say.
    """
    seconds = whole_number(name, text, lowest=1)
    if seconds > _LAST_MOMENT:
        raise ConfigurationError(f"{name} holds {shown(text)}: expected seconds since 1970, not milliseconds")
    return Found(seconds, name, f"{name}={shown(text)}")


def shown(text: str) -> str:
    """Give *text* for a message: quoted, on one line, without secrets, at most 80 characters."""
    return shortened(repr(redact(text)), _LONGEST_SHOWN)


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

WAYS_TO_CREDENTIALS = frozenset(
    {
        *("HTCJOB_TOKEN_FILE", "AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE"),
        *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"),
        *("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE"),
        *("AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"),
        *("IDENTITY_ENDPOINT", "MSI_ENDPOINT"),
    }
)
"""Those of `CREDENTIAL_VARIABLES` that hold a file's name, a URL or an id, none of them a secret itself."""

CREDENTIAL_VARIABLES = (
    # Rescale: the job's tokens, and a user's own key.
    "HTCJOB_TOKEN_FILE",
    "RESCALE_HTC_BEARER_TOKEN",
    "RESCALE_HTC_REFRESH_TOKEN",
    "RESCALE_API_TOKEN",
    "RESCALE_API_KEY",
    # S3: keys, and what the SDKs and object_store turn into keys.
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    # Google: files, their text, tokens.
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GCP_APPLICATION_CREDENTIALS",
    "GOOGLE_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "CLOUDSDK_AUTH_ACCESS_TOKEN",
    "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE",
    "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE",
    # Azure: account keys and SAS, service principal, managed and workload identity.
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_PASSWORD",
    "AZURE_FEDERATED_TOKEN",
    "AZURE_FEDERATED_TOKEN_FILE",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "MSI_ENDPOINT",
    "MSI_SECRET",
)
"""Neither shown nor handed to the command: secrets, files of secrets, and ways to obtain them."""
