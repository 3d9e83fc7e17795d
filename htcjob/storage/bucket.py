"""
One bucket or container as one SDK sees it, and how requests to it are made.

A `Bucket` has bare requests on complete object names, and the meaning of that SDK's errors. `Requests` adds
what all of them need: the credentials of the moment, and errors in our words.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from htcjob.errors import DeniedError, HtcjobError, PermanentError, TransientError, UnauthenticatedError
from htcjob.logs.redact import one_line
from htcjob.storage.bounds import this_thread
from htcjob.trouble import in_words, is_passing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from htcjob.errors import StorageError
    from htcjob.storage.access import Access, CloudCredentials
    from htcjob.storage.contract import ObjectInfo

T = TypeVar("T")
C = TypeVar("C")

PART_BYTES = 8 << 20
"""Objects larger than this move in parts of this size, several at a time."""
SHA256_METADATA = "htcjob-sha256"
"""Name of the metadata that holds the digest of the content, in hexadecimal."""
SHA256_METADATA_AZURE = SHA256_METADATA.replace("-", "_")
"""The same for Azure, where names of metadata have no hyphen."""
UPLOAD_METADATA = "htcjob-upload"
"""Name of the metadata by which an upload is known again after its last answer was lost."""
EXPIRY_SLACK_S = 2.0
"""A refusal so shortly before the end of the credentials' life is taken for their end."""
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Body:
    """An object, or a range of it, on its way."""

    info: ObjectInfo
    """Facts about the whole object; its key is the complete name, its ETag has no quotation marks."""
    start: int
    """Position of the first byte, from 0."""
    stop: int
    """Position behind the last byte."""
    pieces: Iterable[bytes | memoryview]
    """The bytes, in order; raises the SDK's own errors."""
    close: Callable[[], None]
    """Abandons the rest; never raises."""


def bare_etag(text: str | None) -> str:
    """Return an ETag without quotation marks, which not every answer has; a weak one as it is."""
    text = text or ""
    return text if is_weak(text) else text.strip('"')


def is_weak(etag: str) -> bool:
    """
    Whether an ETag is a weak one, as a proxy that compresses makes it.

    A request must not ask for it to match: it never does (RFC 9110, 13.1.1).
    """
    return etag.startswith("W/")


def looks_like_md5(etag: str) -> bool:
    """Whether an ETag may be the content's MD5."""
    return _MD5.fullmatch(etag) is not None


def closing(answer: Any) -> Callable[[], None]:
    """Return what gives up the rest of an SDK's answer, and never raises."""

    def close() -> None:
        with suppress(Exception):
            answer.close()

    return close


def shared_connection(access: Access, connect: type[C]) -> C:
    """Return the connection of the buckets that *access* has open already; else a new one."""
    for bucket in access.buckets.values():
        connection = getattr(bucket, "connection", None)
        if isinstance(connection, connect):
            return connection
    return connect(access)  # type: ignore[call-arg] # a `Connection` of s3 or gcs


def truncated(operation: str, url: str, size_bytes: int, expected_bytes: int) -> TransientError:
    """Return the error for an answer that is shorter than it said."""
    return TransientError(operation, url, f"the answer ended after {size_bytes} of {expected_bytes} bytes")


class Bucket(ABC):
    """
    One bucket or container, as one SDK sees it. May be used from any thread.

    * Names are complete object names, checked already.
    * No retries: not ours, and the SDK's own switched off.
    * Exceptions are the SDK's own, or ours; `error` translates the SDK's.
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
        """Write a whole object in one request; return its ETag, None when *if_absent* and one was there."""

    @abstractmethod
    def upload(self, name: str, path: str, size_bytes: int, *, metadata: Mapping[str, str]) -> str:
        """
        Write a large file in parallel parts; return the ETag.

        Nothing is to be seen under *name* until it is whole; after a failure no parts stay behind. A part
        that fails for a passing reason is tried again (`Access.retry`), or a large file would never
        arrive. Memory does not grow with the file.
        """

    @abstractmethod
    def list(self, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        """
        Yield the objects whose name begins with *prefix*, as storage lists them: all, or an error.

        What comes before *start_after* may be left out where `lists_in_order`, and only there.
        `ordering.py` makes an ordered listing of it.
        """

    @abstractmethod
    def head(self, name: str) -> ObjectInfo:
        """Return size, ETag, time of change and, where there is one, a checksum."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object; one that is not there may be an error, which `error` calls absent."""

    @abstractmethod
    def error(self, operation: str, url: str, error: Exception) -> StorageError | None:
        """Return what an exception of the SDK means; None: it is none of the SDK's, and a bug."""

    def is_mute(self, error: Exception) -> bool:
        """Whether an exception of the SDK is a refusal without a code (`answers.Answer.is_mute`)."""
        return False

    def disowns(self, info: ObjectInfo) -> bool:
        """Whether the store says, when it is asked, that the checksum of *info* is none of the content."""
        return False

    def credentials_renewed(self) -> None:  # noqa: B027 - most SDKs ask for them at every request
        """Use the new credentials from now on: drop whatever caches the old ones."""


class Requests:
    """
    Makes the requests to one bucket: with the credentials of the moment, and with errors in our words.

    Args:
        bucket: Where they go.
        access: How it is reached.
    """

    def __init__(self, bucket: Bucket, access: Access) -> None:
        self.bucket = bucket
        self._source = access.credentials

    def operation(self, name: str, url: str) -> _Operation:
        """Return a context in which the SDK's errors are translated as those of the verb *name*."""
        return _Operation(self.bucket, name, url)

    def make(self, request: Callable[[], T]) -> T:
        """Make a request; once more with new credentials, when it was refused with those it had."""
        used = self.credentials()
        try:
            return request()
        except HtcjobError:
            raise
        except Exception as error:
            meaning = self.bucket.error("", "", error)
            if meaning is None or not self.renew(used, meaning):
                raise
        return request()

    def credentials(self) -> CloudCredentials | None:
        """Return those of this moment; None: the SDK finds its own."""
        return self._source.current() if self._source is not None else None

    def renew(self, used: CloudCredentials | None, error: StorageError) -> bool:
        """Whether others are to be had than *used*, which *error* is about; the next requests use them."""
        if self._source is None or used is None:
            return False
        is_over = used.expires_at is not None and time.time() > used.expires_at - EXPIRY_SLACK_S
        # Some stores say 403 to a token whose time is over (Ceph RGW).
        is_refused = isinstance(error, UnauthenticatedError) or (isinstance(error, DeniedError) and is_over)
        if not is_refused or not self._source.refused(used):
            return False
        self.bucket.credentials_renewed()
        return True


class _Operation:
    """Translates the SDK's errors, and marks its requests as ours; a class, as all of them go through it."""

    __slots__ = ("_before", "_bucket", "_operation", "_url")

    def __init__(self, bucket: Bucket, operation: str, url: str) -> None:
        self._bucket = bucket
        self._operation = operation
        self._url = url

    def __enter__(self) -> None:
        self._before = this_thread.operation
        this_thread.operation = self._operation

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        this_thread.operation = self._before
        # A generator that is closed ends with GeneratorExit, which is no Exception.
        if isinstance(error, Exception) and not isinstance(error, HtcjobError):
            meaning = self._bucket.error(self._operation, self._url, error)
            if meaning is not None:
                raise meaning from error
            if is_passing(error):
                raise TransientError(self._operation, self._url, in_words(error)) from error
            if isinstance(error, (KeyError, ValueError)):  # while an SDK's answer was read
                reason = f"the answer makes no sense ({type(error).__name__}: {one_line(str(error), 80)})"
                raise TransientError(self._operation, self._url, reason) from error
        # A fault inside obstore; by its name, as pyo3 has no module that one could import.
        if type(error).__name__ == "PanicException":
            reason = f"obstore failed: {one_line(str(error))}"
            raise PermanentError(self._operation, self._url, reason) from error
