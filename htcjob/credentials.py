"""The bearer token: its claims, its expiry, and whether the platform signed it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from htcjob.errors import TokenError
from htcjob.redact import Secret

if TYPE_CHECKING:
    import jwt

LEEWAY_S = 60
"""Seconds by which our clock and the platform's may differ."""

LATEST_TIME = 1e12
"""Seconds since the epoch; what lies beyond, or is no number at all, is no time."""

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures accepted when a JWKS is configured; the platform uses RS256 (`htc-api.md` §4.1). `none` and
the symmetric ones are not among them: with a public key set they would prove nothing."""

USER_CLAIM_PREFIX = "userDefined_"
"""What the platform puts before the names of claims from the job definition."""


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
        """Give the claims that the job definition asked for, by their name without the prefix."""
        return {
            name.removeprefix(USER_CLAIM_PREFIX): value if isinstance(value, str) else json.dumps(value)
            for name, value in self.claims.items()
            if name.startswith(USER_CLAIM_PREFIX)
        }


def decode_token(secret: Secret, *, jwks: str | None = None, now: float | None = None) -> BearerToken:
    """
    Give the decoded token, verified when a key set is configured.

    Args:
        secret: The injected token.
        jwks: File or `http(s)://` URL of the platform's JSON web key set. None: the token is decoded, not
            verified.
        now: Seconds since the epoch, for tests. Default: the clock.

    Raises:
        TokenError: the token is malformed, expired by more than `LEEWAY_S`, not yet valid, not signed by
            a key of the set, or the set cannot be read. The message says which, never the token.
    """
    import jwt  # 80 ms with cryptography: only a job that has a token pays it

    token = secret.reveal()
    try:
        algorithm = jwt.get_unverified_header(token).get("alg")
        if jwks is None:
            claims = jwt.decode(token, options={"verify_signature": False})
        else:
            if algorithm not in ALGORITHMS:
                raise TokenError(
                    f"bearer token is signed with {str(algorithm)[:20]!r}; a key set is configured "
                    "(HTCJOB_JWKS), so it must be signed by the platform"
                )
            key = _key_for(token, jwks)
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                # Times are checked below, for verified and unverified tokens alike. The platform's
                # audience is not published, and the key set already says whose token it is.
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
            )
    except jwt.InvalidSignatureError:
        raise TokenError("bearer token is not signed by a key of HTCJOB_JWKS") from None
    except (jwt.PyJWTError, ValueError) as error:
        # From None: PyJWT's own errors may quote parts of the token.
        raise TokenError(
            f"bearer token is malformed ({type(error).__name__}); is the variable cut short or quoted?"
        ) from None
    if not isinstance(claims, dict):
        raise TokenError("bearer token is malformed (its payload is not an object)")
    _check_times(claims, now=time.time() if now is None else now)
    return BearerToken(secret, claims, is_verified=jwks is not None)


def expiry_hint(secret: Secret) -> float | None:
    """
    Give the `exp` of a token in seconds since the epoch, not verified; None when it cannot be read.

    Good for choosing when to renew, and for nothing else: `decode_token` judges a token, at the price of
    importing PyJWT.
    """
    from base64 import urlsafe_b64decode

    payload = secret.reveal().split(".")[1:2]
    try:
        expiry = json.loads(urlsafe_b64decode(payload[0] + "==")).get("exp")
        return float(expiry) if abs(expiry) < LATEST_TIME else None
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError):
        return None


def _check_times(claims: Mapping[str, Any], *, now: float) -> None:
    for name in ("exp", "nbf"):
        value = claims.get(name)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not abs(value) < LATEST_TIME:
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


def _key_for(token: str, jwks: str) -> jwt.PyJWK:
    """Give the key of the set *jwks* that the token's header names."""
    import jwt

    try:
        if "://" in jwks:
            return jwt.PyJWKClient(jwks, timeout=10).get_signing_key_from_jwt(token)
        with open(
            jwks, encoding="utf-8", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)
        ) as file:
            keys = jwt.PyJWKSet.from_json(file.read())
        key_id = jwt.get_unverified_header(token).get("kid")
        if key_id is None and len(keys.keys) == 1:
            return keys.keys[0]
        for key in keys.keys:
            if key.key_id == key_id:
                return key
    except (jwt.PyJWTError, OSError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, jwt.PyJWKClientError) and "signing key" in str(error):
            raise TokenError("bearer token names a key that HTCJOB_JWKS does not have") from None
        raise TokenError(f"key set {jwks} (HTCJOB_JWKS) cannot be read: {error}") from None
    raise TokenError("bearer token names a key that HTCJOB_JWKS does not have")
