"""Manifests for tests: any lines, their entries by definition, and a store that notes what is asked for."""

import struct
from contextlib import ExitStack, contextmanager
from functools import cache
from unittest.mock import patch

from hypothesis import strategies as st

from htcjob.manifest import groups, index, index_writer, manifest
from htcjob.manifest.chunk import Share
from htcjob.manifest.index_writer import IndexWriter, make_index
from htcjob.manifest.opening import open_chunk
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore

NO_WAIT = RetryPolicy(retries=3, sleep=lambda seconds: False)
INDEX = "list.txt.idx"

N = 1_000_000


@cache
def long_text() -> bytes:
    """Return N lines of 22 MB, so several pages of groups, more than one read has."""
    return b"".join(b"photos/%d/%06d.jpg\n" % (n % 7, n) for n in range(N))


FUZZED = b"".join(b"f/%05d.jpg\n" % n for n in range(3000))

LINES = st.lists(
    st.sampled_from(
        [
            b"a.jpg",
            b"",
            b"  ",
            b"# note",
            b"x/\xc3\xa9\xe2\x82\xac.png",
            b"b c",
            b'{"key":"k"}',
            b"#",
            b"z" * 50,
        ]
    ),
    max_size=60,
)


class CountingStore(MemoryStore):
    """Holds one manifest, and notes what is asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__("counting")
        self.requests: list[str] = []
        self.read_bytes = 0
        self.put_bytes(data, "list.txt")

    def head(self, key):
        self.requests.append(f"head {key}")
        return super().head(key)

    def read_part(self, key, start, stop):
        self.requests.append(key)
        data, info = super().read_part(key, start, stop)
        self.read_bytes += len(data)
        return data, info


def reference(data: bytes) -> list[tuple[int, bytes]]:
    """Return (line number, line) of every entry: the definition in ten lines."""
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    entries = []
    for number, line in enumerate(lines, 1):
        line = line[:-1] if line.endswith(b"\r") else line
        if line.strip() and not line.startswith(b"#"):
            entries.append((number, line))
    return entries


def store_of(text: bytes, sizes: list[int] | None = None, *, folder: str | None = None) -> CountingStore:
    """Return a store with a manifest and its index, made with *sizes* where they are given."""
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
        for module, name, value in (
            (manifest, "BLOCK_BYTES", block),
            (index_writer, "BLOCK_BYTES", block),
            (groups, "GROUP_BYTES", group),
            (index_writer, "PAGE_GROUPS", page),
            (index, "GAP_BYTES", gap),
        ):
            stack.enter_context(patch.object(module, name, value))
        yield


def head_only(store: CountingStore):
    """Let the first read of an index end with its head, as it does where the index is large."""
    data = store.read_range(INDEX, 0)
    return patch.object(index, "HEAD_BYTES", struct.unpack_from("<I", data, 12)[0])


def texts(found) -> list[tuple[int, int, bytes]]:
    return [(entry.position, entry.line_number, entry.text.encode()) for entry in found]


def chunks(
    store: CountingStore, array_size: int, balance: str = "entries"
) -> list[list[tuple[int, int, bytes]]]:
    """Return the entries that each job of an array gets."""
    result = []
    for array_index in range(array_size):
        found, chunk = open_chunk(store, "list.txt", Share(array_index, array_size, balance), retry=NO_WAIT)
        entries = texts(found.entries(chunk))
        assert [position for position, _, _ in entries] == list(chunk)
        result.append(entries)
    return result
