"""The fast lane (obstore) keeps the contract on all three clouds, and its own promises."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from htcjob.errors import TransientError
from htcjob.storage.access import Access
from htcjob.storage.urls import open_store
from tests.conftest import REPOSITORY
from tests.storage.contract import KEYS, REFUSED_KEYS, StoreContract, files_below, keys_in
from tests.storage.fast.support import MB, QUICK, proxy_before, store_behind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from htcjob.storage.contract import Store
    from tests.support.servers.azurite import Azurite
    from tests.support.servers.fake_gcs import FakeGcs
    from tests.support.servers.rgw import Rgw
    from tests.support.servers.tls import TlsFront


class TestS3(StoreContract):
    many = 1_100

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
    # Azure would store them under the names of others: see `azure/names.py`.
    keys = tuple(key for key in KEYS if key not in ("a\\b", "d/..e/..."))
    refused_keys = (*REFUSED_KEYS, "a\\b", "d/..e/...", "a.", "a./b", "a/.", "a/./b")
    folder_like_keys = ("a//b", "a/", "a/b")
    many = 1_500

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
def both_engines(request: pytest.FixtureRequest, environ) -> tuple[Store, Store]:
    """Return one place as a store of the fast lane, and as one of the cloud's SDK."""
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
import os, sys
from htcjob.storage.access import Access
from htcjob.storage.urls import open_store
store = open_store("s3://{rgw.new_bucket()}", Access(engine="fast", environ=os.environ))
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
        with proxy_before(rgw.endpoint) as proxy:
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
        with proxy_before(rgw.endpoint) as proxy:
            store = store_behind(proxy, rgw, environ)
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
