"""
Entries of a manifest, by position, through its index when it has one.

Streamed: memory does not grow with the manifest, but by ten bytes for each 16 KiB that are read to count.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from htcjob.errors import (
    AbsentError,
    BadKeyError,
    ConfigurationError,
    DeniedError,
    PermanentError,
    RunMismatchError,
    UnusableIndexError,
)
from htcjob.logs.events import event
from htcjob.manifest.chunk import chunk_bounds
from htcjob.manifest.groups import BOM, Grouper, is_entry
from htcjob.manifest.index import SUFFIX, Index, Span
from htcjob.retry import RetryPolicy
from htcjob.storage.keys import check_key
from htcjob.storage.urls import is_url, split_object_url

if TYPE_CHECKING:
    from htcjob.manifest.chunk import Share
    from htcjob.storage.contract import ObjectInfo, Store

BLOCK_BYTES = 4 * 1024 * 1024
"""Read at a time."""

LONGEST_LINE_BYTES = 64 * 1024
"""A longer line is a bad entry: a binary file given as manifest must not fill the memory."""

log = logging.getLogger(__name__)


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
        from htcjob.manifest.names import ENTRIES_HINT

        hint = f"; {ENTRIES_HINT}" if key.startswith(("/", "../")) else ""
        return bad(f"key: {error.reason}{hint}")
    return Entry(position, line_number, text, key, parameters)


class Manifest:
    """
    The manifest object of a run, one entry per line.

    Lines end in LF or CR LF, the last one may lack it; a byte order mark is skipped; blank lines and lines
    that start with `#` are not entries. Without an index, opening it reads it once to count; `entries` then
    reads only from the group of lines that has the first of the chunk.

    Args:
        store: Where it is.
        key: Its name there.
        retry: What a transient failure is met with.
        index: Its index, which is believed; `open_chunk` checks that first.
    """

    def __init__(
        self, store: Store, key: str, retry: RetryPolicy | None = None, *, index: Index | None = None
    ) -> None:
        self._store = store
        self._key = key
        self._retry = retry or RetryPolicy()
        self._block: tuple[int, bytes] = (0, b"")
        """Start and bytes of the block read last; a small manifest is read just once."""
        self.url = store.url_of(key)
        self.default_run = "default"
        """Name of its run in the task storage, where the user gives none."""
        if index is None:
            info = self._head()
            self.etag, self.size_bytes = info.tag, info.size_bytes
            groups = self._read_groups()
            self._sha256, self.n_entries = groups.sha256, groups.n_entries
            self._span: Callable[[range], Span] = lambda chunk: Span(
                groups.group_of(chunk.start), groups.group_of(chunk.stop - 1)
            )
        else:
            head = index.head
            self.etag, self.size_bytes = head.tag, head.manifest_bytes
            self._sha256, self.n_entries = head.sha256, head.n_entries
            self._span = index.span

    def sha256(self) -> str:
        """Give the digest of the whole manifest."""
        return self._sha256

    def check(self, chunk: range) -> None:
        """
        See to it that the index is of this manifest, by reading where *chunk* begins; `entries` has it then.

        Raises:
            RunMismatchError: the manifest is another one.
        """
        if chunk:
            first, last = self._span(chunk)
            next(self._blocks(first.offset, last.stop), None)
        elif self._head().tag != self.etag:
            raise self._changed()

    def entries(self, chunk: range) -> Iterator[Entry]:
        """Give the entries at the positions of *chunk*, in order."""
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
        """Read all of it, and count."""
        groups = Grouper()
        for block in self._blocks(0, self.size_bytes):
            groups.feed(block)
        groups.finish()
        return groups

    def _lines(self, offset: int, stop: int) -> Iterator[bytes]:
        """
        Give every line from *offset*, which must be a line's first byte, to *stop*, without its end.

        Of a line that is too long only so much is kept that it is seen to be too long.
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
        """Give the bytes from *offset* to *stop*, piece by piece."""
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
                if (head.tag, head.size_bytes) == (self.etag, self.size_bytes):
                    raise
                raise self._changed() from None
            if (info.tag, info.size_bytes) != (self.etag, self.size_bytes):
                raise self._changed()
            known, _ = self._block = (start, block)
        return block[start - known : stop - known]

    def _head(self) -> ObjectInfo:
        return self._retry.call(partial(self._store.head, self._key))

    def _changed(self) -> RunMismatchError:
        return RunMismatchError(
            f"manifest {self.url} was changed while this job read it; give another list another name"
        )


def open_chunk(store: Store, key: str, share: Share, retry: RetryPolicy) -> tuple[Manifest, range]:
    """
    Give the manifest *key* of *store*, and the positions of a job's share of it.

    With an index that takes three requests for a chunk of up to 4 MiB, and one more when it is larger: the
    index's head, its pages at both ends, and the chunk, whose first 4 MiB are kept. Without one, or with one
    that is not of this version of the manifest, the whole manifest is read.

    Raises:
        AbsentError: there is no such manifest.
        ConfigurationError: the share is of bytes, and no index tells the sizes of the entries.
    """
    url = store.url_of(key + SUFFIX)
    try:
        index = Index(store, key, retry)
        chunk = index.chunk(share)
        manifest = Manifest(store, key, retry, index=index)
        manifest.check(chunk)
        return manifest, chunk
    except (AbsentError, DeniedError):  # of the manifest too: then what follows says so
        cause = "it is not there"
    except RunMismatchError:
        cause = "it is of another version of the manifest"
    except UnusableIndexError as error:
        cause = str(error)
    except BadKeyError as error:
        cause = error.reason
    if share.is_weighted:
        retry.call(partial(store.head, key))
        raise ConfigurationError(
            f"--balance bytes (HTCJOB_BALANCE) needs the sizes of all entries from index {url}: {cause}; "
            "make list and index with htcjob manifest build"
        )
    if cause != "it is not there":
        event(log, logging.WARNING, "index_not_used", index=url, cause=cause)
    manifest = Manifest(store, key, retry)
    chunk = chunk_bounds(
        array_index=share.array_index, array_size=share.array_size, n_entries=manifest.n_entries
    )
    return manifest, chunk


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


def _content(line: bytes, *, begins_file: bool) -> bytes:
    """Give *line* without the byte order mark of a file and without the CR of its line end."""
    return (line.removeprefix(BOM) if begins_file else line).removesuffix(b"\r")


def _shortened(line: bytes) -> bytes:
    """Give a line of which more may come, so that it is still seen to be too long, and blank or not."""
    kept_bytes = LONGEST_LINE_BYTES + len(BOM) + 2
    return line[:kept_bytes] + line[kept_bytes:].strip()[:1]
