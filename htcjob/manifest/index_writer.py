"""Makes the index of a manifest in one pass, with a few bytes of memory per 16 KiB of manifest."""

from __future__ import annotations

import struct
import sys
import tempfile
import zlib
from array import array
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple

from htcjob.errors import PermanentError, TransientError
from htcjob.machine.temporary import temporary_directory
from htcjob.manifest.groups import Grouper
from htcjob.manifest.index_format import (
    CRC,
    GROUP_ROW,
    HAS_SIZES,
    HEAD,
    LONGEST_TAG_BYTES,
    MAGIC,
    MOST_PAGES,
    PAGE_GROUPS,
    PAGE_START,
    SIZE_BYTES,
    SUFFIX,
    TABLE_ROW,
    VERSION,
    HeadFields,
)
from htcjob.storage.local.errors import Blame

if TYPE_CHECKING:
    from collections.abc import Iterable

    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import Store

BLOCK_BYTES = 4 * 1024 * 1024
"""Read at a time."""


class Indexed(NamedTuple):
    """An index that was made."""

    n_entries: int
    """Entries in the manifest."""
    manifest_bytes: int
    sha256: str
    """Digest of the manifest, in hexadecimal."""
    weight: int | None
    """Size of all entries together, in bytes; None: no sizes were given."""
    index_bytes: int


class IndexWriter(Grouper):
    """
    Takes a manifest piece by piece, then writes its index.

        with IndexWriter(has_sizes=True) as writer:
            writer.feed(b"a.jpg\\nb.jpg\\n")
            writer.feed_sizes([4711, 42])
            writer.write("/tmp/list.txt.idx", tag=store.head("list.txt").tag)

    Sizes wait in a temporary file.

    Args:
        has_sizes: Whether the sizes of the entries will be given too, for `--balance bytes`.
    """

    def __init__(self, *, has_sizes: bool = False) -> None:
        super().__init__()
        self._sizes: IO[bytes] | None = tempfile.TemporaryFile() if has_sizes else None  # noqa: SIM115

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._sizes is not None:
            self._sizes.close()

    def feed_sizes(self, sizes: Iterable[int]) -> None:
        """
        Add the sizes of the next entries, in bytes.

        They may come before or after the lines that they belong to, in the same order.
        """
        if self._sizes is None:
            raise ValueError("the writer was made without sizes")
        self._sizes.write(_packed(array("Q", sizes)))

    def write(self, path: str, *, tag: str) -> Indexed:
        """
        Write the index to the file *path*; the last call.

        Args:
            path: A file of this machine.
            tag: Tag of the version of the manifest that was fed (`ObjectInfo.tag`).
        """
        self.finish()
        name = tag.encode()
        if len(name) > LONGEST_TAG_BYTES:
            raise PermanentError("index", path, f"storage gives the manifest an ETag of {len(name)} bytes")
        weights = self._group_weights()
        page_groups = max(PAGE_GROUPS, -(-len(self.group_bytes) // MOST_PAGES))
        table, pages = self._pages(weights, page_groups)
        head = self._head(name, table, sum(weights), page_groups)
        with open(path, "wb") as file:
            file.write(_with_crc(HEAD.pack(*head) + name + table))
            for page in pages:
                file.write(page)
            if self._sizes is not None:
                self._sizes.seek(0)
                for count in self.group_entries:
                    file.write(_with_crc(self._sizes.read(count * SIZE_BYTES)))
        weight = None if self._sizes is None else head.weight
        return Indexed(self.n_entries, self.size_bytes, self.sha256, weight, head.index_bytes)

    def _head(self, name: bytes, table: bytes, weight: int, page_groups: int) -> HeadFields:
        fields = HeadFields(
            magic=MAGIC,
            version=VERSION,
            flags=0 if self._sizes is None else HAS_SIZES,
            head_bytes=HEAD.size + len(name) + len(table) + CRC.size,
            index_bytes=0,
            manifest_bytes=self.size_bytes,
            sha256=bytes.fromhex(self.sha256),
            n_entries=self.n_entries,
            weight=weight,
            n_groups=len(self.group_bytes),
            page_groups=page_groups,
            n_pages=len(table) // TABLE_ROW.size,
            tag_bytes=len(name),
        )
        return fields._replace(index_bytes=fields.length)

    def _group_weights(self) -> array[int]:
        """Return the size of each group's entries; zeros without sizes."""
        weights = array("Q")
        if self._sizes is None:
            weights.frombytes(bytes(len(self.group_bytes) * SIZE_BYTES))
            return weights
        n_sizes = self._sizes.tell() // SIZE_BYTES
        if n_sizes != self.n_entries:
            raise ValueError(f"{n_sizes} sizes of {self.n_entries} entries")
        self._sizes.seek(0)
        for count in self.group_entries:
            weights.append(sum(struct.unpack(f"<{count}Q", self._sizes.read(count * SIZE_BYTES))))
        return weights

    def _pages(self, weights: array[int], page_groups: int) -> tuple[bytes, list[bytes]]:
        """Return the head's table, and the pages."""
        table, pages = [], []
        position, offset, line_number, weight = 0, 0, 1, 0
        rows = list(zip(self.group_bytes, self.group_entries, self.group_lines, weights, strict=True))
        for start in range(0, len(rows), page_groups):
            table.append(TABLE_ROW.pack(position, weight))
            page = [PAGE_START.pack(position, offset, line_number, weight)]
            for row in rows[start : start + page_groups]:
                page.append(GROUP_ROW.pack(*row))
                size_bytes, n_entries, n_lines, of_group = row
                offset, position = offset + size_bytes, position + n_entries
                line_number, weight = line_number + n_lines, weight + of_group
            pages.append(_with_crc(b"".join(page)))
        return b"".join(table), pages


def make_index(store: Store, key: str, retry: RetryPolicy) -> Indexed:
    """
    Make the index of the manifest *key*, beside it in *store*.

    Raises:
        AbsentError: there is no such manifest.
        TransientError: the manifest was changed meanwhile; there is no new index.
        UnwritableError: no temporary file can be written here.
    """
    url = store.url_of(key)
    info = retry.call(partial(store.head, key))
    with (
        temporary_directory() as folder,
        Blame("index", url, file=folder),
        IndexWriter() as writer,
    ):
        for start in range(0, info.size_bytes, BLOCK_BYTES):
            stop = min(start + BLOCK_BYTES, info.size_bytes)
            data, found = retry.call(partial(store.read_part, key, start, stop))
            if found.tag != info.tag:
                raise TransientError("index", url, "changed while it was read")
            writer.feed(data)
        path = f"{folder}/index"
        indexed = writer.write(path, tag=info.tag)
        if retry.call(partial(store.head, key)).tag != info.tag:
            raise TransientError("index", url, "changed while it was read")
        retry.call(partial(store.put, path, key + SUFFIX))
        retry.call(store.sync)
    return indexed


def _packed(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _with_crc(data: bytes) -> bytes:
    return data + CRC.pack(zlib.crc32(data))
