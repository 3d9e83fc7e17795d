"""The bearer token: its claims, its expiry, and whether the platform signed it."""

from __future__ import annotations

import json
import string
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from htcjob.errors import TokenError
from htcjob.logs.json_object import parse_object
from htcjob.logs.redact import Secret

if TYPE_CHECKING:
    from typing import TypeGuard

    from htcjob.retry import RetryPolicy

LEEWAY_S = 60
"""Seconds by which our clock and the platform's may differ."""

LATEST_TIME = 1e12
"""Seconds since the epoch; a number beyond it is no time."""

USER_CLAIM_PREFIX = "userDefined_"
"""The platform puts this before the names of claims from the job definition."""

_BASE64URL = frozenset(string.ascii_letters + string.digits + "-_")


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A decoded bearer token. Its `repr` shows expiry and verification, never the token or its claims."""

    secret: Secret
    """The token itself."""
    claims: Mapping[str, Any] = field(repr=False)
    """Its payload."""
    is_verified: bool
    """Whether its signature was checked against the platform's key set."""

    @property
    def expires_at(self) -> float | None:
        """When it expires, in seconds since the epoch; None when it does not say."""
        expiry = self.claims.get("exp")
        return float(expiry) if expiry is not None else None

    def user_claims(self) -> dict[str, str]:
        """Return the claims that the job definition asked for, by their name without the prefix."""
        return {
            name.removeprefix(USER_CLAIM_PREFIX): value if isinstance(value, str) else json.dumps(value)
            for name, value in self.claims.items()
            if name.startswith(USER_CLAIM_PREFIX)
        }


def decode_token(
    secret: Secret, *, jwks: str | None = None, retry: RetryPolicy | None = None, now: float | None = None
) -> BearerToken:
    """
    Return the decoded token, verified when a key set is configured.

    The other claims (`sub`, `jti`, `aud`, `iat`, `iss`) are the platform's own affair: only the signature and
    the two times that bound the token's life are relied upon.

    Args:
        secret: The injected token.
        jwks: File or `http(s)://` URL of the platform's JSON web key set. None: the token is decoded, not
            verified.
        retry: How a key server that is down for a moment is asked again. None: it is asked once.
        now: Seconds since the epoch, for tests. Default: the clock.

    Raises:
        TokenError: the token is malformed, expired by more than `LEEWAY_S`, not yet valid, not signed by
            a key of the set, or the set cannot be read. The message says which, never the token.
        TransientError: the key server cannot be reached now.
        ConfigurationError: the URL of the key set is malformed.
    """
    header, claims = _parts(secret)
    if jwks is not None:
        from htcjob.htc_api.key_set import verify

        verify(secret, header, jwks, retry=retry)
    _check_times(claims, now=time.time() if now is None else now)
    return BearerToken(secret, claims, is_verified=jwks is not None)


def expiry_hint(secret: Secret) -> float | None:
    """
    Return the `exp` of a token in seconds since the epoch, not verified; None when it cannot be read.

    Good for choosing when to renew, and for nothing else: `decode_token` judges a token.
    """
    try:
        _, claims = _parts(secret)
    except TokenError:
        return None
    expiry = claims.get("exp")
    return float(expiry) if _is_time(expiry) else None


def _parts(secret: Secret) -> tuple[dict[str, object], dict[str, object]]:
    """Return the header and the claims of a token, not verified; PyJWT's import would cost 80 ms."""
    import binascii
    from base64 import urlsafe_b64decode

    parts = secret.reveal().split(".")
    try:
        if len(parts) != 3 or not all(set(part) <= _BASE64URL for part in parts):
            raise ValueError("not three parts in base64")
        header, claims, _ = (urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts)
        return parse_object(header), parse_object(claims)
    except (ValueError, binascii.Error) as error:
        what = "not three parts in base64" if isinstance(error, binascii.Error) else str(error)
        raise TokenError(
            f"bearer token is malformed ({what}); is the variable cut short or quoted?"
        ) from None


def _is_time(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LATEST_TIME


def _check_times(claims: Mapping[str, object], *, now: float) -> None:
    for name in ("exp", "nbf"):
        value = claims.get(name)
        if value is None:
            continue
        if not _is_time(value):
            raise TokenError(f"bearer token is malformed (its {name!r} claim is not a number)")
        if name == "exp" and now > value + LEEWAY_S:
            raise TokenError(
                f"bearer token expired {now - value:.0f} s ago; "
                "the job needs a new one (or the machine's clock is wrong)"
            )
        if name == "nbf" and now < value - LEEWAY_S:
            raise TokenError(
                f"bearer token is valid only in {value - now:.0f} s; is the machine's clock right?"
            )
