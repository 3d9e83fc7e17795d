"""Signs the bearer tokens of simulated jobs, as the platform does."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from htcjob.logs.redact import Secret

if TYPE_CHECKING:
    from htcjob.simulate.injection import JobIdentity

TOKEN_LIFE_S = 6 * 3600
"""Seconds that a job's bearer token lives on Rescale HTC."""


class TokenIssuer:
    """Signs job tokens (RS256) with a key of its own."""

    def __init__(self) -> None:
        """Make the key: 50–300 ms."""
        from cryptography.hazmat.primitives.asymmetric import rsa

        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def key_set(self) -> str:
        """Return the public key as a JSON web key set, for `HTCJOB_JWKS`."""
        from jwt.algorithms import RSAAlgorithm

        key = json.loads(RSAAlgorithm.to_jwk(self._key.public_key()))
        return json.dumps({"keys": [{**key, "kid": "simulated", "use": "sig", "alg": "RS256"}]})

    def job_token(self, identity: JobIdentity, array_index: int) -> Secret:
        """Return the bearer token of one job."""
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
