"""Listings of a directory: what is in them, in which order, and what is left out."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from htcjob.storage.local.files import TEMP_PREFIX
from htcjob.storage.local.store import LocalStore
from tests.storage.contract import keys_in

if TYPE_CHECKING:
    pass


class TestListing:
    def test_what_cannot_be_a_key(
        self, store: LocalStore, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Files without a possible key are left out, with one warning for the store."""
        store.put_bytes(b"", "a/z")
        there = os.fsencode(root)
        for name in (b"bad\xff", b"a/bad\xff", b"line\nbreak"):
            Path(os.fsdecode(os.path.join(there, name))).write_bytes(b"")
        (Path(os.fsdecode(os.path.join(there, b"folder\xff"))) / "sub").mkdir(parents=True)
        long = root.joinpath(*["n" * 250] * 4)
        long.mkdir(parents=True)
        (long / "n").write_bytes(b"")
        (long / ("n" * 30)).write_bytes(b"")
        with caplog.at_level(logging.DEBUG):
            assert keys_in(store) == ["a/z", "/".join(["n" * 250] * 4) + "/n"]
            assert keys_in(store) == ["a/z", "/".join(["n" * 250] * 4) + "/n"]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "left out of the listing" in caplog.text

    def test_incomplete_files(self, store: LocalStore, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        """What a killed writer or an NFS client leaves is no object, and not worth a word."""
        store.put_bytes(b"", "a/z")
        for folder in (root, root / "a"):
            (folder / f"{TEMP_PREFIX}0123456789ab").write_bytes(b"half")
            (folder / ".nfs0000000000001a2b00000001").write_bytes(b"deleted")
            (folder / ".fuse_hidden000001a400000004").write_bytes(b"deleted")
        assert keys_in(store) == ["a/z"]
        assert keys_in(store, f"a/{TEMP_PREFIX}") == []
        assert caplog.text == ""

    def test_reads_only_what_is_wanted(self, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """A listing streams, and folders that cannot hold a wanted key are not read."""
        for outer in range(10):
            for inner in range(10):
                store.put_bytes(b"", f"{outer}/{inner}/x")
        scanned: list[str] = []
        real_scandir = os.scandir

        def scandir(path: bytes) -> Any:
            scanned.append(os.path.relpath(os.fsdecode(path), store.url.removeprefix("file://")))
            return real_scandir(path)

        monkeypatch.setattr(os, "scandir", scandir)

        def scans(**options: Any) -> list[str]:
            scanned.clear()
            assert list(store.list(**options))
            return list(scanned)

        listing = store.list()
        assert next(listing).key == "0/0/x"
        assert scanned == [".", "0", "0/0"]
        assert scans(prefix="3/4/x") == ["3/4"]
        assert scans(prefix="3/4") == ["3", "3/4"]
        assert scans(start_after="9/8") == [".", "9", "9/8", "9/9"]
        assert scans(start_after="9/8/x") == [".", "9", "9/8", "9/9"]
        assert scans(start_after="9/8/x", prefix="9/") == ["9", "9/8", "9/9"]

    def test_while_things_disappear(self, store: LocalStore, root: Path) -> None:
        """Files and folders that are removed during a listing are left out of it, or were in it."""
        for key in ("a", "b", "c/x", "d/x/y", "e"):
            store.put_bytes(b"", key)
        listing = store.list()
        assert next(listing).key == "a"
        store.delete("b")
        shutil.rmtree(root / "c")
        shutil.rmtree(root / "d")
        (root / "d").write_bytes(b"")
        assert [info.key for info in listing] == ["e"]

    def test_times_beyond_dates(self, store: LocalStore, root: Path) -> None:
        """A file dated beyond the year 9999 does not stop a listing."""
        store.put_bytes(b"", "a")
        os.utime(root / "a", (0, 400_000_000_000))
        assert keys_in(store) == ["a"]
