"""
The manifest of a run: its entries by position, found through its index if there is one.

Entries are streamed: memory grows by ten bytes per 16 KiB of a manifest that is read to count them, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from htcjob.errors import PermanentError, RunMismatchError, UnusableIndexError
from htcjob.manifest.entry import LONGEST_LINE_BYTES, Entry, parse_entry
from htcjob.manifest.groups import BOM, Grouper, is_entry
from htcjob.manifest.index import Index, Span

if TYPE_CHECKING:
    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import ObjectInfo, Store

BLOCK_BYTES = 4 * 1024 * 1024
"""Read at a time."""


class Manifest:
    """
    The manifest object of a run, one entry per line.

    Lines end in LF or CR LF, the last one may lack it; a byte order mark is skipped; blank lines and lines
    that start with `#` are not entries. Without an index, opening it reads it once to count; `entries` then
    reads only from the group of lines that has the first of the chunk.

    Args:
        store: Its store.
        key: Its key there.
        retry: The retry policy.
        index: Its index, which is trusted; `open_chunk` then calls `check`.
    """

    def __init__(self, store: Store, key: str, retry: RetryPolicy, *, index: Index | None = None) -> None:
        self._store = store
        self._key = key
        self._retry = retry
        self._block: tuple[int, bytes] = (0, b"")
        """Offset and bytes of the block read last; a small manifest is read just once."""
        self.url = store.url_of(key)
        self.default_run = "default"
        """Name of its run in the task storage, where the user gives none."""
        if index is None:
            info = self._head()
            self.tag, self.size_bytes = info.tag, info.size_bytes
            groups = self._read_groups()
            self.sha256, self.n_entries = groups.sha256, groups.n_entries
            self._span: Callable[[range], Span] = lambda chunk: Span(
                groups.group_of(chunk.start), groups.group_of(chunk.stop - 1)
            )
        else:
            head = index.head
            self.tag, self.size_bytes = head.tag, head.manifest_bytes
            self.sha256, self.n_entries = head.sha256, head.n_entries
            self._span = index.span

    def check(self, chunk: range) -> None:
        """
        Verify that the index is of this manifest, by reading the beginning of *chunk*; `entries` reuses it.

        Raises:
            RunMismatchError: the manifest is another one.
        """
        if chunk:
            first, last = self._span(chunk)
            next(self._blocks(first.offset, last.stop), None)
        elif self._head().tag != self.tag:
            raise self._changed()

    def entries(self, chunk: range) -> Iterator[Entry]:
        """Yield the entries at the positions of *chunk*, in order."""
        if not chunk:
            return
        first, last = self._span(chunk)
        position = first.position
        for line_number, line in enumerate(self._lines(first.offset, last.stop), first.line_number):
            if not is_entry(line):
                continue
            if position >= chunk.stop:
                return
            if position >= chunk.start:
                yield parse_entry(line, position=position, line_number=line_number)
            position += 1
        if position < chunk.stop:
            raise UnusableIndexError(f"manifest {self.url} has no entry {position} where its index says so")

    def _read_groups(self) -> Grouper:
        """Read the whole manifest, and count."""
        groups = Grouper()
        for block in self._blocks(0, self.size_bytes):
            groups.feed(block)
        groups.finish()
        return groups

    def _lines(self, offset: int, stop: int) -> Iterator[bytes]:
        """
        Yield every line from *offset*, which must be a line's first byte, to *stop*, without its end.

        Keeps of an overlong line just enough to tell that it is one.
        """
        carried = b""
        begins_file = offset == 0
        for block in self._blocks(offset, stop):
            *complete, rest = block.split(b"\n")
            for piece in complete:
                yield _content(carried + piece, begins_file=begins_file)
                carried, begins_file = b"", False
            carried = _shortened(carried + rest)
        if carried:
            yield _content(carried, begins_file=begins_file)

    def _blocks(self, offset: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from *offset* to *stop*, piece by piece."""
        for start in range(offset, stop, BLOCK_BYTES):
            yield self._read(start, min(start + BLOCK_BYTES, stop))

    def _read(self, start: int, stop: int) -> bytes:
        known, block = self._block
        if not known <= start <= stop <= known + len(block):
            try:
                read = partial(self._store.read_part, self._key, start, stop)
                block, info = self._retry.call(read)
            except PermanentError:
                head = self._head()
                if (head.tag, head.size_bytes) == (self.tag, self.size_bytes):
                    raise
                raise self._changed() from None
            if (info.tag, info.size_bytes) != (self.tag, self.size_bytes):
                raise self._changed()
            known, _ = self._block = (start, block)
        return block[start - known : stop - known]

    def _head(self) -> ObjectInfo:
        return self._retry.call(partial(self._store.head, self._key))

    def _changed(self) -> RunMismatchError:
        return RunMismatchError(
            f"manifest {self.url} was changed while this job read it; give another list another name"
        )


def _content(line: bytes, *, begins_file: bool) -> bytes:
    """Return *line* without the byte order mark of a file and without the CR of its line end."""
    return (line.removeprefix(BOM) if begins_file else line).removesuffix(b"\r")


def _shortened(line: bytes) -> bytes:
    """Return enough of an unfinished line to tell whether it is too long, and whether it is blank."""
    kept_bytes = LONGEST_LINE_BYTES + len(BOM) + 2
    return line[:kept_bytes] + line[kept_bytes:].strip()[:1]
