"""Manifests: the entries at the right positions, whatever the lines look like."""

import hashlib
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.errors import AbsentError, RunMismatchError
from htcjob.manifest import groups as manifest_groups
from htcjob.manifest import manifest as module
from htcjob.manifest.groups import GROUP_BYTES
from htcjob.manifest.manifest import Manifest
from htcjob.storage.memory.store import MemoryStore
from tests.support.manifests import LINES, NO_WAIT, CountingStore, reference


def manifest_of(data: bytes) -> Manifest:
    store = MemoryStore("manifest")
    store.put_bytes(data, "list.txt")
    return Manifest(store, "list.txt", NO_WAIT)


@settings(max_examples=200, deadline=None)
@given(
    lines=LINES,
    end=st.sampled_from([b"\n", b"\r\n"]),
    bom=st.booleans(),
    last_newline=st.booleans(),
    block=st.integers(1, 40),
    group=st.integers(3, 60),
    data=st.data(),
)
def test_chunks_are_those_of_the_definition(lines, end, bom, last_newline, block, group, data):
    """For any line ends, comments, byte order mark and block size, each chunk has the right entries."""
    text = (b"\xef\xbb\xbf" if bom else b"") + end.join(lines) + (end if last_newline and lines else b"")
    with patch.object(module, "BLOCK_BYTES", block), patch.object(manifest_groups, "GROUP_BYTES", group):
        manifest = manifest_of(text)
        expected = reference(text)
        assert manifest.n_entries == len(expected)
        assert manifest.sha256 == hashlib.sha256(text).hexdigest()
        start = data.draw(st.integers(0, len(expected)))
        stop = data.draw(st.integers(start, len(expected)))
        found = list(manifest.entries(range(start, stop)))
    assert [entry.position for entry in found] == list(range(start, stop))
    assert [(entry.line_number, entry.text.encode()) for entry in found] == expected[start:stop]


def test_an_absent_manifest_is_absent():
    """Not an empty one."""
    with pytest.raises(AbsentError):
        Manifest(MemoryStore("nothing-here"), "list.txt", NO_WAIT)


def test_an_empty_manifest_has_no_entries():
    """Zero bytes are zero entries."""
    assert manifest_of(b"").n_entries == 0
    assert list(manifest_of(b"").entries(range(0))) == []


def test_memory_does_not_grow_with_a_line_that_never_ends():
    """A binary file given as manifest is one bad entry, however long it is."""
    with patch.object(module, "BLOCK_BYTES", 64 * 1024):
        manifest = manifest_of(b"\1" * 3_000_000 + b"\nb.jpg\n")
        bad, good = manifest.entries(range(2))
    assert "longer than" in bad.problem
    assert (good.key, good.line_number) == ("b.jpg", 2)


@pytest.mark.parametrize("block", [1000, 70_000, 4_000_000])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_a_blank_line_that_is_too_long_is_blank_all_the_same(block, ends):
    """What a line is does not depend on how much of it is read at a time."""
    text = ends.join([b" " * 200_000, b" " * 200_000 + b"x", b"#" * 100_000, b"b.jpg"])
    with patch.object(module, "BLOCK_BYTES", block):
        manifest = manifest_of(text)
        bad, good = manifest.entries(range(manifest.n_entries))
    assert "longer than" in bad.problem
    assert (bad.line_number, good.line_number, good.key) == (2, 4, "b.jpg")


def test_a_chunk_is_read_from_the_group_that_it_begins_in():
    """After the count, the last entry costs a group of lines, not the manifest again."""
    store = CountingStore(b"".join(b"%09d\n" % n for n in range(1_000_000)))
    manifest = Manifest(store, "list.txt", NO_WAIT)
    assert store.read_bytes == 10_000_000
    assert [entry.key for entry in manifest.entries(range(400_000, 400_001))] == ["000400000"]
    assert 0 < store.read_bytes - 10_000_000 <= GROUP_BYTES


def test_a_small_manifest_is_read_once():
    """Its bytes are kept from the count."""
    store = CountingStore(b"a.jpg\nb.jpg\n")
    manifest = Manifest(store, "list.txt", NO_WAIT)
    assert [entry.key for entry in manifest.entries(range(1, 2))] == ["b.jpg"]
    assert manifest.sha256 == hashlib.sha256(b"a.jpg\nb.jpg\n").hexdigest()
    assert store.requests == ["head list.txt", "list.txt"]


def test_a_manifest_that_changes_while_it_is_read_is_noticed():
    """An entry must not be lost because another list took the old one's name."""
    for other in (b"a.jpg\nX.jpg\nc.jpg\n", b"a.jpg\n"):
        with patch.object(module, "BLOCK_BYTES", 8):
            manifest = manifest_of(b"a.jpg\nb.jpg\nc.jpg\n")
            entries = manifest.entries(range(3))
            assert next(entries).key == "a.jpg"
            manifest._store.put_bytes(other, "list.txt")
            with pytest.raises(RunMismatchError, match="changed"):
                list(entries)
