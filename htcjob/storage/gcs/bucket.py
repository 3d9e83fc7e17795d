"""
Google Cloud Storage, and servers that speak its protocol, over the SDK google-cloud-storage.

Most verbs are the SDK's. Reading and the parts of large files go through its authorised session to the XML
API, https://cloud.google.com/storage/docs/xml-api/overview: there one answer has content, metadata and
hashes, where the SDK makes a request more or keeps the metadata to itself. An object's ETag is its
generation, which both APIs know. Objects with `Content-Encoding: gzip` are read as they are stored.

What is sent is compared by the service with its CRC32C or MD5, what arrives by us (`CloudStore`): with our
own metadata, else with the service's MD5, or CRC32C where an object came in parts.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote
from xml.etree import ElementTree as ET

from google.api_core.exceptions import PreconditionFailed
from google.cloud.storage.exceptions import InvalidResponse

from htcjob.errors import StorageError, TransientError
from htcjob.storage.bucket import (
    PART_BYTES,
    UPLOAD_METADATA,
    Body,
    Bucket,
    closing,
    shared_connection,
)
from htcjob.storage.contract import ObjectInfo
from htcjob.storage.gcs.connection import TIMEOUT_S, Connection
from htcjob.storage.gcs.errors import SDK_ERRORS, answer_of, meaning_of
from htcjob.storage.gcs.object_info import info_of_answer, info_of_blob
from htcjob.storage.multipart import (
    MOST_PARTS,
    FilePart,
    Part,
    file_to_send,
    in_parts,
    part_bytes_of,
    parts_of,
)
from htcjob.storage.ordering import whole

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import requests

    from htcjob.storage.access import Access
    from htcjob.storage.multipart import SentFile

T = TypeVar("T")

_PIECE_BYTES = 1 << 20
_CONTENT_TYPE = "application/octet-stream"
_FIELDS = "items(name,size,generation,updated,md5Hash,crc32c,metadata),nextPageToken"


def open_bucket(container: str, access: Access) -> GcsBucket:
    """Return the bucket, without making a request. All buckets of an *access* share their connections."""
    return GcsBucket(container, access, shared_connection(access, Connection))


class GcsBucket(Bucket):
    """One bucket."""

    def __init__(self, container: str, access: Access, connection: Connection) -> None:
        self._bucket = container
        self._access = access
        self.connection = connection

    @property
    def is_of_cloud(self) -> bool:
        """Whether no other endpoint is set."""
        return not (self._access.endpoint or self._access.environ.get("STORAGE_EMULATOR_HOST"))

    def get(self, name: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Body:
        """Begin to read an object or a range of it."""
        # A client that does not accept gzip gets such objects unpacked, without length or ranges:
        # https://cloud.google.com/storage/docs/transcoding
        headers = {"Accept-Encoding": "gzip"}
        is_range = start > 0 or stop is not None
        if is_range:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if etag is not None:
            headers["x-goog-if-generation-match"] = etag
        expected = 206 if is_range else 200
        try:
            answer = self._request("GET", name, headers=headers, stream=True, expected=expected)
        except InvalidResponse as error:
            if error.response.status_code == 416 and start and stop is None:
                info = self.head(name)
                if info.size_bytes == start:  # HTTP has no range for nothing at the end
                    return Body(info, start, start, iter(()), lambda: None)
            raise
        if "x-goog-generation" in answer.headers:
            info = info_of_answer(name, answer.headers)
        else:  # not Google's own server
            answer.close()
            info = self.head(name)
            answer = self._request("GET", name, headers=headers, stream=True, expected=expected)
        arriving_bytes = int(answer.headers.get("Content-Length", info.size_bytes))
        pieces = answer.raw.stream(_PIECE_BYTES, decode_content=False)
        return Body(info, start, start + arriving_bytes, pieces, closing(answer))

    def put(self, name: str, data: bytes, *, if_absent: bool, metadata: Mapping[str, str]) -> str | None:
        """Write a whole object in one request (two and more above 8 MiB)."""
        blob = self._blob(name, metadata)
        condition = {"if_generation_match": 0} if if_absent else {}
        try:
            blob.upload_from_string(
                data, _CONTENT_TYPE, checksum="auto", retry=None, timeout=TIMEOUT_S, **condition
            )
        except PreconditionFailed:
            if if_absent:
                return None
            raise
        return str(blob.generation)

    def upload(self, name: str, path: str, size_bytes: int, *, metadata: Mapping[str, str]) -> str:
        """
        Write a large file in parallel parts, each tried again by itself.

        In one stream, which is not tried again, where the server knows no multipart uploads or the token may
        not begin one: that is a permission of its own, `storage.multipartUploads.create`.
        """
        token = uuid.uuid4().hex
        headers = {f"x-goog-meta-{key}": value for key, value in metadata.items()}
        headers |= {f"x-goog-meta-{UPLOAD_METADATA}": token, "Content-Type": _CONTENT_TYPE}
        with file_to_send(path, self._url(name)) as file:
            try:
                answer = self._request("POST", name, query="?uploads", headers=headers)
            except InvalidResponse as error:
                if error.response.status_code not in (403, 501):
                    raise
                return self._upload_in_one_stream(name, file, size_bytes, metadata)
            upload = f"uploadId={quote(_text(answer, 'UploadId'), safe='')}"
            try:
                parts = self._send_parts(name, upload, file, size_bytes)
                return self._complete(name, upload, parts, token)
            except BaseException:
                with suppress(Exception):
                    self._try(name, lambda: self._request("DELETE", name, query=f"?{upload}", expected=204))
                raise

    def list(self, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        """Yield the objects whose name begins with *prefix*, after *start_after*, a page at a time."""
        blobs = self.connection.client.list_blobs(
            self._bucket,
            prefix=prefix,
            start_offset=start_after or None,  # that name itself included
            fields=_FIELDS,
            retry=None,
            timeout=TIMEOUT_S,
        )

        def pages() -> Iterator[tuple[Iterator[ObjectInfo], str | None]]:
            for page in blobs.pages:
                token = blobs.next_page_token or None
                yield map(info_of_blob, page), token
                if token is None:
                    return

        return whole(pages(), self._url(prefix))

    def head(self, name: str) -> ObjectInfo:
        """Return size, ETag, time of change and checksum."""
        blob = self._blob(name)
        blob.reload(retry=None, timeout=TIMEOUT_S)
        return info_of_blob(blob)

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is an absent one."""
        self._blob(name).delete(retry=None, timeout=TIMEOUT_S)

    def error(self, operation: str, url: str, error: Exception) -> StorageError | None:
        """Return what an exception of the SDK, or of a library below it, means."""
        return meaning_of(operation, url, error, self._bucket)

    def is_mute(self, error: Exception) -> bool:
        """Whether *error* is a refusal without a code."""
        answer = answer_of(error)
        return answer is not None and answer.is_mute

    def _blob(self, name: str, metadata: Mapping[str, str] | None = None) -> Any:
        blob = self.connection.client.bucket(self._bucket).blob(name)
        if metadata:
            blob.metadata = dict(metadata)
        return blob

    def _request(self, method: str, name: str, *, query: str = "", **options: Any) -> requests.Response:
        return self.connection.request(method, f"{self._bucket}/{quote(name, safe='')}{query}", **options)

    def _upload_in_one_stream(
        self, name: str, file: SentFile, size_bytes: int, metadata: Mapping[str, str]
    ) -> str:
        blob = self._blob(name, metadata)
        blob.chunk_size = PART_BYTES
        whole_file = FilePart(file, Part(1, 0, size_bytes))
        options = {"checksum": "auto", "retry": None, "timeout": TIMEOUT_S}
        blob.upload_from_file(whole_file, size=size_bytes, content_type=_CONTENT_TYPE, **options)
        return str(blob.generation)

    def _send_parts(self, name: str, upload: str, file: SentFile, size_bytes: int) -> Sequence[str]:
        """Send all parts; return their ETags."""

        def send(part: Part, is_over: threading.Event) -> str:
            def once() -> str:
                if is_over.is_set():
                    return ""
                query = f"?partNumber={part.number}&{upload}"
                headers = {"x-goog-hash": f"md5={_md5_of(FilePart(file, part))}"}
                answer = self._request("PUT", name, query=query, headers=headers, data=FilePart(file, part))
                return str(answer.headers["ETag"])

            return self._try(name, once)

        return in_parts(parts_of(size_bytes, part_bytes_of(size_bytes, most_parts=MOST_PARTS)), send)

    def _complete(self, name: str, upload: str, etags: Sequence[str], token: str) -> str:
        """Make an object of the parts; return its generation."""
        root = ET.Element("CompleteMultipartUpload")
        for number, etag in enumerate(etags, start=1):
            part = ET.SubElement(root, "Part")
            ET.SubElement(part, "PartNumber").text = str(number)
            ET.SubElement(part, "ETag").text = etag
        body = ET.tostring(root)
        may_be_done = False

        def once() -> str:
            nonlocal may_be_done
            try:
                answer = self._request("POST", name, query=f"?{upload}", data=body)
                return str(answer.headers.get("x-goog-generation") or self.head(name).etag)
            except SDK_ERRORS as error:
                is_gone = isinstance(error, InvalidResponse) and error.response.status_code == 404
                if not may_be_done or not is_gone:
                    may_be_done = True
                    raise
            # An earlier try may have been carried out although its answer did not come.
            blob = self._blob(name)
            blob.reload(retry=None, timeout=TIMEOUT_S)
            if (blob.metadata or {}).get(UPLOAD_METADATA) != token:
                raise TransientError("put", self._url(name), "replaced by another writer, or lost, meanwhile")
            return str(blob.generation)

        return self._try(name, once)

    def _try(self, name: str, request: Callable[[], T]) -> T:
        """Make a request; again while it fails for a passing reason, and once with new credentials."""

        def once() -> T:
            try:
                return request()
            except SDK_ERRORS as error:
                meaning = self.error("put", self._url(name), error)
                if isinstance(meaning, TransientError):
                    raise meaning from error
                raise

        source = self._access.credentials
        used = source.current() if source is not None else None
        try:
            return self._access.retry.call(once)
        except InvalidResponse as error:
            is_refused = error.response.status_code == 401
            if source is None or used is None or not is_refused or not source.refused(used):
                raise
        return self._access.retry.call(once)

    def _url(self, name: str) -> str:
        return f"gs://{self._bucket}/{name}"


def _md5_of(part: FilePart) -> str:
    """Read a part to its end; return the digest in base64."""
    hasher = hashlib.md5(usedforsecurity=False)
    while data := part.read(_PIECE_BYTES):
        hasher.update(data)
    return base64.b64encode(hasher.digest()).decode()


def _text(answer: requests.Response, name: str) -> str:
    return ET.fromstring(answer.content).findtext(f"{{*}}{name}") or ""  # noqa: S314 - the service's own
