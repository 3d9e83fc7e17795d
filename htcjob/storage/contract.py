"""The promises of every store. `tests/storage/contract.py` checks each promise on each store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Facts about one object, as its storage states them."""

    key: str
    """Name below the store's prefix."""
    size_bytes: int
    """Length of the object."""
    etag: str
    """Changes whenever the object does; opaque."""
    last_modified: datetime
    """UTC."""
    checksum: str | None = None
    """Digest of the content, as `algorithm:hexadecimal`, where storage knows one (`checksum.py`); not every
    verb of every backend learns it."""
    version: str | None = None
    """Name of this version of the object, where there is one, besides the ETag, that both engines learn."""

    @property
    def tag(self) -> str:
        """Name of this version of the object with either engine; a listing may give another one."""
        return self.version or self.etag


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that lies among objects and is none, though a user may take it for one."""

    key: str
    """Its name as a key would be; ends in `/` where it may hold more. Bytes that are not UTF-8 are as
    `os.fsdecode` gives them."""
    reason: str
    """Why it is no object."""


class Store(ABC):
    """
    A bucket, container or directory plus a prefix; keys are relative to it.

    * Every method may be called from any thread.
    * A store must not retry: `retry.py` owns that, or tries would multiply.
    * A key is checked by `keys.check_key` before anything is read or written (`BadKeyError`).
    * Failures are the `StorageError`s of `errors.py`: absent, denied, unauthenticated, transient and
      permanent are different answers, and no other exception leaves a store.
    * Absent and denied speak of the object. A local file that cannot be read or written is a
      `PermanentError` or a `TransientError` that names the file.
    * After a `TransientError` of a put or delete, the change may have been made all the same.
    """

    url: str
    """URL of the store, ending in `/`; safe to print."""

    @property
    def lists_in_order(self) -> bool:
        """Whether storage itself lists by key, as far as is known: then a listing can begin in the middle."""
        return True

    @property
    def promises_order(self) -> bool:
        """Whether that is certain, also of keys that have not been seen."""
        return False

    def url_of(self, key: str) -> str:
        """Return the full URL of *key*, for messages and records."""
        return self.url + key

    @abstractmethod
    def get(self, key: str, path: str) -> ObjectInfo:
        """
        Copy the whole object to the file *path*, or leave nothing there.

        Written under a temporary name beside *path*, its length (and checksum, where the store has one)
        compared, then renamed. Missing folders are made. An existing file is replaced.
        """

    @abstractmethod
    def read_range(self, key: str, start: int, stop: int | None = None) -> bytes:
        """
        Return exactly the bytes from *start* (0-based) up to, not including, *stop*.

        *stop* None means the end of the object. A range that passes the end, or runs backwards, is a
        `PermanentError`; an empty one inside the object, its end included, is `b""`.
        """

    @abstractmethod
    def read_part(self, key: str, start: int, stop: int) -> tuple[bytes, ObjectInfo]:
        """
        Return the bytes from *start* up to *stop*, or the object's end, and what storage says of the object.

        Both come with one answer, so they are of the same version of the object. A range that is empty, or
        begins at or behind the end, is a `PermanentError`.
        """

    @abstractmethod
    def put(self, path: str, key: str, *, sha256: str | None = None) -> ObjectInfo:
        """
        Copy the file *path* to *key*: a reader sees the old object or the whole new one.

        Only a regular file, or a symbolic link to one, is opened. One that changes while it is copied is a
        `TransientError`.

        *sha256* is the file's digest, in hexadecimal, where the caller knows it already. A store that keeps
        metadata keeps it with the object, and every later `get` compares it.
        """

    @abstractmethod
    def put_bytes(self, data: bytes, key: str, *, if_absent: bool = False) -> bool:
        """
        Write *data* as the object *key*, as atomically as `put`.

        With *if_absent* an existing object is never overwritten, however many writers race: exactly one
        of them gets True. Without it the answer is always True. Repeated after a `TransientError`, False
        can mean one's own first write: compare what is there.
        """

    def sync(self) -> None:
        """
        Wait until a power cut cannot undo what was put so far; clouds do so before they answer.

        A failure is a `StorageError`; the next call tries the same again.
        """
        return

    @abstractmethod
    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """
        Yield the objects whose key begins with *prefix*, ordered by the UTF-8 bytes of the key.

        Streams: memory does not grow with the number of objects. *prefix* is a plain start of names, not
        a folder: `a` also finds `ab`. With *start_after*, only keys after it. Failures come from the
        iterator, not from the call.
        """

    def list_all(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo | LeftOut]:
        """Yield what `list` yields and, in order, what that leaves out: for callers that miss nothing."""
        return self.list(prefix, start_after=start_after)

    @abstractmethod
    def head(self, key: str) -> ObjectInfo:
        """Return the object's size, ETag and time of change."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; no error when it is already gone."""
