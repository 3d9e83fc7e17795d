"""
The fast lane: the buckets and containers of all three clouds over `obstore` (Rust object_store).

What it cannot do, and who does it instead: names with an empty or `.` part, with a `/` at the end or with a
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
from datetime import timedelta
from itertools import dropwhile
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, PermissionDeniedError

from htcjob.errors import DisorderError, PermanentError, TransientError
from htcjob.storage import bounds
from htcjob.storage.azure.names import check_name, could_begin_a_name
from htcjob.storage.bounds import within
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
from htcjob.storage.fast.clients import READ_TIMEOUT, SEND_TIMEOUT, AskingProvider, Clients
from htcjob.storage.fast.names import (
    InexpressibleError,
    Names,
    expressible_start,
    is_expressible,
    just_below,
)
from htcjob.storage.ordering import is_express
from htcjob.storage.parts import MOST_PARTS, PARTS_AT_ONCE, part_bytes_of
from htcjob.storage.sdks import extra_of, open_sdk_bucket, sdk_is_installed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ObjectStore

    from htcjob.errors import StorageError
    from htcjob.storage.access import Access, CloudCredentials
    from htcjob.storage.fast.errors import Failure

_SHORT_BODY_BYTES = 1 << 20
"""Longer bodies are sent with `SEND_TIMEOUT`."""
_PAGE_KEYS = 1000


class FastBucket(Bucket):
    """One bucket or container as object_store sees it, with the SDK beside it for what that cannot say."""

    def __init__(self, scheme: str, container: str, access: Access) -> None:
        self._scheme = scheme
        self._container = container
        self._access = access
        self._clients = Clients(scheme, container, access)
        self._is_azure = scheme == "az"
        self.lists_in_order = not (self._is_azure or is_express(container))
        self._sha256 = SHA256_METADATA_AZURE if self._is_azure else SHA256_METADATA
        self._etag_is_md5 = self._clients.is_plain
        self._lock = threading.Lock()
        self._credentials: CloudCredentials | None = None
        self._stores: dict[timedelta, ObjectStore] = {}
        self._uploader: tuple[ObjectStore, AskingProvider | None] | None = None
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
        result = obstore.get(self._store(), name, options=options or None)
        start, stop = result.range
        pieces = _pieces(result, stop - start)
        return Body(self._info(name, result), start, stop, pieces, pieces.close)

    def put(self, name: str, data: bytes, *, if_absent: bool, metadata: Mapping[str, str]) -> str | None:
        """Write a whole object in one request."""
        if self._needs_sdk(name):
            return self._by_sdk().put(name, data, if_absent=if_absent, metadata=metadata)
        try:
            result = obstore.put(
                self._store(is_sending=len(data) > _SHORT_BODY_BYTES),
                name,
                data,
                attributes=self._attributes(metadata),
                mode="create" if if_absent else "overwrite",
                use_multipart=False,
            )
        except AlreadyExistsError as error:
            # 409 of S3: two writers at once, and who of them wins is not known yet.
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

        store, provider = self._upload_store()
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
        """Give the objects whose name begins with *prefix*."""
        if self._is_azure and not could_begin_a_name(prefix):
            return
        last = start_after
        try:
            if not (self.lists_in_order or self._is_azure) and sdk_is_installed(self._scheme):
                raise InexpressibleError  # only the SDK tells there whether a listing is whole
            for info in self._listed(prefix, start_after or ""):
                yield info
                last = info.key
        except (InvalidPathError, InexpressibleError):
            yield from self._listed_by_sdk(prefix, start_after, last)

    def head(self, name: str) -> ObjectInfo:
        """Give size, ETag, time of change and checksum."""
        if self._needs_sdk(name):
            return self._by_sdk().head(name)
        return self._info(name, obstore.get(self._store(), name, options={"head": True}))

    def delete(self, name: str) -> None:
        """Remove an object."""
        if self._needs_sdk(name):
            self._by_sdk().delete(name)
        else:
            obstore.delete(self._store(), name)

    def disowns(self, info: ObjectInfo) -> bool:
        """Whether the ETag, which looks like an MD5, is none; obstore does not show what says so."""
        if not (info.checksum or "").startswith("md5:") or self._scheme != "s3":
            return False
        from htcjob.storage.fast.asking import is_encrypted

        return is_encrypted(self._clients.signed_url(self._store(), info.key))

    def credentials_renewed(self) -> None:
        """Forget the store for uploads, which has the old ones; the others are compared at every request."""
        with self._lock:
            self._uploader = None
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

    def _failure(self, error: Exception) -> Failure:
        from htcjob.storage.fast.errors import Failure  # with its table: most jobs meet none

        failure = Failure(error, self._scheme)
        if failure.is_bare_redirect:
            # Asked for once per exception, whose meaning is asked for more often.
            failure.answer = getattr(error, "redirection", None) or self._clients.redirection()
            error.redirection = failure.answer  # type: ignore[attr-defined]
        return failure

    # Listing

    def _listed(self, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        """
        Give the objects in the order of the store, some before *start_after* among them.

        object_store believes a listing that ends too early: any answer without a token ends it, an error with
        status 200 too. So where the order allows that, the end is asked for again, from just before the last
        name on: it must come again, and nothing behind it.
        """
        folder = prefix.rpartition("/")[0]  # object_store lists folders only
        if folder and not is_expressible(folder):
            raise InexpressibleError
        begin = max(start_after, just_below(prefix)) if self.lists_in_order else ""
        names = Names(prefix, start_after, self._is_there, is_installed=sdk_is_installed(self._scheme))
        last = ""
        while True:
            previous = offset = expressible_start(begin)
            is_last_there = has_more = False
            for page in self._pages(folder, offset):
                for number, meta in enumerate(page):
                    name = names.of(meta, previous, in_order=self.lists_in_order)
                    if not name.startswith(prefix):
                        if name < prefix or not self.lists_in_order:
                            continue
                        if any(other["path"].startswith(prefix) for other in page[number:]):
                            raise DisorderError("list", prefix, name, prefix)
                        return
                    if name <= previous and self.lists_in_order:
                        if previous != offset or not offset:
                            raise DisorderError("list", prefix, previous, name)
                        if last:  # it begins at the beginning, wherever it is asked to
                            raise self._unsure(prefix)
                        continue
                    previous = name
                    is_last_there = is_last_there or name == last
                    if name > last or not self.lists_in_order:
                        has_more = True
                        yield ObjectInfo(name, meta["size"], bare_etag(meta["e_tag"]), meta["last_modified"])
            if not self.lists_in_order or (not last and not has_more):
                return
            if not has_more and is_last_there:
                return
            if not has_more:
                raise self._unsure(prefix)
            last, begin = previous, just_below(previous.rstrip("/"))
            names.start_after = begin if last.endswith("/") else last

    def _listed_by_sdk(self, prefix: str, start_after: str | None, last: str | None) -> Iterator[ObjectInfo]:
        """Go on where all up to *last* has been given; begin anew, where that may not be the order of all."""
        sdk = self._by_sdk()
        sdk.lists_in_order = self.lists_in_order
        if not self.lists_in_order:
            yield from sdk.list(prefix, None)
            return
        infos = sdk.list(prefix, last if self.is_of_cloud else start_after)
        yield from dropwhile(lambda info: info.key < (last or ""), infos)

    def _unsure(self, prefix: str) -> Exception:
        """Give what is raised where only the SDK can tell whether that was all."""
        if sdk_is_installed(self._scheme):
            return InexpressibleError()
        url = f"{self._scheme}://{self._container}/{prefix}"
        return TransientError("list", url, "nobody can tell whether the listing ended too early")

    def _pages(self, folder: str, offset: str) -> Iterator[Sequence[ObjectMeta]]:
        """Give what object_store lists; it would also read answers without a key for ever."""
        pages = obstore.list(self._store(), folder or None, offset=offset or None, chunk_size=_PAGE_KEYS)
        url = f"{self._scheme}://{self._container}/{folder}"
        while page := within(bounds.LISTING_S, lambda: next(pages, None), "list", url):
            yield page

    def _is_there(self, name: str) -> bool:
        try:
            obstore.head(self._store(), name)
        except FileNotFoundError:
            return False
        except PermissionDeniedError:
            pass  # a token that may list but not read: S3 would say absent, if it were
        return True

    # Whom to ask

    def _needs_sdk(self, name: str) -> bool:
        if self._is_azure:
            check_name(name)
        return not is_expressible(name)

    def _store(self, *, is_sending: bool = False) -> ObjectStore:
        """Give the store that does not retry and has the credentials of this moment."""
        read_timeout = SEND_TIMEOUT if is_sending else READ_TIMEOUT
        source = self._access.credentials
        credentials = None if source is None else source.current()
        if credentials is self._credentials:
            store = self._stores.get(read_timeout)
            if store is not None:
                return store
        with self._lock:
            if credentials != self._credentials:
                self._stores.clear()
            self._credentials = credentials
            store = self._stores.get(read_timeout)
            if store is None:
                store = self._stores[read_timeout] = self._clients.open(read_timeout, credentials)
        return store

    def _upload_store(self) -> tuple[ObjectStore, AskingProvider | None]:
        """Give the store that retries, and asks for credentials again while an upload lasts."""
        source = self._access.credentials
        credentials = None if source is None else source.current()
        with self._lock:
            if self._uploader is None:
                provider = None if source is None else AskingProvider(source)
                retry = self._access.retry
                store = self._clients.open(SEND_TIMEOUT, credentials, provider=provider, retry=retry)
                self._uploader = store, provider
            return self._uploader

    def _by_sdk(self) -> Bucket:
        with self._lock:
            if self._sdk is None:
                if not sdk_is_installed(self._scheme):
                    raise InexpressibleError(
                        "names with '//', '/./', a '/' at the end or a control character need an extra: "
                        f"pip install 'htcjob[{extra_of(self._scheme)}]'"
                    )
                self._sdk = open_sdk_bucket(self._scheme, self._container, self._access)
            return self._sdk

    # What is said about an object

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
        """Hold so many of them."""
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
    """Tell whether obstore raised it: its own classes, and system errors that have no number."""
    return isinstance(error, BaseError) or (isinstance(error, OSError) and error.errno is None)


def _pieces(result: GetResult, size_bytes: int) -> Generator[bytes | memoryview]:
    """Give the content; the connection is given up when this is closed."""
    if size_bytes:
        yield from result.stream(1)  # as they come, so that somebody sees how fast that is
