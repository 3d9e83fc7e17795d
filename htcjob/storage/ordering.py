"""
Listings as they are promised: whole, each key once, ordered by UTF-8 bytes, whatever order a server has.

Most servers list so. S3 Express lists in no order, Azure by UTF-16 or, with a hierarchical namespace, folder
by folder, and some compatible servers as their disks do. So the first thousand keys are held until they are
seen to be in order. Where they are not, or where the kind of storage is known for it, the listing is read to
its end and sorted, through files where it is long. Keys that turn out not to be in order later, when some are
given already, are a `DisorderError`: from then on that bucket is sorted, so the listing can begin again.
"""

from __future__ import annotations

import json
from datetime import datetime
from itertools import chain, islice
from operator import attrgetter, le
from typing import TYPE_CHECKING

from htcjob.errors import DisorderError, PermanentError, TransientError
from htcjob.storage.contract import ObjectInfo
from htcjob.storage.local.errors import Blame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from htcjob.storage.bucket import Bucket

HELD_KEYS = 1000
"""Keys that are looked at before the first is yielded: one answer of most servers."""
MOST_EMPTY_PAGES = 1000
"""Answers without a key, in a row: Google and Azure may give some and say that there is more."""
MOST_REPEATS = 3
"""Times that one key may come again: a listing can change while it is read, or go in circles."""


def is_express(bucket: str) -> bool:
    """
    Whether *bucket* is a directory bucket of S3 Express, which lists in no order.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/directory-bucket-naming-rules.html
    """
    return bucket.endswith("--x-s3")


def in_order(bucket: Bucket, prefix: str, start_after: str | None, url: str) -> Iterator[ObjectInfo]:
    """
    Yield the objects whose name begins with *prefix*, after *start_after*, each once and in order.

    Raises:
        DisorderError: they are not in order, which is seen too late to sort them; the next time they are.
        StorageError: the listing is not whole, or never ends.
    """
    if bucket.lists_in_order:
        infos = _ending(bucket.list(prefix, start_after), url)
        if (looked_at := _in_order_at_first(infos)) is not None:
            yield from _behind(start_after, _checked(bucket, looked_at, url))
            return
        bucket.lists_in_order = False
    infos = _ending(bucket.list(prefix, None), url)
    held = list(islice(infos, HELD_KEYS))
    rest = list(islice(infos, 1))
    if not rest:
        held.sort(key=attrgetter("key"))  # str compares code points, as UTF-8 does
        yield from _behind(start_after, _once(held))
        return
    # They bring tempfile and heapq, which most listings have no use for.
    from htcjob.machine.sorted_lines import SortedLines
    from htcjob.machine.temporary import temporary_directory

    with temporary_directory() as folder, Blame("list", url, file=folder):
        lines = SortedLines(folder)
        for info in chain(held, rest, infos):
            lines.add(_line_of(info))
        yield from _behind(start_after, _once(map(_info_of, lines)))


def whole(pages: Iterable[tuple[Iterable[ObjectInfo], str | None]], url: str) -> Iterator[ObjectInfo]:
    """
    Yield the objects of *pages*, each of which has the token of its successor; None: it is the last.

    Raises:
        PermanentError: the listing does not go on, though there is more.
    """
    before, n_empty = None, 0
    for infos, token in pages:
        n_empty += 1
        for info in infos:
            n_empty = 0
            yield info
        if token is not None and (token == before or n_empty > MOST_EMPTY_PAGES):
            raise PermanentError("list", url, "storage gives the same pages, or empty ones, for ever")
        before = token


def _in_order_at_first(infos: Iterator[ObjectInfo]) -> Iterator[ObjectInfo] | None:
    """Return *infos* after a look at the first of them; None: they are not in order."""
    held: list[ObjectInfo] = []
    try:
        held.extend(islice(infos, HELD_KEYS))
    except DisorderError:
        return None
    except Exception as error:  # what came before it is yielded all the same
        infos = _failing(error)
    keys = [info.key for info in held]
    return chain(held, infos) if all(map(le, keys, keys[1:])) else None


def _failing(error: Exception) -> Iterator[ObjectInfo]:
    raise error
    yield  # which makes it an iterator


def _checked(bucket: Bucket, infos: Iterable[ObjectInfo], url: str) -> Iterator[ObjectInfo]:
    """Yield *infos* as long as they are in order."""
    last = ""
    try:
        for info in infos:
            if info.key < last:
                raise DisorderError("list", url, last, info.key)
            if info.key > last:
                yield info
                last = info.key
    except DisorderError:
        bucket.lists_in_order = False
        raise


def _ending(infos: Iterable[ObjectInfo], url: str) -> Iterator[ObjectInfo]:
    """Yield *infos*, unless they go in circles: one key at a time is remembered, ever longer (Brent)."""
    remembered, repeats, n_left, n_next = "", 0, 0, 1
    for info in infos:
        if info.key == remembered:
            repeats += 1
            if repeats > MOST_REPEATS:
                raise TransientError("list", url, f"storage lists {info.key!r} again and again")
        if n_left == 0:
            remembered, repeats, n_left = info.key, 0, n_next
            n_next *= 2
        n_left -= 1
        yield info


def _once(infos: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    last = None
    for info in infos:
        if info.key != last:
            yield info
            last = info.key


def _behind(start_after: str | None, infos: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    """Leave out the keys up to *start_after*, which not every server does."""
    return (info for info in infos if start_after is None or info.key > start_after)


# A line has the key first, in bytes that sort as it does and are no line end, then NUL, then the rest.

_LOW = range(0x0B)
_ESCAPES = {code: bytes((1, 0x20 + code)) for code in _LOW}
_CHARACTERS = {escape: bytes((code,)) for code, escape in _ESCAPES.items()}


def _line_of(info: ObjectInfo) -> bytes:
    key = info.key.encode()
    if min(key, default=0) in _LOW:
        key = b"".join(_ESCAPES.get(code) or bytes((code,)) for code in key)
    others = info.size_bytes, info.etag, info.last_modified.isoformat(), info.checksum, info.version
    return b"%b\0%b" % (key, json.dumps(others).encode())


def _info_of(line: bytes) -> ObjectInfo:
    key, _, others = line.partition(b"\0")
    if b"\1" in key:
        first, *pieces = key.split(b"\1")
        key = first + b"".join(_CHARACTERS[b"\1" + piece[:1]] + piece[1:] for piece in pieces)
    size_bytes, etag, last_modified, checksum, version = json.loads(others)
    return ObjectInfo(
        key.decode(), size_bytes, etag, datetime.fromisoformat(last_modified), checksum, version
    )
