"""
The HTC REST API as a job needs it: GET with a token, JSON back, every failure one of ours.

No retries here: the caller's `RetryPolicy` owns them.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from htcjob import __version__, env
from htcjob.errors import (
    AbsentError,
    ConfigurationError,
    DeniedError,
    PermanentError,
    StorageError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.redact import redact
from htcjob.renewal import SYSTEM_CLOCK

# http.client is imported with the first request. CPU of the import on top of bare Python, least of 15 on our
# machine: http.client 34 ms, urllib.request, which imports it, 41 ms, urllib3 81 ms.
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from http.client import HTTPConnection, HTTPResponse
    from urllib.parse import SplitResult

    from htcjob.redact import Secret
    from htcjob.renewal import Clock

TIMEOUT_S = 20.0
"""For the connection, and for each wait for bytes."""
WHOLE_ANSWER_S = 60.0
"""An answer that trickles in for longer is given up."""
LARGEST_ANSWER_BYTES = 1 << 20
"""The largest we ask for, storage of all regions, has about 50 KiB."""
_LONGEST_SAID = 200
"""Characters of the API's own words in a message."""


class Answer(NamedTuple):
    """What the API said."""

    body: dict[str, object]
    """The JSON object."""
    url: str
    """The URL asked."""
    clock_ahead_s: float
    """How far the API's clock is ahead of ours, to the second; 0 where it does not say."""


class HtcApi:
    """
    The API below one base URL; may be used from any thread.

    Each request has a connection of its own: a job makes one or two at its start and one an hour later, when
    a connection kept for it would be gone.

    Args:
        base_url: `https://host/api/v1`; both mount points of the API will do.
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
        self._base = _split("HTCJOB_API_URL", base_url, schemes=("https", "http"))
        if self._base.query or self._base.fragment or self._base.username is not None:
            raise ConfigurationError(
                "HTCJOB_API_URL: expected a URL without user, query (?) and fragment (#)"
            )
        self._proxy = _proxy(self._base, env.current() if environ is None else environ)
        self._timeout_s = timeout_s
        self._clock = clock

    def get(self, *route: str, scheme: str, secret: Secret) -> Answer:
        """
        Give the answer to `GET base/route`.

        Args:
            route: Segments of the path, not escaped.
            scheme: Of the Authorization header: `Bearer`, `Refresh` or `Token`.
            secret: What follows it.

        Raises:
            StorageError: 401 is unauthenticated, 403 denied, 404 absent; 429, 5xx, time-outs and a lost
                connection are transient; all else is permanent. An answer that is no JSON object is permanent
                too: behind a wrong URL there is a web page, and nothing is gained by asking for it for two
                minutes. `operation` is the method, `url` has no query, and the reason has the API's words.
        """
        from http.client import HTTPException
        from urllib.parse import quote

        path = "/".join([self._base.path.rstrip("/"), *(quote(segment, safe="") for segment in route)])
        url = f"{self._base.scheme}://{self._base.netloc}{path}"
        headers = {
            "Authorization": f"{scheme} {secret.reveal()}",
            "Accept": "application/json",
            "User-Agent": f"htcjob/{__version__}",
            "Connection": "close",
        }
        try:
            connection = self._connection(headers)
            try:
                connection.request("GET", url if self._asks_proxy else path, headers=headers)
                with connection.getresponse() as response:
                    data = self._read(response, url)
            finally:
                connection.close()
        except StorageError:
            raise
        except TimeoutError:
            raise TransientError("GET", url, f"no answer within {self._timeout_s:g} s") from None
        except (OSError, HTTPException) as error:
            raise _lost(url, error) from None  # the library's own error may quote what was sent
        if response.status != 200:
            raise self._error(response, data, url)
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            kind = _folded(response.headers.get_content_type())
            raise PermanentError(
                "GET", url, f"the answer is no JSON object but {kind}; is HTCJOB_API_URL right?"
            )
        return Answer(body, url, self._clock_ahead_s(response))

    # The connection

    @property
    def _asks_proxy(self) -> bool:
        """A proxy gets the whole URL; through one to https there is a tunnel."""
        return self._proxy is not None and self._base.scheme == "http"

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # With the system's authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR. 17 ms of CPU, once.
        import ssl

        return ssl.create_default_context()

    def _connection(self, headers: dict[str, str]) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        peer = self._proxy or self._base
        host, port = peer.hostname or "", peer.port
        credentials = _proxy_credentials(self._proxy)
        if self._base.scheme == "http":
            headers.update(credentials)
            return HTTPConnection(host, port or 80, timeout=self._timeout_s)
        if self._proxy is None:
            return HTTPSConnection(host, port or 443, timeout=self._timeout_s, context=self._tls)
        connection = HTTPSConnection(host, port or 80, timeout=self._timeout_s, context=self._tls)
        connection.set_tunnel(self._base.hostname or "", self._base.port or 443, headers=credentials)
        return connection

    def _read(self, response: HTTPResponse, url: str) -> bytes:
        until = self._clock.monotonic() + WHOLE_ANSWER_S
        pieces, size_bytes = [], 0
        while piece := response.read1(64 * 1024):
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes > LARGEST_ANSWER_BYTES:
                raise PermanentError("GET", url, f"the answer has more than {LARGEST_ANSWER_BYTES} bytes")
            if self._clock.monotonic() > until:
                raise TransientError("GET", url, f"no whole answer within {WHOLE_ANSWER_S:g} s")
        if response.length:  # still to come, says Content-Length
            raise TransientError("GET", url, f"the answer ended after {size_bytes} bytes, before its end")
        return b"".join(pieces)

    # What an answer means

    def _error(self, response: HTTPResponse, data: bytes, url: str) -> StorageError:
        """Give what a status other than 200 means (`htc-api.md` §3)."""
        status = response.status
        reason = f"HTTP {status}"
        if said := _said(data) or _folded(response.reason):
            reason += f": {said}"
        if status == 401:
            return UnauthenticatedError("GET", url, reason)
        if status == 403:
            return DeniedError("GET", url, reason)
        if status == 404:
            return AbsentError("GET", url, reason)
        if status >= 500 or status in (408, 425, 429):
            wait_s = self._retry_after_s(response)
            return TransientError("GET", url, reason, retry_after_s=wait_s, is_throttled=status == 429)
        if 300 <= status < 400:
            to = _place(response.headers.get("Location", ""))
            reason += (
                f"{to}; redirects are not followed, for the token would go along: is HTCJOB_API_URL right?"
            )
        return PermanentError("GET", url, reason)

    def _retry_after_s(self, response: HTTPResponse) -> float | None:
        """Give what Retry-After says, in seconds from now; a date counts by the API's own clock."""
        text = (response.headers.get("Retry-After") or "").strip()
        if text.isascii() and text.isdigit() and len(text) < 10:
            return float(text)
        until = _http_date(text)
        if until is None:
            return None
        return max(0.0, until - self._clock.time() - self._clock_ahead_s(response))

    def _clock_ahead_s(self, response: HTTPResponse) -> float:
        theirs = _http_date(response.headers.get("Date") or "")
        return 0.0 if theirs is None else theirs - self._clock.time()


def _split(name: str, url: str, *, schemes: tuple[str, ...]) -> SplitResult:
    """Divide the URL that the variable *name* holds; the message does not show it: it may have a password."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        is_good = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        is_good = is_good and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        is_good = False
    if not is_good:
        expected = " or ".join(f"{scheme}://host" for scheme in schemes)
        raise ConfigurationError(f"{name} is malformed: expected {expected}, and a port where there is one")
    return parts


def _proxy(base: SplitResult, environ: Mapping[str, str]) -> SplitResult | None:
    """Give the proxy for *base*; as with curl, the names in small letters come first."""
    for name in (f"{base.scheme}_proxy", f"{base.scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
        if url := environ.get(name):
            import urllib.request

            exempt = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
            host = f"{base.hostname}:{base.port}" if base.port else base.hostname or ""
            if urllib.request.proxy_bypass_environment(host, {"no": exempt}):  # type: ignore[attr-defined]
                return None
            return _split(name, url if "://" in url else f"http://{url}", schemes=("http",))
    return None


def _proxy_credentials(proxy: SplitResult | None) -> dict[str, str]:
    if proxy is None or proxy.username is None:
        return {}
    from base64 import b64encode
    from urllib.parse import unquote

    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _lost(url: str, error: Exception) -> StorageError:
    """Give what a failure below HTTP means."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return PermanentError(
            "GET",
            url,
            f"its certificate is not trusted: {_folded(error.verify_message)}; "
            "SSL_CERT_FILE can name the authorities of your site",
        )
    said = getattr(error, "strerror", None) or str(error)
    return TransientError("GET", url, f"{type(error).__name__}: {_folded(str(said))}")


def _said(data: bytes) -> str:
    """Give the API's own words for an error; nothing where there is a web page."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(body, dict):
        return ""
    for name in ("errorDescription", "message", "error"):
        if isinstance(words := body.get(name), str) and words.strip():
            return _folded(words)
    return ""


def _folded(words: str) -> str:
    """Give *words* on one line, without secrets, and cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in redact(words)).split())
    return line if len(line) <= _LONGEST_SAID else line[: _LONGEST_SAID - 1] + "…"


def _place(url: str) -> str:
    """Give where a redirect leads, without query and user."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        return f" to {_folded(f'{parts.scheme}://{parts.hostname}{parts.path}')}" if parts.hostname else ""
    except ValueError:
        return ""


def _http_date(text: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
