"""A URL means one store, or a clear refusal that repeats no secret."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.errors import BadKeyError, ConfigurationError
from htcjob.storage.access import Access
from htcjob.storage.local.store import LocalStore
from htcjob.storage.memory.store import MemoryStore
from htcjob.storage.urls import is_url, open_store, split_object_url
from tests.storage.contract import KEYS

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2"


class TestOpen:
    def test_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A plain path is a directory, absolute or relative, whatever is in its name."""
        monkeypatch.chdir(tmp_path)
        for name in ("store", "a b", "50%", "%41", "a?b#c", "user@host", "2024:05", "é", "s3", "-"):
            for path in (name, f"./{name}/", str(tmp_path / name)):
                store = open_store(path)
                assert isinstance(store, LocalStore)
                store.put_bytes(b"x", "a")
            assert (tmp_path / name / "a").read_bytes() == b"x"
        assert open_store(".").url == f"file://{tmp_path}/"

    def test_file_url(self, tmp_path: Path) -> None:
        """A `file:///` URL is a directory, percent-encoded."""
        for url_name, name in (
            ("store", "store"),
            ("store/", "store"),
            ("a%20b", "a b"),
            ("a b", "a b"),
            ("50%25", "50%"),
            ("%2541", "%41"),
            ("a%3fb%23c", "a?b#c"),
            ("%C3%A9", "é"),
            ("é", "é"),
            ("%FF", os.fsdecode(b"\xff")),
        ):
            store = open_store(f"file://{tmp_path}/{url_name}")
            store.put_bytes(name.encode("utf-8", "surrogateescape"), "a")
            assert (tmp_path / name / "a").read_bytes() == os.fsencode(name)
        assert isinstance(open_store("FILE:///"), LocalStore)

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.binary(min_size=1, max_size=6), max_size=4))
    def test_every_directory_has_a_url(self, names: list[bytes]) -> None:
        """A store opened by another's URL is the same directory, whatever bytes its name has."""
        path = os.fsdecode(b"/no/such" + b"".join(b"/" + name for name in names))
        if "\0" in path:
            return
        store = LocalStore(path)
        assert store.url.encode()
        assert store.url.splitlines() == [store.url]
        assert " " not in store.url
        assert open_store(store.url).url == store.url

    def test_memory(self) -> None:
        """`memory:name` is the same store everywhere in a process."""
        store = open_store("memory:test-urls")
        store.put_bytes(b"x", "a")
        assert store is MemoryStore.named("test-urls")
        assert open_store(store.url) is store
        assert open_store("memory:test-urls-2").url == "memory:test-urls-2/"
        assert list(open_store("memory:test-urls-2").list()) == []

    @pytest.mark.parametrize(
        "url",
        [
            "s3://bucket",
            "s3://bucket/prefix/",
            "gs://bucket/a/b",
            "az://account/container",
            "AZ://account/container/p",
        ],
    )
    def test_clouds_are_opened_without_a_request(self, url: str) -> None:
        """Opening a cloud's store shows its URL, and asks nobody for anything."""
        scheme, _, rest = url.partition("://")
        assert open_store(url, Access(environ={})).url == f"{scheme.lower()}://{rest.rstrip('/')}/"

    @pytest.mark.parametrize("url", ["http://host/x", "ftp://host", "s4://bucket", "gcs://bucket", "x://"])
    def test_unknown(self, url: str) -> None:
        """Other schemes are refused, and the known ones listed."""
        with pytest.raises(ConfigurationError) as raised:
            open_store(url)
        for known in ("s3://", "gs://", "az://", "file:///", "memory:", "directory"):
            assert known in str(raised.value)

    @pytest.mark.parametrize(
        "url",
        [
            *("", "a\0b", "file:", "file:x", "file:/x", "file://host/x", "file://localhost/x", "file://x"),
            *("file:///a%2", "file:///a%zz", "file:///a% 1", "file:///a%2Fb", "file:///a%00b", "file:///%é1"),
            *(
                "memory:",
                "memory:/x",
                "memory://x",
                "memory:a/b",
                "s3:",
                "s3:/bucket",
                "s3:bucket",
                "S3:/bucket",
            ),
            *(
                "s3://",
                "s3:///x",
                "gs:///",
                "az://account",
                "az://account/",
                "az:///container",
                "s3://a\nb/x",
                "s3://a b/x",
                "s3://elsewhere.example\\/x",
                "s3://bucket:80/x",
                "s3://b%2f/x",
                "s3://../x",
                "gs://b\u00fccket/x",
                "az://elsewhere.example\\/container/x",
                "az://account/..",
            ),
        ],
    )
    def test_malformed(self, url: str) -> None:
        """A URL with a slip is refused; it never becomes a directory in the working directory."""
        with pytest.raises(ConfigurationError) as raised:
            open_store(url)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        "url",
        [
            f"s3://bucket/a?X-Amz-Signature={SECRET}",
            f"az://account/container?sv=2020&sig={SECRET}",
            f"az://account/container#{SECRET}",
            f"file:///a?{SECRET}",
            f"file:///a#{SECRET}",
            f"memory:a?{SECRET}",
            f"s3://user:{SECRET}@bucket/a",
            f"s3://{SECRET}@bucket",
            f"az://{SECRET}@account/container",
            f"file://user:{SECRET}@host/a",
            f"http://user:{SECRET}@host/a?{SECRET}",
            f"s3:/user:{SECRET}@bucket",
        ],
    )
    def test_secrets_are_not_repeated(self, url: str) -> None:
        """A URL with a query, fragment or user information is refused without showing any of it."""
        for refused, error in ((open_store, ConfigurationError), (split_object_url, BadKeyError)):
            if refused is split_object_url and "#" in url and "file" not in url:
                continue  # an ordinary character of a key
            if url.startswith("memory:") and refused is split_object_url:
                continue
            with pytest.raises(error) as raised:
                refused(url)
            assert SECRET not in str(raised.value)
            assert SECRET not in repr(raised.value)
            assert raised.value.__cause__ is None


class TestSplit:
    @pytest.mark.parametrize(
        ("url", "store", "key"),
        [
            ("s3://bucket/key", "s3://bucket/", "key"),
            ("s3://bucket/a/b c#1.jpg", "s3://bucket/", "a/b c#1.jpg"),
            ("s3://bucket/what?.jpg", "s3://bucket/", "what?.jpg"),
            ("s3://bucket/a%41", "s3://bucket/", "a%41"),
            ("s3://bucket/a@b", "s3://bucket/", "a@b"),
            ("s3://bucket/a//b/", "s3://bucket/", "a//b/"),
            ("S3://bucket/é", "s3://bucket/", "é"),
            ("gs://bucket/a/b", "gs://bucket/", "a/b"),
            ("az://account/container/key", "az://account/container/", "key"),
            ("az://account/container/a/b", "az://account/container/", "a/b"),
            ("memory:name/a/b", "memory:name/", "a/b"),
            ("file:///name", "file:///", "name"),
            ("file:///dir/name", "file:///dir/", "name"),
            ("file:///a%20dir/a%20name", "file:///a%20dir/", "a name"),
            ("file:///dir/50%25", "file:///dir/", "50%"),
            ("FILE:///dir/%C3%A9", "file:///dir/", "é"),
        ],
    )
    def test_good(self, url: str, store: str, key: str) -> None:
        """An object's URL is its store's and its key."""
        assert is_url(url)
        assert split_object_url(url) == (store, key)

    @pytest.mark.parametrize(
        "url",
        [
            *("s3://bucket", "s3://bucket/", "s3:///key", "az://account/container", "az://account//key"),
            *(
                "s3://bucket//a",
                "s3://bucket/../a",
                "s3://bucket/a/../b",
                "s3://bucket/a\nb",
                "s3://bucket/a\0",
            ),
            *("s3:/bucket/key", "gs:bucket/key", "http://host/a", "ftp://host/a", "memory:", "memory:name"),
            *(
                "memory:name/",
                "memory://name/a",
                "memory:name//a",
                "file:///",
                "file:///dir/",
                "file://host/a",
            ),
            *("file:///a/../b", "file:///a/%2e%2e/b", "file:///a/..", "file:///a/%2e%2E", "file:///a%2Fb"),
            *(
                "file:///a/%FF",
                "file:///a/%00",
                "file:///a/b%0A",
                "file:///a?b",
                "file:///a#b",
                "file:///a/b%4",
            ),
            f"s3://bucket/{'k' * 1025}",
        ],
    )
    def test_bad(self, url: str) -> None:
        """A URL that is no object's, or whose key must not be used, is a bad key."""
        assert is_url(url)
        with pytest.raises(BadKeyError):
            split_object_url(url)

    @pytest.mark.parametrize(
        "entry", ["a", "a/b", "a:b", "a/b://c", "é://a", "2024:05/x.jpg", "://", "1s3://b/k"]
    )
    def test_keys_are_no_urls(self, entry: str) -> None:
        """A key with a colon stays a key."""
        assert not is_url(entry)
        with pytest.raises(BadKeyError, match="not a URL"):
            split_object_url(entry)

    def test_round_trip(self, tmp_path: Path) -> None:
        """An object's URL, as records give it, leads back to the object."""
        for store in (LocalStore(str(tmp_path / "50% é")), MemoryStore.named("round-trip")):
            for key in KEYS:
                if "?" in key and "=" in key and isinstance(store, MemoryStore):
                    continue  # refused: could be a signed URL
                store.put_bytes(key.encode(), key)
                parent, name = split_object_url(store.url_of(key))
                assert open_store(parent).read_range(name, 0) == key.encode()


def test_import_is_cheap() -> None:
    """Importing the table of stores imports none of them, and not urllib."""
    code = (
        "import sys, htcjob.storage; before = set(sys.modules)\n"
        "import htcjob.storage.urls; print(*sorted(set(sys.modules) - before))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(shown.stdout.split()) <= {
        *("errno", "htcjob.errors", "htcjob.trouble"),
        *("htcjob.storage.keys", "htcjob.storage.urls"),
    }
