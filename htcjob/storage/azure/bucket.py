"""Azure Blob Storage over Microsoft's SDK, azure-storage-blob."""

from __future__ import annotations

import os
import threading
from base64 import b64decode
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azure.core.rest import HttpResponse
from azure.storage.blob import BlobBlock

from htcjob.errors import StorageError
from htcjob.storage.azure.connection import MOST_BLOCKS, Connection
from htcjob.storage.azure.errors import AzureFailure, LostLengthError, failure_of_answer, without_url
from htcjob.storage.azure.names import check_name, could_begin_a_name
from htcjob.storage.bucket import SHA256_METADATA_AZURE, Body, Bucket, bare_etag, is_weak
from htcjob.storage.contract import ObjectInfo
from htcjob.storage.multipart import file_to_send, in_parts, part_bytes_of, parts_of
from htcjob.storage.ordering import whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from htcjob.storage.access import Access
    from htcjob.storage.multipart import Part

PAGE_BLOBS = 1_000
"""Blobs in one answer to a listing. Azure allows 5,000, for which the SDK takes 20 MB."""


def open_bucket(container: str, access: Access) -> AzureBucket:
    """Return the container `account/container`, without making a request; raises as `Connection` does."""
    return AzureBucket(container, access)


class AzureBucket(Bucket):
    """
    One container.

    * Keys that Azure would turn into others are refused (`names.py`).
    * Only block blobs are written; a name that an append or page blob has is a `PermanentError`.
    * Blocks of an upload that was given up cannot be removed: nobody sees them, and Azure drops them after
      a week (learn.microsoft.com/rest/api/storageservices/put-block).
    * It lists by the UTF-16 code units of the names (blobfile/blobfile#238; Azurite too), or folder by folder
      where its namespace is hierarchical (Azure/azure-sdk-for-go#24210).

    Args:
        container: `account/container`.
        access: How it is reached.
    """

    lists_in_order = False

    def __init__(self, container: str, access: Access) -> None:
        self._connection = Connection(container, access)
        self._container = self._connection.client
        self._access = access

    def get(self, name: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Body:
        """Begin to read a blob, or the bytes from *start* to *stop*."""
        check_name(name)
        # https://learn.microsoft.com/rest/api/storageservices/get-blob
        headers = {
            "x-ms-version": self._container.api_version,
            "x-ms-date": formatdate(usegmt=True),
            "Accept-Encoding": "identity",
        }
        if start or stop is not None:
            headers["x-ms-range"] = f"bytes={start}-" if stop is None else f"bytes={start}-{stop - 1}"
        if etag is not None and not is_weak(etag):
            headers["If-Match"] = f'"{etag}"'
        response = self._connection.get(quote(name, safe="/~"), headers)
        if response.status_code not in (200, 206):
            without_url(response.read)  # so that the connection can be used again
            if response.status_code == 416 and stop is None:
                info = self.head(name)
                if info.size_bytes == start:
                    return Body(info, start, start, (), response.close)
            raise failure_of_answer(response)
        is_other_range = "x-ms-range" in headers and not _range_of(response).startswith(f"bytes {start}-")
        if is_other_range or "Content-Length" not in response.headers:
            response.close()
            what = "the range that was asked for" if is_other_range else "Content-Length"
            raise LostLengthError(None, f"an answer without {what}")
        size_bytes = int(response.headers["Content-Length"])
        info = _info_of_answer(name, response)
        return Body(info, start, start + size_bytes, _pieces(response), response.close)

    def put(self, name: str, data: bytes, *, if_absent: bool, metadata: Mapping[str, str]) -> str | None:
        """Write a blob with one Put Blob, which Azure refuses when its MD5 is not right."""
        check_name(name)
        try:
            return self._connection.do(
                lambda: _etag(
                    self._container.get_blob_client(name).upload_blob(
                        data,
                        overwrite=not if_absent,
                        metadata=_names_of_azure(metadata),
                        validate_content=True,
                    )
                )
            )
        except AzureFailure as failure:
            if (
                if_absent
                and failure.answer
                and failure.answer.code in ("BlobAlreadyExists", "ConditionNotMet")
            ):
                return None
            raise

    def upload(self, name: str, path: str, size_bytes: int, *, metadata: Mapping[str, str]) -> str:
        """Write a large file as blocks, several at a time, and then the list of them."""
        check_name(name)
        blob = self._container.get_blob_client(name)
        parts = parts_of(size_bytes, part_bytes_of(size_bytes, most_parts=MOST_BLOCKS))
        # Blocks belong to the name, so those of another upload to it must not have the same, but must have
        # one of the same length: 32 is that of object_store, the fast lane.
        upload = os.urandom(13).hex()
        blocks = [f"{upload}-{part.number - 1:05}" for part in parts]
        url = f"{self._connection.url}/{name}"
        checked: dict[str, Any] = {"validate_content": True}
        with file_to_send(path, url) as file:

            def send(part: Part, is_over: threading.Event) -> None:
                def once() -> None:
                    if not is_over.is_set():
                        data = file.read(part)
                        self._connection.do_part(
                            url, lambda: blob.stage_block(blocks[part.number - 1], data, **checked)
                        )

                self._access.retry.call(once)

            in_parts(parts, send)
        listed = [BlobBlock(block) for block in blocks]  # committed again, they are what they were

        def commit() -> str:
            return _etag(blob.commit_block_list(listed, metadata=_names_of_azure(metadata), **checked))

        return self._access.retry.call(lambda: self._connection.do_part(url, commit))

    def list(self, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        """Yield the blobs whose name begins with *prefix*, as Azure orders them."""
        if not could_begin_a_name(prefix):
            return
        pages: Any = self._container.list_blobs(
            name_starts_with=prefix or None, include=["metadata"], results_per_page=PAGE_BLOBS
        ).by_page()

        def listed() -> Iterator[tuple[Iterator[ObjectInfo], str | None]]:
            while (page := self._connection.do(lambda: next(pages, None))) is not None:
                # A folder of a hierarchical namespace is listed too.
                blobs = (blob for blob in page if (blob.metadata or {}).get("hdi_isfolder") != "true")
                yield map(_info, blobs), pages.continuation_token

        yield from whole(listed(), f"{self._connection.url}/{prefix}")

    def head(self, name: str) -> ObjectInfo:
        """Return size, ETag, time of change and checksum."""
        check_name(name)
        return self._connection.do(lambda: _info(self._container.get_blob_client(name).get_blob_properties()))

    def delete(self, name: str) -> None:
        """Remove a blob; one with snapshots is not removed, but a `PermanentError`."""
        check_name(name)
        self._connection.do(lambda: self._container.delete_blob(name))

    def error(self, operation: str, url: str, error: Exception) -> StorageError | None:
        """Return what an exception means."""
        if not isinstance(error, AzureFailure):
            return None
        return self._connection.meaning(operation, url, error)

    def is_mute(self, error: Exception) -> bool:
        """Whether *error* is a refusal without a code."""
        return isinstance(error, AzureFailure) and error.answer is not None and error.answer.is_mute


def _pieces(response: HttpResponse) -> Iterator[bytes]:
    pieces = response.iter_raw()  # as they are stored, also when they are said to be compressed
    while (piece := without_url(lambda: next(pieces, None))) is not None:
        yield piece


def _info(blob: Any) -> ObjectInfo:
    checksum = _checksum(blob.metadata or {}, blob.content_settings.content_md5)
    return ObjectInfo(blob.name, blob.size, bare_etag(blob.etag), blob.last_modified, checksum)


def _range_of(response: HttpResponse) -> str:
    return response.headers.get("Content-Range", "")


def _info_of_answer(name: str, response: HttpResponse) -> ObjectInfo:
    headers = response.headers
    _, _, whole = _range_of(response).partition("/")
    start = "x-ms-meta-"
    metadata = {key[len(start) :]: headers[key] for key in headers if key.lower().startswith(start)}
    md5 = headers.get("x-ms-blob-content-md5" if whole else "Content-MD5", "")
    return ObjectInfo(
        name,
        int(whole or headers["Content-Length"]),
        bare_etag(headers["ETag"]),
        parsedate_to_datetime(headers["Last-Modified"]),
        _checksum(metadata, b64decode(md5)),
    )


def _checksum(metadata: Mapping[str, str], md5: bytes | None) -> str | None:
    """Return our own checksum, else the one that Azure keeps of blobs that were put whole."""
    for name, value in metadata.items():
        if name.lower() == SHA256_METADATA_AZURE:
            return f"sha256:{value}"
    return f"md5:{md5.hex()}" if md5 else None


def _names_of_azure(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in metadata.items()}


def _etag(answer: Mapping[str, Any]) -> str:
    return bare_etag(str(answer["etag"]))
