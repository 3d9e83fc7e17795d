"""What bites users of the clouds' SDKs, where no other test is about it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from htcjob.storage.access import Access
from htcjob.storage.urls import open_store
from tests.support.servers.loopback import QuietHandler, served

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "planted", "AWS_REGION": "us-east-1"}


@contextmanager
def recording_server(requests: list[tuple[str, dict[str, str]]], all_here: threading.Barrier | None = None):
    """A server that takes everything, and keeps method and headers; with *all_here*, only all at once."""

    class Handler(QuietHandler):
        def do_PUT(self) -> None:
            requests.append((self.command, {name.lower(): value for name, value in self.headers.items()}))
            self.body()
            if all_here is not None:
                all_here.wait(timeout=30)
            self.send(200, b"", {"ETag": '"0"'})

    with served(Handler) as url:
        yield url


@pytest.fixture(params=["fast", "sdk"])
def engine(request, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return request.param


def test_a_put_does_not_wait_for_100_continue(engine, tmp_path):
    """botocore adds `Expect: 100-continue` to every put: a round trip that buys nothing."""
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    requests: list[tuple[str, dict[str, str]]] = []
    with recording_server(requests) as url:
        store = open_store("s3://bucket", Access(engine=engine, endpoint=url, environ=KEYS))
        store.put_bytes(b"x", "a")
        store.put(str(tmp_path / "file"), "b")
    assert len(requests) == 2
    for _, headers in requests:
        assert "expect" not in headers
        assert "aws-chunked" not in headers.get("content-encoding", "")


def test_many_threads_have_a_connection_each(engine, caplog):
    """A pool of 10 connections, the SDKs' default, throws the others away with a warning each."""
    threads = 40
    requests: list[tuple[str, dict[str, str]]] = []
    with recording_server(requests, threading.Barrier(threads)) as url:
        store = open_store("s3://bucket", Access(engine=engine, endpoint=url, environ=KEYS))
        with ThreadPoolExecutor(threads) as pool:
            written = list(pool.map(lambda n: store.put_bytes(b"x", f"{n}"), range(2 * threads)))
    assert written == [True] * (2 * threads)
    assert [record.message for record in caplog.records if "pool" in record.message.lower()] == []
