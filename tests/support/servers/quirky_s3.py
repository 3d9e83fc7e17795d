"""A small S3 in memory that has the quirks of compatible servers, one at a time; it is our own, and checks no signature."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tests.support.servers.loopback import QuietHandler, served

if TYPE_CHECKING:
    from collections.abc import Iterator

_KMS = {"x-amz-server-side-encryption": "aws:kms"}
ETAGS = {
    "md5": lambda data: (hashlib.md5(data).hexdigest(), {}),
    "kms": lambda data: (hashlib.md5(b"kms" + data).hexdigest(), _KMS),
    "dsse": lambda data: (
        hashlib.md5(b"d" + data).hexdigest(),
        {"x-amz-server-side-encryption": "aws:kms:dsse"},
    ),
    "customer": lambda data: (
        hashlib.md5(b"c" + data).hexdigest(),
        {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
    ),
    "multipart": lambda data: (hashlib.md5(data).hexdigest() + "-2", {}),
    "crc64": lambda data: (str(int.from_bytes(hashlib.sha256(data).digest()[:8], "big")), {}),
    "weak": lambda data: ("W/" + hashlib.md5(data).hexdigest(), {}),
    "wrong": lambda data: (hashlib.md5(b"another" + data).hexdigest(), {}),
}
"""ETag and headers that go with it, for a content."""


class QuirkyS3:
    """What it holds, how it answers and what it was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.etag = "md5"
        self.quirk = ""
        """`ignores ranges`, `other range`, `other total`, `changes` (another version at every request), or the code
        that the end of an upload fails with, in the body of a success."""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.url = ""


class _Handler(QuietHandler):
    s3: QuirkyS3

    def do_PUT(self) -> None:
        self._note()
        data = self.body()
        if "uploadId=" not in self.path:
            self.s3.objects[unquote(urlsplit(self.path).path)] = data
        self._answer(200, b"", data)

    def do_GET(self) -> None:
        self._note()
        quirk, data = self.s3.quirk, self.s3.objects.get(unquote(urlsplit(self.path).path))
        if data is None:
            return self._refuse(404, "NoSuchKey")
        if quirk == "changes":
            data = len(self.s3.requests).to_bytes(4, "big") + data[4:]
        etag = self._headers_of(data)["ETag"]
        match, span = self.headers.get("If-Match"), self.headers.get("Range")
        if match and quirk != "changes" and (match != etag or etag.startswith("W/")):
            return self._refuse(412, "PreconditionFailed")
        if not span or quirk == "ignores ranges":
            return self._answer(200, data, data)
        first, _, last = span.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(data)), len(data) - 1) + 1
        if start >= len(data):
            return self._refuse(416, "InvalidRange")
        shown = (start + 1, stop) if quirk == "other range" else (start, stop - 1)
        total = len(data) + (1 if quirk == "other total" and start else 0)
        said = {"Content-Range": f"bytes {shown[0]}-{shown[1]}/{total}"}
        return self._answer(206, data[start:stop], data, said)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._note()
        self.body()
        if "uploads" in self.path:
            body = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        else:
            body = f"<Error><Code>{self.s3.quirk}</Code><Message>m</Message></Error>".encode()
        self.send(200, body, {"Content-Type": "application/xml"})

    def do_DELETE(self) -> None:
        self._note()
        self.send(204, b"", {})

    def _note(self) -> None:
        self.s3.requests.append((self.command, self.path, dict(self.headers)))

    def _headers_of(self, data: bytes) -> dict[str, str]:
        etag, others = ETAGS[self.s3.etag](data)
        tag = f'W/"{etag[2:]}"' if etag.startswith("W/") else f'"{etag}"'
        return {"ETag": tag, "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT", **others}

    def _refuse(self, status: int, code: str) -> None:
        self.send(status, f"<Error><Code>{code}</Code></Error>".encode(), {})

    def _answer(self, status: int, body: bytes, data: bytes, others: dict[str, str] | None = None) -> None:
        self.send(status, body, {**self._headers_of(data), **(others or {})})


@contextmanager
def quirky_s3() -> Iterator[QuirkyS3]:
    """Run one on a port of its own."""
    s3 = QuirkyS3()
    handler = type("Handler", (_Handler,), {"s3": s3})
    with served(handler) as s3.url:
        yield s3
