"""The variables that the platform injects into each attempt, and the exit statuses that it retries."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from htcjob.outcome.results import TRY_AGAIN

REGION = "AWS_EU_WEST_1"
TRIED_AGAIN = (TRY_AGAIN, 137, 143)
"""Exit statuses that get another attempt: asked for it, killed, preempted."""


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """The ids of one simulated submission."""

    project_id: str
    task_id: str
    parent_job_id: str

    @classmethod
    def make(cls) -> JobIdentity:
        """Return fresh ids."""
        return cls(*(str(uuid.uuid4()) for _ in range(3)))


def injected_variables(
    identity: JobIdentity,
    *,
    array_index: int,
    array_size: int,
    attempt: int,
    project_store: str,
    task_store: str,
) -> dict[str, str]:
    """Return the variables of one attempt on Rescale HTC (docs/htc-api.md), besides the token."""
    job_id = f"{identity.parent_job_id}:{array_index}"
    return {
        "RESCALE_HTC_PROJECT_ID": identity.project_id,
        "RESCALE_HTC_TASK_ID": identity.task_id,
        "RESCALE_HTC_REGION": REGION,
        "RESCALE_PROJECT_ID": identity.project_id,
        "RESCALE_TASK_ID": identity.task_id,
        "RESCALE_JOB_ID": job_id,
        "PROJECT_SHARED_FOLDER": project_store,
        "TASK_SHARED_FOLDER": task_store,
        "AWS_BATCH_JOB_ID": job_id,
        "AWS_BATCH_JOB_ARRAY_INDEX": str(array_index),
        "AWS_BATCH_JOB_ATTEMPT": str(attempt),
        # A convention of users: the platform injects no array size.
        "BATCH_JOB_ARRAY_SIZE": str(array_size),
    }
