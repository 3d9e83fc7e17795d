"""The fast lane (obstore) keeps the contract on all three clouds, and its own promises."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest

from htcjob.errors import (
    AbsentError,
    DeniedError,
    PermanentError,
    StorageError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.logs.redact import Secret
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access, CloudCredentials
from htcjob.storage.fast import bucket as fast
from htcjob.storage.fast.clients import AskingProvider
from htcjob.storage.urls import open_store
from tests.conftest import REPOSITORY
from tests.support.wire.wire import FaultProxy

from .contract import KEYS, REFUSED_KEYS, StoreContract, files_below, keys_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from htcjob.storage.contract import Store
    from tests.support.servers.azurite import Azurite
    from tests.support.servers.fake_gcs import FakeGcs
    from tests.support.servers.rgw import Rgw
    from tests.support.servers.tls import TlsFront

MB = 1_000_000
QUICK = RetryPolicy(retries=4, total_s=20, first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], Mapping[str, str]]:
    """Give a function that sets variables, which the SDKs read themselves, and gives them back."""

    def set_all(variables: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return variables

    return set_all


class TestS3(StoreContract):
    @pytest.fixture
    def new_store(self, rgw: Rgw, environ) -> Callable[[], Store]:
        access = Access(engine="fast", environ=environ(rgw.environ()))
        return lambda: open_store(f"s3://{rgw.new_bucket()}", access)


class TestS3Tls(StoreContract):
    keys = KEYS[:-1]  # which is 1,024 bytes long without a prefix
    many = 1_001

    @pytest.fixture
    def new_store(self, rgw: Rgw, rgw_tls: TlsFront, environ) -> Callable[[], Store]:
        variables = environ({**rgw.environ(), "AWS_CA_BUNDLE": rgw_tls.ca_file})
        access = Access(engine="fast", endpoint=rgw_tls.endpoint, environ=variables)
        return lambda: open_store(f"s3://{rgw.new_bucket()}/some/prefix", access)


class TestAzure(StoreContract):
    # Azure would store them under the names of others: see azure_names.py.
    keys = tuple(key for key in KEYS if key not in ("a\\b", "d/..e/..."))
    refused_keys = (*REFUSED_KEYS, "a\\b", "d/..e/...", "a.", "a./b", "a/.", "a/./b")
    folder_like_keys = ("a//b", "a/", "a/b")

    @pytest.fixture
    def new_store(self, azurite: Azurite, environ) -> Callable[[], Store]:
        access = Access(engine="fast", environ=environ(azurite.environ()))
        return lambda: open_store(f"az://{azurite.account}/{azurite.new_container()}", access)


class TestGcs(StoreContract):
    @pytest.fixture
    def new_store(self, fake_gcs: FakeGcs, environ) -> Callable[[], Store]:
        access = Access(engine="fast", environ=environ({"STORAGE_EMULATOR_HOST": fake_gcs.endpoint}))
        return lambda: open_store(f"gs://{fake_gcs.new_bucket()}", access)


# One store on each cloud, for what is the same for all of them


@pytest.fixture(params=["s3", "az", "gs"])
def cloud_store(request: pytest.FixtureRequest, environ) -> Store:
    if request.param == "s3":
        rgw = request.getfixturevalue("rgw")
        access = Access(engine="fast", environ=environ(rgw.environ()), retry=QUICK)
        return open_store(f"s3://{rgw.new_bucket()}", access)
    if request.param == "az":
        azurite = request.getfixturevalue("azurite")
        access = Access(engine="fast", environ=environ(azurite.environ()), retry=QUICK)
        return open_store(f"az://{azurite.account}/{azurite.new_container()}", access)
    fake_gcs = request.getfixturevalue("fake_gcs")
    variables = environ({"STORAGE_EMULATOR_HOST": fake_gcs.endpoint})
    return open_store(f"gs://{fake_gcs.new_bucket()}", Access(engine="fast", environ=variables, retry=QUICK))


@pytest.fixture(params=["s3", "az", "gs"])
def both_engines(request: pytest.FixtureRequest, environ) -> tuple[Store, Store]:
    """Give one place as a store of the fast lane, and as one of the cloud's SDK."""
    if request.param == "s3":
        server = request.getfixturevalue("rgw")
        url, variables = f"s3://{server.new_bucket()}", environ(server.environ())
    elif request.param == "az":
        server = request.getfixturevalue("azurite")
        url, variables = f"az://{server.account}/{server.new_container()}", environ(server.environ())
    else:
        server = request.getfixturevalue("fake_gcs")
        url, variables = f"gs://{server.new_bucket()}", environ({"STORAGE_EMULATOR_HOST": server.endpoint})
    fast_store, sdk_store = (
        open_store(url, Access(engine=name, environ=variables, retry=QUICK)) for name in ("fast", "sdk")
    )
    return fast_store, sdk_store


def test_a_version_has_the_same_tag_with_both_engines(both_engines: tuple[Store, Store]) -> None:
    """What one engine has written of a manifest into its index, the other one must recognize."""
    for writer in both_engines:
        writer.put_bytes(os.urandom(100), "a")
        tags = {reader.head("a").tag for reader in both_engines}
        tags |= {reader.read_part("a", 10, 2000)[1].tag for reader in both_engines}
        assert len(tags) == 1


class TestContent:
    def test_large_objects_and_their_digest(self, cloud_store: Store, tmp_path: Path) -> None:
        """An object in parts arrives as it was, with the digest that was given when it was put."""
        data = os.urandom(30 * MB)
        digest = sha256(data).hexdigest()
        (tmp_path / "in").write_bytes(data)
        put = cloud_store.put(str(tmp_path / "in"), "d/large", sha256=digest)
        got = cloud_store.get("d/large", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == data
        assert put.checksum == got.checksum == cloud_store.head("d/large").checksum == f"sha256:{digest}"
        assert put.etag == got.etag
        assert put.etag
        assert cloud_store.read_range("d/large", 20 * MB, 20 * MB + 10) == data[20 * MB : 20 * MB + 10]

    def test_wrong_digest(self, cloud_store: Store, tmp_path: Path) -> None:
        """What does not have the digest it was put with never gets its name."""
        for size_bytes in (10, 9 << 20):
            (tmp_path / "in").write_bytes(os.urandom(size_bytes))
            cloud_store.put(str(tmp_path / "in"), "a", sha256="0" * 64)
            with pytest.raises(TransientError, match="checksum"):
                cloud_store.get("a", str(tmp_path / "out" / "a"))
            assert files_below(tmp_path / "out") == {}

    def test_memory(self, rgw: Rgw, tmp_path: Path) -> None:
        """Large files take no more memory than their parts in flight, in both directions."""
        size_bytes = 300 << 20
        with (tmp_path / "in").open("wb") as file:
            file.truncate(size_bytes)
        program = f"""
import sys
from htcjob.storage.access import Access
from htcjob.storage.urls import open_store
store = open_store("s3://{rgw.new_bucket()}", Access(engine="fast"))
store.put("{tmp_path}/in", "a") if sys.argv[1] == "put" else None
store.get("a", "{tmp_path}/out") if sys.argv[1] == "get" else None
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
        for verb in ("put", "get"):
            command = [sys.executable, "-c", program, verb]
            variables = {**os.environ, **rgw.environ()}
            peak = subprocess.run(
                command, env=variables, cwd=REPOSITORY, capture_output=True, text=True, check=True
            )
            assert int(peak.stdout) << 10 < 150 << 20, verb
        assert (tmp_path / "out").stat().st_size == size_bytes

    def test_md5_of_s3_without_tls(self, rgw: Rgw, environ, tmp_path: Path) -> None:
        """Without TLS and without our digest an object of S3 is compared with its MD5, also in parts."""
        bucket = rgw.new_bucket()
        rgw.client().put_object(Bucket=bucket, Key="small", Body=b"x" * 100_000)
        rgw.client().put_object(Bucket=bucket, Key="large", Body=b"x" * (20 << 20))
        with _proxy_before(rgw.endpoint) as proxy:
            access = Access(engine="fast", endpoint=proxy.url, environ=environ(rgw.environ()))
            store = open_store(f"s3://{bucket}", access)
            for key in ("small", "large"):
                store.get(key, str(tmp_path / key))
                proxy.faults.add("corrupt", at=5_000, method="GET", times=1)
                with pytest.raises(TransientError, match="checksum md5:"):
                    store.get(key, str(tmp_path / "out" / key))
                assert proxy.struck.pop("corrupt") == 1
                assert files_below(tmp_path / "out") == {}

    def test_put_that_is_corrupted(self, rgw: Rgw, environ, tmp_path: Path) -> None:
        """A byte that changes on its way up is refused by S3, as a transient error; nothing is stored."""
        (tmp_path / "in").write_bytes(b"x" * 20_000)
        with _proxy_before(rgw.endpoint) as proxy:
            store = _on(proxy, rgw, environ)
            proxy.faults.add("corrupt_request", at=5_000, method="PUT")
            with pytest.raises(TransientError):
                store.put_bytes(b"x" * 20_000, "a")
            with pytest.raises(TransientError):
                store.put(str(tmp_path / "in"), "a")
            assert proxy.struck["corrupt_request"] == 2
            assert keys_in(store) == []

    def test_compressed_object_of_gcs(self, fake_gcs: FakeGcs, environ, tmp_path: Path) -> None:
        """What is stored compressed arrives as it is stored."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client

        variables = environ({"STORAGE_EMULATOR_HOST": fake_gcs.endpoint})
        bucket, data = fake_gcs.new_bucket(), gzip.compress(b"hello" * 1000)
        blob = Client(project="p", credentials=AnonymousCredentials()).bucket(bucket).blob("a")
        blob.content_encoding = "gzip"
        blob.upload_from_string(data)
        store = open_store(f"gs://{bucket}", Access(engine="fast", environ=variables))
        assert store.get("a", str(tmp_path / "out")).size_bytes == len(data)
        assert (tmp_path / "out").read_bytes() == data


class TestNamesForTheSdk:
    NAMES = ("a//b", "a/", "a/./b", "./a", "a/.", "a\x01b", "a\tb", "a\x7fb")

    def test_objects(self, rgw: Rgw, environ, tmp_path: Path) -> None:
        """Names that object_store would change are objects of their own in every verb, as boto3 sees them."""
        bucket = rgw.new_bucket()
        store = open_store(f"s3://{bucket}", Access(engine="fast", environ=environ(rgw.environ())))
        (tmp_path / "in").write_bytes(b"content")
        for name in self.NAMES:
            assert store.put_bytes(b"first", name, if_absent=True) is True
            assert store.put_bytes(b"second", name, if_absent=True) is False
            store.put(str(tmp_path / "in"), name)
            assert rgw.client().get_object(Bucket=bucket, Key=name)["Body"].read() == b"content"
            assert store.head(name).key == store.get(name, str(tmp_path / "out")).key == name
            assert store.read_range(name, 1, 3) == b"on"
            if name != "a/":  # with content its slash is not seen: see the module's docstring
                assert keys_in(store) == [name]
                assert keys_in(store, name[:1]) == [name]
            store.delete(name)
            assert keys_in(store) == []

    def test_without_the_sdk(
        self, rgw: Rgw, environ, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Where the SDK is not installed, such a name is a permanent error that says what to install."""
        monkeypatch.setattr(fast, "sdk_is_installed", lambda _: False)
        bucket = rgw.new_bucket()
        store = open_store(f"s3://{bucket}", Access(engine="fast", environ=environ(rgw.environ())))
        for call in (
            lambda: store.get("a//b", str(tmp_path / "out")),
            lambda: store.put_bytes(b"", "a/"),
            lambda: store.head("./a"),
            lambda: store.delete("a\x01b"),
        ):
            with pytest.raises(PermanentError, match=r"htcjob\[s3\]"):
                call()
        rgw.client().put_object(Bucket=bucket, Key="b//c", Body=b"")
        store.put_bytes(b"x", "a")
        with pytest.raises(PermanentError, match=r"htcjob\[s3\]"):
            keys_in(store)

    def test_folder_marks(self, rgw: Rgw, environ, monkeypatch: pytest.MonkeyPatch) -> None:
        """Marks of folders are listed with their slash, beside empty objects, without the SDK."""
        monkeypatch.setattr(fast, "sdk_is_installed", lambda _: False)
        bucket = rgw.new_bucket()
        keys = ["a", "a!", "a/", "a/b", "c/", "d", "e/", "e/e/", "e/f"]
        for key in keys:
            rgw.client().put_object(Bucket=bucket, Key=key, Body=b"x" if key in ("a/", "e/f") else b"")
        store = open_store(f"s3://{bucket}", Access(engine="fast", environ=environ(rgw.environ())))
        assert keys_in(store) == keys
        for start in (*keys, "a\x01", "b", "e//"):
            assert keys_in(store, start_after=start) == [key for key in keys if key > start]
        for prefix in ("a", "a/", "c/", "e", "e/", "e/e", "e/e/"):
            assert keys_in(store, prefix) == [key for key in keys if key.startswith(prefix)]
        below = open_store(f"s3://{bucket}/e", Access(engine="fast", environ=environ(rgw.environ())))
        assert keys_in(below) == ["", "e/", "f"]

    def test_many_empty_objects(self, rgw: Rgw, environ) -> None:
        """A listing of many empty objects does not ask for each of them."""
        with _proxy_before(rgw.endpoint) as proxy:
            store = _on(proxy, rgw, environ)
            keys = [f"k{number:03}" for number in range(100)] + ["k099/"]
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda key: store.put_bytes(b"", key), keys))
            before = proxy.requests
            assert keys_in(store) == keys
            assert proxy.requests - before < 25


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "code", "error"),
        [
            (500, "InternalError", TransientError),
            (503, "SlowDown", TransientError),
            (503, "ServiceUnavailable", TransientError),
            (429, "TooManyRequests", TransientError),
            (408, "RequestTimeout", TransientError),
            (400, "RequestTimeout", TransientError),
            (409, "OperationAborted", TransientError),
            (400, "ExpiredToken", UnauthenticatedError),
            (401, "Unauthorized", UnauthenticatedError),
            (403, "InvalidAccessKeyId", UnauthenticatedError),
            (403, "AccessDenied", DeniedError),
            (404, "NoSuchKey", AbsentError),
            (404, "NoSuchBucket", AbsentError),
            (400, "InvalidRequest", PermanentError),
            (301, "PermanentRedirect", PermanentError),
            (400, "AuthorizationHeaderMalformed", PermanentError),
        ],
    )
    def test_answers(
        self, rgw: Rgw, environ, tmp_path: Path, status: int, code: str, error: type[StorageError]
    ) -> None:
        """An answer means what it says, in every verb, after one request, whatever the object is called."""
        (tmp_path / "in").write_bytes(b"x")
        with _proxy_before(rgw.endpoint) as proxy:
            store = _on(proxy, rgw, environ)
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
                    if verb == "delete" and error is AbsentError:
                        continue
                    before = proxy.requests
                    with pytest.raises(error) as raised:
                        call()
                    is_mute = verb == "head" and 400 <= status < 500 and status not in (404, 408, 412, 429)
                    is_bare_redirect = status == 301  # of which obstore says nothing else
                    assert proxy.requests == before + 1 + (is_mute or is_bare_redirect), verb
                    assert raised.value.operation == verb
                    assert "\n" not in str(raised.value)
                    if isinstance(raised.value, TransientError):
                        assert raised.value.is_throttled == (status in (429, 503))

    def test_denied_may_be_absent(self, rgw: Rgw, environ, tmp_path: Path) -> None:
        """S3 says denied for what is not there when the token may not list; the message says both."""
        with _proxy_before(rgw.endpoint) as proxy:
            store = _on(proxy, rgw, environ)
            proxy.faults.add("answer", status=403, code="AccessDenied")
            for call in (lambda: store.get("a", str(tmp_path / "out")), lambda: store.head("a")):
                with pytest.raises(DeniedError, match="denied, or absent and the token may not list"):
                    call()
            with pytest.raises(DeniedError) as raised:
                store.put_bytes(b"", "a")
            assert "absent" not in str(raised.value)

    def test_conflict_is_no_answer(self, rgw: Rgw, environ) -> None:
        """Two conditional writers at once: the one that S3 tells to come again is not told that it lost."""
        with _proxy_before(rgw.endpoint) as proxy:
            store = _on(proxy, rgw, environ)
            proxy.faults.add("answer", status=409, code="ConditionalRequestConflict", times=1)
            with pytest.raises(TransientError):
                store.put_bytes(b"", "a", if_absent=True)
            assert store.put_bytes(b"", "a", if_absent=True) is True

    @pytest.mark.parametrize("kind", ["drop", "lose", "reset", "truncate", "stall"])
    def test_broken_connections(
        self, rgw: Rgw, environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        """A connection that breaks, or is silent, is a transient error after one request; nothing is left."""
        monkeypatch.setattr(fast, "READ_TIMEOUT", timedelta(seconds=0.3))
        with _proxy_before(rgw.endpoint) as proxy:
            store = _on(proxy, rgw, environ)
            store.put_bytes(b"x" * 100_000, "a")
            before = proxy.requests
            proxy.faults.add(kind, at=50_000)
            with pytest.raises(TransientError):
                store.get("a", str(tmp_path / "out" / "a"))
            with pytest.raises(TransientError):
                store.read_range("a", 0)
            assert proxy.requests == before + 2
            assert files_below(tmp_path) in ({}, {"out": "drwxr-xr-x"})
            if kind in ("drop", "lose", "stall"):
                with pytest.raises(TransientError):
                    store.put_bytes(b"", "b")
                with pytest.raises(TransientError):
                    keys_in(store)

    def test_nobody_there(self, rgw: Rgw, environ) -> None:
        """A refused connection is a transient error that says so."""
        with _proxy_before(rgw.endpoint) as proxy:
            store = _on(proxy, rgw, environ)
            with (
                proxy.refusing(),
                pytest.raises(
                    TransientError, match=r"cannot connect \(http://127.0.0.1:\d+\): Connection refused"
                ),
            ):
                store.head("a")

    def test_untrusted_certificate(self, rgw: Rgw, rgw_tls: TlsFront, environ) -> None:
        """A certificate of an unknown authority is a permanent error that says what to set, which helps."""
        access = Access(engine="fast", endpoint=rgw_tls.endpoint, environ=environ(rgw.environ()))
        with pytest.raises(PermanentError, match=r"certificate is not trusted.*SSL_CERT_FILE"):
            open_store(f"s3://{rgw.new_bucket()}", access).head("a")
        environ({"SSL_CERT_FILE": rgw_tls.ca_file})
        access = Access(engine="fast", endpoint=rgw_tls.endpoint, environ=rgw.environ())
        with pytest.raises(AbsentError):
            open_store(f"s3://{rgw.new_bucket()}", access).head("a")

    def test_long_body_outlives_the_read_timeout(
        self, rgw: Rgw, environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A body that takes longer than a connection may be silent is sent, and is received, whole."""
        monkeypatch.setattr(fast, "READ_TIMEOUT", timedelta(seconds=0.5))
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
        with _proxy_before(rgw.endpoint) as proxy:
            store = _on(proxy, rgw, environ)
            proxy.faults.add("answer", status=503, path="partNumber=2", times=2)
            proxy.faults.add("drop", path="partNumber=1&", times=1)
            store.put(str(tmp_path / "in"), "a")
            assert proxy.struck == {"answer": 2, "drop": 1}
            store.get("a", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()

    def test_failed_uploads_leave_nothing(self, rgw: Rgw, environ, tmp_path: Path) -> None:
        """After an upload that fails there are neither an object nor parts."""
        (tmp_path / "in").write_bytes(os.urandom(20 * MB))
        with _proxy_before(rgw.endpoint) as proxy:
            store = _on(proxy, rgw, environ)
            for status, error in ((503, TransientError), (403, DeniedError)):
                proxy.faults.add("answer", status=status, code="AccessDenied", path="partNumber=2")
                with pytest.raises(error):
                    store.put(str(tmp_path / "in"), "a")
                proxy.faults.clear()
            assert keys_in(store) == []
            bucket = urlsplit(store.url).netloc
            assert "Uploads" not in rgw.client().list_multipart_uploads(Bucket=bucket)


class Source:
    """Vends credentials; renews them only when they were refused, or *eagerly* before their end."""

    def __init__(self, fetch: Callable[[], CloudCredentials], *, is_eager: bool = False) -> None:
        self._fetch = fetch
        self._is_eager = is_eager
        self._lock = threading.Lock()
        self._credentials: CloudCredentials | None = None
        self.fetched = 0
        self.failure: Exception | None = None

    def current(self) -> CloudCredentials:
        with self._lock:
            if self.failure is not None:
                raise self.failure
            is_over = self._is_eager and self._credentials and self._credentials.expires_at < time.time() + 1
            if self._credentials is None or is_over:
                self._credentials = self._fetch()
                self.fetched += 1
            return self._credentials

    def refused(self, credentials: CloudCredentials) -> bool:
        with self._lock:
            if credentials is self._credentials:
                self._credentials = None
            return True


def _credentials(
    provider: Literal["AWS", "GCP", "AZURE"], expires_at: float | None, **values: str
) -> CloudCredentials:
    return CloudCredentials(
        provider, {name: Secret(value) for name, value in values.items()}, expires_at=expires_at
    )


def _exercise(store: Store, folder: Path, *, size_bytes: int = 1000) -> None:
    """Use every verb."""
    data = os.urandom(size_bytes)
    (folder / "in").write_bytes(data)
    store.put(str(folder / "in"), "a")
    store.get("a", str(folder / "out"))
    assert (folder / "out").read_bytes() == data
    assert store.read_range("a", 3, 7) == data[3:7]
    store.put_bytes(b"x", "b")
    assert keys_in(store) == ["a", "b"]
    assert store.head("a").size_bytes == size_bytes
    store.delete("b")


class TestCredentials:
    def test_session_tokens_of_s3(self, rgw: Rgw, tmp_path: Path) -> None:
        """Session tokens that live 5 s are renewed once when they end, in every verb and for uploads."""
        bucket = rgw.new_bucket()

        def fetch() -> CloudCredentials:
            return _credentials("AWS", **rgw.assume_role(bucket=bucket, seconds=5))

        for is_eager in (False, True):
            source = Source(fetch, is_eager=is_eager)
            store = open_store(
                f"s3://{bucket}", Access(engine="fast", endpoint=rgw.endpoint, credentials=source, environ={})
            )
            began = time.monotonic()
            _exercise(store, tmp_path)
            _sleep_until(source.current().expires_at + 1)
            _exercise(store, tmp_path, size_bytes=20 * MB)
            assert (
                2 <= source.fetched <= 2 + (time.monotonic() - began) / 4
            )  # whole seconds, and asked for ahead

    def test_long_work_with_short_tokens(self, rgw: Rgw, tmp_path: Path) -> None:
        """Many threads work on while tokens of 5 s come and go; nobody asks more than is needed."""
        began = time.monotonic()
        bucket = rgw.new_bucket()
        source = Source(lambda: _credentials("AWS", **rgw.assume_role(bucket=bucket, seconds=5)))
        store = open_store(
            f"s3://{bucket}", Access(engine="fast", endpoint=rgw.endpoint, credentials=source, environ={})
        )
        is_over = threading.Event()

        def work(number: int) -> None:
            while not is_over.is_set():
                store.put_bytes(b"x" * 1000, f"{number}")
                store.get(f"{number}", str(tmp_path / f"{number}"))
                time.sleep(0.05)

        with ThreadPoolExecutor(8) as pool:
            workers = [pool.submit(work, number) for number in range(8)]
            _sleep_until(time.time() + 12)
            is_over.set()
            for worker in workers:
                worker.result()
        assert source.fetched <= 2 + (time.monotonic() - began) / 4  # whole seconds, and asked for ahead

    def test_sas_of_azure(self, azurite: Azurite, tmp_path: Path) -> None:
        """A SAS that has expired is replaced once, in every verb and for uploads."""
        container = azurite.new_container()

        def fetch() -> CloudCredentials:
            end = int(time.time()) + 3
            sas = azurite.sas(container, seconds=end - time.time() + 0.5)
            return _credentials("AZURE", end, AZURE_STORAGE_SAS_TOKEN=sas)

        source = Source(fetch)
        access = Access(engine="fast", endpoint=azurite.endpoint, credentials=source, environ={})
        store = open_store(f"az://{azurite.account}/{container}", access)
        began = time.monotonic()
        _exercise(store, tmp_path)
        _sleep_until(source.current().expires_at + 1.5)
        _exercise(store, tmp_path, size_bytes=20 * MB)
        assert 2 <= source.fetched <= 2 + (time.monotonic() - began) / 2  # whole seconds

    def test_tokens_of_gcs(self, fake_gcs: FakeGcs, tmp_path: Path) -> None:
        """A token that GCS does not accept any more is replaced once, in every verb and for uploads."""
        tokens = iter(("one", "two", "three", "four"))
        source = Source(lambda: _credentials("GCP", None, GCP_ACCESS_TOKEN=next(tokens)))
        access = Access(engine="fast", endpoint=fake_gcs.endpoint, credentials=source, environ={})
        store = open_store(f"gs://{fake_gcs.new_bucket()}", access)
        fake_gcs.valid_tokens = {"two"}
        _exercise(store, tmp_path)
        assert source.fetched == 2
        fake_gcs.valid_tokens = {"three"}
        _exercise(store, tmp_path, size_bytes=20 * MB)
        assert source.fetched == 3
        fake_gcs.valid_tokens = set()
        for call in (lambda: store.head("a"), lambda: keys_in(store)):
            with pytest.raises(UnauthenticatedError):
                call()
            break

    def test_service_account_of_gcs(self, fake_gcs: FakeGcs, tmp_path: Path) -> None:
        """A service account's JSON text is used as it is vended."""
        account = {"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": True}
        text = json.dumps({"type": "service_account", **account})
        source = Source(lambda: _credentials("GCP", None, GCP_APPLICATION_CREDENTIALS=text))
        access = Access(engine="fast", endpoint=fake_gcs.endpoint, credentials=source, environ={})
        _exercise(open_store(f"gs://{fake_gcs.new_bucket()}", access), tmp_path, size_bytes=10 * MB)

    def test_failures_of_the_source(self, fake_gcs: FakeGcs, tmp_path: Path) -> None:
        """What the source of credentials raises is what the caller gets, from every verb."""
        source = Source(lambda: _credentials("GCP", None, GCP_ACCESS_TOKEN="one"))
        access = Access(engine="fast", endpoint=fake_gcs.endpoint, credentials=source, environ={})
        store = open_store(f"gs://{fake_gcs.new_bucket()}", access)
        _exercise(store, tmp_path, size_bytes=9 << 20)
        source.failure = TransientError("vend", "https://api/token", "503", retry_after_s=7)
        for call in (
            lambda: store.get("a", str(tmp_path / "out")),
            lambda: store.put(str(tmp_path / "in"), "a"),
            lambda: keys_in(store),
        ):
            with pytest.raises(TransientError) as raised:
                call()
            assert raised.value is source.failure

    def test_failure_in_the_middle_of_an_upload(self, fake_gcs: FakeGcs, tmp_path: Path) -> None:
        """What the source raises while an upload asks it again is what the caller gets."""
        failure = TransientError("vend", "https://api/token", "503")
        soon = _credentials("GCP", time.time() + 60, GCP_ACCESS_TOKEN="one")

        class Failing(Source):
            def current(self) -> CloudCredentials:
                if threading.current_thread() is not threading.main_thread() or _is_asked_by_obstore():
                    raise failure
                return soon

        access = Access(
            engine="fast", endpoint=fake_gcs.endpoint, credentials=Failing(lambda: soon), environ={}
        )
        (tmp_path / "in").write_bytes(b"x" * 20 * MB)
        with pytest.raises(TransientError) as raised:
            open_store(f"gs://{fake_gcs.new_bucket()}", access).put(str(tmp_path / "in"), "a")
        assert raised.value is failure

    def test_no_secret_in_messages(self, azurite: Azurite, rgw: Rgw, tmp_path: Path) -> None:
        """No signature and no token is in the text of an error, nor in those of its causes."""
        container = azurite.new_container()
        sas = azurite.sas(container, permissions="r", seconds=60)
        signature = sas.partition("sig=")[2].partition("&")[0]
        source = Source(lambda: _credentials("AZURE", None, AZURE_STORAGE_SAS_TOKEN=sas))
        with _proxy_before(azurite.endpoint) as proxy:
            endpoint = f"{proxy.url}/{azurite.account}"
            access = Access(engine="fast", endpoint=endpoint, credentials=source, environ={})
            store = open_store(f"az://{azurite.account}/{container}", access)
            errors = [_error_of(lambda: store.put_bytes(b"", "a")), _error_of(lambda: keys_in(store))]
            proxy.faults.add("reset", at=0)
            errors.append(_error_of(lambda: store.head("a")))
            proxy.faults.clear()
            with proxy.refusing():
                errors.append(_error_of(lambda: store.get("a", str(tmp_path / "out"))))
        given = rgw.assume_role(seconds=60)
        wrong = {**given, "AWS_SECRET_ACCESS_KEY": "not-the-right-secret"}
        source = Source(lambda: _credentials("AWS", **wrong))
        access = Access(engine="fast", endpoint=rgw.endpoint, credentials=source, environ={})
        errors.append(_error_of(lambda: open_store(f"s3://{rgw.new_bucket()}", access).head("a")))
        for error in errors:
            while error is not None:
                for secret in (signature, given["AWS_SESSION_TOKEN"], "not-the-right-secret"):
                    assert secret not in f"{error!r} {error}"
                error = error.__cause__

    def test_provider_keeps_what_was_raised(self) -> None:
        """The error of the source is kept, and forgotten at the next success."""
        source = Source(lambda: _credentials("GCP", 2e9, GCP_ACCESS_TOKEN="one"))
        provider = AskingProvider(source)
        source.failure = TransientError("vend", "https://api/token", "503")
        with pytest.raises(TransientError):
            provider()
        assert provider.failure is source.failure
        source.failure = None
        assert provider()["expires_at"].utcoffset() == timedelta(0)
        assert provider.failure is None


_S3 = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}


class TestChain:
    @pytest.mark.parametrize(
        ("scheme", "environ", "files", "can"),
        [
            ("s3", _S3, (), True),
            ("s3", {**_S3, "AWS_PROFILE": "p"}, (".aws/credentials",), True),
            ("s3", {"AWS_PROFILE": "p"}, (), False),
            ("s3", {"AWS_DEFAULT_PROFILE": "p"}, (), False),
            ("s3", {}, (".aws/credentials",), False),
            ("s3", {}, (".aws/config",), False),
            ("s3", {"AWS_SHARED_CREDENTIALS_FILE": "HOME/elsewhere"}, ("elsewhere",), False),
            ("s3", {"AWS_WEB_IDENTITY_TOKEN_FILE": "f", "AWS_ROLE_ARN": "r"}, (".aws/config",), True),
            ("s3", {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"}, (), True),
            ("s3", {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"}, (".aws/config",), False),
            ("s3", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x"}, (), False),
            (
                "s3",
                {
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x",
                    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "f",
                },
                (),
                True,
            ),
            ("s3", {}, (), True),
            ("s3", {"AWS_EC2_METADATA_DISABLED": "true"}, (), False),
            ("gs", {}, (), True),
            ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "HOME/service_account"}, ("service_account",), True),
            ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "HOME/external_account"}, ("external_account",), False),
            ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "HOME/nowhere"}, (), False),
            ("gs", {"STORAGE_EMULATOR_HOST": "http://x"}, (), True),
            ("gs", {}, (".config/gcloud/application_default_credentials.json",), False),
            ("az", {}, (), True),
            ("az", {"AZURE_STORAGE_ACCOUNT_NAME": "bucket"}, (), True),
            ("az", {"AZURE_STORAGE_ACCOUNT_NAME": "another"}, (), False),
            ("az", {"AZURE_STORAGE_ACCOUNT": "another"}, (), False),
            ("az", {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=another;AccountKey=eA=="}, (), False),
            (
                "s3",
                {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": ""},
                (),
                False,
            ),
        ],
    )
    def test_can_serve(
        self, tmp_path: Path, scheme: str, environ: dict[str, str], files: tuple[str, ...], can: bool
    ) -> None:
        """Fast is chosen only where object_store finds the credentials that the SDK would find."""
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_text(json.dumps({"type": name}))
        variables = {name: value.replace("HOME", str(tmp_path)) for name, value in environ.items()}
        access = Access(environ={"HOME": str(tmp_path), **variables})
        assert (not fast.why_not(scheme, "bucket", access)) is can
        source = Source(lambda: _credentials("AWS", None))
        assert not fast.why_not(scheme, "bucket", Access(environ=access.environ, credentials=source))

    @pytest.mark.timeout(100)  # object_store's own patience is three minutes
    def test_no_credentials(self, rgw: Rgw, environ, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where no metadata server answers, the error says soon that there are no credentials."""
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://169.254.169.254:1")
        store = open_store("s3://bucket", Access(engine="fast", endpoint=rgw.endpoint, environ={}))
        with pytest.raises(UnauthenticatedError, match="no credentials: set AWS_ACCESS_KEY_ID"):
            store.head("a")

    def test_connection_string_of_azure(self, azurite: Azurite, tmp_path: Path) -> None:
        """A connection string says where an account is and what opens it, by key or by SAS."""
        container = azurite.new_container()
        sas = f"BlobEndpoint={azurite.endpoint};SharedAccessSignature={azurite.sas(container)}"
        for text in (azurite.connection_string, sas):
            environ = {"AZURE_STORAGE_CONNECTION_STRING": text}
            store = open_store(f"az://{azurite.account}/{container}", Access(engine="fast", environ=environ))
            _exercise(store, tmp_path)


def _proxy_before(endpoint: str) -> FaultProxy:
    parts = urlsplit(endpoint)
    return FaultProxy(parts.hostname, parts.port)


def _on(proxy: FaultProxy, rgw: Rgw, environ) -> Store:
    variables = environ({**rgw.environ(), "AWS_ENDPOINT_URL_S3": proxy.url})
    return open_store(f"s3://{rgw.new_bucket()}", Access(engine="fast", environ=variables, retry=QUICK))


def _error_of(call: Callable[[], object]) -> BaseException:
    with pytest.raises(StorageError) as raised:
        call()
    return raised.value


def _is_asked_by_obstore() -> bool:
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_code is AskingProvider.__call__.__code__:
            return True
        frame = frame.f_back
    return False


def _sleep_until(moment: float) -> None:
    """Wait for the clock, which decides when a token expires."""
    while (left := moment - time.time()) > 0:
        time.sleep(left)


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
