"""
The HTC REST API as a job needs it: GET with a token, JSON back, every failure one of ours.

No retries here: the caller's `RetryPolicy` owns them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from htcjob.environment.variables import current_environ
from htcjob.errors import (
    AbsentError,
    ConfigurationError,
    DeniedError,
    PermanentError,
    StorageError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.htc_api.renewal import SYSTEM_CLOCK
from htcjob.htc_api.web import TIMEOUT_S, Host, Response, split_url, where_it_leads
from htcjob.logs.json_object import parse_object
from htcjob.logs.redact import Secret, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from htcjob.htc_api.renewal import Clock


class ApiAnswer(NamedTuple):
    """An answer of the API."""

    body: dict[str, object]
    """The JSON object."""
    url: str
    """The URL asked."""
    clock_ahead_s: float
    """How far the API's clock is ahead of ours, to the second; 0 where it does not say."""


class HtcApi:
    """
    The API below one base URL; may be used from any thread.

    Args:
        base_url: `https://host/api/v1`; the API's other mount point will do as well.
        environ: Where HTTPS_PROXY, HTTP_PROXY and NO_PROXY are. Default: this process's environment.
        timeout_s: For the connection and each wait for bytes, in seconds.
        clock: For tests.

    Raises:
        ConfigurationError: the URL, or that of the proxy, is malformed.
    """

    def __init__(
        self,
        base_url: str,
        *,
        environ: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._base = split_url("HTCJOB_API_URL", base_url)
        if self._base.query or self._base.fragment or self._base.username is not None:
            raise ConfigurationError(
                "HTCJOB_API_URL: expected a URL without user, query (?) and fragment (#)"
            )
        self._host = Host(self._base, current_environ() if environ is None else environ, timeout_s=timeout_s)
        self._clock = clock

    def get(self, *route: str, scheme: str, secret: Secret) -> ApiAnswer:
        """
        Return the answer to `GET base/route`.

        Args:
            route: Segments of the path, not escaped.
            scheme: The first word of the Authorization header: `Bearer`, `Refresh` or `Token`.
            secret: The token that follows it.

        Raises:
            StorageError: 401 is unauthenticated, 403 denied, 404 absent; 429, 5xx, time-outs and a lost
                connection are transient; all else is permanent. So is an answer that is no JSON object: there
                is a web page behind a wrong URL, and asking for it for two minutes gains nothing. `operation`
                is the method, `url` has no query, and the reason has the API's words.
        """
        from urllib.parse import quote

        path = "/".join([self._base.path.rstrip("/"), *(quote(segment, safe="") for segment in route)])
        url = f"{self._base.scheme}://{self._base.netloc}{path}"
        headers = {"Authorization": f"{scheme} {secret.reveal()}", "Accept": "application/json"}
        response = self._host.ask(path, headers)
        if response.status != 200:
            raise _error_of(response, url, self._clock.time())
        try:
            body = parse_object(response.data)
        except ValueError as error:
            kind = one_line(response.headers.get_content_type())
            raise PermanentError(
                "GET", url, f"the answer is {error} but {kind}; is HTCJOB_API_URL right?"
            ) from None
        return ApiAnswer(body, url, _clock_ahead_s(response, self._clock.time()))


def token_in(answer: ApiAnswer) -> Secret | None:
    """Return the bearer token in the answer to `auth/token`; None: it has none that a header could hold."""
    text = answer.body.get("tokenValue")
    token = text.strip() if isinstance(text, str) else ""
    is_good = token and token.isascii() and token.isprintable() and " " not in token
    return Secret(token) if is_good else None


def _error_of(response: Response, url: str, now: float) -> StorageError:
    """Return what a status other than 200 means; *now* is in seconds since the epoch."""
    status = response.status
    reason = f"HTTP {status}"
    if said := _said(response.data) or one_line(response.reason):
        reason += f": {said}"
    if status == 401:
        return UnauthenticatedError("GET", url, reason)
    if status == 403:
        return DeniedError("GET", url, reason)
    if status == 404:
        return AbsentError("GET", url, reason)
    if status >= 500 or status in (408, 425, 429):
        wait_s = _retry_after_s(response, now)
        return TransientError("GET", url, reason, retry_after_s=wait_s, is_throttled=status == 429)
    if 300 <= status < 400:
        to = where_it_leads(response)
        reason += f"{to}; redirects are not followed, for the token would go along: is HTCJOB_API_URL right?"
    return PermanentError("GET", url, reason)


def _retry_after_s(response: Response, now: float) -> float | None:
    """Return what Retry-After asks for, in seconds from now; a date counts by the API's own clock."""
    text = (response.headers.get("Retry-After") or "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    until = _http_date(text)
    if until is None:
        return None
    return max(0.0, until - now - _clock_ahead_s(response, now))


def _clock_ahead_s(response: Response, now: float) -> float:
    theirs = _http_date(response.headers.get("Date") or "")
    return 0.0 if theirs is None else theirs - now


def _said(data: bytes) -> str:
    """Return the API's own words for an error; nothing where there is a web page."""
    try:
        body = parse_object(data)
    except ValueError:
        return ""
    for name in ("errorDescription", "message", "error"):
        if isinstance(words := body.get(name), str) and words.strip():
            return one_line(words)
    return ""


def _http_date(text: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
