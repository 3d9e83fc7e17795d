"""
Makes a manifest from a listing of storage: sorted by key, with its index, on disk and in bounded memory.

Every key becomes a line that means that key: the key itself or, where that would mean something else (as when
it begins with `#`, `{` or `./`), a JSON line, or the full URL of the object. A key that no line can mean, or
a link or special file of a directory, is not passed over in silence: the manifest is then not made.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from htcjob.errors import AbsentError, DisorderError, HtcjobError, TransientError
from htcjob.manifest.entry import parse_entry
from htcjob.manifest.index_format import SUFFIX
from htcjob.manifest.index_writer import IndexWriter
from htcjob.storage.contract import LeftOut
from htcjob.storage.local.errors import Blame
from htcjob.storage.urls import is_url
from htcjob.transfer.globs import GLOB, glob_pattern, may_mean
from htcjob.transfer.key_ranges import KeyRange, cut, in_range
from htcjob.transfer.locations import Location, as_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from htcjob.manifest.index_writer import Indexed
    from htcjob.storage.contract import ObjectInfo
    from htcjob.transfer.transfers import Transfers

LINES_AT_ONCE = 2000
"""Lines that are gathered in memory before they are written."""

BLOCK_BYTES = 4 * 1024 * 1024
"""Read at a time when files are put together; a multiple of the bytes of one size."""

FIRST_FEW = 5
"""So many keys that no line can mean are named; the others are counted."""

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ /.,@+()=~!-]*")
"""A key of these characters, without `..` and not too long, certainly means itself, as most keys do."""
_PLAIN_LENGTH = 1024


class Source(NamedTuple):
    """The objects that a manifest is to be made of."""

    location: Location
    """A folder, a whole store, or a glob; a plain name means a folder."""
    is_project: bool
    """Whether its store is project storage: entries are then keys, not URLs."""
    reserved_folder: str
    """Name of folders whose objects are left out, wherever they are: htcjob keeps its own records there."""
    include: Sequence[str] = ()
    """Globs of the objects to take, relative to the folder; none: everything."""
    exclude: Sequence[str] = ()
    """Globs of those to leave out again."""
    as_json: bool = False
    """Whether every line is a JSON object with key and size."""

    @property
    def prefix(self) -> str:
        """The common beginning of all keys that are looked at."""
        key = self.location.key
        return self.location.literal if GLOB.search(key) else as_folder(key)


class Built(NamedTuple):
    """A manifest that was made, or why it was not."""

    indexed: Indexed | None
    """The manifest and its index; None: nothing was put, because of `unusable`."""
    unusable: Sequence[str]
    """A sentence for each of the first few keys that no line can mean, and files that are no objects."""
    n_unusable: int
    """The number of all of them."""


class _RangeFiles(NamedTuple):
    """The entries of one range of keys, in two files."""

    lines: str
    sizes: str
    unusable: list[str]
    n_unusable: int


def build(source: Source, target: Location, *, transfers: Transfers, folder: str) -> Built:
    """
    List *source*, side by side where its keys allow that, and put manifest and index at *target*.

    What htcjob itself writes is left out (the reserved folder, the manifest and its index), and so are the
    empty objects that stand for folders.

    Args:
        source: What to list.
        target: Key of the manifest; an existing one is replaced.
        transfers: Makes the requests.
        folder: A directory of this machine for the lines until they are put.

    Raises:
        AbsentError: nothing is there, or nothing of it is wanted.
        StorageError: *source* cannot be listed, the manifest cannot be put, or this machine's disk is full.
        TransientError: the manifest was replaced by another program before its index was made.
    """
    try:
        return _build(source, target, transfers, folder)
    except DisorderError:
        return _build(source, target, transfers, folder)  # this time the whole list is sorted


def _build(source: Source, target: Location, transfers: Transfers, folder: str) -> Built:
    ranges = cut(source.location.store, source.prefix, transfers)
    path = os.path.join(folder, "manifest")
    unusable: list[str] = []
    n_unusable = 0
    with Blame("build", target.url, file=folder), IndexWriter(has_sizes=True) as writer:
        write = partial(_write_range, source, _is_wanted(source, target), transfers, folder)
        with open(path, "wb") as manifest, closing(transfers.each(write, enumerate(ranges))) as written:
            for files in written:
                if isinstance(files, HtcjobError):
                    raise files
                unusable += files.unusable[: FIRST_FEW - len(unusable)]
                n_unusable += files.n_unusable
                _append(files, manifest, writer)
        if n_unusable:
            return Built(None, unusable, n_unusable)
        if not writer.size_bytes:
            raise AbsentError("list", source.location.url, "no object matches")
        return Built(_put(path, target, writer, transfers), (), 0)


def line_of(key: str, url: str, size_bytes: int, *, is_project: bool, as_json: bool) -> str | None:
    """
    Return the manifest line that means the object *key*; None: no line can.

    Args:
        key: Its key in its store.
        url: Its full URL.
        size_bytes: Its size.
        is_project: Whether the store is project storage, where a key is enough.
        as_json: Whether to make it a JSON line with the size.
    """
    if is_project and not as_json and len(key) <= _PLAIN_LENGTH and ".." not in key and _PLAIN.fullmatch(key):
        return key
    for name in (key, url) if is_project else (url,):
        if name is not url and is_url(name):  # a key that looks like the URL of another object
            continue
        if not as_json and _means(name, name):
            return name
        members = {"key": name} | ({"size_bytes": size_bytes} if as_json else {})
        line = json.dumps(members, ensure_ascii=False)
        if _means(line, name):
            return line
    return None


def _means(line: str, key: str) -> bool:
    """Whether a manifest with that line has an entry with that key."""
    # A byte order mark is skipped where it begins the file, and any line may come to be the first.
    if not line.strip() or line.startswith(("#", "\ufeff")) or "\n" in line or line.endswith("\r"):
        return False
    try:
        entry = parse_entry(line.encode(), position=0, line_number=1)
    except UnicodeEncodeError:
        return False
    return entry.problem is None and entry.key == key


def _is_wanted(source: Source, target: Location) -> Callable[[ObjectInfo | LeftOut], bool]:
    """Return a test: is an object to become an entry, or may one be in what the listing leaves out?"""
    store, key, reserved = source.location.store, source.location.key, source.reserved_folder
    folder = source.prefix[: source.prefix.rfind("/") + 1]
    glob = key if GLOB.search(key) else None
    pattern = glob_pattern(glob) if glob else None
    include = [glob_pattern(pattern) for pattern in source.include]
    exclude = [glob_pattern(pattern) for pattern in source.exclude]
    ours = {target.url, target.url + SUFFIX}

    def may_be_wanted(found: LeftOut) -> bool:
        if reserved in found.key.split("/")[:-1] or (glob and not may_mean(glob, found)):
            return False
        below = LeftOut(found.key[len(folder) :], found.reason)
        if source.include and not any(may_mean(wanted, below) for wanted in source.include):
            return False
        name = below.key.removesuffix("/")
        return not any(unwanted.match(name) for unwanted in exclude)

    def is_wanted(info: ObjectInfo | LeftOut) -> bool:
        if isinstance(info, LeftOut):
            return may_be_wanted(info)
        if info.size_bytes == 0 and info.key.endswith("/"):
            return False
        if reserved in info.key and reserved in info.key.split("/")[:-1]:
            return False
        if pattern is not None and not pattern.match(info.key):
            return False
        name = info.key[len(folder) :]
        if include and not any(pattern.match(name) for pattern in include):
            return False
        if any(pattern.match(name) for pattern in exclude):
            return False
        return store.url_of(info.key) not in ours

    return is_wanted


def _write_range(
    source: Source,
    is_wanted: Callable[[ObjectInfo | LeftOut], bool],
    transfers: Transfers,
    folder: str,
    numbered: tuple[int, KeyRange],
) -> _RangeFiles:
    """List a range of keys into two files."""
    number, keys = numbered
    path = os.path.join(folder, str(number))
    files = _RangeFiles(f"{path}.lines", f"{path}.sizes", [], 0)
    n_unusable = 0
    with open(files.lines, "wb") as lines_file, open(files.sizes, "wb") as sizes_file:
        lines: list[str] = []
        sizes = array("Q")

        def write() -> None:
            data = "".join(lines).encode()
            lines_file.write(data)
            sizes.tofile(sizes_file)
            if transfers.progress is not None:
                transfers.progress.add(objects=len(sizes), size_bytes=len(data))
            lines.clear()
            del sizes[:]

        for info in in_range(source.location.store, keys, transfers):
            if not is_wanted(info):
                continue
            line = _line_of(source, info)
            if line is None or isinstance(info, LeftOut):
                n_unusable += 1
                if n_unusable <= FIRST_FEW:
                    files.unusable.append(_problem_of(source, info))
                continue
            lines.append(f"{line}\n")
            sizes.append(info.size_bytes)
            if len(sizes) >= LINES_AT_ONCE:
                write()
        write()
    return files._replace(n_unusable=n_unusable)


def _line_of(source: Source, info: ObjectInfo | LeftOut) -> str | None:
    if isinstance(info, LeftOut):
        return None
    url = source.location.store.url_of(info.key)
    return line_of(info.key, url, info.size_bytes, is_project=source.is_project, as_json=source.as_json)


def _problem_of(source: Source, info: ObjectInfo | LeftOut) -> str:
    if isinstance(info, LeftOut):
        return f"{source.location.store.url_of(info.key)}: {info.reason}"
    return f"no line of a manifest can mean the key {info.key!r}"


def _append(files: _RangeFiles, manifest: BinaryIO, writer: IndexWriter) -> None:
    """Add the entries of a range to the manifest and to its index, and remove their files."""
    for block in _blocks(files.lines):
        manifest.write(block)
        writer.feed(block)
    for block in _blocks(files.sizes):
        writer.feed_sizes(array("Q", block))
    os.unlink(files.lines)
    os.unlink(files.sizes)


def _blocks(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _put(path: str, target: Location, writer: IndexWriter, transfers: Transfers) -> Indexed:
    """Put the manifest, then the index of just that version of it."""
    store, key = target.store, target.key
    put = transfers.put(store, path, key)
    found = transfers.call(lambda: store.head(key))
    if (found.etag, found.size_bytes) != (put.etag, put.size_bytes):
        raise TransientError("index", target.url, "was replaced by another program meanwhile")
    index = path + SUFFIX
    indexed = writer.write(index, tag=found.tag)
    transfers.put(store, index, key + SUFFIX)
    return indexed
