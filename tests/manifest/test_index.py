"""The index of a manifest: the same entries with it as without, in few requests; a damaged one is not believed."""

import hashlib
import logging
import random
import struct
import zlib
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.errors import AbsentError, ConfigurationError, DeniedError, RunMismatchError, TransientError
from htcjob.manifest import groups as manifest_groups
from htcjob.manifest import index as manifest_index
from htcjob.manifest import index_format, manifest, opening
from htcjob.manifest import index_writer as manifest_writer
from htcjob.manifest.chunk import Share, chunk_bounds
from htcjob.manifest.groups import GROUP_BYTES
from htcjob.manifest.index import Index
from htcjob.manifest.index_writer import IndexWriter, make_index
from htcjob.manifest.manifest import Manifest
from htcjob.manifest.opening import open_chunk
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access
from htcjob.storage.local.store import LocalStore
from htcjob.storage.urls import open_store
from tests.manifest.test_manifest import LINES, CountingStore, reference
from tests.support.wire.wire import FaultProxy

NO_WAIT = RetryPolicy(retries=3, sleep=lambda seconds: False)
INDEX = "list.txt.idx"


def store_of(text: bytes, sizes: list[int] | None = None, *, folder: str | None = None) -> CountingStore:
    """Give a store with a manifest and its index, made with *sizes* where they are given."""
    store = CountingStore(text)
    if sizes is None:
        make_index(store, "list.txt", NO_WAIT)
    else:
        with IndexWriter(has_sizes=True) as writer:
            for start in range(0, len(text), 7000):
                writer.feed(text[start : start + 7000])
            writer.feed_sizes(sizes)
            writer.write(f"{folder}/index", tag=store.head("list.txt").tag)
        store.put(f"{folder}/index", INDEX)
    store.requests.clear()
    store.read_bytes = 0
    return store


@contextmanager
def small(*, block: int, group: int, page: int, gap: int):
    """Make everything so small that short manifests have many groups, pages and blocks."""
    with ExitStack() as stack:
        for room, name, value in (
            (manifest, "BLOCK_BYTES", block),
            (manifest_writer, "BLOCK_BYTES", block),
            (manifest_groups, "GROUP_BYTES", group),
            (manifest_writer, "PAGE_GROUPS", page),
            (manifest_index, "GAP_BYTES", gap),
        ):
            stack.enter_context(patch.object(room, name, value))
        yield


def head_only(store: CountingStore):
    """Have the first read of an index end with its head, as it does where the index is large."""
    index = bytearray(store.read_range(INDEX, 0))
    return patch.object(manifest_index, "HEAD_BYTES", struct.unpack_from("<I", index, 12)[0])


def texts(found) -> list[tuple[int, int, bytes]]:
    return [(entry.position, entry.line_number, entry.text.encode()) for entry in found]


def chunks(
    store: CountingStore, array_size: int, balance: str = "entries"
) -> list[list[tuple[int, int, bytes]]]:
    """Give what each job of an array gets."""
    result = []
    for index in range(array_size):
        found, chunk = open_chunk(store, "list.txt", Share(index, array_size, balance), NO_WAIT)
        entries = texts(found.entries(chunk))
        assert [position for position, _, _ in entries] == list(chunk)
        result.append(entries)
    return result


@settings(max_examples=150, deadline=None)
@given(
    lines=LINES,
    end=st.sampled_from([b"\n", b"\r\n"]),
    bom=st.booleans(),
    last_newline=st.booleans(),
    block=st.integers(1, 60),
    group=st.integers(3, 60),
    page=st.integers(1, 4),
    gap=st.sampled_from([0, 100, 10_000]),
    array_size=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_entries_are_the_same_with_an_index_without_one_and_by_definition(
    tmp_path_factory, lines, end, bom, last_newline, block, group, page, gap, array_size, seed
):
    """For any manifest and array size, with equal numbers and equal bytes."""
    text = (b"\xef\xbb\xbf" if bom else b"") + end.join(lines) + (end if last_newline and lines else b"")
    expected = [(position, *entry) for position, entry in enumerate(reference(text))]
    draw = random.Random(seed)
    sizes = [draw.choice([0, 1, 5, 100, 10**12]) for _ in expected]
    with small(block=block, group=group, page=page, gap=gap):
        store = store_of(text, sizes, folder=str(tmp_path_factory.getbasetemp()))
        with head_only(store):
            found = chunks(store, array_size)
            weighted = chunks(store, array_size, "bytes")
        store.delete(INDEX)
        without = chunks(store, array_size)
    slices = [
        chunk_bounds(array_index=index, array_size=array_size, n_entries=len(expected))
        for index in range(array_size)
    ]
    assert found == without == [expected[chunk.start : chunk.stop] for chunk in slices]
    # An entry belongs to the part of the bytes that its first byte lies in.
    total, before = sum(sizes), accumulate(sizes, initial=0)
    if total:
        part = [min(sum_before * array_size // total, array_size - 1) for sum_before in before]
        assert weighted == [[e for e in expected if part[e[0]] == index] for index in range(array_size)]
    else:
        assert weighted == found


N = 1_000_000
TEXT = b"".join(b"photos/%d/%06d.jpg\n" % (n % 7, n) for n in range(N))
"""Of 22 MB, so of several pages of groups, which one read does not have."""


@pytest.mark.parametrize("array_size", [16, 1000, N])
@pytest.mark.parametrize("where", [0.0, 0.31, 0.999])
def test_a_chunk_takes_three_requests_and_little_more_than_its_own_bytes(array_size, where):
    """Those of the index's head, its pages, and the chunk; none beside them."""
    store = store_of(TEXT)
    share = Share(int(where * array_size), array_size)
    found, chunk = open_chunk(store, "list.txt", share, NO_WAIT)
    entries = list(found.entries(chunk))
    # The head brings the first pages with it.
    assert store.requests in ([INDEX, INDEX, "list.txt"], [INDEX, "list.txt"])
    assert len(store.requests) == 3 or where < 0.5
    assert store.read_bytes <= sum(len(entry.text) + 1 for entry in entries) + 64 * 1024
    assert [entry.position for entry in entries] == list(chunk)


@pytest.mark.parametrize("engine", ["fast", "sdk"])
def test_three_requests_are_three_on_the_wire(rgw, monkeypatch, engine):
    """Counted between the job and an S3 server; the index was made with the other engine."""
    for name, value in rgw.environ().items():
        monkeypatch.setenv(name, value)
    bucket = rgw.new_bucket()
    other = {"fast": "sdk", "sdk": "fast"}[engine]
    direct = open_store(f"s3://{bucket}", Access(engine=other, environ=rgw.environ()))
    direct.put_bytes(TEXT, "list.txt")
    make_index(direct, "list.txt", NO_WAIT)
    server = urlsplit(rgw.endpoint)
    with FaultProxy(server.hostname, server.port) as proxy:
        store = open_store(f"s3://{bucket}", Access(engine=engine, endpoint=proxy.url, environ=rgw.environ()))
        found, chunk = open_chunk(store, "list.txt", Share(997, 1000), NO_WAIT)
        entries = list(found.entries(chunk))
        assert [entry.position for entry in entries] == list(range(997_000, 998_000))
        assert proxy.requests == 3
        assert 0 < proxy.bytes_down <= sum(len(entry.text) + 1 for entry in entries) + 64 * 1024


def test_the_bounds_hold_for_a_manifest_of_3_gb(tmp_path):
    """A hundred million lines: the head is as long as one read, and two pages go into the 64 KiB with it."""
    with IndexWriter() as writer:
        for _ in range(3_000_000_000 // GROUP_BYTES):
            writer.group_bytes.append(GROUP_BYTES)
            writer.group_entries.append(546)
            writer.group_lines.append(546)
        writer.size_bytes = GROUP_BYTES * len(writer.group_bytes)
        writer.write(str(tmp_path / "index"), tag="t" * index_format.LONGEST_TAG_BYTES)
    data = (tmp_path / "index").read_bytes()
    head = index_format.read_head(data[: index_format.HEAD_BYTES], len(data))
    assert head.n_entries > 99_000_000
    assert index_format.HEAD_BYTES + 2 * head.page_bytes + 2 * GROUP_BYTES <= 64 * 1024
    store = CountingStore(b"")
    store.put_bytes(data, INDEX)
    index = Index(store, "list.txt", NO_WAIT)
    for position in (0, 1, 12_345_678, head.n_entries - 1):
        first, last = index.span(range(position, position + 1))
        assert first == last
        assert first.position <= position < first.position + 546
        assert first.offset == first.number * GROUP_BYTES == position // 546 * GROUP_BYTES
        assert first.line_number == first.position + 1


def test_a_chunk_of_everything_is_read_in_blocks():
    """Larger chunks take a request for each 4 MiB, and one more for the index."""
    store = store_of(TEXT)
    found, chunk = open_chunk(store, "list.txt", Share(0, 1), NO_WAIT)
    assert texts(found.entries(chunk)) == [(n, *entry) for n, entry in enumerate(reference(TEXT))]
    assert len(store.requests) <= 3 + len(TEXT) // manifest.BLOCK_BYTES + 1
    assert store.read_bytes <= len(TEXT) + 64 * 1024


def test_a_small_index_is_read_at_once():
    """Two requests, the manifest's among them; an empty chunk looks at the manifest's version only."""
    store = store_of(b"a.jpg\nb.jpg\n")
    found, chunk = open_chunk(store, "list.txt", Share(1, 2), NO_WAIT)
    assert [entry.key for entry in found.entries(chunk)] == ["b.jpg"]
    assert store.requests == [INDEX, "list.txt"]
    store.requests.clear()
    _, chunk = open_chunk(store, "list.txt", Share(2, 3), NO_WAIT)
    assert not chunk
    assert store.requests == [INDEX, "head list.txt"]


def test_an_empty_manifest_has_an_index_too():
    """Of no entries."""
    store = store_of(b"")
    found, chunk = open_chunk(store, "list.txt", Share(0, 3), NO_WAIT)
    assert (found.n_entries, chunk, list(found.entries(chunk))) == (0, range(0), [])
    assert store.requests == [INDEX, "head list.txt"]


def test_what_identifies_a_run_is_the_same_with_an_index():
    """So a job with an index and one without agree on run.json, and no job reads the manifest for its digest."""
    store = store_of(TEXT)
    found, _ = open_chunk(store, "list.txt", Share(5, 1000), NO_WAIT)
    whole = Manifest(store, "list.txt")
    assert found.sha256 == whole.sha256 == hashlib.sha256(TEXT).hexdigest()
    for name in ("url", "tag", "size_bytes", "n_entries", "default_run"):
        assert getattr(found, name) == getattr(whole, name)


def test_chunks_of_equal_bytes_take_eight_requests_at_most(tmp_path):
    """The head, two pages, two groups' sizes, two pages, the chunk; and few bytes."""
    draw = random.Random(1)
    sizes = [draw.randrange(10**7) for _ in range(N)]
    store = store_of(TEXT, sizes, folder=str(tmp_path))
    for index in (0, 1, 499, 998, 999):
        store.requests.clear()
        store.read_bytes = 0
        found, chunk = open_chunk(store, "list.txt", Share(index, 1000, "bytes"), NO_WAIT)
        entries = list(found.entries(chunk))
        assert len(store.requests) <= 8
        assert store.read_bytes <= sum(len(entry.text) + 1 for entry in entries) + 128 * 1024
        assert sum(sizes[chunk.start : chunk.stop]) <= sum(sizes) / 1000 + max(sizes)


# An index that is not believed


@pytest.fixture
def events():
    """Give the list that warnings of opening.py come into; not caplog, which set_up of another test can cut off."""

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
    """See that three jobs get the right entries."""
    found = chunks(store, 3)
    assert [entry for chunk in found for entry in chunk] == [(n, *e) for n, e in enumerate(reference(text))]


def test_without_an_index_nothing_is_said(events):
    """Most manifests have none; S3 denies an absent object to who may not list."""
    store = CountingStore(b"a.jpg\nb.jpg\n")
    assert_full_read(store, b"a.jpg\nb.jpg\n")
    store.faults.add(verb="read_range", prefix=INDEX, error=DeniedError)
    assert_full_read(store, b"a.jpg\nb.jpg\n")
    assert names(events) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda index: b"", "it cannot be read"),
        (lambda index: b"\xff\xd8\xff\xe0" + bytes(500), "no index"),
        (lambda index: index[:50], "no index"),
        (lambda index: index[:-1], "bytes and says"),
        (lambda index: index + b"\0", "bytes and says"),
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
    """Of right checksums, made by a program with a bug: fewer entries are there than it says."""
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


FUZZED = b"".join(b"f/%05d.jpg\n" % n for n in range(3000))


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
        found, chunk = open_chunk(store, "list.txt", share, NO_WAIT)
        assert chunk == range(share.array_index * 300, share.array_index * 300 + 300)
        assert [entry.key for entry in found.entries(chunk)] == [f"f/{n:05d}.jpg" for n in chunk]


def test_equal_bytes_need_sizes():
    """Shares by number beside shares by bytes would lose entries, so there is no falling back."""
    store = CountingStore(b"a.jpg\n")
    share = Share(0, 1, "bytes")
    with pytest.raises(ConfigurationError, match=r"it is not there.*htcjob manifest build"):
        open_chunk(store, "list.txt", share, NO_WAIT)
    make_index(store, "list.txt", NO_WAIT)
    with pytest.raises(ConfigurationError, match="it has no sizes"):
        open_chunk(store, "list.txt", share, NO_WAIT)
    store.delete("list.txt")
    with pytest.raises(AbsentError, match=r"list\.txt"):
        open_chunk(store, "list.txt", share, NO_WAIT)


def test_a_manifest_replaced_while_a_job_reads_it_ends_the_job():
    """What was read already was of the old list."""
    with small(block=100, group=50, page=2, gap=0):
        store = store_of(FUZZED)
        found, chunk = open_chunk(store, "list.txt", Share(0, 3), NO_WAIT)
        entries = found.entries(chunk)
        assert next(entries).key == "f/00000.jpg"
        store.put_bytes(FUZZED.replace(b"f", b"g"), "list.txt")
        with pytest.raises(RunMismatchError, match="changed"):
            list(entries)


def test_an_index_replaced_while_a_job_reads_it_is_not_used(events):
    """Its head and its pages would be of different manifests."""
    store = store_of(TEXT)
    index = store.read_range(INDEX, 0)
    read_part, store.read_part = store.read_part, None

    def replacing(key, start, stop):
        answer = read_part(key, start, stop)
        if key == INDEX and start == 0:
            store.put_bytes(index, INDEX)
        return answer

    store.read_part = replacing
    found, chunk = open_chunk(store, "list.txt", Share(9, 10), NO_WAIT)
    assert [entry.position for entry in found.entries(chunk)] == list(range(N - N // 10, N))
    assert names(events) == ["index_not_used"]


# How it is made


def test_no_index_is_made_of_a_manifest_that_changes_meanwhile():
    """Trying again is what helps; the old index stays."""
    store = CountingStore(b"a.jpg\n")
    read_part = store.read_part

    def replacing(key, start, stop):
        answer = read_part(key, start, stop)
        store.put_bytes(b"b.jpg\n", "list.txt")
        return answer

    store.read_part = replacing
    with pytest.raises(TransientError, match="changed while it was read"):
        make_index(store, "list.txt", NO_WAIT)
    assert [info.key for info in store.list()] == ["list.txt"]


def test_an_index_goes_with_a_file_too(tmp_path):
    """A directory as a store: made, used, and stale once the file is written again."""
    store = LocalStore(str(tmp_path))
    store.put_bytes(b"a.jpg\nb.jpg\n", "list.txt")
    made = make_index(store, "list.txt", NO_WAIT)
    assert (made.n_entries, made.manifest_bytes, made.weight) == (2, 12, None)
    assert made.index_bytes == (tmp_path / INDEX).stat().st_size
    found, chunk = open_chunk(store, "list.txt", Share(1, 2), NO_WAIT)
    assert [entry.key for entry in found.entries(chunk)] == ["b.jpg"]


def test_another_program_can_read_it_from_the_description(tmp_path):
    """Every number of the page in index_format.py, with nothing of ours."""
    sizes = list(range(1000, 1000 + N))
    store = store_of(TEXT, sizes, folder=str(tmp_path))
    data = store.read_range(INDEX, 0)
    magic, version, flags, head_bytes, index_bytes, manifest_bytes = struct.unpack_from("<8sHHIQQ", data)
    assert (magic, version, flags) == (b"\x89HTCIDX\n", 1, 1)
    assert (index_bytes, manifest_bytes) == (len(data), len(TEXT))
    digest, n_entries, weight, n_groups, page_groups, n_pages, tag_bytes = struct.unpack_from(
        "<32sQQIIII", data, 32
    )
    assert digest == hashlib.sha256(TEXT).digest()
    assert (n_entries, weight) == (N, sum(sizes))
    assert data[96 : 96 + tag_bytes].decode() == store.head("list.txt").etag
    assert 96 + tag_bytes + 16 * n_pages + 4 == head_bytes
    assert n_pages == -(-n_groups // page_groups)
    assert struct.unpack_from("<I", data, head_bytes - 4)[0] == zlib.crc32(data[: head_bytes - 4])
    at, group, lines = head_bytes, 0, TEXT.splitlines(keepends=True)
    sizes_at = head_bytes + n_pages * (32 + 4) + n_groups * 16
    expected = (0, 0, 1, 0)
    for page in range(n_pages):
        in_page = min(page_groups, n_groups - group)
        assert struct.unpack_from("<QQQQ", data, at) == expected
        assert struct.unpack_from("<QQ", data, 96 + tag_bytes + 16 * page) == (expected[0], expected[3])
        stop = at + 32 + 16 * in_page
        assert struct.unpack_from("<I", data, stop)[0] == zlib.crc32(data[at:stop])
        for row in range(at + 32, stop, 16):
            size_bytes, entries, n_lines, of_group = struct.unpack_from("<IHHQ", data, row)
            position, offset, line_number, before = expected
            assert TEXT[offset : offset + size_bytes] == b"".join(lines[position : position + entries])
            assert (size_bytes <= 16 * 1024, n_lines) == (True, entries)
            found = struct.unpack_from(f"<{entries}Q", data, sizes_at)
            assert list(found) == sizes[position : position + entries]
            assert sum(found) == of_group
            sizes_at += 8 * entries
            assert struct.unpack_from("<I", data, sizes_at)[0] == zlib.crc32(
                data[sizes_at - 8 * entries : sizes_at]
            )
            sizes_at += 4
            expected = (position + entries, offset + size_bytes, line_number + n_lines, before + of_group)
        at, group = stop + 4, group + in_page
    assert expected == (N, len(TEXT), N + 1, sum(sizes))
    assert sizes_at == len(data)
