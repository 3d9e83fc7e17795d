"""
The fast lane: the buckets and containers of all three clouds over `obstore` (Rust object_store).

What it leaves to the SDKs: names with an empty or `.` part, with a `/` at the end or with a
control character are rewritten or refused by object_store, so these take the cloud's own SDK, as does the
rest of a listing in which one turns up. A listing shows no difference between `a` and `a/`: where an object
is empty, as the folder marks of web consoles are, it is asked for by its name. The `/` at the end of an
object that is not empty is seen only beside its neighbours; `HTCJOB_STORAGE_ENGINE=sdk` always shows it.

Content is verified on its way up by S3 (signed digest of the body), on its way down by the digest in our
metadata, else over plain `http://` by the ETag of S3 where that is an MD5, about which S3 is asked where
the two differ. Where there is neither, the connection's own integrity protects it: TLS.

A call returns to Python when the answer is there, so the main thread sees a signal after `READ_TIMEOUT` at
the latest. Transfers run in other threads.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from itertools import dropwhile
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError

from htcjob.errors import PermanentError
from htcjob.storage.azure.names import check_name, could_begin_a_name
from htcjob.storage.bucket import (
    PART_BYTES,
    SHA256_METADATA,
    SHA256_METADATA_AZURE,
    Body,
    Bucket,
    bare_etag,
    is_weak,
    looks_like_md5,
)
from htcjob.storage.contract import ObjectInfo
from htcjob.storage.fast.clients import Clients, CurrentClients
from htcjob.storage.fast.listing import Listing
from htcjob.storage.fast.names import (
    InexpressibleError,
    is_expressible,
)
from htcjob.storage.multipart import MOST_PARTS, PARTS_AT_ONCE, part_bytes_of
from htcjob.storage.ordering import is_express
from htcjob.storage.sdks import extra_of, how_to_install, open_sdk_bucket, sdk_is_installed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from obstore import GetOptions, GetResult, ObjectMeta

    from htcjob.errors import StorageError
    from htcjob.storage.access import Access
    from htcjob.storage.fast.errors import ObstoreFailure

_SHORT_BODY_BYTES = 1 << 20
"""Longer bodies are sent with `SEND_TIMEOUT`."""


class FastBucket(Bucket):
    """One bucket or container as object_store sees it, with the SDK beside it for what that cannot say."""

    def __init__(self, scheme: str, container: str, access: Access) -> None:
        self._scheme = scheme
        self._container = container
        self._access = access
        self._clients = Clients(scheme, container, access)
        self._current = CurrentClients(self._clients, access)
        self._is_azure = scheme == "az"
        self.lists_in_order = not (self._is_azure or is_express(container))
        self._sha256 = SHA256_METADATA_AZURE if self._is_azure else SHA256_METADATA
        self._etag_is_md5 = self._clients.is_plain
        self._lock = threading.Lock()
        self._sdk: Bucket | None = None

    @property
    def is_of_cloud(self) -> bool:
        """Whether no other endpoint is set."""
        return not self._clients.endpoint

    def get(self, name: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Body:
        """Begin to read an object or a range of it."""
        if self._needs_sdk(name):
            return self._by_sdk().get(name, start=start, stop=stop, etag=etag)
        options: GetOptions = {}
        if stop is not None:
            options["range"] = (start, stop)
        elif start:
            options["range"] = {"offset": start}
        if etag is not None and not is_weak(etag):
            options["if_match"] = f'"{etag}"'
        result = obstore.get(self._current.client(), name, options=options or None)
        start, stop = result.range
        pieces = _pieces(result, stop - start)
        return Body(self._info(name, result), start, stop, pieces, pieces.close)

    def put(self, name: str, data: bytes, *, if_absent: bool, metadata: Mapping[str, str]) -> str | None:
        """Write a whole object in one request."""
        if self._needs_sdk(name):
            return self._by_sdk().put(name, data, if_absent=if_absent, metadata=metadata)
        try:
            result = obstore.put(
                self._current.client(is_sending=len(data) > _SHORT_BODY_BYTES),
                name,
                data,
                attributes=self._attributes(metadata),
                mode="create" if if_absent else "overwrite",
                use_multipart=False,
            )
        except AlreadyExistsError as error:
            # 409 of S3: two writers at once, and which of them wins is not known yet.
            # https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
            answer = self._failure(error).answer
            if if_absent and answer and (answer.status == 412 or answer.code == "BlobAlreadyExists"):
                return None
            raise
        return bare_etag(result["e_tag"])

    def upload(self, name: str, path: str, size_bytes: int, *, metadata: Mapping[str, str]) -> str:
        """Write a large file in parts; object_store tries each of them again, without a word in the log."""
        if self._needs_sdk(name):
            return self._by_sdk().upload(name, path, size_bytes, metadata=metadata)
        from pathlib import Path  # which only obstore.put asks for

        store, provider = self._current.uploader()
        part_bytes = part_bytes_of(size_bytes, most_parts=MOST_PARTS)
        parts_at_once = min(-(-size_bytes // part_bytes), max(1, PARTS_AT_ONCE * PART_BYTES // part_bytes))
        try:
            with _slots.taken(parts_at_once if part_bytes == PART_BYTES else PARTS_AT_ONCE):
                result = obstore.put(
                    store,
                    name,
                    Path(path),
                    attributes=self._attributes(metadata),
                    use_multipart=True,
                    chunk_size=part_bytes,
                    max_concurrency=parts_at_once,
                )
        except BaseError:
            if provider is not None and provider.failure is not None:
                raise provider.failure from None
            raise
        return bare_etag(result["e_tag"]) or self.head(name).etag  # Ceph RGW 16 gives none here

    def list(self, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        """Yield the objects whose name begins with *prefix*."""
        if self._is_azure and not could_begin_a_name(prefix):
            return
        last = start_after
        try:
            if not (self.lists_in_order or self._is_azure) and sdk_is_installed(self._scheme):
                raise InexpressibleError  # only the SDK tells there whether a listing is whole
            url = f"{self._scheme}://{self._container}/{prefix}"
            has_sdk = sdk_is_installed(self._scheme)
            listing = Listing(
                self._current.client, url, prefix, is_ordered=self.lists_in_order, has_sdk=has_sdk
            )
            for info in listing.objects(start_after or ""):
                yield info
                last = info.key
        except (InvalidPathError, InexpressibleError):
            yield from self._listed_by_sdk(prefix, start_after, last)

    def head(self, name: str) -> ObjectInfo:
        """Return size, ETag, time of change and checksum."""
        if self._needs_sdk(name):
            return self._by_sdk().head(name)
        return self._info(name, obstore.get(self._current.client(), name, options={"head": True}))

    def delete(self, name: str) -> None:
        """Remove an object."""
        if self._needs_sdk(name):
            self._by_sdk().delete(name)
        else:
            obstore.delete(self._current.client(), name)

    def disowns(self, info: ObjectInfo) -> bool:
        """Whether the ETag, which looks like an MD5, is none; obstore does not show what says so."""
        if not (info.checksum or "").startswith("md5:") or self._scheme != "s3":
            return False
        from htcjob.storage.fast.asking import is_encrypted

        return is_encrypted(self._clients.signed_url(self._current.client(), info.key))

    def credentials_renewed(self) -> None:
        """Forget the store for uploads, which has the old ones; the others are compared at every request."""
        self._current.forget_uploader()
        if self._sdk is not None:
            self._sdk.credentials_renewed()

    def error(self, operation: str, url: str, error: Exception) -> StorageError | None:
        """Translate what obstore raises, and what the SDK does."""
        if isinstance(error, InexpressibleError):
            return PermanentError(operation, url, str(error))
        if _is_of_obstore(error):
            account, _, name = self._container.partition("/")
            called = f"container {name} in account {account}" if self._is_azure else f"bucket {account}"
            return self._failure(error).meaning(operation, url, called, self._clients.endpoint)
        return self._sdk.error(operation, url, error) if self._sdk is not None else None

    def is_mute(self, error: Exception) -> bool:
        """Whether *error* is a refusal without a code."""
        if not _is_of_obstore(error):
            return self._sdk is not None and self._sdk.is_mute(error)
        answer = self._failure(error).answer
        return answer is not None and answer.is_mute

    def _failure(self, error: Exception) -> ObstoreFailure:
        from htcjob.storage.fast.errors import ObstoreFailure  # with its table: most jobs meet none

        failure = ObstoreFailure(error, self._scheme)
        if failure.is_bare_redirect:
            # Asked once per exception: `error` and `is_mute` may be called several times for the same one.
            failure.answer = getattr(error, "redirection", None) or self._clients.redirection()
            error.redirection = failure.answer  # type: ignore[attr-defined]
        return failure

    def _listed_by_sdk(self, prefix: str, start_after: str | None, last: str | None) -> Iterator[ObjectInfo]:
        """Go on where all up to *last* has been given; begin anew, where that may not be the order of all."""
        sdk = self._by_sdk()
        sdk.lists_in_order = self.lists_in_order
        if not self.lists_in_order:
            yield from sdk.list(prefix, None)
            return
        infos = sdk.list(prefix, last if self.is_of_cloud else start_after)
        yield from dropwhile(lambda info: info.key < (last or ""), infos)

    def _needs_sdk(self, name: str) -> bool:
        if self._is_azure:
            check_name(name)
        return not is_expressible(name)

    def _by_sdk(self) -> Bucket:
        with self._lock:
            if self._sdk is None:
                if not sdk_is_installed(self._scheme):
                    raise InexpressibleError(
                        "names with '//', '/./', a '/' at the end or a control character need an extra: "
                        + how_to_install(extra_of(self._scheme))
                    )
                self._sdk = open_sdk_bucket(self._scheme, self._container, self._access)
            return self._sdk

    def _attributes(self, metadata: Mapping[str, str]) -> dict[str, str] | None:
        if not metadata:
            return None
        return {self._sha256 if name == SHA256_METADATA else name: metadata[name] for name in metadata}

    def _info(self, name: str, result: GetResult) -> ObjectInfo:
        meta: ObjectMeta = result.meta
        etag = bare_etag(meta["e_tag"])
        checksum = None
        if sha256 := result.attributes.get(self._sha256):
            checksum = f"sha256:{sha256.lower()}"
        elif self._etag_is_md5 and looks_like_md5(etag):
            # Not so where KMS's or the customer's keys encrypt (`disowns`); AWS asks for TLS then.
            checksum = f"md5:{etag}"
        version = meta["version"] if self._scheme == "gs" else None  # the generation, as the SDK has it
        return ObjectInfo(name, meta["size"], etag, meta["last_modified"], checksum, version)


class _Slots:
    """Shares out the parts that may be in memory, in the order in which uploads ask for them."""

    def __init__(self, n_slots: int) -> None:
        self._free = n_slots
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, n_slots: int) -> Iterator[None]:
        """Hold *n_slots* of them."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= n_slots)
            self._free -= n_slots
        try:
            yield
        finally:
            with self._changed:
                self._free += n_slots
                self._changed.notify_all()


_slots = _Slots(PARTS_AT_ONCE)


def _is_of_obstore(error: Exception) -> bool:
    """Whether obstore raised it: its own classes, and system errors that have no number."""
    return isinstance(error, BaseError) or (isinstance(error, OSError) and error.errno is None)


def _pieces(result: GetResult, size_bytes: int) -> Generator[bytes | memoryview]:
    """Yield the content; the connection is given up when this is closed."""
    if size_bytes:
        yield from result.stream(1)  # as they come, so that their pace is seen
