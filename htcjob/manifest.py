"""Entries of a manifest, by position: streamed, so memory does not grow with the manifest."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from htcjob.errors import BadKeyError, RunMismatchError
from htcjob.storage.keys import check_key
from htcjob.storage.urls import is_url, split_object_url

if TYPE_CHECKING:
    from htcjob.storage.contract import ObjectInfo, Store

BLOCK_BYTES = 4 * 1024 * 1024
"""Read at a time, and the distance of the bookmarks that `entries` starts from."""

LONGEST_LINE_BYTES = 64 * 1024
"""A longer line is a bad entry: a binary file given as manifest must not fill the memory."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of work."""

    position: int
    """Place among the entries, from 0; blank lines and comments do not count."""
    line_number: int
    """Place among all lines, from 1, as an editor shows it."""
    text: str
    """The line as it stands, without its line end."""
    key: str = ""
    """The object's key in project storage, or its full URL."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """The other members of a JSON line."""
    problem: str | None = None
    """Why this line cannot be worked on; such an entry fails, the others go on."""

    @property
    def is_url(self) -> bool:
        """Tell whether `key` is a full URL."""
        return is_url(self.key)


def parse_entry(line: bytes, *, position: int, line_number: int, where: str = "manifest line") -> Entry:
    """
    Give the entry of one manifest line.

    Never raises: what is wrong with the line becomes the entry's `problem`, which says *where* and the line
    number. A `./` before a key, as `find .` writes it, is left out of the key.
    """
    text = line.decode(errors="backslashreplace")

    def bad(reason: str) -> Entry:
        shown = text if len(text) <= 200 else text[:200] + "…"
        return Entry(position, line_number, shown, problem=f"{where} {line_number}: {reason}")

    if len(line) > LONGEST_LINE_BYTES:
        return bad(f"longer than {LONGEST_LINE_BYTES} bytes")
    try:
        line.decode()
    except UnicodeDecodeError:
        return bad("not valid UTF-8")
    key: object = text.removeprefix("./")
    parameters: dict[str, object] = {}
    if text.startswith("{"):
        try:
            parameters = json.loads(text)
            json.dumps(parameters, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return bad("holds a lone surrogate, which is no character")
        except (ValueError, RecursionError):
            return bad("begins with '{' and is not a JSON object")
        key = parameters.pop("key", None)
    if not isinstance(key, str):
        return bad('the JSON object has no "key" that is a string')
    try:
        if is_url(key):
            split_object_url(key)
        else:
            check_key(key)
    except BadKeyError as error:
        return bad(f"key: {error.reason}")
    return Entry(position, line_number, text, key, parameters)


class Manifest:
    """
    The manifest object of a run, one entry per line.

    Lines end in LF or CR LF, the last one may lack it; a byte order mark is skipped; blank lines and lines
    that start with `#` are not entries. Opening it reads it once to count; `entries` then reads only
    from the bookmark before the chunk.
    """

    def __init__(self, store: Store, key: str) -> None:
        """Open the manifest *key* of *store*, in at most one pass over it."""
        self._info: ObjectInfo = store.head(key)
        self._store = store
        self.url = store.url_of(key)
        self.etag = self._info.etag
        self.size_bytes = self._info.size_bytes
        self.default_run = "default"
        """Name of its run in the task storage, where the user gives none."""
        self._block: tuple[int, bytes] | None = None
        """Start and bytes of the block read last; a small manifest is read just once."""
        self._bookmarks = [_Bookmark(position=0, line_number=1, offset=0)]
        self.n_entries = 0
        """Entries in the manifest."""
        self._count()

    def sha256(self) -> str:
        """Give the digest of the whole manifest; reads it again, unless it is small."""
        digest = hashlib.sha256()
        for _, block in self._blocks(0):
            digest.update(block)
        return digest.hexdigest()

    def entries(self, chunk: range) -> Iterator[Entry]:
        """Give the entries at the positions of *chunk*, in order."""
        if not chunk:
            return
        marks = [mark.position for mark in self._bookmarks]
        start = self._bookmarks[bisect_right(marks, chunk.start) - 1]
        for position, line_number, line, _ in self._entry_lines(start):
            if position >= chunk.stop:
                return
            if position >= chunk.start:
                yield parse_entry(line, position=position, line_number=line_number)

    def _count(self) -> None:
        for position, line_number, _, offset in self._entry_lines(self._bookmarks[0]):
            self.n_entries = position + 1
            if offset - self._bookmarks[-1].offset >= BLOCK_BYTES:
                self._bookmarks.append(_Bookmark(position, line_number, offset))

    def _entry_lines(self, start: _Bookmark) -> Iterator[tuple[int, int, bytes, int]]:
        """Give position, line number, line and offset of every entry from *start* on."""
        position = start.position
        line_number = start.line_number - 1
        for offset, line in self._lines(start.offset):
            line_number += 1
            if not line.strip() or line.startswith(b"#"):
                continue
            yield position, line_number, line, offset
            position += 1

    def _lines(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """
        Give offset and content of every line from *offset*, which must be a line's first byte.

        Of a line that is too long only so much is kept that it is seen to be too long.
        """
        line_start = offset
        carried = b""
        for block_start, block in self._blocks(offset):
            piece_start = block_start
            *complete, rest = block.split(b"\n")
            for piece in complete:
                yield line_start, _content(carried + piece, line_start)
                carried = b""
                piece_start += len(piece) + 1
                line_start = piece_start
            carried = (carried + rest)[: LONGEST_LINE_BYTES + len(_BOM) + 2]
        if carried:
            yield line_start, _content(carried, line_start)

    def _blocks(self, offset: int) -> Iterator[tuple[int, bytes]]:
        size = self._info.size_bytes
        for start in range(offset, size, BLOCK_BYTES):
            if self._block is None or self._block[0] != start:
                stop = min(start + BLOCK_BYTES, size)
                self._block = (start, self._store.read_range(self._info.key, start, stop))
                if self._store.head(self._info.key).etag != self.etag:
                    raise RunMismatchError(
                        f"manifest {self.url} was changed while this job read it; "
                        "give another list another name"
                    )
            yield self._block


class EntryList:
    """Entries that were given on the command line, in place of a manifest; the same members."""

    def __init__(self, lines: Sequence[str]) -> None:
        """Take *lines* as they would stand in a manifest."""
        self._lines = [line.encode(errors="surrogateescape") for line in lines]
        data = b"\n".join(self._lines)
        self.etag = hashlib.sha256(data).hexdigest()
        self.size_bytes = len(data)
        self.url = f"entries:{self.etag[:12]}"
        self.n_entries = len(lines)
        # A run of its own: trying one entry by hand must not clash with the run of the whole manifest.
        self.default_run = f"entries-{self.etag[:12]}"

    def sha256(self) -> str:
        """Give the digest of all lines."""
        return self.etag

    def entries(self, chunk: range) -> Iterator[Entry]:
        """Give the entries at the positions of *chunk*, in order."""
        for position in chunk:
            line = self._lines[position]
            yield parse_entry(line, position=position, line_number=position + 1, where="--entry")


def _content(line: bytes, offset: int) -> bytes:
    """Give *line* without the byte order mark of a file and without the CR of its line end."""
    return (line.removeprefix(_BOM) if offset == 0 else line).removesuffix(b"\r")


@dataclass(frozen=True, slots=True)
class _Bookmark:
    """An entry from which reading can begin."""

    position: int
    line_number: int
    offset: int
