"""
The store over a bucket of any cloud: keys, files, checksums, parts, renewed credentials.

A `Bucket` is one bucket or container as one SDK sees it: bare requests on complete object names, and the
meaning of that SDK's errors. `CloudStore` makes the promises of `contract.py` out of those.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from htcjob.errors import DeniedError, PermanentError, TransientError, UnauthenticatedError
from htcjob.storage.bounds import paced
from htcjob.storage.bucket import PART_BYTES, SHA256_METADATA, Requests, truncated
from htcjob.storage.checksum import hasher_of, is_right
from htcjob.storage.contract import ObjectInfo, Store
from htcjob.storage.keys import LONGEST_KEY_BYTES, check_key
from htcjob.storage.local.errors import Blame
from htcjob.storage.local.files import NewFile, open_regular, read_all
from htcjob.storage.multipart import Receiver
from htcjob.storage.ordering import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from htcjob.storage.access import Access
    from htcjob.storage.bucket import Body, Bucket
    from htcjob.storage.checksum import Hasher

LARGEST_OBJECT_BYTES = 200 << 40
"""Azure: 190.7 TiB (learn.microsoft.com/azure/storage/blobs/scalability-targets); the others have less."""


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
        self._requests = Requests(bucket, access)
        self._retry = access.retry

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
        with self._requests.operation("get", url):
            body = self._requests.make(lambda: self._bucket.get(name))
            _check_answer("get", url, body.info)
            try:
                with NewFile(path, writing) as new:
                    new.need_room(body.info.size_bytes)
                    self._receive(body, new, url)
                    new.complete(body.info.size_bytes)
                    new.take_name_of_copy()
            finally:
                body.close()
        return _renamed(body.info, key)

    def read_range(self, key: str, start: int, stop: int | None = None) -> bytes:
        """Return the bytes from *start* up to, not including, *stop*."""
        check_key(key)
        url, name = self.url_of(key), self._prefix + key
        if start < 0 or (stop is not None and stop < start):
            raise PermanentError("read_range", url, f"no bytes {start} to {stop}")
        try:
            if start == stop:
                with self._requests.operation("read_range", url):
                    return self._read_nothing(name, start, url)
            return self._read(key, start, stop, may_end_early=False)[0]
        except PermanentError:
            if stop is not None or self.head(key).size_bytes != start:
                raise
            return b""  # HTTP has no range that begins at the end: storage answers 416

    def read_part(self, key: str, start: int, stop: int) -> tuple[bytes, ObjectInfo]:
        """Return the bytes from *start* up to *stop* or the end, and what storage says of the object."""
        check_key(key)
        if not 0 <= start < stop:
            raise PermanentError("read_range", self.url_of(key), f"no bytes {start} to {stop}")
        return self._read(key, start, stop, may_end_early=True)

    def put(self, path: str, key: str, *, sha256: str | None = None) -> ObjectInfo:
        """Copy the file *path* to *key*; it appears whole."""
        check_key(key)
        url, name = self.url_of(key), self._prefix + key
        reading = Blame("put", url, file=path)
        with (
            open_regular(path, reading, follow_link=True) as (descriptor, before),
            self._requests.operation("put", url),
        ):
            metadata = {SHA256_METADATA: sha256} if sha256 else {}
            if before.st_size <= PART_BYTES:
                data = read_all(descriptor, before, reading)
                etag = self._requests.make(
                    lambda: self._bucket.put(name, data, if_absent=False, metadata=metadata)
                )
            else:
                same_file = f"/proc/self/fd/{descriptor}" if os.path.exists("/proc/self/fd") else path
                etag = self._requests.make(
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
        with self._requests.operation("put_bytes", self.url_of(key)):
            etag = self._requests.make(
                lambda: self._bucket.put(self._prefix + key, data, if_absent=if_absent, metadata={})
            )
        return etag is not None

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with *prefix*, in order, a page at a time."""
        if not _could_begin_a_key(prefix):
            return
        last = None if start_after is None else self._prefix + start_after
        cut = len(self._prefix)
        is_renewed = False
        while True:
            try:
                with self._requests.operation("list", self.url_of(prefix)):
                    used = self._requests.credentials()
                    for info in in_order(self._bucket, self._prefix + prefix, last, self.url_of(prefix)):
                        if not info.key.startswith(self._prefix + prefix):
                            raise PermanentError("list", self.url_of(prefix), "storage lists other names too")
                        yield _renamed(info, info.key[cut:]) if cut else info
                        last = info.key
                        is_renewed = False
            except (UnauthenticatedError, DeniedError) as error:
                if is_renewed or not self._requests.renew(used, error):
                    raise
                is_renewed = True  # and go on behind the last key that was given
            else:
                return

    def head(self, key: str) -> ObjectInfo:
        """Return the object's size, ETag, time of change and checksum."""
        check_key(key)
        with self._requests.operation("head", self.url_of(key)):
            info = self._requests.make(lambda: self._head(self._prefix + key))
            _check_answer("head", self.url_of(key), info)
            return _renamed(info, key)

    def delete(self, key: str) -> None:
        """Remove the object."""
        check_key(key)
        with suppress(FileNotFoundError), self._requests.operation("delete", self.url_of(key)):
            self._requests.make(lambda: self._bucket.delete(self._prefix + key))

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

    def _read(
        self, key: str, start: int, stop: int | None, *, may_end_early: bool
    ) -> tuple[bytes, ObjectInfo]:
        """Read a range that is not empty, in one request."""
        url, name = self.url_of(key), self._prefix + key
        with self._requests.operation("read_range", url):
            body = self._requests.make(lambda: self._bucket.get(name, start=start, stop=stop))
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
            raise truncated("read_range", url, len(data), expected_bytes)
        hasher = hasher_of(info.checksum) if len(data) == info.size_bytes else None
        if hasher is not None:
            hasher.update(data)
            self._compare(hasher, info, "read_range", url)
        return data, _renamed(info, key)

    def _receive(self, body: Body, new: NewFile, url: str) -> None:
        hasher = hasher_of(body.info.checksum)
        if body.info.size_bytes > PART_BYTES:
            receiver = Receiver(self._requests, self._retry, body, new, url)
            receiver.receive(hasher.update if hasher is not None else None)
        else:
            _receive_at_once(body, new, url, hasher)
        self._compare(hasher, body.info, "get", url)

    def _compare(self, hasher: Hasher | None, info: ObjectInfo, operation: str, url: str) -> None:
        """Compare what arrived, which *hasher* was fed with, with the checksum that storage has."""
        if hasher is None or info.checksum is None or is_right(hasher, info.checksum):
            return
        with self._requests.operation(operation, url):
            if self._requests.make(lambda: self._bucket.disowns(info)):
                return
        raise TransientError(operation, url, f"what arrived does not have its checksum {info.checksum[:80]}")

    def _read_nothing(self, name: str, start: int, url: str) -> bytes:
        """Read an empty range, which HTTP cannot express."""
        size_bytes = self._requests.make(lambda: self._bucket.head(name)).size_bytes
        if start > size_bytes:
            raise _outside("read_range", url, start, start, size_bytes)
        return b""


def _receive_at_once(body: Body, new: NewFile, url: str, hasher: Hasher | None) -> None:
    size_bytes = 0
    for piece in paced(body.pieces, body.info.size_bytes, "get", url):
        new.write(piece)
        size_bytes += len(piece)
        if hasher is not None:
            hasher.update(piece)
    if size_bytes != body.info.size_bytes:
        raise truncated("get", url, size_bytes, body.info.size_bytes)


def _renamed(info: ObjectInfo, key: str) -> ObjectInfo:
    return ObjectInfo(key, info.size_bytes, info.etag, info.last_modified, info.checksum, info.version)


def _check_answer(operation: str, url: str, info: ObjectInfo) -> None:
    """Refuse an answer that is not object storage's: the page of a proxy would be taken for the object."""
    if not info.etag:
        raise TransientError(operation, url, "an answer without ETag: is this object storage?")
    if info.size_bytes > LARGEST_OBJECT_BYTES:
        raise PermanentError(operation, url, f"{info.size_bytes} bytes: no storage has such objects")


def _outside(operation: str, url: str, start: int, stop: int, size_bytes: int) -> PermanentError:
    return PermanentError(operation, url, f"no bytes {start} to {stop}, it has {size_bytes}")


def _could_begin_a_key(prefix: str) -> bool:
    """Whether a key can begin with *prefix*; storage need not be asked for one that cannot."""
    try:
        size_bytes = len(prefix.encode())
    except UnicodeEncodeError:
        return False
    is_usable = not any(character in prefix for character in "\0\n\r") and not prefix.startswith("/")
    return is_usable and size_bytes <= LONGEST_KEY_BYTES and ".." not in prefix.split("/")[:-1]


def _now() -> datetime:
    return datetime.now(timezone.utc)
