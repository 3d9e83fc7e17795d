"""What the platform injects into each attempt, and what it makes of the attempt's exit status."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass

from htcjob.logs.redact import Secret
from htcjob.outcome.results import TRY_AGAIN

REGION = "AWS_EU_WEST_1"
TOKEN_LIFE_S = 6 * 3600
"""Of a job's bearer token (`htc-api.md` §4.1)."""

TRIED_AGAIN = (TRY_AGAIN, 137, 143)
"""Exit statuses that get another attempt: asked for it, killed, preempted."""


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """The ids that one simulated submission has."""

    project_id: str
    task_id: str
    parent_job_id: str

    @classmethod
    def make(cls) -> JobIdentity:
        """Give fresh ids."""
        return cls(*(str(uuid.uuid4()) for _ in range(3)))


class TokenIssuer:
    """Signs job tokens as the platform does (RS256), with a key of its own."""

    def __init__(self) -> None:
        """Make the key: 50–300 ms."""
        from cryptography.hazmat.primitives.asymmetric import rsa

        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def key_set(self) -> str:
        """Give the public key as a JSON web key set, for `HTCJOB_JWKS`."""
        from jwt.algorithms import RSAAlgorithm

        key = json.loads(RSAAlgorithm.to_jwk(self._key.public_key()))
        return json.dumps({"keys": [{**key, "kid": "simulated", "use": "sig", "alg": "RS256"}]})

    def job_token(self, identity: JobIdentity, array_index: int) -> Secret:
        """Give the bearer token of one job."""
        import jwt

        now = int(time.time())
        claims = {
            "iss": "htcjob simulate",
            "sub": "simulated-user",
            "iat": now,
            "exp": now + TOKEN_LIFE_S,
            "projectId": identity.project_id,
            "taskId": identity.task_id,
            "jobId": f"{identity.parent_job_id}:{array_index}",
        }
        return Secret(jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "simulated"}))


def injected_variables(
    identity: JobIdentity,
    *,
    array_index: int,
    array_size: int,
    attempt: int,
    project_store: str,
    task_store: str,
) -> dict[str, str]:
    """Give the variables of one attempt on Rescale HTC (`htc-api.md` §6), besides the token."""
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
        # The user's own by convention: the platform injects no array size.
        "BATCH_JOB_ARRAY_SIZE": str(array_size),
    }
