"""The Azure store keeps the contract on Azurite, and its own promises."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import ContainerClient

from htcjob import errors
from htcjob.logs.redact import Secret
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access, CloudCredentials
from htcjob.storage.azure.account import find_account
from htcjob.storage.azure.names import check_name
from htcjob.storage.bucket import PART_BYTES
from htcjob.storage.urls import open_store
from tests.storage.contract import KEYS, REFUSED_KEYS, StoreContract, keys_in
from tests.support.wire.wire import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from htcjob.storage.contract import Store
    from tests.support.servers.azurite import Azurite

SIGNATURE = "Zm9yZ2VkLXNpZ25hdHVyZS10aGF0LW11c3Qtbm90LXNob3c"
AT_ONCE = RetryPolicy(sleep=lambda _seconds: False)


class TestAzure(StoreContract):
    # Azure would store them under the names of others: see `azure/names.py`.
    keys = tuple(key for key in KEYS if key not in ("a\\b", "d/..e/..."))
    refused_keys = (*REFUSED_KEYS, "a\\b", "d/..e/...", "a.", "a./b", "a/.", "a/./b")
    folder_like_keys = ("a//b", "a/", "a/b")
    many = 1_500  # a page has 1,000

    @pytest.fixture
    def new_store(self, azurite: Azurite) -> Callable[[], Store]:
        access = Access(engine="sdk", environ=azurite.environ())
        return lambda: open_store(f"az://{azurite.account}/{azurite.new_container()}", access)


class Vending:
    """A source of SAS tokens that live so long; another one is given when one is refused, not before."""

    def __init__(
        self, azurite: Azurite, container: str, *, seconds: float, permissions: str = "racwdl"
    ) -> None:
        self._make = lambda: azurite.sas(container, permissions=permissions, seconds=seconds)
        self._lock = threading.Lock()
        self._now: CloudCredentials | None = None
        self.made = 0

    def current(self) -> CloudCredentials:
        with self._lock:
            if self._now is None:
                self._now = CloudCredentials("AZURE", {"AZURE_STORAGE_SAS_TOKEN": Secret(self._make())}, None)
                self.made += 1
            return self._now

    def refused(self, credentials: CloudCredentials) -> bool:
        with self._lock:
            if self._now is credentials:
                self._now = None
            return True


@pytest.fixture
def container(azurite: Azurite) -> str:
    return azurite.new_container()


@pytest.fixture
def proxy(azurite: Azurite) -> Iterator[FaultProxy]:
    """Yield a proxy before the server that counts requests and spoils them when told to."""
    server = urlsplit(azurite.endpoint)
    with FaultProxy(server.hostname, server.port) as proxy:
        yield proxy


@pytest.fixture
def far(azurite: Azurite, container: str, proxy: FaultProxy) -> Store:
    """Return an empty store behind the proxy."""
    environ = {**azurite.environ(), "AZURE_STORAGE_ENDPOINT": f"{proxy.url}/{azurite.account}"}
    return open_store(
        f"az://{azurite.account}/{container}", Access(engine="sdk", environ=environ, retry=AT_ONCE)
    )


def store_with_sas(azurite: Azurite, container: str, sas: str, endpoint: str = "") -> Store:
    environ = {"AZURE_STORAGE_ENDPOINT": endpoint or azurite.endpoint, "AZURE_STORAGE_SAS_TOKEN": sas}
    access = Access(engine="sdk", environ=environ, retry=AT_ONCE)
    return open_store(f"az://{azurite.account}/{container}", access)


def every_verb(store: Store, work: Path) -> dict[str, Callable[[], object]]:
    """Return one call of each verb, on an object `a` that may be there."""
    (work / "in").write_bytes(b"content")
    (work / "large").write_bytes(bytes(PART_BYTES + 1))
    return {
        "get": lambda: store.get("a", str(work / "out")),
        "read_range": lambda: store.read_range("a", 1, 2),
        "put": lambda: store.put(str(work / "in"), "a"),
        "put large": lambda: store.put(str(work / "large"), "a"),
        "put_bytes": lambda: store.put_bytes(b"", "a"),
        "list": lambda: list(store.list("d/")),
        "head": lambda: store.head("a"),
        "delete": lambda: store.delete("a"),
    }


# Requests


def test_one_request_each(far: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    """Every verb on an object of one part, or an empty one, is one request, and connections are kept."""
    path = str(tmp_path / "file")
    for size in (0, 1, 100_000, PART_BYTES):
        (tmp_path / "file").write_bytes(bytes(size))
        digest = hashlib.sha256(bytes(size)).hexdigest()
        for verb in (
            lambda digest=digest: far.put(path, "a", sha256=digest),
            lambda: far.get("a", path),
            lambda: far.read_range("a", 0),
            lambda: far.head("a"),
            lambda: far.put_bytes(b"", "a", if_absent=True),
            lambda: list(far.list()),
            lambda: far.delete("a"),
            lambda: far.delete("a"),
        ):
            before = proxy.requests
            verb()
            assert proxy.requests == before + 1


def test_no_retries_of_the_sdk(far: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    """A request that fails is not repeated by the SDK; the failure says what the answer said."""
    for name, verb in every_verb(far, tmp_path).items():
        for status in (500, 503, 429):
            if name == "put large":
                continue  # its parts are tried again, see below
            code = "InternalError" if status == 500 else "ServerBusy"
            proxy.faults.add("answer", status=status, code=code, retry_after_s=7)
            before = proxy.requests
            with pytest.raises(errors.TransientError) as raised:
                verb()
            assert proxy.requests == before + 1
            assert raised.value.is_throttled is (status != 500)
            assert raised.value.retry_after_s == 7
            proxy.faults.clear()


@pytest.mark.parametrize("kind", ["truncate", "reset"])
def test_cut_bodies(far: Store, proxy: FaultProxy, tmp_path: Path, kind: str) -> None:
    """An answer that ends early is a transient error after one request, and leaves no file."""
    far.put_bytes(os.urandom(300_000), "a")
    proxy.faults.add(kind, method="GET", at=100_000)
    for read in (lambda: far.get("a", str(tmp_path / "out")), lambda: far.read_range("a", 0, 200_000)):
        before = proxy.requests
        with pytest.raises(errors.TransientError):
            read()
        assert proxy.requests == before + 1
    assert list(tmp_path.iterdir()) == []


def test_lost_connections(far: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    """A server that hangs up, or cannot be reached, is a transient error that names it."""
    verbs = every_verb(far, tmp_path)
    del verbs["put large"]
    for fault in ("lose", "drop"):
        proxy.faults.add(fault)
        for verb in verbs.values():
            with pytest.raises(errors.TransientError, match=r"127\.0\.0\.1"):
                verb()
        proxy.faults.clear()
    with proxy.refusing():
        for verb in verbs.values():
            with pytest.raises(errors.TransientError, match="Connection refused"):
                verb()


def test_corrupted_on_the_way(far: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    """A byte that changes on the way up is noticed by the server, one on the way down by us."""
    (tmp_path / "in").write_bytes(b"content" * 1000)
    proxy.faults.add("corrupt_request", method="PUT", at=500)
    with pytest.raises(errors.TransientError, match="Md5Mismatch"):
        far.put(str(tmp_path / "in"), "a")
    proxy.faults.clear()
    far.put(str(tmp_path / "in"), "a")
    proxy.faults.add("corrupt", method="GET", at=500)
    with pytest.raises(errors.TransientError, match="checksum"):
        far.get("a", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_large_object(far: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    """30 MB go both ways whole although requests fail, and only those are made again."""
    data = random.Random(1).randbytes(30_000_001)
    (tmp_path / "in").write_bytes(data)
    for kind, method in (("answer", "PUT"), ("lose", "PUT"), ("corrupt_request", "PUT"), ("truncate", "GET")):
        proxy.faults.add(kind, method=method, at=200_000, times=2)
    put = far.put(str(tmp_path / "in"), "a", sha256=hashlib.sha256(data).hexdigest())
    got = far.get("a", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == data
    assert (got.size_bytes, got.etag, got.checksum) == (len(data), put.etag, put.checksum)
    assert proxy.struck == {"answer": 2, "lose": 2, "corrupt_request": 2, "truncate": 2}
    parts = -(-len(data) // PART_BYTES)
    assert proxy.requests == (parts + 1) + parts + 8


def test_failed_upload_shows_nothing(far: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    """Of a large file that could not be put nothing is seen, and an older object stays."""
    (tmp_path / "in").write_bytes(bytes(PART_BYTES * 2))
    far.put_bytes(b"old", "old")
    proxy.faults.add(
        "answer", method="PUT", path="comp=block", status=403, code="AuthorizationFailure", times=1
    )
    for key in ("old", "new"):
        with pytest.raises(errors.DeniedError):
            far.put(str(tmp_path / "in"), key)
        proxy.faults.clear()
        proxy.faults.add("answer", method="PUT", path="comp=blocklist", status=400, code="InvalidBlockList")
        with pytest.raises((errors.DeniedError, errors.PermanentError)):
            far.put(str(tmp_path / "in"), key)
        proxy.faults.clear()
        proxy.faults.add(
            "answer", method="PUT", path="comp=block", status=403, code="AuthorizationFailure", times=1
        )
    assert keys_in(far) == ["old"]
    assert far.read_range("old", 0) == b"old"


def test_unfinished_uploads(azurite: Azurite, container: str, tmp_path: Path) -> None:
    """Blocks that the fast lane left behind are no obstacle; those of another program are called so."""
    (tmp_path / "in").write_bytes(bytes(PART_BYTES + 1))
    store = open_store(f"az://{azurite.account}/{container}", Access(engine="sdk", environ=azurite.environ()))
    with ContainerClient(azurite.endpoint, container, credential=azurite.key) as client:
        client.get_blob_client("a").stage_block("5" * 32, b"left behind")
        client.get_blob_client("b").stage_block("5" * 10, b"left behind")
    assert keys_in(store) == []
    store.put(str(tmp_path / "in"), "a")
    with pytest.raises(errors.PermanentError, match="unfinished upload"):
        store.put(str(tmp_path / "in"), "b")
    assert store.read_range("a", 0) == bytes(PART_BYTES + 1)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "BlobNotFound", errors.AbsentError),
        (404, "ContainerNotFound", errors.AbsentError),
        (
            403,
            "AuthenticationFailed",
            errors.UnauthenticatedError,
        ),  # what Azure says to a SAS that has expired
        (401, "InvalidAuthenticationInfo", errors.UnauthenticatedError),
        (403, "AuthorizationFailure", errors.DeniedError),
        (403, "AuthorizationPermissionMismatch", errors.DeniedError),
        (409, "PublicAccessNotPermitted", errors.DeniedError),
        (412, "ConditionNotMet", errors.TransientError),
        (500, "OperationTimedOut", errors.TransientError),
        (500, "InternalError", errors.TransientError),
        (502, "", errors.TransientError),
        (409, "InvalidBlobType", errors.PermanentError),
        (409, "SnapshotsPresent", errors.PermanentError),
        (412, "LeaseIdMissing", errors.PermanentError),
        (416, "InvalidRange", errors.PermanentError),
        (400, "InvalidHeaderValue", errors.PermanentError),
    ],
)
def test_codes(
    far: Store, proxy: FaultProxy, tmp_path: Path, status: int, code: str, expected: type[errors.StorageError]
) -> None:
    """Every verb takes a code of Azure for what it means, in one line that has the code."""
    proxy.faults.add("answer", status=status, code=code)
    for name, verb in every_verb(far, tmp_path).items():
        if (name, expected) in (("delete", errors.AbsentError), ("put large", errors.TransientError)):
            continue
        with pytest.raises(expected) as raised:
            verb()
        assert type(raised.value) is expected
        assert "\n" not in str(raised.value)


def test_range_from_the_end(far: Store, proxy: FaultProxy) -> None:
    """The empty range at the end of an object is empty, although Azure refuses it (Azurite does not)."""
    far.put_bytes(b"0123456789", "a")
    proxy.faults.add("answer", method="GET", status=416, code="InvalidRange")
    assert far.read_range("a", 10) == b""
    with pytest.raises(errors.PermanentError):
        far.read_range("a", 9)


# Credentials


def test_expiring_sas(azurite: Azurite, container: str, tmp_path: Path) -> None:
    """Many transfers outlive three SAS tokens; each is replaced once for all threads when it is refused."""
    began = time.monotonic()
    source = Vending(azurite, container, seconds=3)
    access = Access(engine="sdk", credentials=source, endpoint=azurite.endpoint, environ={}, retry=AT_ONCE)
    store = open_store(f"az://{azurite.account}/{container}", access)
    large = random.Random(2).randbytes(2 * PART_BYTES + 1)
    (tmp_path / "large").write_bytes(large)

    def work(thread: int) -> None:
        for number in itertools.count():
            key = f"{thread}/{number}"
            store.put_bytes(key.encode(), key)
            assert store.read_range(key, 0) == key.encode()
            assert keys_in(store, key)[0] == key
            if thread == 0:
                store.put(str(tmp_path / "large"), "large")
                store.get("large", str(tmp_path / "out"))
                assert (tmp_path / "out").read_bytes() == large
            if source.made >= 3:
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert source.made <= 2 + (time.monotonic() - began) / 3  # one for each 3 s, whoever asks


def test_expired_sas(azurite: Azurite, container: str, tmp_path: Path) -> None:
    """A SAS that has expired and cannot be renewed is *unauthenticated* in every verb, not *denied*."""
    store = store_with_sas(azurite, container, azurite.sas(container, seconds=-10))
    for verb in every_verb(store, tmp_path).values():
        with pytest.raises(errors.UnauthenticatedError):
            verb()


def test_refused_for_ever(azurite: Azurite, container: str, tmp_path: Path) -> None:
    """When renewed tokens are refused as well, every verb ends with *unauthenticated* after few of them."""
    source = Vending(azurite, container, seconds=-10)
    access = Access(engine="sdk", credentials=source, endpoint=azurite.endpoint, environ={}, retry=AT_ONCE)
    for verb in every_verb(open_store(f"az://{azurite.account}/{container}", access), tmp_path).values():
        before = source.made
        with pytest.raises(errors.UnauthenticatedError):
            verb()
        assert source.made - before <= 3


def test_read_only_sas(azurite: Azurite, container: str, tmp_path: Path) -> None:
    """A SAS that only allows reading reads; writing with it is denied."""
    whole = open_store(f"az://{azurite.account}/{container}", Access(engine="sdk", environ=azurite.environ()))
    whole.put_bytes(b"0123456789", "a")
    store = store_with_sas(azurite, container, azurite.sas(container, permissions="r"))
    for name, verb in every_verb(store, tmp_path).items():
        if name in ("get", "read_range", "head"):
            verb()
        else:
            with pytest.raises(errors.DeniedError, match="AuthorizationPermissionMismatch"):
                verb()


def test_wrong_key(azurite: Azurite, container: str, tmp_path: Path) -> None:
    """A wrong key is refused; one that is no key is called *unauthenticated* before anything is sent."""
    environ = {**azurite.environ(), "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"wrong").decode()}
    store = open_store(f"az://{azurite.account}/{container}", Access(engine="sdk", environ=environ))
    for verb in every_verb(store, tmp_path).values():
        # Azure says AuthenticationFailed (`test_codes`), Azurite AuthorizationFailure.
        with pytest.raises(errors.DeniedError, match="AuthorizationFailure"):
            verb()
    environ["AZURE_STORAGE_ACCOUNT_KEY"] = "no key"
    environ["AZURE_STORAGE_ENDPOINT"] = "http://127.0.0.1:1/nobody"
    store = open_store(f"az://{azurite.account}/{container}", Access(engine="sdk", environ=environ))
    with pytest.raises(errors.UnauthenticatedError):
        store.head("a")


def test_absent_container(azurite: Azurite, tmp_path: Path) -> None:
    """A container that does not exist is named."""
    store = open_store(f"az://{azurite.account}/nowhere", Access(engine="sdk", environ=azurite.environ()))
    verbs = every_verb(store, tmp_path)
    verbs.pop("delete")()
    for verb in verbs.values():
        with pytest.raises(errors.AbsentError, match=f"no container nowhere in account {azurite.account}"):
            verb()


def test_no_secret_in_any_error(azurite: Azurite, container: str, tmp_path: Path, proxy: FaultProxy) -> None:
    """No exception, nor any in its chain, shows a part of the SAS, whatever goes wrong."""
    sas = f"{azurite.sas(container, permissions='r').partition('&sig=')[0]}&sig={SIGNATURE}"
    endpoint = f"{proxy.url}/{azurite.account}"
    store = store_with_sas(azurite, container, sas, endpoint)
    seen = 0

    def look(error: BaseException | None) -> None:
        nonlocal seen
        while error is not None:
            seen += 1
            for text in (str(error), repr(error), repr(getattr(error, "args", ()))):
                assert SIGNATURE[:12] not in text
                assert "sig=" not in text
            error = error.__cause__ or error.__context__

    verbs = every_verb(store, tmp_path).values()
    for fault in (None, "lose", "drop", "truncate", "answer"):
        if fault:
            proxy.faults.add(fault, at=0, status=400, code="InvalidQueryParameterValue")
        for verb in verbs:
            with pytest.raises(errors.StorageError) as raised:
                verb()
            look(raised.value)
        proxy.faults.clear()
    with proxy.refusing():
        for verb in verbs:
            with pytest.raises(errors.TransientError) as raised:
                verb()
            look(raised.value)
    assert seen > 60


def test_no_credentials() -> None:
    """Without credentials, or with another account's only, opening says what to set and sends nothing."""
    with pytest.raises(errors.UnauthenticatedError, match="AZURE_STORAGE_SAS_TOKEN") as raised:
        open_store(
            "az://mine/c", Access(engine="sdk", environ={"AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1"})
        )
    assert "account mine: set" in str(raised.value)
    for environ in (
        {"AZURE_STORAGE_ACCOUNT": "theirs", "AZURE_STORAGE_KEY": "a2V5"},
        {"AZURE_STORAGE_ACCOUNT_NAME": "theirs", "AZURE_STORAGE_SAS_TOKEN": "sig=s"},
        {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=theirs;AccountKey=a2V5;BlobEndpoint=http://theirs"},
    ):
        access = Access(engine="sdk", environ=environ, endpoint="http://127.0.0.1:1")
        with pytest.raises(errors.UnauthenticatedError, match="the variables are those of theirs"):
            open_store("az://mine/c", access)
    with pytest.raises(errors.ConfigurationError, match="AZURE_STORAGE_CONNECTION_STRING"):
        open_store("az://mine/c", Access(engine="sdk", environ={"AZURE_STORAGE_CONNECTION_STRING": "a2V5"}))


def test_credentials_of_another_cloud(azurite: Azurite, container: str) -> None:
    """Vended credentials that are not for Azure are said to be so."""

    class OfAmazon(Vending):
        def current(self) -> CloudCredentials:
            return CloudCredentials("AWS", {}, None)

    source = OfAmazon(azurite, container, seconds=9)
    store = open_store(
        f"az://{azurite.account}/{container}", Access(engine="sdk", credentials=source, environ={})
    )
    with pytest.raises(errors.UnauthenticatedError, match="AWS"):
        store.head("a")


@pytest.mark.parametrize(
    ("environ", "endpoint", "sas", "key"),
    [
        ({}, "https://mine.blob.core.windows.net", None, None),
        ({"AZURE_STORAGE_KEY": "a2V5"}, "https://mine.blob.core.windows.net", None, "a2V5"),
        (
            {"AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=s", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"},
            "https://mine.blob.core.windows.net",
            "sv=1&sig=s",
            None,
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=mine;AccountKey=a2V5==;EndpointSuffix=x.cn"},
            "https://mine.blob.x.cn",
            None,
            "a2V5==",
        ),
        (
            {
                "AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=http://h/mine/;SharedAccessSignature=sv=1&sig=s;"
            },
            "http://h/mine",
            "sv=1&sig=s",
            None,
        ),
        (
            {
                "AZURE_STORAGE_ACCOUNT": "theirs",
                "AZURE_STORAGE_KEY": "no",
                "AZURE_STORAGE_ENDPOINT": "http://theirs",
                "AZURE_STORAGE_CONNECTION_STRING": "AccountName=mine;AccountKey=a2V5",
            },
            "https://mine.blob.core.windows.net",
            None,
            "a2V5",
        ),
    ],
)
def test_find_account(environ: dict[str, str], endpoint: str, sas: str | None, key: str | None) -> None:
    """Endpoint and credentials are those that the variables give to this account."""
    found = find_account("mine", Access(environ=environ))
    assert found.endpoint == endpoint
    assert (found.sas and found.sas.reveal(), found.key and found.key.reveal()) == (sas, key)


def test_connection_string(azurite: Azurite, container: str) -> None:
    """A connection string is enough."""
    environ = {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string}
    store = open_store(f"az://{azurite.account}/{container}", Access(engine="sdk", environ=environ))
    assert store.put_bytes(b"x", "a") is True


# What is there already


def test_checksums(azurite: Azurite, container: str, tmp_path: Path) -> None:
    """The digest in our metadata is compared with what arrives, a wrong one never accepted; else the MD5."""
    access = Access(engine="sdk", environ=azurite.environ())
    store = open_store(f"az://{azurite.account}/{container}", access)
    right = hashlib.sha256(b"content").hexdigest()
    (tmp_path / "in").write_bytes(b"content")
    store.put(str(tmp_path / "in"), "with", sha256=right)
    store.put(str(tmp_path / "in"), "without")
    md5 = f"md5:{hashlib.md5(b'content').hexdigest()}"
    assert [info.checksum for info in store.list()] == [f"sha256:{right}", md5]
    for key, checksum in (("with", f"sha256:{right}"), ("without", md5)):
        assert store.head(key).checksum == checksum
        assert store.get(key, str(tmp_path / "out")).checksum == checksum
    with ContainerClient(azurite.endpoint, container, credential=azurite.key) as client:
        for wrong in ("0" * 64, "nonsense", right[:-1]):
            client.upload_blob("wrong", b"content", overwrite=True, metadata={"htcjob_sha256": wrong})
            with pytest.raises(errors.TransientError, match="checksum"):
                store.get("wrong", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_other_blobs(azurite: Azurite, container: str, tmp_path: Path) -> None:
    """Append and page blobs, and what is said to be compressed, are read as they are stored."""
    store = open_store(f"az://{azurite.account}/{container}", Access(engine="sdk", environ=azurite.environ()))
    with ContainerClient(azurite.endpoint, container, credential=azurite.key) as client:
        append, page = client.get_blob_client("append"), client.get_blob_client("page")
        append.create_append_blob()
        append.append_block(b"appended")
        page.create_page_blob(512)
        plain = client.get_blob_client("compressed")
        plain.upload_blob(b"\x1f\x8b no gzip")
        properties = plain.get_blob_properties().content_settings
        properties.content_encoding = "gzip"
        plain.set_http_headers(properties)
    for key, data in (("append", b"appended"), ("page", bytes(512)), ("compressed", b"\x1f\x8b no gzip")):
        store.get(key, str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == data
        assert store.read_range(key, 0) == data


# Names


def test_order_on_the_server(azurite: Azurite, container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with an emoji in its name is listed in order although it has more objects than are held."""
    monkeypatch.setattr("htcjob.storage.ordering.HELD_KEYS", 5)
    store = open_store(f"az://{azurite.account}/{container}", Access(engine="sdk", environ=azurite.environ()))
    endings = ("1", "2", "\uff5e", "\U0001f600", "\U0001f600\uff5e", "\U0001f600\U0001f600")
    keys = [f"d/{middle}/{end}" for middle in ("\ue000", "\uff5e", "\U0001f4c1", "z") for end in endings]
    for key in keys:
        store.put_bytes(b"", key)
    assert keys_in(store) == sorted(keys)
    for number, key in enumerate(sorted(keys)):
        assert keys_in(store, "d/", start_after=key) == sorted(keys)[number + 1 :]


def test_names_that_azure_changes() -> None:
    """A name that Azure or HTTP would turn into another's is refused; its neighbours are not."""
    for name in ("a\\b", "\\", "a.", "a..", "...", ".", "a/.", "./a", "a./b", "a/b./c", "a/.."):
        with pytest.raises(errors.BadKeyError):
            check_name(name)
    for name in ("a", ".a", "a.b", "a/.b", "a/..b", "a//b", "a/", "..a/b"):
        check_name(name)
