"""A job's chunk is found with the index of its manifest, or without; a damaged index is not believed."""

import logging
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.errors import AbsentError, ConfigurationError, DeniedError, RunMismatchError
from htcjob.manifest import opening
from htcjob.manifest.chunk import Share
from htcjob.manifest.index_writer import make_index
from htcjob.manifest.opening import open_chunk
from tests.support.manifests import (
    FUZZED,
    INDEX,
    NO_WAIT,
    CountingStore,
    N,
    chunks,
    long_text,
    reference,
    small,
    store_of,
)


@pytest.fixture
def events():
    """The warnings of opening.py; not caplog, which set_up of another test can cut off."""

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            noted.append((record.getMessage(), record.fields["cause"]))

    noted: list[tuple[str, str]] = []
    handler = Noting(logging.WARNING)
    opening.log.addHandler(handler)
    yield noted
    opening.log.removeHandler(handler)


def names(events) -> list[str]:
    return [name for name, _ in events]


def assert_full_read(store: CountingStore, text: bytes) -> None:
    """Check that three jobs get the right entries."""
    found = chunks(store, 3)
    assert [entry for chunk in found for entry in chunk] == [(n, *e) for n, e in enumerate(reference(text))]


def test_without_an_index_nothing_is_said(events):
    """Most manifests have none; S3 denies an absent object to a caller that may not list."""
    store = CountingStore(b"a.jpg\nb.jpg\n")
    assert_full_read(store, b"a.jpg\nb.jpg\n")
    store.faults.add(verb="read_range", prefix=INDEX, error=DeniedError)
    assert_full_read(store, b"a.jpg\nb.jpg\n")
    assert names(events) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda index: b"", "it cannot be read"),
        (lambda index: b"\xff\xd8\xff\xe0" + bytes(500), "not an index"),
        (lambda index: index[:50], "not an index"),
        (lambda index: index[:-1], "bytes, its head says"),
        (lambda index: index + b"\0", "bytes, its head says"),
        (lambda index: index[:8] + b"\2\0" + index[10:], "version 2"),
        (lambda index: index[:70] + b"\1" + index[71:], "head is damaged"),
        (lambda index: index[:-9] + b"\x55" + index[-8:], "page 0 is damaged"),
        (lambda index: index[:12] + b"\xff\xff\xff\xff" + index[16:], "head is damaged"),
    ],
)
def test_a_damaged_index_is_not_used(events, damage, said):
    """One warning with the cause, and then the whole manifest is read."""
    text = b"a.jpg\nb.jpg\n# c\nd.jpg\n"
    store = store_of(text)
    store.put_bytes(damage(store.read_range(INDEX, 0)), INDEX)
    assert_full_read(store, text)
    assert names(events) == ["index_not_used"] * 3
    assert all(said in cause for _, cause in events)


def test_an_index_of_another_version_is_not_used(events):
    """Neither after the manifest was replaced, by one of the same length too, nor one of another manifest."""
    for other in (b"a.jpg\nB.jpg\n", b"only.jpg\n", b"", b"x" * 900 + b"\n" * 1000):
        store = store_of(b"a.jpg\nb.jpg\n")
        store.put_bytes(other, "list.txt")
        assert_full_read(store, other)
    assert set(names(events)) == {"index_not_used"}


def test_an_index_that_says_what_is_not_so_ends_the_job():
    """Its checksums are right, it was made by a program with a bug: fewer entries are there than it says."""
    text = b"a.jpg\n\nb.jpg\n"
    store = store_of(text)
    index = bytearray(store.read_range(INDEX, 0))
    head_bytes = struct.unpack_from("<I", index, 12)[0]
    struct.pack_into("<Q", index, 64, 3)
    struct.pack_into("<I", index, head_bytes - 4, zlib.crc32(index[: head_bytes - 4]))
    struct.pack_into("<H", index, head_bytes + 32 + 4, 3)
    struct.pack_into("<I", index, len(index) - 4, zlib.crc32(index[head_bytes:-4]))
    store.put_bytes(bytes(index), INDEX)
    with pytest.raises(ConfigurationError, match="no entry 2"):
        assert_full_read(store, text)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_an_index_with_changed_bytes_never_gives_wrong_entries(data):
    """Bytes changed, cut out or put in anywhere: the right entries, by the full read if need be."""
    with small(block=10_000, group=200, page=8, gap=0):
        store = store_of(FUZZED)
        index = bytearray(store.read_range(INDEX, 0))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(index)))
            kind = data.draw(st.sampled_from(["flip", "cut", "insert", "truncate"]))
            if kind == "flip" and at < len(index):
                index[at] ^= data.draw(st.integers(1, 255))
            elif kind == "cut":
                del index[at : at + data.draw(st.integers(1, 50))]
            elif kind == "insert":
                index[at:at] = data.draw(st.binary(min_size=1, max_size=50))
            else:
                del index[at:]
        store.put_bytes(bytes(index), INDEX)
        share = Share(data.draw(st.integers(0, 9)), 10)
        found, chunk = open_chunk(store, "list.txt", share, retry=NO_WAIT)
        assert chunk == range(share.array_index * 300, share.array_index * 300 + 300)
        assert [entry.key for entry in found.entries(chunk)] == [f"f/{n:05d}.jpg" for n in chunk]


def test_equal_bytes_need_sizes():
    """Shares by number beside shares by bytes would lose entries, so there is no falling back."""
    store = CountingStore(b"a.jpg\n")
    share = Share(0, 1, "bytes")
    with pytest.raises(ConfigurationError, match=r"it is not there.*htcjob manifest build"):
        open_chunk(store, "list.txt", share, retry=NO_WAIT)
    make_index(store, "list.txt", NO_WAIT)
    with pytest.raises(ConfigurationError, match="it has no sizes"):
        open_chunk(store, "list.txt", share, retry=NO_WAIT)
    store.delete("list.txt")
    with pytest.raises(AbsentError, match=r"list\.txt"):
        open_chunk(store, "list.txt", share, retry=NO_WAIT)


def test_a_manifest_replaced_while_a_job_reads_it_ends_the_job():
    """What was read already was of the old list."""
    with small(block=100, group=50, page=2, gap=0):
        store = store_of(FUZZED)
        found, chunk = open_chunk(store, "list.txt", Share(0, 3), retry=NO_WAIT)
        entries = found.entries(chunk)
        assert next(entries).key == "f/00000.jpg"
        store.put_bytes(FUZZED.replace(b"f", b"g"), "list.txt")
        with pytest.raises(RunMismatchError, match="changed"):
            list(entries)


def test_an_index_replaced_while_a_job_reads_it_is_not_used(events):
    """Its head and its pages would be of different manifests."""
    store = store_of(long_text())
    index = store.read_range(INDEX, 0)
    read_part, store.read_part = store.read_part, None

    def replacing(key, start, stop):
        answer = read_part(key, start, stop)
        if key == INDEX and start == 0:
            store.put_bytes(index, INDEX)
        return answer

    store.read_part = replacing
    found, chunk = open_chunk(store, "list.txt", Share(9, 10), retry=NO_WAIT)
    assert [entry.position for entry in found.entries(chunk)] == list(range(N - N // 10, N))
    assert names(events) == ["index_not_used"]
