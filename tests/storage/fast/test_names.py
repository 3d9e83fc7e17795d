"""Names that object_store cannot say are left to the SDK, or refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from htcjob.errors import PermanentError
from htcjob.storage.access import Access
from htcjob.storage.fast import bucket as fast
from htcjob.storage.urls import open_store
from tests.storage.contract import keys_in
from tests.storage.fast.support import proxy_before, store_behind

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers.rgw import Rgw


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
            with pytest.raises(PermanentError, match=r"'\.\[s3\]'"):
                call()
        rgw.client().put_object(Bucket=bucket, Key="b//c", Body=b"")
        store.put_bytes(b"x", "a")
        with pytest.raises(PermanentError, match=r"'\.\[s3\]'"):
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
        with proxy_before(rgw.endpoint) as proxy:
            store = store_behind(proxy, rgw, environ)
            keys = [f"k{number:03}" for number in range(100)] + ["k099/"]
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda key: store.put_bytes(b"", key), keys))
            before = proxy.requests
            assert keys_in(store) == keys
            assert proxy.requests - before < 25
