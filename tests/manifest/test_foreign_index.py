"""An index that another program made, or that is no object at all, ends nothing with a traceback."""

import os
import struct
import tempfile
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.errors import HtcjobError, UnusableIndexError
from htcjob.manifest.check import Check
from htcjob.manifest.chunk import Share
from htcjob.manifest.index import Index
from htcjob.manifest.index_format import SUFFIX
from htcjob.manifest.index_writer import IndexWriter
from htcjob.manifest.manifest import Manifest
from htcjob.manifest.opening import open_chunk
from htcjob.manifest.split import split
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore
from htcjob.transfer.locations import Location
from htcjob.transfer.transfers import Transfers

QUICK = RetryPolicy(sleep=lambda _: False)
TEXT = b"".join(b"e%06d/some/longer/name.jpg\n" % n for n in range(3000))
HEAD_FIELDS = {12: "I", 16: "Q", 24: "Q", 64: "Q", 72: "Q", 80: "I", 84: "I", 88: "I", 92: "I"}
"""Offsets of the numbers in the head, and how long they are."""


def indexed(folder: str) -> MemoryStore:
    store = MemoryStore("foreign")
    store.put_bytes(TEXT, "list")
    with IndexWriter(has_sizes=True) as writer:
        writer.feed(TEXT)
        writer.feed_sizes([n * 7919 % 1000 for n in range(3000)])
        writer.write(f"{folder}/index", tag=store.head("list").tag)
    store.put(f"{folder}/index", "list" + SUFFIX)
    return store


def with_checksums(index: bytearray) -> bytes:
    """Make the CRCs of head and pages right where they would be, as a program with a bug does."""

    def mend(start: int, stop: int) -> None:
        if 0 <= start <= stop - 4 and stop <= len(index):
            index[stop - 4 : stop] = struct.pack("<I", zlib.crc32(index[start : stop - 4]))

    if len(index) >= 96:
        struct.pack_into("<Q", index, 16, len(index))
        (head_bytes,) = struct.unpack_from("<I", index, 12)
        n_groups, page_groups, n_pages = struct.unpack_from("<III", index, 80)
        mend(0, head_bytes)
        at = head_bytes
        for page in range(min(n_pages, 50)):
            stop = at + 36 + 16 * max(0, min(page_groups, n_groups - page * page_groups))
            mend(at, stop)
            at = stop
    return bytes(index)


@settings(max_examples=100)
@given(st.data())
def test_an_index_of_right_checksums_and_wrong_numbers(data):
    """Jobs and `split` end as they should, or with an error of ours; `check` always comes to its end."""
    with tempfile.TemporaryDirectory() as folder, Transfers(QUICK) as transfers:
        store = indexed(folder)
        index = bytearray(store.read_range("list" + SUFFIX, 0))
        for _ in range(data.draw(st.integers(1, 3))):
            if data.draw(st.booleans()):
                at = data.draw(st.sampled_from(sorted(HEAD_FIELDS)))
                largest = 2 ** (8 * struct.calcsize(HEAD_FIELDS[at])) - 1
                number = st.sampled_from([0, 1, 2, 4, 2999, 3001, len(index), largest]) | st.integers(
                    0, largest
                )
                struct.pack_into("<" + HEAD_FIELDS[at], index, at, data.draw(number))
            else:
                index[data.draw(st.integers(96, 600))] = data.draw(st.integers(0, 255))
        store.put_bytes(with_checksums(index), "list" + SUFFIX)
        place = Location("list", store, "list")
        how = {"array_size": 5, "transfers": transfers, "retry": QUICK, "folder": folder}
        list(Check(place, transfers=transfers, retry=QUICK, folder=folder).problems())
        for balance in ("entries", "bytes"):
            for use in (
                lambda: list(split(place, balance=balance, **how)),  # noqa: B023
                lambda: [entries_of(store, n, balance) for n in range(5)],  # noqa: B023
            ):
                with suppress(HtcjobError):
                    use()


def entries_of(store, array_index: int, balance: str) -> None:
    """Read a chunk: it has as many entries as it says, or that is an error."""
    manifest, chunk = open_chunk(store, "list", Share(array_index, 5, balance), retry=QUICK)
    assert [entry.position for entry in manifest.entries(chunk)] == list(chunk)


def test_an_index_that_ends_behind_its_manifest_is_not_used(tmp_path):
    """A job reads all, as with any other index that it cannot believe."""
    store = indexed(str(tmp_path))
    index = bytearray(store.read_range("list" + SUFFIX, 0))
    struct.pack_into("<Q", index, 24, 2**40)  # length of the manifest
    (head_bytes,) = struct.unpack_from("<I", index, 12)
    struct.pack_into("<Q", index, head_bytes + 8, 2**39)  # where the first line begins
    store.put_bytes(with_checksums(index), "list" + SUFFIX)
    manifest, chunk = open_chunk(store, "list", Share(0, 5, "entries"), retry=QUICK)
    assert manifest.size_bytes == len(TEXT)
    assert len(list(manifest.entries(chunk))) == 600


@pytest.mark.parametrize("page", [0, 1])
def test_pages_that_go_backwards_are_not_used(tmp_path, page):
    """No page is looked for before the first one."""
    store = indexed(str(tmp_path))
    index = bytearray(store.read_range("list" + SUFFIX, 0))
    (tag_bytes,) = struct.unpack_from("<I", index, 92)
    struct.pack_into("<Q", index, 96 + tag_bytes, 2999 + page)
    store.put_bytes(with_checksums(index), "list" + SUFFIX)
    manifest, _ = open_chunk(store, "list", Share(0, 5, "entries"), retry=QUICK)
    assert manifest.n_entries == Manifest(store, "list", QUICK).n_entries
    with pytest.raises(UnusableIndexError, match="contradict"):
        Index(store, "list", QUICK)


def _make(kind: str, path) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("list.txt")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"" if kind == "empty" else b"\x89HTCIDX\n" * 50)


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "pipe", "empty", "magic"])
def test_what_is_no_file_is_no_index(htcjob, kind):
    """A job, `check` and `split` work without it; where it looks like one, they report why it is not used."""
    htcjob.entries("a", "b", "c")
    _make(kind, htcjob.project / "list.txt.idx")
    ended = htcjob.run("--each", "--", "true")
    assert ended.returncode == 0, ended.stderr
    checked = htcjob("manifest", "check", "list.txt")
    shown = htcjob("manifest", "split", "list.txt", "--array-size", "2")
    assert (shown.returncode, shown.stdout) == (0, "0\t2\t-\ta\tb\n1\t1\t-\tc\tc\n")
    if kind in ("folder", "pipe"):
        assert (checked.returncode, shown.stderr) == (0, "")
    else:
        assert checked.returncode == 65
        assert checked.stdout.startswith("index not usable: ")
        assert "index_not_used" in shown.stderr


def test_a_manifest_whose_index_has_no_possible_name(htcjob):
    """A name may be as long as a file's can be: there is just no index then."""
    name = "l" * 253
    htcjob.entries("a", "b")
    (htcjob.project / "list.txt").rename(htcjob.project / name)
    htcjob.variables["HTCJOB_MANIFEST"] = name
    ended = htcjob.run("--each", "--", "true")
    assert ended.returncode == 0, ended.stderr
