"""
Ends requests of an SDK that hardly move: headers that dribble in, an upload that nobody reads.

All SDKs use urllib3, whose time-outs begin anew with every byte. One thread looks at the sockets of our
own requests, credentials' included, and shuts down those that move too little; for the SDK the connection is
lost. Requests that the user's code makes in this process are left alone.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from functools import wraps
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from urllib3.connection import HTTPConnection

from htcjob.storage import bounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3.response import HTTPResponse

_READS = frozenset({"get", "read_range"})
"""Operations whose answers have the content of an object, which `paced` bounds."""
_COUNTERS = struct.Struct("120xQQ")
"""tcpi_bytes_acked and tcpi_bytes_received of Linux's `struct tcp_info`, behind 120 other bytes."""


class _Request:
    """The last request of a connection."""

    __slots__ = ("is_ended", "moved", "patient_until", "sock", "waiting_since")

    def __init__(self, *, is_completion: bool) -> None:
        self.sock: ref[Any] | None = None
        """The socket; the connection forgets it where the answer ends it."""
        self.moved: int | None = None
        """Bytes in both directions when it was looked at last."""
        self.waiting_since: float | None = None
        """When all was sent; None: not yet, or the headers of the answer are there."""
        self.is_ended = False
        """Whether its socket was shut down."""
        self.patient_until = time.monotonic() + bounds.COMPLETION_S if is_completion else 0.0


_requests: WeakKeyDictionary[HTTPConnection, _Request] = WeakKeyDictionary()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def install() -> None:
    """Watch the requests that are made while `bounds.this_thread` has an operation, from now on."""
    with _lock:
        if hasattr(HTTPConnection.request, "is_watched_by_htcjob"):
            return
        request = _watched_request(HTTPConnection.request)
        request.is_watched_by_htcjob = True  # type: ignore[attr-defined]
        HTTPConnection.request = request  # type: ignore[method-assign]
        HTTPConnection._new_conn = _watched_new_conn(HTTPConnection._new_conn)  # type: ignore[method-assign] # noqa: SLF001
        HTTPConnection.getresponse = _watched_getresponse(HTTPConnection.getresponse)  # type: ignore[method-assign]


def _watched_new_conn(new_conn: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(new_conn)
    def watched(self: HTTPConnection) -> Any:
        if bounds.this_thread.operation:  # a proxy may dribble as well
            _begin(self)
        return new_conn(self)

    return watched


def _watched_request(request: Callable[..., None]) -> Callable[..., None]:
    @wraps(request)
    def watched(self: HTTPConnection, method: str, url: str, *rest: Any, **options: Any) -> None:
        if not bounds.this_thread.operation:
            with _lock:
                _requests.pop(self, None)
            return request(self, method, url, *rest, **options)
        last = _requests.get(self)
        # S3 sends white space while it puts a large object together.
        begun = _begin(self, is_completion=method == "POST" and "uploadId=" in url)
        if last is not None and last.is_ended and getattr(self, "_tunnel_host", None) is None:
            self.close()  # it was ended while idle, just after urllib3 took it for alive: it connects anew
        request(self, method, url, *rest, **options)
        if _requests.get(self) is not begun:  # it has connected first
            _remember(self, begun)
        with suppress(TypeError):  # no socket, or of a kind that cannot be referred to
            begun.sock = ref(self.sock)
        begun.waiting_since = time.monotonic()
        return None

    return watched


def _watched_getresponse(getresponse: Callable[..., HTTPResponse]) -> Callable[..., HTTPResponse]:
    @wraps(getresponse)
    def watched(self: HTTPConnection) -> HTTPResponse:
        response = getresponse(self)
        begun = _requests.get(self)
        if begun is not None:
            begun.waiting_since = None
            if begun.is_ended:  # headers that are cut short look whole to `http.client`
                response.close()
                raise ConnectionResetError("too slow")
            if response.status >= 300 or bounds.this_thread.operation not in _READS:
                _limit(response)
        return response

    return watched


def _begin(connection: HTTPConnection, *, is_completion: bool = False) -> _Request:
    begun = _Request(is_completion=is_completion)
    _remember(connection, begun)
    return begun


def _remember(connection: HTTPConnection, begun: _Request) -> None:
    global _thread
    with _lock:
        _requests[connection] = begun
        if _thread is None or not _thread.is_alive():  # nor is it in a child of `os.fork`
            _thread = threading.Thread(target=_watch, name="htcjob-watch", daemon=True)
            with suppress(RuntimeError):  # no thread to be had: with the next request, maybe
                _thread.start()


def _watch() -> None:
    while True:
        time.sleep(bounds.STALLED_S)
        if _thread is not threading.current_thread():
            return  # two that look one just after the other would find every request slow
        with _lock:
            requests = list(_requests.items())
        for connection, request in requests:
            _look_at(connection, request)
        del requests
        connection = request = None  # type: ignore[assignment] # keep none of them alive


def _look_at(connection: HTTPConnection, request: _Request) -> None:
    """
    End a request that has moved too little since the last look; the first one only counts.

    A connection that is kept open for the next request moves nothing either: it is ended too, and urllib3
    makes a new one.
    """
    sock = (request.sock() if request.sock else None) or connection.sock
    moved = _moved_bytes(sock)
    if moved is None:  # not connected yet, or over
        return
    now = time.monotonic()
    before, request.moved = request.moved, moved
    is_slow = before is not None and moved - before < bounds.STALLED_S * bounds.SLOWEST_BYTES_PER_S
    since = request.waiting_since
    has_no_head = since is not None and now - since > bounds.LISTING_S
    if (is_slow or has_no_head) and now > request.patient_until:
        with _lock, suppress(OSError):
            if _requests.get(connection) is request:  # no next one has begun meanwhile
                request.is_ended = True
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of TLS, what is below


def _moved_bytes(sock: Any) -> int | None:
    """Return what has gone and come over a socket; None where the kernel does not tell."""
    try:
        acked, received = _COUNTERS.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTERS.size)
        )
    except (OSError, AttributeError, struct.error):
        return None
    return (acked + received) or None


def _limit(response: HTTPResponse) -> None:
    """Let an answer that is read into memory as a whole be no larger than any that makes sense."""
    answer: Any = response._fp  # noqa: SLF001
    if getattr(answer, "fp", None) is not None:
        answer.fp = _Limited(answer.fp, bounds.LARGEST_ANSWER_BYTES)


class _Limited:
    """A file from which `http.client` reads an answer, up to a number of bytes."""

    def __init__(self, file: Any, most_bytes: int) -> None:
        self._file = file
        self._left = most_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int | None = -1) -> bytes:
        return self._counted(self._file.read(self._left + 1 if size is None or size < 0 else size))

    def read1(self, size: int = -1) -> bytes:
        return self._counted(self._file.read1(size))

    def readline(self, size: int = -1) -> bytes:
        return self._counted(self._file.readline(size))

    def readinto(self, buffer: Any) -> int:
        size: int = self._file.readinto(buffer)
        self._count(size)
        return size

    def _counted(self, data: bytes) -> bytes:
        self._count(len(data))
        return data

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise HTTPException("the answer has no end")
