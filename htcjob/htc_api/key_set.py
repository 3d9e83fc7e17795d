"""The platform's JSON web key set, and whether a bearer token is signed by a key of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from htcjob.environment.variables import current_environ
from htcjob.errors import ConfigurationError, PermanentError, TokenError, TransientError
from htcjob.htc_api.web import LARGEST_ANSWER_BYTES, Host, read_whole, split_url, where_it_leads
from htcjob.logs.json_object import parse_object
from htcjob.logs.redact import one_line
from htcjob.trouble import in_words, is_passing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from htcjob.logs.redact import Secret
    from htcjob.retry import RetryPolicy

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures accepted when a JWKS is configured; the platform uses RS256. `none` and the
symmetric ones are not among them: with a public key set they would prove nothing."""


def verify(
    secret: Secret, header: Mapping[str, object], jwks: str, *, retry: RetryPolicy | None = None
) -> None:
    """
    Return only if the token is signed by the key of the set that its header names.

    A set without that key is fetched anew, once: the platform may just have changed its keys.

    Args:
        secret: The token.
        header: Its header.
        jwks: File or URL of the set.
        retry: How a key server that is down for a moment is asked again.

    Raises:
        TokenError: it is not, or the set cannot be read.
        TransientError: the key server cannot be reached now.
        ConfigurationError: the URL is malformed.
    """
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenError(
            f"bearer token is signed with {str(algorithm)[:20]!r}; a key set is configured "
            "(HTCJOB_JWKS), so it must be signed by the platform"
        )
    for _ in range(2 if "://" in jwks else 1):
        if keys := _named(_keys(jwks, retry), header.get("kid")):
            break
    else:
        raise TokenError("bearer token names a key that HTCJOB_JWKS does not have")
    if not any(_is_signed(secret, algorithm, key) for key in keys):
        raise TokenError("bearer token is not signed by a key of HTCJOB_JWKS")


def _keys(jwks: str, retry: RetryPolicy | None) -> Sequence[object]:
    """Return the keys of the set, whatever they are."""
    try:
        get = _fetch if "://" in jwks else _read
        data = get(jwks) if retry is None else retry.call(lambda: get(jwks))
        keys = parse_object(data).get("keys")
        if not isinstance(keys, list) or not keys:
            raise ValueError("no keys in it")
        return keys
    except PermanentError as error:
        raise _unreadable(error.url, error.reason) from None
    except OSError as error:
        raise _unreadable(jwks, error.strerror or type(error).__name__) from None
    except ValueError as error:
        raise _unreadable(jwks, str(error)) from None


def _read(path: str) -> bytes:
    try:
        return read_whole(path, LARGEST_ANSWER_BYTES)
    except OSError as error:
        if is_passing(error):
            raise TransientError("read", f"key set {path} (HTCJOB_JWKS)", in_words(error)) from error
        raise


def _fetch(url: str) -> bytes:
    parts = split_url("HTCJOB_JWKS", url)
    if parts.username is not None:
        raise ConfigurationError("HTCJOB_JWKS: expected a URL without user")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    response = Host(parts, current_environ()).ask(target, {"Accept": "application/json"})
    if response.status == 200:
        return response.data
    shown = url.partition("?")[0]
    reason = f"HTTP {response.status}: {one_line(response.reason)}"
    if response.status >= 500 or response.status in (408, 425, 429):
        raise TransientError("GET", shown, f"{reason}; it is the key set of HTCJOB_JWKS")
    if 300 <= response.status < 400:
        reason += f"{where_it_leads(response)}; redirects are not followed"
    raise PermanentError("GET", shown, reason)


def _unreadable(where: str, why: str) -> TokenError:
    return TokenError(f"key set {where.partition('?')[0]} (HTCJOB_JWKS) cannot be read: {why}")


def _named(keys: Sequence[object], key_id: object) -> list[dict[str, object]]:
    """Return the keys of that name; without a name, the only one there is."""
    objects = [key for key in keys if isinstance(key, dict)]
    named = [key for key in objects if key.get("kid") == key_id]
    return objects if key_id is None and len(objects) == 1 else named


def _is_signed(secret: Secret, algorithm: str, key: Mapping[str, object]) -> bool:
    """Whether the token is signed by *key*, with the algorithm that its header names."""
    import jwt  # 80 ms with cryptography: only a job with a key set pays it
    from jwt.api_jws import PyJWS

    if key.get("alg", algorithm) != algorithm:
        return False
    try:
        # Only the signature: PyJWT has opinions on claims that are the platform's own.
        PyJWS().decode(secret.reveal(), jwt.PyJWK(dict(key), algorithm), algorithms=[algorithm])
    except Exception as error:  # whatever an odd key makes of the libraries below, it is not the one
        if is_passing(error):
            raise
        return False
    return True
