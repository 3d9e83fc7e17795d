"""
Large objects move in parts, several at a time: files that are sent, and objects that arrive.

A part that fails is tried again by itself, so an object of any size moves over a connection that breaks now
and then. Parts are streamed wherever an SDK can.
"""

from __future__ import annotations

import io
import os
import threading
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from htcjob.errors import TransientError
from htcjob.storage.bounds import paced, this_thread
from htcjob.storage.bucket import PART_BYTES, truncated
from htcjob.storage.local.errors import Blame
from htcjob.storage.local.files import NewFile, open_regular, read_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from htcjob.retry import RetryPolicy
    from htcjob.storage.bucket import Body, Requests

T = TypeVar("T")

PARTS_AT_ONCE = 8
"""Parts on the move of all objects together: a connection is slowed by the cloud, not by this machine."""
MOST_PARTS = 10_000
"""Parts that S3 and Google allow one object: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
and https://cloud.google.com/storage/quotas#requests"""


class Part(NamedTuple):
    """A range of the bytes of one object."""

    number: int
    """From 1, as the clouds count."""
    start: int
    """First byte, from 0."""
    stop: int
    """Position behind the last byte."""


def part_bytes_of(size_bytes: int, *, most_parts: int) -> int:
    """Return the length of all parts but the last of an object that may have *most_parts*."""
    return max(PART_BYTES, -(-size_bytes // most_parts))


def parts_of(size_bytes: int, part_bytes: int) -> Sequence[Part]:
    """Return the parts of an object, in order."""
    return [
        Part(number, start, min(start + part_bytes, size_bytes))
        for number, start in enumerate(range(0, size_bytes, part_bytes), start=1)
    ]


def in_parts(
    parts: Sequence[Part],
    move: Callable[[Part, threading.Event], T],
    *,
    moved: Callable[[Part], None] = lambda _part: None,
) -> Sequence[T]:
    """
    Move all parts in the threads for parts and return what *move* returned, in order.

    The first failure is raised, once no thread moves a part of this object any more: only then may the
    upload be given up, or the file be closed.

    Args:
        parts: What to move.
        move: Moves one part; returns early, with anything, once its event is set: nothing is wanted then.
        moved: Called in this thread with each part that has moved, in order.
    """
    is_over = threading.Event()
    moving = [part_pool().submit(move, part, is_over) for part in parts]
    try:
        results = []
        for part, one in zip(parts, moving, strict=True):
            results.append(one.result())
            moved(part)
        return results
    finally:
        is_over.set()
        for one in moving:
            one.cancel()
        for one in moving:
            with suppress(BaseException):
                one.result()


@cache
def part_pool() -> ThreadPoolExecutor:
    """Return the threads that move parts of large objects, of all stores together."""
    from concurrent.futures import ThreadPoolExecutor  # 13 ms: most jobs move nothing large

    def begin() -> None:
        this_thread.operation = "put"  # until a part says better: the watch ignores threads that do nothing

    return ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="htcjob-part", initializer=begin)


class SentFile(NamedTuple):
    """A local file that is open to be sent."""

    descriptor: int
    """It may be read from any thread."""
    reading: Blame
    """Blames the file when it cannot be read."""

    def read(self, part: Part) -> bytes:
        """Return the bytes of *part*; a TransientError when the file has become shorter."""
        return read_range(self.descriptor, part.start, part.stop, self.reading)


@contextmanager
def file_to_send(path: str, url: str) -> Iterator[SentFile]:
    """Open the file *path*, whose content becomes the object *url*."""
    reading = Blame("put", url, file=os.path.realpath(path))  # /proc/self/fd/… is no name to show
    with open_regular(path, reading, follow_link=True) as (descriptor, _):
        yield SentFile(descriptor, reading)


class FilePart(io.RawIOBase):
    """The bytes of a file that are one part, as a file, so that no part is in memory as a whole."""

    def __init__(self, file: SentFile, part: Part) -> None:
        self._file = file
        self._part = part
        self._position = part.start

    def __len__(self) -> int:
        return self._part.stop - self._part.start

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether a reader can go back: yes, for a second try."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, and return it."""
        origins = {os.SEEK_SET: self._part.start, os.SEEK_CUR: self._position, os.SEEK_END: self._part.stop}
        self._position = origins[whence] + offset
        return self.tell()

    def tell(self) -> int:
        """Return the position, from the start of the part."""
        return self._position - self._part.start

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as *buffer* takes, or the rest."""
        stop = min(self._position + len(buffer), self._part.stop)
        data = self._file.read(Part(self._part.number, self._position, stop))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class Receiver:
    """
    Receives one large object in parts, each tried again by itself.

    Args:
        requests: Makes the requests to the object's bucket.
        retry: For each part.
        body: The answer with the whole object, of which the first part is read; the others get their own.
        new: Where the content goes.
        url: The object.
    """

    def __init__(self, requests: Requests, retry: RetryPolicy, body: Body, new: NewFile, url: str) -> None:
        self._requests = requests
        self._retry = retry
        self._body = body
        self._new = new
        self._url = url

    def receive(self, consume: Callable[[bytes], None] | None) -> None:
        """Receive all parts; feed *consume* with the content in order, while later parts are on their way."""

        def feed(part: Part) -> None:
            if consume is not None:
                self._new.feed(consume, part.start, part.stop)

        in_parts(parts_of(self._body.info.size_bytes, PART_BYTES), self._receive, moved=feed)

    def _receive(self, part: Part, is_over: threading.Event) -> None:
        if part.start == 0:
            try:
                self._take(self._body, part, is_over)
                return
            except TransientError:
                pass  # fetched again below, like any other part
            finally:
                self._body.close()

        def once() -> TransientError | None:
            if is_over.is_set():
                return None
            try:
                self._fetch(part, is_over)
            except TransientError as error:
                if not error.is_replaced:
                    raise
                return error  # no other try will find the old object
            return None

        if error := self._retry.call(once):
            raise error

    def _fetch(self, part: Part, is_over: threading.Event) -> None:
        info = self._body.info
        with self._requests.operation("get", self._url):
            body = self._requests.make(
                lambda: self._requests.bucket.get(info.key, start=part.start, stop=part.stop, etag=info.etag)
            )
            try:
                # Not every server compares what it is asked to.
                if (body.info.etag, body.info.size_bytes) != (info.etag, info.size_bytes):
                    reason = "the object was replaced meanwhile"
                    raise TransientError("get", self._url, reason, is_replaced=True)
                self._take(body, part, is_over)
            finally:
                body.close()

    def _take(self, body: Body, part: Part, is_over: threading.Event) -> None:
        """Write what *body* has of *part*."""
        offset = part.start
        with self._requests.operation("get", self._url):
            for piece in paced(body.pieces, part.stop - part.start, "get", self._url):
                if is_over.is_set():
                    return
                piece = memoryview(piece)[: part.stop - offset]
                self._new.write_at(piece, offset)
                offset += len(piece)
                if offset == part.stop:
                    return
        raise truncated("get", self._url, offset - part.start, part.stop - part.start)
