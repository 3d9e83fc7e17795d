"""
What the stores of the three clouds have in common: keys, files, checksums, parts, renewed credentials.

A `Bucket` is one bucket or container as one SDK sees it: bare requests on complete object names, and the
meaning of that SDK's errors. `CloudStore` makes the promises of `contract.py` out of those.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from htcjob.errors import (
    DeniedError,
    HtcjobError,
    PermanentError,
    StorageError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.logs.redact import redact
from htcjob.storage.bounds import paced, talking
from htcjob.storage.checksum import hasher_of, is_right
from htcjob.storage.contract import ObjectInfo, Store
from htcjob.storage.keys import LONGEST_KEY_BYTES, check_key
from htcjob.storage.local.errors import Blame
from htcjob.storage.local.files import NewFile, open_regular, read_all
from htcjob.storage.ordering import in_order
from htcjob.trouble import in_words, is_passing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import ThreadPoolExecutor
    from types import TracebackType

    from htcjob.storage.access import Access, CloudCredentials
    from htcjob.storage.checksum import Hasher

T = TypeVar("T")

PART_BYTES = 8 << 20
"""Objects larger than this move in parts of this size, several at a time."""
LARGEST_OBJECT_BYTES = 200 << 40
"""Azure: 190.7 TiB (learn.microsoft.com/azure/storage/blobs/scalability-targets); the others have less."""
PARTS_AT_ONCE = 8
"""Of all objects together; what one connection gives is bounded by the cloud, not by the machine."""
SHA256_METADATA = "htcjob-sha256"
"""Name of the metadata that holds the digest of the content, in hexadecimal."""
SHA256_METADATA_AZURE = SHA256_METADATA.replace("-", "_")
"""There: names of Azure's metadata have no hyphen."""
EXPIRY_SLACK_S = 2.0
"""A refusal so shortly before the end of the credentials' life is taken for their end."""


@dataclass(frozen=True, slots=True)
class Body:
    """An object, or a range of it, on its way."""

    info: ObjectInfo
    """Of the whole object; its key is the complete name, its ETag has no quotation marks."""
    start: int
    """First byte that comes, from 0."""
    stop: int
    """Where it ends, not included."""
    pieces: Iterable[bytes | memoryview]
    """The bytes, in order; raises the SDK's own errors."""
    close: Callable[[], None]
    """Give up the rest; never raises."""


def bare_etag(text: str | None) -> str:
    """Give an ETag without quotation marks, which not every answer has; a weak one as it is."""
    text = text or ""
    return text if is_weak(text) else text.strip('"')


def is_weak(etag: str) -> bool:
    """
    Tell whether an ETag is a weak one, as a proxy that compresses makes it.

    A request must not ask for it to match: it never does (RFC 9110, 13.1.1).
    """
    return etag.startswith("W/")


class Bucket(ABC):
    """
    One bucket or container, as one SDK sees it. May be used from any thread.

    * Names are complete object names, checked already.
    * No retries: not ours, and the SDK's own switched off.
    * Exceptions are the SDK's own, or ours; `error` says what the SDK's mean.
    * Credentials come from `Access.credentials.current()`, asked again for every request (or as often as
      the SDK allows), so that renewed ones are used at once; None: the SDK's own chain.
    """

    lists_in_order = True
    """Whether listings come ordered by the UTF-8 bytes of the names, as far as is known."""

    @property
    def is_of_cloud(self) -> bool:
        """Whether it is reached at the cloud's own address."""
        return False

    @abstractmethod
    def get(self, name: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Body:
        """
        Begin to read an object, or the bytes from *start* to *stop* (half-open; None: to the end).

        Without a range the request must not have one: an empty object has no range. With *etag*, which is not
        a weak one, another version of the object is an error (transient: it was replaced meanwhile).
        """

    @abstractmethod
    def put(self, name: str, data: bytes, *, if_absent: bool, metadata: Mapping[str, str]) -> str | None:
        """Write a whole object in one request; give its ETag, None when *if_absent* and one was there."""

    @abstractmethod
    def upload(self, name: str, path: str, size_bytes: int, *, metadata: Mapping[str, str]) -> str:
        """
        Write a large file in parallel parts; give the ETag.

        Nothing is to be seen under *name* until it is whole; after a failure no parts stay behind. A part
        that fails for a passing reason is tried again (`Access.retry`), or a large file would never
        arrive. Memory does not grow with the file.
        """

    @abstractmethod
    def list(self, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        """
        Give the objects whose name begins with *prefix*, as storage lists them: all, or an error.

        What comes before *start_after* may be left out where `lists_in_order`, and only there.
        `ordering.py` makes an ordered listing of it.
        """

    @abstractmethod
    def head(self, name: str) -> ObjectInfo:
        """Give size, ETag, time of change and, where there is one, a checksum."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object; one that is not there may be an error, which `error` calls absent."""

    @abstractmethod
    def error(self, operation: str, url: str, error: Exception) -> StorageError | None:
        """Give what an exception of the SDK means; None: it is none of the SDK's, and a bug."""

    def is_mute(self, error: Exception) -> bool:
        """Whether an exception of the SDK is a refusal without a code (`answers.Answer.is_mute`)."""
        return False

    def disowns(self, info: ObjectInfo) -> bool:
        """Whether the store says, when it is asked, that the checksum of *info* is none of the content."""
        return False

    def credentials_renewed(self) -> None:  # noqa: B027 - most SDKs ask for them at every request
        """Use the new credentials from now on: drop whatever caches the old ones."""


class CloudStore(Store):
    """
    The objects of a bucket or container below a prefix.

    Args:
        url: What is shown, without its last slash.
        bucket: The bucket or container.
        prefix: Start of the names of all objects; empty, or ends in `/`.
        access: How the bucket is reached.
    """

    def __init__(self, url: str, bucket: Bucket, prefix: str, access: Access) -> None:
        self.url = f"{url}/{prefix}"
        self._bucket = bucket
        self._prefix = prefix
        self._access = access

    @property
    def lists_in_order(self) -> bool:
        """Whether storage itself lists by key, as far as is known."""
        return self._bucket.lists_in_order

    @property
    def promises_order(self) -> bool:
        """Whether it is a cloud that says so, not some server that is compatible otherwise."""
        return self._bucket.lists_in_order and self._bucket.is_of_cloud

    def get(self, key: str, path: str) -> ObjectInfo:
        """Copy the object to the file *path*, whole and with the right checksum, or not at all."""
        check_key(key)
        url, name = self.url_of(key), self._prefix + key
        writing = Blame("get", url, file=path)
        with self._talking("get", url):
            body = self._call(lambda: self._bucket.get(name))
            _check_answer("get", url, body.info)
            try:
                with NewFile(path, writing) as new:
                    new.need_room(body.info.size_bytes)
                    if body.info.size_bytes > PART_BYTES:
                        self._receive_parts(body, new, url)
                    else:
                        self._receive(body, new, url)
                    new.complete(body.info.size_bytes)
                    new.take_name_of_copy()
            finally:
                body.close()
        return _renamed(body.info, key)

    def read_range(self, key: str, start: int, stop: int | None = None) -> bytes:
        """Give the bytes from *start* up to, not including, *stop*."""
        check_key(key)
        url, name = self.url_of(key), self._prefix + key
        if start < 0 or (stop is not None and stop < start):
            raise PermanentError("read_range", url, f"no bytes {start} to {stop}")
        try:
            if start == stop:
                with self._talking("read_range", url):
                    return self._read_nothing(name, start, url)
            return self._read(key, start, stop, may_end_early=False)[0]
        except PermanentError:
            if stop is not None or self.head(key).size_bytes != start:
                raise
            return b""  # HTTP has no range that begins at the end: storage answers 416

    def read_part(self, key: str, start: int, stop: int) -> tuple[bytes, ObjectInfo]:
        """Give the bytes from *start* up to *stop* or the end, and what storage says of the object."""
        check_key(key)
        if not 0 <= start < stop:
            raise PermanentError("read_range", self.url_of(key), f"no bytes {start} to {stop}")
        return self._read(key, start, stop, may_end_early=True)

    def put(self, path: str, key: str, *, sha256: str | None = None) -> ObjectInfo:
        """Copy the file *path* to *key*; it appears whole."""
        check_key(key)
        url, name = self.url_of(key), self._prefix + key
        reading = Blame("put", url, file=path)
        with open_regular(path, reading, follow_link=True) as (descriptor, before), self._talking("put", url):
            metadata = {SHA256_METADATA: sha256} if sha256 else {}
            if before.st_size <= PART_BYTES:
                data = read_all(descriptor, before, reading)
                etag = self._call(lambda: self._bucket.put(name, data, if_absent=False, metadata=metadata))
            else:
                same_file = f"/proc/self/fd/{descriptor}" if os.path.exists("/proc/self/fd") else path
                etag = self._call(
                    lambda: self._bucket.upload(name, same_file, before.st_size, metadata=metadata)
                )
                with reading:
                    after = os.fstat(descriptor)
                if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                    with suppress(Exception):  # what is there is neither the old content nor the new one
                        self._bucket.delete(name)
                    raise reading.changed()
        checksum = f"sha256:{sha256}" if sha256 else None
        return ObjectInfo(key, before.st_size, etag or "", _now(), checksum)

    def put_bytes(self, data: bytes, key: str, *, if_absent: bool = False) -> bool:
        """Write *data* as the object *key*; True when it was written."""
        check_key(key)
        with self._talking("put_bytes", self.url_of(key)):
            etag = self._call(
                lambda: self._bucket.put(self._prefix + key, data, if_absent=if_absent, metadata={})
            )
        return etag is not None

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """Give the objects whose key begins with *prefix*, in order, a page at a time."""
        if not _could_begin_a_key(prefix):
            return
        last = None if start_after is None else self._prefix + start_after
        cut = len(self._prefix)
        is_renewed = False
        while True:
            try:
                with self._talking("list", self.url_of(prefix)):
                    used = self._credentials()
                    for info in in_order(self._bucket, self._prefix + prefix, last, self.url_of(prefix)):
                        if not info.key.startswith(self._prefix + prefix):
                            raise PermanentError("list", self.url_of(prefix), "storage lists other names too")
                        yield _renamed(info, info.key[cut:]) if cut else info
                        last = info.key
                        is_renewed = False
            except (UnauthenticatedError, DeniedError) as error:
                if is_renewed or not self._renew(used, error):
                    raise
                is_renewed = True  # and go on behind the last key that was given
            else:
                return

    def head(self, key: str) -> ObjectInfo:
        """Give the object's size, ETag, time of change and checksum."""
        check_key(key)
        with self._talking("head", self.url_of(key)):
            info = self._call(lambda: self._head(self._prefix + key))
            _check_answer("head", self.url_of(key), info)
            return _renamed(info, key)

    def delete(self, key: str) -> None:
        """Remove the object."""
        check_key(key)
        with suppress(FileNotFoundError), self._talking("delete", self.url_of(key)):
            self._call(lambda: self._bucket.delete(self._prefix + key))

    def _head(self, name: str) -> ObjectInfo:
        try:
            return self._bucket.head(name)
        except Exception as error:
            if not self._bucket.is_mute(error):
                raise
        # An answer to HEAD has no body, which alone holds the code; an answer to GET has.
        body = self._bucket.get(name, start=0, stop=1)
        body.close()
        return body.info

    # How content arrives

    def _read(
        self, key: str, start: int, stop: int | None, *, may_end_early: bool
    ) -> tuple[bytes, ObjectInfo]:
        """Read a range that is not empty, in one request."""
        url, name = self.url_of(key), self._prefix + key
        with self._talking("read_range", url):
            body = self._call(lambda: self._bucket.get(name, start=start, stop=stop))
            info = body.info
            _check_answer("read_range", url, info)
            try:
                if stop is not None and info.size_bytes < stop:
                    if not may_end_early or info.size_bytes <= start:
                        raise _outside("read_range", url, start, stop, info.size_bytes)
                    stop = info.size_bytes
                data = b"".join(paced(body.pieces, info.size_bytes, "read_range", url))
            finally:
                body.close()
        expected_bytes = (body.stop if stop is None else stop) - start
        if len(data) != expected_bytes:
            raise _truncated("read_range", url, len(data), expected_bytes)
        hasher = hasher_of(info.checksum) if len(data) == info.size_bytes else None
        if hasher is not None:
            hasher.update(data)
            self._compare(hasher, info, "read_range", url)
        return data, _renamed(info, key)

    def _receive(self, body: Body, new: NewFile, url: str) -> None:
        hasher = hasher_of(body.info.checksum)
        size_bytes = 0
        for piece in paced(body.pieces, body.info.size_bytes, "get", url):
            new.write(piece)
            size_bytes += len(piece)
            if hasher is not None:
                hasher.update(piece)
        if size_bytes != body.info.size_bytes:
            raise _truncated("get", url, size_bytes, body.info.size_bytes)
        self._compare(hasher, body.info, "get", url)

    def _receive_parts(self, body: Body, new: NewFile, url: str) -> None:
        """Receive the first part from *body* and the others side by side, each tried again by itself."""
        info, is_over = body.info, threading.Event()
        hasher = hasher_of(info.checksum)

        def receive(start: int) -> None:
            stop = min(start + PART_BYTES, info.size_bytes)
            if start == 0:
                try:
                    self._receive_part(body, 0, stop, new, url, is_over)
                    return
                except TransientError:
                    pass  # like any other part, then
                finally:
                    body.close()

            def once() -> TransientError | None:
                if is_over.is_set():
                    return None
                try:
                    self._fetch_part(info, start, stop, new, url, is_over)
                except TransientError as error:
                    if not error.is_replaced:
                        raise
                    return error  # no other try will find the old object
                return None

            if error := self._access.retry.call(once):
                raise error

        starts = range(0, info.size_bytes, PART_BYTES)
        parts = [part_pool().submit(receive, start) for start in starts]
        try:
            for start, part in zip(starts, parts, strict=True):
                part.result()
                if hasher is not None:  # in order, while later parts are on their way
                    new.feed(hasher.update, start, min(start + PART_BYTES, info.size_bytes))
        finally:
            is_over.set()
            for part in parts:
                part.cancel()
            for part in parts:
                with suppress(BaseException):
                    part.result()  # no thread writes to the file after it is closed
        self._compare(hasher, info, "get", url)

    def _compare(self, hasher: Hasher | None, info: ObjectInfo, operation: str, url: str) -> None:
        """Compare what arrived, which *hasher* was fed with, with the checksum that storage told."""
        if hasher is None or info.checksum is None or is_right(hasher, info.checksum):
            return
        with self._talking(operation, url):
            if self._call(lambda: self._bucket.disowns(info)):
                return
        raise TransientError(operation, url, f"what arrived does not have its checksum {info.checksum[:80]}")

    def _fetch_part(
        self, info: ObjectInfo, start: int, stop: int, new: NewFile, url: str, is_over: threading.Event
    ) -> None:
        with self._talking("get", url):
            part = self._call(lambda: self._bucket.get(info.key, start=start, stop=stop, etag=info.etag))
            try:
                # Not every server compares what it is asked to.
                if (part.info.etag, part.info.size_bytes) != (info.etag, info.size_bytes):
                    reason = "the object was replaced meanwhile"
                    raise TransientError("get", url, reason, is_replaced=True)
                self._receive_part(part, start, stop, new, url, is_over)
            finally:
                part.close()

    def _receive_part(
        self, part: Body, start: int, stop: int, new: NewFile, url: str, is_over: threading.Event
    ) -> None:
        offset = start
        with self._talking("get", url):
            for piece in paced(part.pieces, stop - start, "get", url):
                if is_over.is_set():
                    return
                piece = memoryview(piece)[: stop - offset]
                new.write_at(piece, offset)
                offset += len(piece)
                if offset == stop:
                    return
        raise _truncated("get", url, offset - start, stop - start)

    def _read_nothing(self, name: str, start: int, url: str) -> bytes:
        """Read an empty range, which HTTP cannot say."""
        size_bytes = self._call(lambda: self._bucket.head(name)).size_bytes
        if start > size_bytes:
            raise _outside("read_range", url, start, start, size_bytes)
        return b""

    # Credentials and errors

    def _talking(self, operation: str, url: str) -> _Talking:
        return _Talking(self._bucket, operation, url)

    def _call(self, request: Callable[[], T]) -> T:
        """Make a request; once more with new credentials, when it was refused with those it had."""
        used = self._credentials()
        try:
            return request()
        except HtcjobError:
            raise
        except Exception as error:
            meaning = self._bucket.error("", "", error)
            if meaning is None or not self._renew(used, meaning):
                raise
        return request()

    def _credentials(self) -> CloudCredentials | None:
        source = self._access.credentials
        return source.current() if source is not None else None

    def _renew(self, used: CloudCredentials | None, error: StorageError) -> bool:
        """Tell whether there are other credentials than those that *error* is about."""
        source = self._access.credentials
        if source is None or used is None:
            return False
        is_over = used.expires_at is not None and time.time() > used.expires_at - EXPIRY_SLACK_S
        # Some stores say 403 to a token whose time is over (Ceph RGW).
        is_refused = isinstance(error, UnauthenticatedError) or (isinstance(error, DeniedError) and is_over)
        if not is_refused or not source.refused(used):
            return False
        self._bucket.credentials_renewed()
        return True


class _Talking:
    """Translates the SDK's errors, and marks its requests as ours; a class, as all of them go through it."""

    __slots__ = ("_before", "_bucket", "_operation", "_url")

    def __init__(self, bucket: Bucket, operation: str, url: str) -> None:
        self._bucket = bucket
        self._operation = operation
        self._url = url

    def __enter__(self) -> None:
        self._before = talking.operation
        talking.operation = self._operation

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        talking.operation = self._before
        # A generator that is closed ends with GeneratorExit, which is no Exception.
        if isinstance(error, Exception) and not isinstance(error, HtcjobError):
            meaning = self._bucket.error(self._operation, self._url, error)
            if meaning is not None:
                raise meaning from error
            if is_passing(error):
                raise TransientError(self._operation, self._url, in_words(error)) from error
            if isinstance(error, (KeyError, ValueError)):  # while an SDK's answer was read
                reason = f"the answer makes no sense ({type(error).__name__}: {redact(str(error))[:80]})"
                raise TransientError(self._operation, self._url, reason) from error
        # A fault inside obstore; by its name, as pyo3 has no module that one could import.
        if type(error).__name__ == "PanicException":
            reason = " ".join(redact(str(error)).split())[:200]
            raise PermanentError(self._operation, self._url, f"obstore failed: {reason}") from error


def _renamed(info: ObjectInfo, key: str) -> ObjectInfo:
    return ObjectInfo(key, info.size_bytes, info.etag, info.last_modified, info.checksum, info.version)


def _check_answer(operation: str, url: str, info: ObjectInfo) -> None:
    """Refuse what is no answer of object storage: the page of a proxy would be taken for the object."""
    if not info.etag:
        raise TransientError(operation, url, "an answer without ETag: is this object storage?")
    if info.size_bytes > LARGEST_OBJECT_BYTES:
        raise PermanentError(operation, url, f"{info.size_bytes} bytes: no storage has such objects")


def _truncated(operation: str, url: str, size_bytes: int, expected_bytes: int) -> TransientError:
    return TransientError(operation, url, f"the answer ended after {size_bytes} of {expected_bytes} bytes")


def _outside(operation: str, url: str, start: int, stop: int, size_bytes: int) -> PermanentError:
    return PermanentError(operation, url, f"no bytes {start} to {stop}, it has {size_bytes}")


def _could_begin_a_key(prefix: str) -> bool:
    """Tell whether a key can begin so; storage need not be asked for one that cannot."""
    try:
        size_bytes = len(prefix.encode())
    except UnicodeEncodeError:
        return False
    is_usable = not any(character in prefix for character in "\0\n\r") and not prefix.startswith("/")
    return is_usable and size_bytes <= LONGEST_KEY_BYTES and ".." not in prefix.split("/")[:-1]


def _now() -> datetime:
    return datetime.now(timezone.utc)


@cache
def part_pool() -> ThreadPoolExecutor:
    """Give the threads that move parts of large objects, of all stores together."""
    from concurrent.futures import ThreadPoolExecutor  # 13 ms: most jobs move nothing large

    def begin() -> None:
        talking.operation = "put"

    return ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="htcjob-part", initializer=begin)
