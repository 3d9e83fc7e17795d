"""Transfers to a real S3 server over a wire that fails in every way: nothing is lost and nothing is wrong."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from htcjob import errors
from htcjob.ledger.ledger import Ledger
from htcjob.logs import events as logs
from htcjob.manifest.entry_list import EntryList
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access
from htcjob.storage.bucket import PART_BYTES
from htcjob.storage.urls import open_store
from htcjob.transfer.transfers import TRANSFERS, Transfers
from tests.support.skipping import skip_or_fail
from tests.support.wire.wire import FaultProxy

FAULTS = {
    "throttled": {"kind": "answer", "status": 503, "code": "SlowDown"},
    "too many": {"kind": "answer", "status": 429, "code": "TooManyRequests", "retry_after_s": 0},
    "failed": {"kind": "answer", "status": 500, "code": "InternalError"},
    "dropped": {"kind": "drop"},
    "lost": {"kind": "lose"},
    "reset": {"kind": "reset", "at": 700, "method": "GET"},
    "truncated": {"kind": "truncate", "at": 1000, "method": "GET"},
    "corrupt": {"kind": "corrupt", "at": 100, "method": "GET"},
    "corrupt going up": {"kind": "corrupt_request", "at": 50, "method": "PUT"},
}
"""Each with what the proxy is told."""


@pytest.fixture(params=["fast", "sdk"])
def engine(request):
    return request.param


@pytest.fixture
def proxy(rgw):
    parts = urlsplit(rgw.endpoint)
    with FaultProxy(parts.hostname, parts.port) as proxy:
        yield proxy


@pytest.fixture
def direct(rgw):
    """The same store without the proxy."""
    access = Access(engine="fast", environ=rgw.environ(), endpoint=rgw.endpoint)
    return open_store(f"s3://{rgw.new_bucket()}/p", access)


@pytest.fixture
def retry():
    return RetryPolicy(first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture
def reach(rgw, proxy, engine, monkeypatch):
    """How the server is reached through the proxy; SDKs read their variables by themselves."""
    environ = {name: value for name, value in rgw.environ().items() if "ENDPOINT" not in name}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return {"engine": engine, "environ": environ, "endpoint": proxy.url}


@pytest.fixture
def store(reach, direct, retry):
    return open_store(direct.url, Access(**reach, retry=retry))


@pytest.fixture
def transfers(retry):
    with Transfers(retry) as transfers:
        yield transfers


@pytest.fixture
def lines():
    """What was logged since it was asked last."""
    stream = io.StringIO()
    logs.set_up(log_format="text", level="info", stream=stream)

    def lines() -> list[str]:
        found = stream.getvalue().splitlines()
        stream.seek(0)
        stream.truncate()
        return found

    return lines


def write(path: str, data: bytes) -> str:
    with open(path, "wb") as file:
        file.write(data)
    return path


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def failed(results) -> list[errors.HtcjobError]:
    return [result for result in results if isinstance(result, errors.HtcjobError)]


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_thousand_files_arrive_although_every_fifth_request_fails(
    store, direct, proxy, transfers, lines, tmp_path
):
    """Both ways, with every kind of fault: the same bytes, and one warning with wait and cause for each fault."""
    draw = random.Random(11)
    contents = {f"in/{n:04d}.dat": draw.randbytes(draw.randrange(1200, 6000)) for n in range(1000)}
    digests = {key: hashlib.sha256(data).hexdigest() for key, data in contents.items()}
    for folder in ("up/in", "down"):
        (tmp_path / folder).mkdir(parents=True)
    for key, data in contents.items():
        write(str(tmp_path / "up" / key), data)
    for number, fault in enumerate(FAULTS.values()):
        share = 0.2 / sum(fault.get("method") in (None, "GET") for fault in FAULTS.values())
        proxy.faults.add(**fault, path="/in/", probability=share, seed=number)

    put = transfers.each(lambda key: transfers.put(store, str(tmp_path / "up" / key), key), contents)
    assert failed(put) == []
    struck_up = proxy.struck.total()
    assert struck_up > 150
    # What the server has, asked without the proxy; every byte.
    assert {key: hashlib.sha256(direct.read_range(key, 0)).hexdigest() for key in contents} == digests

    got = transfers.each(lambda key: transfers.get(store, key, str(tmp_path / "down" / key)), contents)
    assert failed(got) == []
    for key, digest in digests.items():
        assert hashlib.sha256(read(str(tmp_path / "down" / key))).hexdigest() == digest
    assert sorted(os.listdir(tmp_path / "down" / "in")) == sorted(key[3:] for key in contents)
    assert proxy.struck.total() - struck_up > 150
    assert all(proxy.struck[fault["kind"]] for fault in FAULTS.values())

    warnings = lines()
    assert len(warnings) == proxy.struck.total()
    for line in warnings:
        assert " WARNING retry number=" in line
        assert "wait_s=" in line
        assert "cause=" in line
    assert (transfers.objects_put, transfers.objects_got) == (1000, 1000)


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_met_with_one_more_try(store, direct, proxy, transfers, lines, tmp_path, name):
    """Whatever a single request meets: one warning, then the right bytes in their place."""
    data = random.Random(1).randbytes(5000)
    path = write(str(tmp_path / "a"), data)
    fault = FAULTS[name]
    method = fault.get("method")
    if method != "GET":
        proxy.faults.add(**{**fault, "method": "PUT"}, times=1)
        transfers.put(store, path, "k")
        assert direct.read_range("k", 0) == data
        (line,) = lines()
        assert f"put {store.url}k: " in line
    direct.put(path, "k", sha256=hashlib.sha256(data).hexdigest())
    if method != "PUT":
        proxy.faults.add(**{**fault, "method": "GET"}, times=1)
        transfers.get(store, "k", str(tmp_path / "b"))
        assert read(str(tmp_path / "b")) == data
        (line,) = lines()
        assert f"get {store.url}k: " in line


@pytest.mark.parametrize("kind", ["reset", "truncate", "corrupt"])
def test_a_file_that_never_arrives_whole_never_has_its_name(store, direct, proxy, tmp_path, kind):
    """After the last retry: an error that says so, and an empty folder."""
    direct.put(write(str(tmp_path / "a"), b"x" * 5000), "k", sha256=hashlib.sha256(b"x" * 5000).hexdigest())
    proxy.faults.add(kind, at=4000)
    (tmp_path / "down").mkdir()
    with Transfers(RetryPolicy(retries=2, first_wait_s=0)) as transfers, pytest.raises(errors.TransientError):
        transfers.get(store, "k", str(tmp_path / "down" / "k"))
    assert os.listdir(tmp_path / "down") == []
    assert proxy.struck[kind] == 3


@pytest.mark.timeout(120)
def test_a_large_object_goes_on_where_it_broke_off(store, direct, proxy, transfers, tmp_path):
    """In parts, both ways: a part that fails is tried again by itself."""
    data = random.Random(2).randbytes(3 * PART_BYTES + 12345)
    path = write(str(tmp_path / "a"), data)
    for n, fault in enumerate(("throttled", "failed", "dropped", "reset", "truncated")):
        proxy.faults.add(
            **{**FAULTS[fault], "method": "GET", "at": 3_000_000}, times=1, probability=0.5, seed=n
        )
    proxy.faults.add(**FAULTS["throttled"], method="PUT", times=1)
    proxy.faults.add(**FAULTS["corrupt going up"], times=1)
    transfers.put(store, path, "k")
    assert proxy.struck.total() == 2
    assert hashlib.sha256(direct.read_range("k", 0)).digest() == hashlib.sha256(data).digest()
    transfers.get(store, "k", str(tmp_path / "b"))
    assert proxy.struck.total() > 3
    assert read(str(tmp_path / "b")) == data
    assert proxy.requests < 40


def test_a_corrupt_byte_in_a_large_object_is_found(store, direct, proxy, transfers, lines, tmp_path):
    """Its parts have the right lengths; only the digest of the whole tells."""
    data = random.Random(3).randbytes(2 * PART_BYTES + 1)
    path = write(str(tmp_path / "a"), data)
    direct.put(path, "k", sha256=hashlib.sha256(data).hexdigest())
    proxy.faults.add("corrupt", method="GET", at=1_000_000, times=1)
    transfers.get(store, "k", str(tmp_path / "b"))
    assert proxy.struck == {"corrupt": 1}
    assert read(str(tmp_path / "b")) == data
    assert "checksum" in "".join(lines())


def test_a_stalled_connection_is_given_up(
    reach, proxy, direct, engine, transfers, monkeypatch, lines, tmp_path
):
    """Silence ends with the read timeout, not with the platform's patience."""
    shorten_read_timeout(monkeypatch, engine)
    store = open_store(direct.url, Access(**reach))
    direct.put_bytes(b"x" * 3000, "k")
    proxy.faults.add("stall", times=1)
    transfers.get(store, "k", str(tmp_path / "b"))
    assert read(str(tmp_path / "b")) == b"x" * 3000
    assert proxy.struck == {"stall": 1}
    assert len(lines()) == 1


def shorten_read_timeout(monkeypatch, engine) -> None:
    if engine == "fast":
        monkeypatch.setattr("htcjob.storage.fast.clients.READ_TIMEOUT", timedelta(seconds=1))
    else:
        monkeypatch.setattr("htcjob.storage.s3.connection.READ_TIMEOUT_S", 1)


def test_a_server_that_was_started_again_is_found_again(store, direct, proxy, transfers, lines, tmp_path):
    """Connections that are refused, and those that broke meanwhile, are tried again."""
    direct.put_bytes(b"x", "k")
    store.head("k")
    with proxy.refusing(), Transfers(RetryPolicy(retries=2, first_wait_s=0)) as impatient:
        with pytest.raises(errors.TransientError):
            impatient.get(store, "k", str(tmp_path / "b"))
        assert len(lines()) == 2
    transfers.get(store, "k", str(tmp_path / "b"))
    assert read(str(tmp_path / "b")) == b"x"


def test_all_transfers_slow_down_together(rgw, direct, store, proxy, lines, tmp_path):
    """A burst of "slow down": the requests that the server sees at once become few, and all files arrive."""
    keys = [f"k{n:03d}" for n in range(300)]
    for key in keys:
        direct.put_bytes(key.encode(), key)
    proxy.delay_s = 0.01
    proxy.gathers = TRANSFERS
    seen = []

    def get(key: str) -> None:
        transfers.get(store, key, str(tmp_path / key))
        seen.append((proxy.struck["answer"], proxy.in_flight))

    with Transfers(RetryPolicy(first_wait_s=0.05, longest_wait_s=0.2)) as transfers:
        got = transfers.each(get, keys)
        assert not failed([next(got) for _ in range(50)])
        before = proxy.most_in_flight
        assert before == TRANSFERS
        proxy.faults.add("answer", status=503, code="SlowDown", times=2 * before - 4)
        assert not failed(got)
    slowed = [in_flight for struck, in_flight in seen if struck == 2 * before - 4]
    assert len(slowed) > 100
    assert max(slowed[:20]) <= before / 2
    assert [read(str(tmp_path / key)) for key in keys] == [key.encode() for key in keys]


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", errors.DeniedError),
        (400, "ExpiredToken", errors.UnauthenticatedError),
        (403, "InvalidAccessKeyId", errors.UnauthenticatedError),
    ],
)
def test_a_refusal_is_no_reason_to_try_again(store, proxy, transfers, lines, tmp_path, status, code, error):
    """One request each way, and the error that says whose fault it is."""
    proxy.faults.add("answer", status=status, code=code)
    path = write(str(tmp_path / "a"), b"x")
    with pytest.raises(error):
        transfers.put(store, path, "k")
    with pytest.raises(error):
        transfers.get(store, "k", str(tmp_path / "b"))
    assert proxy.requests == 2
    assert lines() == []


def test_a_full_disk_and_a_folder_that_cannot_be_written(
    store, direct, transfers, lines, small_disk, tmp_path
):
    """Not worth a retry; the message names the file, and nothing is left behind."""
    direct.put(write(str(tmp_path / "big"), b"x" * 300_000), "big")
    with pytest.raises(errors.UnwritableError, match="No space"):
        transfers.get(store, "big", str(small_disk / "big"))
    assert os.listdir(small_disk) == []
    (tmp_path / "file").touch()
    with pytest.raises(errors.PermanentError, match="file/big"):
        transfers.get(store, "big", str(tmp_path / "file" / "big"))
    assert lines() == []


def test_a_read_only_folder_is_unwritable(store, direct, transfers, lines, tmp_path):
    """A read-only mount is like a full disk: the next object would meet the same."""
    direct.put_bytes(b"x", "k")
    with read_only(tmp_path) as folder, pytest.raises(errors.UnwritableError, match="Read-only"):
        transfers.get(store, "k", os.path.join(folder, "k"))
    assert lines() == []


@contextmanager
def read_only(folder):
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        skip_or_fail("HTCJOB_REQUIRE_MOUNT", f"only root can mount: {mounted.stderr.strip()}")
    try:
        yield str(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_run_is_opened_although_the_answer_to_its_first_write_was_lost(store, direct, proxy, lines, retry):
    """The repeated conditional put meets one's own first success; that is no other run's."""
    proxy.faults.add("lose", method="PUT", times=1)
    Ledger(store, "r", retry).open_run(EntryList(["a"]), ["true"])
    assert len(lines()) == 1
    Ledger(direct, "r", retry).open_run(EntryList(["a"]), ["true"])
    with pytest.raises(errors.RunMismatchError):
        Ledger(direct, "r", retry).open_run(EntryList(["a"]), ["false"])
