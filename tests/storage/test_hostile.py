"""Servers that lie, answer nonsense or say nothing, and environments that would mislead an SDK."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from itertools import repeat

import pytest

from htcjob.errors import ConfigurationError, PermanentError, TransientError
from htcjob.storage.access import Access
from htcjob.storage.bucket import Body, Bucket
from htcjob.storage.cloud import CloudStore
from htcjob.storage.contract import ObjectInfo
from htcjob.storage.urls import open_store
from tests.support.servers.loopback import served
from tests.support.wire.wire import FaultProxy

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "planted-secret", "AWS_REGION": "us-east-1"}
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Lying(Bucket):
    """Answers as it is told."""

    def __init__(self, *infos: ObjectInfo, data: bytes = b"data") -> None:
        self.infos = infos
        self.data = data

    def get(self, name, *, start=0, stop=None, etag=None):
        return Body(self.infos[0], start, start + len(self.data), iter([self.data]), lambda: None)

    def put(self, name, data, *, if_absent, metadata):
        return "etag"

    def upload(self, name, path, size_bytes, *, metadata):
        with open(path, "ab") as file:
            file.write(b"more")
        return "etag"

    def list(self, prefix, start_after):
        yield from self.infos

    def head(self, name):
        return self.infos[0]

    def delete(self, name):
        self.infos = ()

    def error(self, operation, url, error):
        return None


def info(key: str, size_bytes: int = 4, etag: str = "e", checksum: str | None = None) -> ObjectInfo:
    return ObjectInfo(key, size_bytes, etag, NOW, checksum)


def store_on(bucket: Bucket, prefix: str = "") -> CloudStore:
    return CloudStore("s3://bucket", bucket, prefix, Access(environ={}))


def test_an_answer_without_etag_is_no_object(tmp_path):
    """The login page of a proxy, with status 200, is never taken for the object."""
    store = store_on(Lying(info("a", etag="")))
    for read in (
        lambda: store.get("a", str(tmp_path / "out")),
        lambda: store.read_range("a", 0),
        lambda: store.head("a"),
    ):
        with pytest.raises(TransientError, match="is this object storage"):
            read()
    assert not (tmp_path / "out").exists()


def test_a_whole_object_read_as_a_range_is_compared_too():
    """A flipped byte in a manifest or a ledger is seen, where storage tells a checksum."""
    good = "md5:8d777f385d3dfec8815d20f7496026dc"
    assert store_on(Lying(info("a", checksum=good))).read_range("a", 0) == b"data"
    with pytest.raises(TransientError, match="checksum"):
        store_on(Lying(info("a", checksum=good), data=b"dat4")).read_range("a", 0, 4)


def test_a_listing_of_other_names_is_refused():
    """Nothing outside the prefix is ever copied or removed because a server lists it."""
    store = store_on(Lying(info("p/a"), info("q/outside")), "p/")
    listing = store.list()
    assert next(listing).key == "a"
    with pytest.raises(PermanentError, match="other names"):
        next(listing)


def test_a_listing_that_goes_in_circles_ends():
    """The same page again and again is an error, not an endless listing."""
    store = store_on(Lying(*[info("a"), info("b")] * 100))
    with pytest.raises(TransientError, match="again and again"):
        list(store.list())


def test_an_absurd_size_is_refused(tmp_path):
    """A length that no storage has does not start a million requests."""
    with pytest.raises(PermanentError, match="no storage has such objects"):
        store_on(Lying(info("a", size_bytes=10**20))).get("a", str(tmp_path / "out"))


def test_a_large_file_that_changed_meanwhile_leaves_no_mixture(tmp_path):
    """What was put is neither the old content nor the new one: it goes, and the put is tried again."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * (9 << 20))
    bucket = Lying(info("a"))
    with pytest.raises(TransientError, match="changed"):
        store_on(bucket).put(str(path), "a")
    assert bucket.infos == ()


def test_an_sdk_that_stumbles_over_an_answer_is_no_bug_of_ours():
    """A field that is missing in an answer is a transient error."""

    class Stumbling(Lying):
        def head(self, name):
            return {}["LastModified"]

    with pytest.raises(TransientError, match="makes no sense"):
        store_on(Stumbling()).head("a")


def test_a_panic_in_the_library_is_an_error():
    """A fault in Rust comes as a BaseException, which nothing else would catch."""

    class PanicException(BaseException):
        pass

    class Panicking(Lying):
        def head(self, name):
            raise PanicException("called `Option::unwrap()`\non a `None` value")

    with pytest.raises(PermanentError, match=r"obstore failed: called `Option::unwrap\(\)` on a"):
        store_on(Panicking()).head("a")


@pytest.mark.parametrize(
    "value",
    ["", "localhost", "127.0.0.1:80", "http//h", "http://[::1", "http://h:99999", "ftp://h", "http://h h"],
)
def test_an_endpoint_that_is_none(value):
    """A slip in the endpoint is named before any request, and does not reach the library."""
    for name, url in (("AWS_ENDPOINT_URL_S3", "s3://b"), ("AZURE_STORAGE_ENDPOINT", "az://a/c")):
        with pytest.raises(ConfigurationError, match=f"{name} holds"):
            open_store(url, Access(engine="fast", environ={**KEYS, name: value}))


def test_half_of_the_keys():
    """One of two variables is a slip, not a reason to try for minutes."""
    with pytest.raises(ConfigurationError, match="AWS_ACCESS_KEY_ID is set without its other half"):
        open_store("s3://b", Access(engine="fast", environ={"AWS_ACCESS_KEY_ID": "k"}))


@contextmanager
def html_server(*, says_length: bool = True):
    page = b"<html>please log in</html>"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            if says_length:
                self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        do_HEAD = do_GET

        def log_message(self, *_arguments: object) -> None:
            pass

    with served(Handler) as url:
        yield url


@pytest.mark.parametrize("engine", ["fast", "sdk"])
def test_a_web_server_is_no_object_storage(engine, monkeypatch, tmp_path):
    """A page with status 200 is never an object, with either engine."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with html_server() as url:
        store = open_store("s3://b/p", Access(engine=engine, endpoint=url, environ=KEYS))
        for read in (lambda: store.get("a", str(tmp_path / "out")), lambda: store.read_range("a", 0)):
            with pytest.raises(TransientError):
                read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["fast", "sdk"])
def test_an_answer_without_length(engine, monkeypatch, tmp_path):
    """An answer that does not say how long it is, so that one cut short would look whole, is never believed."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with html_server(says_length=False) as url:
        store = open_store("s3://b/p", Access(engine=engine, endpoint=url, environ=KEYS))
        for read in (
            lambda: store.get("a", str(tmp_path / "out")),
            lambda: store.read_range("a", 0),
            lambda: store.head("a"),
        ):
            with pytest.raises(PermanentError, match="an answer without Content-Length"):
                read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["fast", "sdk"])
def test_a_stop_signal_ends_an_attempt_that_hangs_in_storage(htcjob, rgw, engine, wait_until):
    """A server that accepts and says nothing does not hold an attempt longer than its grace period."""
    bucket = rgw.new_bucket()
    rgw.client().put_object(Bucket=bucket, Key="project/list.txt", Body=b"a\n")
    with FaultProxy("127.0.0.1", int(rgw.endpoint.rpartition(":")[2])) as proxy:
        proxy.faults.add("stall")
        htcjob.variables.update(
            rgw.environ(),
            AWS_ENDPOINT_URL_S3=proxy.url,
            HTCJOB_STORAGE_ENGINE=engine,
            HTCJOB_PROJECT_STORE=f"s3://{bucket}/project",
            HTCJOB_TASK_STORE=f"s3://{bucket}/task",
            HTCJOB_MANIFEST="list.txt",
        )
        with htcjob.start("run", "--grace", "1s", "--each", "--", "true") as process:
            wait_until(lambda: proxy.struck["stall"] > 0)
            os.kill(process.pid, signal.SIGTERM)
            _, err = process.communicate(timeout=30)  # the library would wait for a minute, twice
    assert process.returncode == 143, err
    record = htcjob.exit_record()
    assert (record["termination_reason"], record["exit_status"]) == ("preempted", 143)
    assert "given_up" in err


class Endless(Lying):
    """Sends more and more."""

    def get(self, name, *, start=0, stop=None, etag=None):
        return Body(self.infos[0], start, start + 4, repeat(b"x"), lambda: None)


def test_an_answer_without_end(tmp_path):
    """Bytes that nobody asked for fill neither memory nor disk."""
    store = store_on(Endless(info("a")))
    for read in (lambda: store.read_range("a", 0, 4), lambda: store.get("a", str(tmp_path / "out"))):
        with pytest.raises(TransientError, match="5 of 4"):
            read()


def test_an_answer_that_comes_too_slowly(monkeypatch):
    """Bytes that dribble in do not hold a request, though it is never silent."""
    monkeypatch.setattr("htcjob.storage.bounds.STALLED_S", -1)
    with pytest.raises(TransientError, match="only 4 bytes came"):
        store_on(Lying(info("a"))).read_range("a", 0, 4)
