"""The fast lane's failures mean what the SDKs' do, and leave nothing behind."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from htcjob import errors
from htcjob.storage.access import Access
from htcjob.storage.fast import clients
from htcjob.storage.urls import open_store
from tests.storage.contract import files_below, keys_in
from tests.storage.fast.support import MB, proxy_before, store_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.servers.rgw import Rgw
    from tests.support.servers.tls import TlsFront


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "code", "error"),
        [
            (500, "InternalError", errors.TransientError),
            (503, "SlowDown", errors.TransientError),
            (503, "ServiceUnavailable", errors.TransientError),
            (429, "TooManyRequests", errors.TransientError),
            (408, "RequestTimeout", errors.TransientError),
            (400, "RequestTimeout", errors.TransientError),
            (409, "OperationAborted", errors.TransientError),
            (400, "ExpiredToken", errors.UnauthenticatedError),
            (401, "Unauthorized", errors.UnauthenticatedError),
            (403, "InvalidAccessKeyId", errors.UnauthenticatedError),
            (403, "AccessDenied", errors.DeniedError),
            (404, "NoSuchKey", errors.AbsentError),
            (404, "NoSuchBucket", errors.AbsentError),
            (400, "InvalidRequest", errors.PermanentError),
            (301, "PermanentRedirect", errors.PermanentError),
            (400, "AuthorizationHeaderMalformed", errors.PermanentError),
        ],
    )
    def test_answers(
        self, rgw: Rgw, environ, tmp_path: Path, status: int, code: str, error: type[errors.StorageError]
    ) -> None:
        """An answer means what it says, in every verb, after one request, whatever the object is called."""
        (tmp_path / "in").write_bytes(b"x")
        with proxy_before(rgw.endpoint) as proxy:
            store = store_behind(proxy, rgw, environ)
            proxy.faults.add("answer", status=status, code=code)
            for key in (
                "a",
                "404",
                "500 SlowDown",
                "            inner: Status {  status: 404,",
                "<Code>x</Code>",
            ):
                calls: dict[str, Callable[[], object]] = {
                    "get": lambda key=key: store.get(key, str(tmp_path / "out")),
                    "read_range": lambda key=key: store.read_range(key, 0, 1),
                    "put": lambda key=key: store.put(str(tmp_path / "in"), key),
                    "put_bytes": lambda key=key: store.put_bytes(b"", key, if_absent=True),
                    "list": lambda key=key: keys_in(store, key),
                    "head": lambda key=key: store.head(key),
                    "delete": lambda key=key: store.delete(key),
                }
                for verb, call in calls.items():
                    if verb == "delete" and error is errors.AbsentError:
                        continue
                    before = proxy.requests
                    with pytest.raises(error) as raised:
                        call()
                    is_mute = verb == "head" and 400 <= status < 500 and status not in (404, 408, 412, 429)
                    is_bare_redirect = status == 301  # of which obstore says nothing else
                    assert proxy.requests == before + 1 + (is_mute or is_bare_redirect), verb
                    assert raised.value.operation == verb
                    assert "\n" not in str(raised.value)
                    if isinstance(raised.value, errors.TransientError):
                        assert raised.value.is_throttled == (status in (429, 503))

    def test_denied_may_be_absent(self, rgw: Rgw, environ, tmp_path: Path) -> None:
        """S3 says denied for what is not there when the token may not list; the message says both."""
        with proxy_before(rgw.endpoint) as proxy:
            store = store_behind(proxy, rgw, environ)
            proxy.faults.add("answer", status=403, code="AccessDenied")
            for call in (lambda: store.get("a", str(tmp_path / "out")), lambda: store.head("a")):
                with pytest.raises(errors.DeniedError, match="denied, or absent and the token may not list"):
                    call()
            with pytest.raises(errors.DeniedError) as raised:
                store.put_bytes(b"", "a")
            assert "absent" not in str(raised.value)

    def test_conflict_is_no_answer(self, rgw: Rgw, environ) -> None:
        """Two conditional writers at once: the one that S3 tells to come again is not told that it lost."""
        with proxy_before(rgw.endpoint) as proxy:
            store = store_behind(proxy, rgw, environ)
            proxy.faults.add("answer", status=409, code="ConditionalRequestConflict", times=1)
            with pytest.raises(errors.TransientError):
                store.put_bytes(b"", "a", if_absent=True)
            assert store.put_bytes(b"", "a", if_absent=True) is True

    @pytest.mark.parametrize("kind", ["drop", "lose", "reset", "truncate", "stall"])
    def test_broken_connections(
        self, rgw: Rgw, environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        """A connection that breaks, or is silent, is a transient error after one request; nothing is left."""
        monkeypatch.setattr(clients, "READ_TIMEOUT", timedelta(seconds=0.3))
        with proxy_before(rgw.endpoint) as proxy:
            store = store_behind(proxy, rgw, environ)
            store.put_bytes(b"x" * 100_000, "a")
            before = proxy.requests
            proxy.faults.add(kind, at=50_000)
            with pytest.raises(errors.TransientError):
                store.get("a", str(tmp_path / "out" / "a"))
            with pytest.raises(errors.TransientError):
                store.read_range("a", 0)
            assert proxy.requests == before + 2
            assert files_below(tmp_path) in ({}, {"out": "drwxr-xr-x"})
            if kind in ("drop", "lose", "stall"):
                with pytest.raises(errors.TransientError):
                    store.put_bytes(b"", "b")
                with pytest.raises(errors.TransientError):
                    keys_in(store)

    def test_nobody_there(self, rgw: Rgw, environ) -> None:
        """A refused connection is a transient error that says so."""
        with proxy_before(rgw.endpoint) as proxy:
            store = store_behind(proxy, rgw, environ)
            with (
                proxy.refusing(),
                pytest.raises(
                    errors.TransientError,
                    match=r"cannot connect \(http://127.0.0.1:\d+\): Connection refused",
                ),
            ):
                store.head("a")

    def test_untrusted_certificate(self, rgw: Rgw, rgw_tls: TlsFront, environ) -> None:
        """A certificate of an unknown authority is a permanent error that says what to set, which helps."""
        access = Access(engine="fast", endpoint=rgw_tls.endpoint, environ=environ(rgw.environ()))
        with pytest.raises(errors.PermanentError, match=r"certificate is not trusted.*SSL_CERT_FILE"):
            open_store(f"s3://{rgw.new_bucket()}", access).head("a")
        environ({"SSL_CERT_FILE": rgw_tls.ca_file})
        access = Access(engine="fast", endpoint=rgw_tls.endpoint, environ=rgw.environ())
        with pytest.raises(errors.AbsentError):
            open_store(f"s3://{rgw.new_bucket()}", access).head("a")

    def test_long_body_outlives_the_read_timeout(
        self, rgw: Rgw, environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A body that takes longer than a connection may be silent is sent, and is received, whole."""
        monkeypatch.setattr(clients, "READ_TIMEOUT", timedelta(seconds=0.5))
        data = os.urandom(4 * MB)
        with _Slow(rgw.endpoint, seconds=2.0, n_bytes=len(data)) as url:
            access = Access(engine="fast", endpoint=url, environ=environ(rgw.environ()))
            store = open_store(f"s3://{rgw.new_bucket()}", access)
            began = time.monotonic()
            store.put_bytes(data, "a")
            store.get("a", str(tmp_path / "out"))
            assert time.monotonic() - began > 3
        assert (tmp_path / "out").read_bytes() == data

    def test_uploads_try_parts_again(self, rgw: Rgw, environ, tmp_path: Path) -> None:
        """A part that fails for a passing reason is sent again; the others are not."""
        (tmp_path / "in").write_bytes(os.urandom(20 * MB))
        with proxy_before(rgw.endpoint) as proxy:
            store = store_behind(proxy, rgw, environ)
            proxy.faults.add("answer", status=503, path="partNumber=2", times=2)
            proxy.faults.add("drop", path="partNumber=1&", times=1)
            store.put(str(tmp_path / "in"), "a")
            assert proxy.struck == {"answer": 2, "drop": 1}
            store.get("a", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()

    def test_failed_uploads_leave_nothing(self, rgw: Rgw, environ, tmp_path: Path) -> None:
        """After an upload that fails there are neither an object nor parts."""
        (tmp_path / "in").write_bytes(os.urandom(20 * MB))
        with proxy_before(rgw.endpoint) as proxy:
            store = store_behind(proxy, rgw, environ)
            for status, error in ((503, errors.TransientError), (403, errors.DeniedError)):
                proxy.faults.add("answer", status=status, code="AccessDenied", path="partNumber=2")
                with pytest.raises(error):
                    store.put(str(tmp_path / "in"), "a")
                proxy.faults.clear()
            assert keys_in(store) == []
            bucket = urlsplit(store.url).netloc
            assert "Uploads" not in rgw.client().list_multipart_uploads(Bucket=bucket)


@contextmanager
def _Slow(endpoint: str, *, seconds: float, n_bytes: int) -> Iterator[str]:  # noqa: N802
    """Forward connections so slowly that *n_bytes* take *seconds*, and give the URL."""
    import socket

    parts = urlsplit(endpoint)
    pause_s = seconds * 32_768 / n_bytes
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(32_768):
                target.sendall(data)
                if len(data) > 8_000:
                    time.sleep(pause_s * len(data) / 32_768)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            server = socket.create_connection((parts.hostname, parts.port))
            sockets.extend((client, server))
            for pair in ((client, server), (server, client)):
                threads.append(threading.Thread(target=pump, args=pair, daemon=True))
                threads[-1].start()

    sockets: list[socket.socket] = []
    threads = [threading.Thread(target=accept, daemon=True)]
    threads[0].start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for one in sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in threads:
            thread.join(10)
        for one in (listener, *sockets):
            one.close()
