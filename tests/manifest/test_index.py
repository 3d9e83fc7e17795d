"""The index of a manifest: the same entries with it as without, in few requests."""

import hashlib
import random
from itertools import accumulate
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.manifest import index_format, manifest
from htcjob.manifest.chunk import Share, chunk_bounds
from htcjob.manifest.groups import GROUP_BYTES
from htcjob.manifest.index import Index
from htcjob.manifest.index_writer import IndexWriter, make_index
from htcjob.manifest.manifest import Manifest
from htcjob.manifest.opening import open_chunk
from htcjob.storage.access import Access
from htcjob.storage.urls import open_store
from tests.support.manifests import (
    INDEX,
    LINES,
    NO_WAIT,
    CountingStore,
    N,
    chunks,
    head_only,
    long_text,
    reference,
    small,
    store_of,
    texts,
)
from tests.support.wire.wire import FaultProxy


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


@pytest.mark.parametrize("array_size", [16, 1000, N])
@pytest.mark.parametrize("where", [0.0, 0.31, 0.999])
def test_a_chunk_takes_three_requests_and_little_more_than_its_own_bytes(array_size, where):
    """Those of the index's head, its pages, and the chunk; none beside them."""
    store = store_of(long_text())
    share = Share(int(where * array_size), array_size)
    found, chunk = open_chunk(store, "list.txt", share, retry=NO_WAIT)
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
    direct.put_bytes(long_text(), "list.txt")
    make_index(direct, "list.txt", NO_WAIT)
    server = urlsplit(rgw.endpoint)
    with FaultProxy(server.hostname, server.port) as proxy:
        store = open_store(f"s3://{bucket}", Access(engine=engine, endpoint=proxy.url, environ=rgw.environ()))
        found, chunk = open_chunk(store, "list.txt", Share(997, 1000), retry=NO_WAIT)
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
    store = store_of(long_text())
    found, chunk = open_chunk(store, "list.txt", Share(0, 1), retry=NO_WAIT)
    assert texts(found.entries(chunk)) == [(n, *entry) for n, entry in enumerate(reference(long_text()))]
    assert len(store.requests) <= 3 + len(long_text()) // manifest.BLOCK_BYTES + 1
    assert store.read_bytes <= len(long_text()) + 64 * 1024


def test_a_small_index_is_read_at_once():
    """Two requests, the manifest's among them; an empty chunk looks at the manifest's version only."""
    store = store_of(b"a.jpg\nb.jpg\n")
    found, chunk = open_chunk(store, "list.txt", Share(1, 2), retry=NO_WAIT)
    assert [entry.key for entry in found.entries(chunk)] == ["b.jpg"]
    assert store.requests == [INDEX, "list.txt"]
    store.requests.clear()
    _, chunk = open_chunk(store, "list.txt", Share(2, 3), retry=NO_WAIT)
    assert not chunk
    assert store.requests == [INDEX, "head list.txt"]


def test_an_empty_manifest_has_an_index_too():
    """Of no entries."""
    store = store_of(b"")
    found, chunk = open_chunk(store, "list.txt", Share(0, 3), retry=NO_WAIT)
    assert (found.n_entries, chunk, list(found.entries(chunk))) == (0, range(0), [])
    assert store.requests == [INDEX, "head list.txt"]


def test_what_identifies_a_run_is_the_same_with_an_index():
    """So a job with an index and one without agree on run.json, and no job reads the manifest for its digest."""
    store = store_of(long_text())
    found, _ = open_chunk(store, "list.txt", Share(5, 1000), retry=NO_WAIT)
    whole = Manifest(store, "list.txt", NO_WAIT)
    assert found.sha256 == whole.sha256 == hashlib.sha256(long_text()).hexdigest()
    for name in ("url", "tag", "size_bytes", "n_entries", "default_run"):
        assert getattr(found, name) == getattr(whole, name)


def test_chunks_of_equal_bytes_take_eight_requests_at_most(tmp_path):
    """The head, two pages, two groups' sizes, two pages, the chunk; and few bytes."""
    draw = random.Random(1)
    sizes = [draw.randrange(10**7) for _ in range(N)]
    store = store_of(long_text(), sizes, folder=str(tmp_path))
    for index in (0, 1, 499, 998, 999):
        store.requests.clear()
        store.read_bytes = 0
        found, chunk = open_chunk(store, "list.txt", Share(index, 1000, "bytes"), retry=NO_WAIT)
        entries = list(found.entries(chunk))
        assert len(store.requests) <= 8
        assert store.read_bytes <= sum(len(entry.text) + 1 for entry in entries) + 128 * 1024
        assert sum(sizes[chunk.start : chunk.stop]) <= sum(sizes) / 1000 + max(sizes)
