"""
Amazon S3, and servers that speak its protocol, over the SDK that boto3 is built on (botocore).

What is sent is compared by the server: with the body's digest, which is part of the signature, or, at AWS
itself over TLS, with the checksum that the SDK appends to the body. What arrives is compared by us
(`CloudStore`): with our own metadata, else with the ETag where that is an MD5.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import timezone
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from htcjob.errors import PermanentError, StorageError, TransientError
from htcjob.storage.bucket import (
    SHA256_METADATA,
    UPLOAD_METADATA,
    Body,
    Bucket,
    bare_etag,
    closing,
    is_weak,
    looks_like_md5,
    shared_connection,
)
from htcjob.storage.contract import ObjectInfo
from htcjob.storage.multipart import MOST_PARTS, FilePart, file_to_send, in_parts, part_bytes_of, parts_of
from htcjob.storage.ordering import is_express, whole
from htcjob.storage.s3.connection import Connection, is_aws
from htcjob.storage.s3.errors import NoLengthError, RangeIgnoredError, answer_of, code_of, meaning_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from htcjob.storage.access import Access
    from htcjob.storage.multipart import Part, SentFile

T = TypeVar("T")

_PIECE_BYTES = 1 << 20


def open_bucket(container: str, access: Access) -> S3Bucket:
    """Return the bucket, without making a request. All buckets of an *access* share their connections."""
    return S3Bucket(container, access, shared_connection(access, Connection))


class S3Bucket(Bucket):
    """One bucket."""

    def __init__(self, container: str, access: Access, connection: Connection) -> None:
        self._bucket = container
        self._access = access
        self.connection = connection
        self._is_express = is_express(container)
        self.lists_in_order = not self._is_express
        self._left: list[Mapping[str, str]] = []  # uploads to be aborted with other credentials

    @property
    def is_of_cloud(self) -> bool:
        """Whether the server is Amazon's."""
        return is_aws(self._client.meta.endpoint_url)

    def get(self, name: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Body:
        """Begin to read an object or a range of it."""
        options = {}
        is_range = start > 0 or stop is not None
        if is_range:
            options["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if etag is not None and not is_weak(etag):
            options["IfMatch"] = f'"{etag}"'
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=name, **options)
        except ClientError as error:
            # The empty rest of an object is outside of it, for HTTP.
            if code_of(error) != "InvalidRange" or stop is not None or not start:
                raise
            info = self.head(name)
            if info.size_bytes != start:
                raise
            return Body(info, start, start, iter(()), lambda: None)
        body = answer["Body"]
        try:
            size_bytes = _length(answer)
        except NoLengthError:
            body.close()
            raise
        stop = start + size_bytes
        if is_range:
            # `bytes 3-6/10`; a server that does not know ranges answers with the whole.
            said, _, total = answer.get("ContentRange", "").partition("/")
            if not said.startswith(f"bytes {start}-") or not total.isdigit():
                body.close()
                raise RangeIgnoredError
            size_bytes = int(total)
        return Body(
            _info(name, size_bytes, answer), start, stop, body.iter_chunks(_PIECE_BYTES), closing(body)
        )

    def put(self, name: str, data: bytes, *, if_absent: bool, metadata: Mapping[str, str]) -> str | None:
        """Write a whole object in one request."""
        options = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            answer = self._client.put_object(
                Bucket=self._bucket, Key=name, Body=data, Metadata=dict(metadata), **options
            )
        except ClientError as error:
            if if_absent and code_of(error) in ("PreconditionFailed", "412"):
                return None
            raise
        return bare_etag(answer["ETag"])

    def upload(self, name: str, path: str, size_bytes: int, *, metadata: Mapping[str, str]) -> str:
        """Write a large file in parallel parts, each tried again by itself."""
        token = uuid.uuid4().hex
        where = {"Bucket": self._bucket, "Key": name}
        with file_to_send(path, f"s3://{self._bucket}/{name}") as file:
            answer = self._client.create_multipart_upload(
                **where, Metadata={**metadata, UPLOAD_METADATA: token}
            )
            upload = {**where, "UploadId": answer["UploadId"]}
            try:
                parts = self._send_parts(upload, file, size_bytes)
                return self._complete(upload, parts, token)
            except BaseException:
                self._abort(upload)
                raise

    def list(self, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        """Yield the objects whose name begins with *prefix*, after *start_after*, a page at a time."""
        infos = whole(self._pages(prefix, start_after), f"s3://{self._bucket}/{prefix}")
        return (info for info in infos if info.key.startswith(prefix)) if self._is_express else infos

    def _pages(
        self, prefix: str, start_after: str | None
    ) -> Iterator[tuple[Sequence[ObjectInfo], str | None]]:
        if self._is_express:  # it knows folders only, and no place to begin at
            prefix, start_after = prefix[: prefix.rfind("/") + 1], None
        last = start_after or ""
        position = {"StartAfter": start_after} if start_after else {}
        while True:
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **position)
            infos = [_listed(item) for item in page.get("Contents", ())]
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated"):
                token = None
            elif not token:
                # Some servers leave it to us to go on behind the last key, as version 1 of the request did.
                token = infos[-1].key if infos else ""
                if token <= last or not self.lists_in_order:
                    reason = "storage says that there is more, and not where"
                    raise PermanentError("list", f"s3://{self._bucket}/{prefix}", reason)
            yield infos, token
            if token is None:
                return
            last = infos[-1].key if infos else last
            name = "ContinuationToken" if page.get("NextContinuationToken") else "StartAfter"
            position = {name: token}

    def head(self, name: str) -> ObjectInfo:
        """Return size, ETag, time of change and checksum."""
        answer = self._client.head_object(Bucket=self._bucket, Key=name)
        return _info(name, _length(answer), answer)

    def delete(self, name: str) -> None:
        """Remove an object; S3 gives no error when it is not there."""
        self._client.delete_object(Bucket=self._bucket, Key=name)

    def error(self, operation: str, url: str, error: Exception) -> StorageError | None:
        """Return what an exception of botocore means."""
        return meaning_of(operation, url, error, self._bucket)

    def is_mute(self, error: Exception) -> bool:
        """Whether *error* is a refusal without a code."""
        return isinstance(error, ClientError) and answer_of(error).is_mute

    def credentials_renewed(self) -> None:
        """Remove the parts that the old ones could not remove any more."""
        left, self._left = self._left, []
        for upload in left:
            self._abort(upload)

    @property
    def _client(self) -> Any:
        return self.connection.client()

    def _send_parts(
        self, upload: Mapping[str, str], file: SentFile, size_bytes: int
    ) -> Sequence[Mapping[str, object]]:
        def send(part: Part, is_over: threading.Event) -> Mapping[str, object]:
            def once() -> Mapping[str, object]:
                if is_over.is_set():
                    return {}
                answer = self._client.upload_part(**upload, PartNumber=part.number, Body=FilePart(file, part))
                return {"PartNumber": part.number, "ETag": answer["ETag"]}

            return self._try(upload["Key"], once)

        return in_parts(parts_of(size_bytes, part_bytes_of(size_bytes, most_parts=MOST_PARTS)), send)

    def _complete(self, upload: Mapping[str, str], parts: Sequence[Mapping[str, object]], token: str) -> str:
        """Put the parts together; return the ETag."""
        where = {"Bucket": upload["Bucket"], "Key": upload["Key"]}

        def once() -> str:
            try:
                answer = self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            except ClientError as error:
                if code_of(error) != "NoSuchUpload":
                    raise
                # An earlier try may have been carried out although its answer did not come.
                with suppress(ClientError):
                    head = self._client.head_object(**where)
                    if head["Metadata"].get(UPLOAD_METADATA) == token:
                        return bare_etag(head["ETag"])
                raise
            # Ceph RGW 16 gives no ETag here.
            return bare_etag(answer.get("ETag") or self._client.head_object(**where)["ETag"])

        return self._try(upload["Key"], once)

    def _abort(self, upload: Mapping[str, str]) -> None:
        """Remove the parts that are there already; a failure of that hides no other."""

        def once() -> None:
            with suppress(self._client.exceptions.NoSuchUpload):
                self._client.abort_multipart_upload(**upload)

        try:
            self._try(upload["Key"], once)
        except ClientError:
            self._left.append(upload)
        except Exception:
            pass  # a lifecycle rule of the bucket removes them in the end

    def _try(self, name: str, request: Callable[[], T]) -> T:
        """Make a request, again while it fails for a passing reason."""

        def once() -> T:
            try:
                return request()
            except (BotoCoreError, ClientError) as error:
                meaning = self.error("put", f"s3://{self._bucket}/{name}", error)
                if isinstance(meaning, TransientError):
                    raise meaning from error
                raise

        return self._access.retry.call(once)


def _length(answer: Mapping[str, Any]) -> int:
    if "ContentLength" not in answer:
        raise NoLengthError
    return int(answer["ContentLength"])


def _listed(item: Mapping[str, Any]) -> ObjectInfo:
    modified = item["LastModified"].astimezone(timezone.utc)
    return ObjectInfo(item["Key"], item["Size"], bare_etag(item["ETag"]), modified)


def _info(name: str, size_bytes: int, answer: Mapping[str, Any]) -> ObjectInfo:
    etag = bare_etag(answer["ETag"])
    return ObjectInfo(
        name, size_bytes, etag, answer["LastModified"].astimezone(timezone.utc), _checksum(etag, answer)
    )


def _checksum(etag: str, answer: Mapping[str, Any]) -> str | None:
    sha256 = answer["Metadata"].get(SHA256_METADATA)
    if sha256 is not None:
        return f"sha256:{sha256.lower()}"
    # The ETag is the content's MD5 unless it came in parts, or is encrypted with a key that is not S3's own.
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    is_encrypted = (
        answer.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in answer
    )
    return f"md5:{etag}" if looks_like_md5(etag) and not is_encrypted else None
