"""Servers that keep an engine waiting though they are never silent."""

from __future__ import annotations

import socket
import threading
from weakref import WeakKeyDictionary

import pytest
import urllib3
from urllib3 import connectionpool

from htcjob.errors import StorageError, TransientError
from htcjob.storage import bounds, watch
from htcjob.storage.access import Access
from htcjob.storage.urls import open_store
from tests.support.servers.drip import dripping

ENVIRON = {
    "AWS_ACCESS_KEY_ID": "k",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_REGION": "us-east-1",
    "GOOGLE_SKIP_SIGNATURE": "true",
    "AZURE_STORAGE_ACCOUNT_KEY": "cGxhbnRlZA==",
}
URLS = ["s3://bucket", "gs://bucket", "az://account/container"]
ANSWERS = {
    "headers": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "no answer but promises": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "an error's body": (b"HTTP/1.1 503 Busy\r\nContent-Length: 100000\r\n\r\n<", b" "),
    "an error's chunks": (b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "content": (b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 2000000\r\n\r\n', b"x"),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(bounds, "STALLED_S", 0.3)
    monkeypatch.setattr(bounds, "LISTING_S", 0.6)
    monkeypatch.setattr(watch, "_thread", None)  # the one there is sleeps for a minute
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)


def sdk(url, endpoint):
    return open_store(url, Access(engine="sdk", endpoint=endpoint, environ=ENVIRON))


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr("htcjob.storage.fast.clients.longest_s", lambda _size_bytes: 0.5)
    return lambda endpoint: open_store(
        "s3://bucket", Access(engine="fast", endpoint=endpoint, environ=ENVIRON)
    )


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_dribbles_is_given_up_by_the_fast_lane(fast, answer):
    """The same with the fast lane, which bounds a request as a whole."""
    with dripping(*ANSWERS[answer]) as server:
        with pytest.raises(TransientError):
            fast(server.url).read_range("a", 0)
        assert server.asked


def test_a_body_that_nobody_reads_is_given_up_by_the_fast_lane(fast):
    """The same for a put."""
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TransientError):
        fast(f"http://127.0.0.1:{server.getsockname()[1]}").put_bytes(bytes(16 << 20), "a")


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("url", URLS)
def test_an_answer_that_dribbles_is_given_up(url, answer):
    """No byte that comes now and then holds a request: it ends, and may be tried again."""
    with dripping(*ANSWERS[answer]) as server:
        with pytest.raises(TransientError):
            sdk(url, server.url).read_range("a", 0)
        assert server.asked


@pytest.mark.parametrize("url", URLS)
def test_a_body_that_nobody_reads_is_given_up(url):
    """A server that takes a connection and no data does not hold a put."""
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TransientError):
        sdk(url, f"http://127.0.0.1:{server.getsockname()[1]}").put_bytes(bytes(16 << 20), "a")


@pytest.mark.parametrize("url", URLS)
def test_an_error_without_end_fills_no_memory(url, monkeypatch):
    """An answer that an SDK reads as a whole is cut off, however fast it comes."""
    monkeypatch.setattr(bounds, "LARGEST_ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(bounds, "STALLED_S", 60)
    with dripping(b"HTTP/1.1 503 Busy\r\n\r\n", bytes(1 << 18), pause_s=0.001) as server:
        with pytest.raises(TransientError):
            sdk(url, server.url).read_range("a", 0)
        assert server.asked


def test_a_listing_without_end_fills_no_memory(monkeypatch):
    """The same for a page of a listing with status 200."""
    monkeypatch.setattr(bounds, "LARGEST_ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(bounds, "STALLED_S", 60)
    with dripping(b"HTTP/1.1 200 OK\r\n\r\n", bytes(1 << 18), pause_s=0.001) as server:
        with pytest.raises(StorageError):
            list(sdk("s3://bucket", server.url).list())
        assert server.asked


def test_requests_of_the_user_are_left_alone():
    """A program that waits for rare events over urllib3 in the same process keeps its connection."""
    with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", b"x", pause_s=0.05) as slow:
        got = []

        def wait_for_events():
            got.append(urllib3.PoolManager().request("GET", slow.url, retries=False).data)

        user = threading.Thread(target=wait_for_events)
        user.start()
        with dripping(*ANSWERS["headers"]) as server, pytest.raises(TransientError):
            sdk("s3://bucket", server.url).read_range("a", 0)
        user.join()
    assert got == [b"x" * 50]


@pytest.fixture
def look(monkeypatch):
    """Looks at each connection twice, as the watch's thread does after a pause; the threads look at none."""
    look_at = watch._look_at
    monkeypatch.setattr(watch, "_look_at", lambda *_: None)

    def twice() -> list[bool]:
        for connection, request in [*watch._requests.items()] * 2:
            look_at(connection, request)
        return [request.is_ended for request in watch._requests.values()]

    return twice


@pytest.fixture
def store(rgw, monkeypatch):
    bucket = rgw.new_bucket()
    for name, value in rgw.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(watch, "_requests", WeakKeyDictionary())  # none of other tests
    return open_store(f"s3://{bucket}", Access(engine="sdk", endpoint=rgw.endpoint, environ=rgw.environ()))


def test_connections_are_used_again_and_renewed_after_idle_time(store, look):
    """What the watch ends while it is idle costs no request."""
    for number in range(4):
        store.put_bytes(b"data", f"{number}")
        assert look() == [True]
        assert store.read_range(f"{number}", 0) == b"data"


def test_a_connection_that_ends_just_before_its_next_request_costs_none(store, look, monkeypatch):
    """Even when it is ended after urllib3 has found it alive, and before the request begins."""
    ended = []
    is_dropped = connectionpool.is_connection_dropped

    def dropped(connection):
        answer = is_dropped(connection)
        if not ended:
            ended.extend(look())
        return answer

    store.put_bytes(b"data", "a")
    monkeypatch.setattr(connectionpool, "is_connection_dropped", dropped)
    assert store.read_range("a", 0) == b"data"
    assert ended == [True]


def test_a_request_that_begins_while_the_last_one_is_looked_at_goes_on(store, look, monkeypatch):
    """The watch looks once more before it ends a connection."""
    store.put_bytes(b"data", "a")
    moved_bytes, begun = watch._moved_bytes, [*watch._requests.values()]

    def next_one_begins(sock):
        moved = moved_bytes(sock)
        (connection,) = watch._requests
        begun.append(watch._begin(connection))
        return moved

    monkeypatch.setattr(watch, "_moved_bytes", next_one_begins)
    look()
    assert [request.is_ended for request in begun] == [False] * 3
    assert store.read_range("a", 0) == b"data"
