"""
One request over HTTP, with bounds: for each wait, for the whole, for the size of the answer.

Redirects are not followed. This is for questions that a job asks once or twice; storage has its own clients.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from htcjob import __version__
from htcjob.errors import ConfigurationError, PermanentError, StorageError, TransientError
from htcjob.logs.redact import one_line
from htcjob.supervise.bounded_call import TooLongError, within
from htcjob.trouble import read_at_once

# http.client is imported with the first request. CPU of the import on top of bare Python, least of 15 on our
# machine: http.client 34 ms, urllib.request, which imports it, 41 ms, urllib3 81 ms.
if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Mapping
    from email.message import Message
    from http.client import HTTPConnection, HTTPResponse
    from urllib.parse import SplitResult

TIMEOUT_S = 20.0
"""For the connection, and for each wait for bytes."""
WHOLE_ANSWER_S = 60.0
"""From the name server to the last byte; an answer that trickles in for longer is given up."""
LARGEST_ANSWER_BYTES = 1 << 20
"""The largest we ask for, storage of all regions, has about 50 KiB."""


class Response(NamedTuple):
    """A server's answer, with any status."""

    status: int
    """The HTTP status, never one of 100 to 199."""
    reason: str
    """The words after it in the first line."""
    headers: Message
    """By name, in any case."""
    data: bytes
    """The body."""


class Host:
    """
    A web server and the way to it; may be used from any thread.

    Each request has a connection of its own: a job makes one or two at its start and one an hour later, when
    a connection kept for it would be gone.

    Args:
        base: Scheme, host and port.
        environ: Where HTTPS_PROXY, HTTP_PROXY and NO_PROXY are.
        timeout_s: For the connection and each wait for bytes, in seconds.
        whole_s: For all of a request, in seconds.

    Raises:
        ConfigurationError: the URL of the proxy is malformed.
    """

    def __init__(
        self,
        base: SplitResult,
        environ: Mapping[str, str],
        *,
        timeout_s: float = TIMEOUT_S,
        whole_s: float = WHOLE_ANSWER_S,
    ) -> None:
        self._base = base
        self._proxy = _proxy(base, environ)
        self._timeout_s = timeout_s
        self._whole_s = whole_s

    def ask(self, target: str, headers: Mapping[str, str], *, method: str = "GET") -> Response:
        """
        Return the answer to a request without a body.

        Args:
            target: Path, and query where there is one.
            headers: Those of this request, besides those that every request has.
            method: The HTTP method.

        Raises:
            TransientError: no answer, no whole one, or none in time.
            PermanentError: the server's certificate is not trusted, or the answer is too large.
        """
        from http.client import HTTPException

        whole = f"{self._base.scheme}://{self._base.netloc}{target}"
        url = whole.partition("?")[0]
        asked = whole if self._asks_proxy else target
        sockets: list[socket.socket] = []
        sent = {"User-Agent": f"htcjob/{__version__}", "Connection": "close", **headers}
        try:
            connection = self._connection(sent)
            return within(self._whole_s, lambda: _exchange(connection, sockets, method, asked, sent, url))
        except StorageError:
            raise
        except TooLongError:
            _shut_down(sockets)
            raise TransientError(method, url, f"no whole answer within {self._whole_s:g} s") from None
        except TimeoutError:
            raise TransientError(method, url, f"no answer within {self._timeout_s:g} s") from None
        except (OSError, HTTPException, ValueError) as error:
            # From None: the library's own error may quote what was sent.
            raise _lost(method, url, error) from None

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


def split_url(name: str, url: str, *, schemes: tuple[str, ...] = ("https", "http")) -> SplitResult:
    """
    Return the parts of a URL from outside.

    Args:
        name: What it is called, for the message.
        url: The URL; not repeated, for it may hold a password.
        schemes: Those it may have.

    Raises:
        ConfigurationError: it is malformed.
    """
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


def read_whole(path: str, largest_bytes: int) -> bytes:
    """
    Return the content of a file that takes the place of an answer; a named pipe's writer is not waited for.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no path, or larger.
    """
    data = read_at_once(path, largest_bytes + 1)
    if len(data) > largest_bytes:
        raise ValueError(f"it has more than {largest_bytes} bytes")
    return data


def where_it_leads(response: Response) -> str:
    """Return where a redirect leads, in words, without query and user; empty where it does not say."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(str(response.headers.get("Location", "")))
        return f" to {one_line(f'{parts.scheme}://{parts.hostname}{parts.path}')}" if parts.hostname else ""
    except ValueError:
        return ""


def _exchange(
    connection: HTTPConnection,
    sockets: list[socket.socket],
    method: str,
    target: str,
    headers: Mapping[str, str],
    url: str,
) -> Response:
    try:
        connection.connect()
        sockets.append(connection.sock)  # the library forgets it with the headers of the answer
        connection.request(method, target, headers=dict(headers))
        with connection.getresponse() as response:
            data = _read(response, method, url)
            return Response(response.status, response.reason, response.headers, data)
    finally:
        connection.close()


def _read(response: HTTPResponse, method: str, url: str) -> bytes:
    pieces, size_bytes = [], 0
    while piece := response.read1(64 * 1024):
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > LARGEST_ANSWER_BYTES:
            raise PermanentError(method, url, f"the answer has more than {LARGEST_ANSWER_BYTES} bytes")
    if response.length:  # still to come, says Content-Length
        raise TransientError(method, url, f"the answer ended after {size_bytes} bytes, before its end")
    return b"".join(pieces)


def _shut_down(sockets: list[socket.socket]) -> None:
    """End the wait of the other thread, if it has connected; it closes the sockets itself."""
    import socket
    from contextlib import suppress

    for connected in sockets:
        with suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)  # of TLS, only what is below it


def _proxy(base: SplitResult, environ: Mapping[str, str]) -> SplitResult | None:
    """Return the proxy for *base*; as with curl, lower-case names come first."""
    for name in (f"{base.scheme}_proxy", f"{base.scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
        if url := environ.get(name):
            import urllib.request

            exempt = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
            host = f"{base.hostname}:{base.port}" if base.port else base.hostname or ""
            if urllib.request.proxy_bypass_environment(host, {"no": exempt}):  # type: ignore[attr-defined]
                return None
            return split_url(name, url if "://" in url else f"http://{url}", schemes=("http",))
    return None


def _proxy_credentials(proxy: SplitResult | None) -> dict[str, str]:
    if proxy is None or proxy.username is None:
        return {}
    from base64 import b64encode
    from urllib.parse import unquote

    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _lost(method: str, url: str, error: Exception) -> StorageError:
    """Return what a failure below HTTP means."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return PermanentError(
            method,
            url,
            f"its certificate is not trusted: {one_line(error.verify_message)}; "
            "SSL_CERT_FILE can name the authorities of your site",
        )
    if isinstance(error, UnicodeError):  # of the host's name, whatever it was called with
        return PermanentError(method, url, "its host is no name that a name server could know")
    said = getattr(error, "strerror", None) or str(error)
    return TransientError(method, url, f"{type(error).__name__}: {one_line(str(said))}")
