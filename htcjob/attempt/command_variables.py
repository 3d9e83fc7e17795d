"""The variables that every command of an attempt gets: about the job, and the claims of its bearer token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from htcjob.errors import TokenError

if TYPE_CHECKING:
    from htcjob.environment.context import JobContext
    from htcjob.retry import RetryPolicy


def job_variables(context: JobContext) -> dict[str, str]:
    """Return the variables about the job that every command gets."""
    variables = {
        "HTCJOB_ARRAY_INDEX": str(context.array_index),
        "HTCJOB_ATTEMPT": str(context.attempt),
    }
    if context.array_size is not None:
        variables["HTCJOB_ARRAY_SIZE"] = str(context.array_size)
    return variables


def claim_variables(context: JobContext, retry: RetryPolicy) -> dict[str, str]:
    """Check the bearer token, where there is one, and return its user-defined claims as variables."""
    if context.token is None:
        return {}
    import re

    from htcjob.htc_api.bearer_token import decode_token

    token = decode_token(context.token, jwks=context.jwks, retry=retry)
    variables = {}
    for name, value in token.user_claims().items():
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise TokenError(f"claim {name!r} of the bearer token cannot be an environment variable")
        variables[f"HTCJOB_CLAIM_{re.sub(r'[^A-Za-z0-9_]', '_', name)}"] = value
    return variables
