"""
A fake of Google Cloud Storage on the wire: what the emulator (`gcs.py`) cannot do. It is our own, not Google's.

It does what Google's documents say of the requests that google-cloud-storage and obstore make:

* JSON: https://cloud.google.com/storage/docs/json_api/v1/objects (get, insert, list, delete), uploads of
  all three kinds https://cloud.google.com/storage/docs/uploads-downloads#uploads
* XML: https://cloud.google.com/storage/docs/xml-api/overview (object GET, HEAD, PUT, DELETE; bucket list v2),
  https://cloud.google.com/storage/docs/multipart-uploads
* preconditions, atomic: https://cloud.google.com/storage/docs/request-preconditions
* hashes: https://cloud.google.com/storage/docs/data-validation (none but CRC32C after a multipart upload)
* gzip undone for who does not accept it: https://cloud.google.com/storage/docs/transcoding
* errors: https://cloud.google.com/storage/docs/json_api/v1/status-codes

Ours are: the orders to fail, how many entries a page has, that buckets exist at once, the values of ETags.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAGE_ENTRIES = 1000
_XML = '<?xml version="1.0" encoding="UTF-8"?>'
_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_ERRORS = {  # by status: reason in JSON, code in XML
    400: ("invalid", "InvalidArgument"),
    401: ("required", "AuthenticationRequired"),
    403: ("forbidden", "AccessDenied"),
    404: ("notFound", "NoSuchKey"),
    412: ("conditionNotMet", "PreconditionFailed"),
    416: ("requestedRangeNotSatisfiable", "InvalidRange"),
    429: ("rateLimitExceeded", "SlowDown"),
    500: ("internalError", "InternalError"),
    503: ("backendError", "ServiceUnavailable"),
}


class _RefusalError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, message: str, *, code: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}


@dataclass
class _Object:
    name: str
    data: bytes
    generation: int
    metadata: dict[str, str]
    content_type: str
    content_encoding: str
    has_md5: bool = True
    updated: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def hashes(self) -> dict[str, str]:
        return _hashes(self.data) if self.has_md5 else {"crc32c": _crc32c(self.data)}

    @property
    def xml_etag(self) -> str:
        md5 = hashlib.md5(self.data).hexdigest()
        return f'"{md5}"' if self.has_md5 else f'"{md5}-{self.generation}"'

    def resource(self, bucket: str) -> dict[str, Any]:
        """Return its resource in the JSON API."""
        hashes = self.hashes
        updated = self.updated.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        resource = {
            "kind": "storage#object",
            "id": f"{bucket}/{self.name}/{self.generation}",
            "name": self.name,
            "bucket": bucket,
            "generation": str(self.generation),
            "metageneration": "1",
            "contentType": self.content_type,
            "size": str(len(self.data)),
            "crc32c": hashes["crc32c"],
            "etag": base64.b64encode(str(self.generation).encode()).decode(),
            "timeCreated": updated,
            "updated": updated,
        }
        optional = {"md5Hash": hashes.get("md5"), "metadata": self.metadata}
        optional["contentEncoding"] = self.content_encoding
        return resource | {name: value for name, value in optional.items() if value}

    def headers(self) -> list[tuple[str, str]]:
        """Return what the XML API says about it."""
        return [
            ("ETag", self.xml_etag),
            ("Last-Modified", format_datetime(self.updated, usegmt=True)),
            ("Content-Type", self.content_type),
            ("x-goog-generation", str(self.generation)),
            ("x-goog-metageneration", "1"),
            ("x-goog-stored-content-encoding", self.content_encoding or "identity"),
            ("x-goog-stored-content-length", str(len(self.data))),
            *(("x-goog-hash", f"{name}={value}") for name, value in self.hashes.items()),
            *((f"x-goog-meta-{name}", value) for name, value in self.metadata.items()),
        ]


@dataclass
class _Upload:
    """A resumable or multipart upload on its way."""

    bucket: str
    name: str
    query: dict[str, str]
    metadata: dict[str, str]
    resource: dict[str, Any]
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass
class _Order:
    """To fail, or to spoil a body (status 200)."""

    left: int
    status: int
    headers: Mapping[str, str]
    reason: str
    method: str
    path: str


@dataclass(frozen=True)
class SeenRequest:
    """A request that came, without its token."""

    method: str
    path: str
    """With its query."""
    headers: dict[str, str]
    """Names in small letters; no `authorization`."""


class FakeGcs:
    """The server; it listens from the beginning until `close`."""

    def __init__(self) -> None:
        self.valid_tokens: set[str] | None = None
        """Bearer tokens that are accepted at this moment; None: nobody is asked for one."""
        self.requests: list[SeenRequest] = []
        """All that came since the fixture was made, or since a test cleared it."""
        self.lock = threading.RLock()
        self.buckets: dict[str, dict[str, _Object]] = {}
        self.uploads: dict[str, _Upload] = {}
        """Those begun and neither completed nor given up, by ID."""
        self.numbers = count(1)
        self._orders: list[_Order] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def new_bucket(self) -> str:
        """Make an empty bucket and give its name."""
        with self.lock:
            name = f"bucket-{next(self.numbers)}"
            self.buckets[name] = {}
        return name

    def fail_next(
        self,
        n: int,
        status: int,
        headers: Mapping[str, str] | None = None,
        *,
        reason: str = "",
        method: str = "",
        path: str = "",
    ) -> None:
        """
        Answer the next *n* requests (of *method*, with *path* somewhere in theirs) with an error.

        *reason* is the word in the body, `rateLimitExceeded` for example. Nothing takes effect.
        """
        with self.lock:
            self._orders.append(_Order(n, status, headers or {}, reason, method, path))

    def corrupt_next(self, n: int) -> None:
        """Change a byte in the content of the next *n* objects that are read; the headers stay right."""
        self.fail_next(n, 200, method="GET")

    def reset(self) -> None:
        """Forget all orders, the log and whom to let in; objects stay."""
        with self.lock:
            self._orders.clear()
            self.requests.clear()
            self.valid_tokens = None

    def due(self, *, is_content: bool, method: str, path: str) -> _Order | None:
        """Return the order that concerns a request, and count it."""
        with self.lock:
            for order in self._orders:
                is_meant = order.method in ("", method) and order.path in path
                if order.left and is_meant and (order.status == 200) == is_content:
                    order.left -= 1
                    return order
        return None

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
    block_on_close = False
    fake: FakeGcs

    def handle_error(self, request: object, client_address: object) -> None:
        """Be silent about clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *arguments: object) -> None:
        """Nothing; the requests are kept."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _answer(self) -> None:
        self.fake = self.server.fake
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query, keep_blank_values=True))
        seen = {name.lower(): value for name, value in self.headers.items()}
        token = seen.pop("authorization", "").removeprefix("Bearer ")
        self.fake.requests.append(SeenRequest(self.command, self.path, seen))
        routes = (
            (r"/upload/storage/v1/b/([^/]+)/o", self._json_upload),
            (r"/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)", self._json_object),
            (r"/storage/v1/b/([^/]+)/o", self._json_list),
            (r"/([^/]+)/(.+)", self._xml_object),
            (r"/([^/]+)/?", self._xml_list),
        )
        self.is_json = "/storage/v1/" in url.path
        try:
            if self.fake.valid_tokens is not None and token not in self.fake.valid_tokens:
                raise _RefusalError(401, "Invalid Credentials", code="authError" if self.is_json else "")
            order = self.fake.due(is_content=False, method=self.command, path=self.path)
            if order is not None:
                raise _RefusalError(order.status, "as ordered", code=order.reason, headers=order.headers)
            for pattern, route in routes:
                if match := re.fullmatch(pattern, url.path):
                    bucket, *name = map(unquote, match.groups())
                    if bucket not in self.fake.buckets:
                        code = "notFound" if self.is_json else "NoSuchBucket"
                        raise _RefusalError(404, "The specified bucket does not exist.", code=code)
                    route(bucket, *name)
                    break
            else:
                raise _RefusalError(400, f"no such thing in the fake: {self.command} {self.path}")
        except _RefusalError as refusal:
            self._refuse(refusal)

    # JSON

    def _json_upload(self, bucket: str) -> None:
        kind = self.query.get("uploadType")
        if kind == "multipart":
            boundary = re.search(r"boundary=\"?([^\";]+)", self.headers["Content-Type"])
            assert boundary is not None
            _, first, second, _ = self.body.split(b"--" + boundary[1].encode())
            resource = json.loads(first.split(b"\r\n\r\n", 1)[1])
            head, content = second.split(b"\r\n\r\n", 1)
            content_type = re.search(rb"(?i)content-type: *([^\r\n]+)", head)
            if content_type:
                resource.setdefault("contentType", content_type[1].decode())
            self._store(bucket, resource["name"], content.removesuffix(b"\r\n"), resource, self.query)
        elif kind == "media":
            self._store(bucket, self.query["name"], self.body, {}, self.query)
        elif kind == "resumable" and self.command == "POST":
            resource = json.loads(self.body or b"{}")
            name = resource.get("name") or self.query["name"]
            upload_id = self._begin(_Upload(bucket, name, self.query, {}, resource))
            location = f"{self.fake.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=resumable"
            self._send(200, headers=[("Location", f"{location}&upload_id={upload_id}")])
        elif kind == "resumable":
            self._resume(self.query["upload_id"])
        else:
            raise _RefusalError(400, f"uploadType {kind!r}")

    def _resume(self, upload_id: str) -> None:
        upload = self._upload(upload_id)
        if self.command == "DELETE":
            del self.fake.uploads[upload_id]
            self._send(499)
            return
        match = re.fullmatch(
            r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", self.headers.get("Content-Range", "bytes */*")
        )
        if match is None:
            raise _RefusalError(400, "Content-Range")
        have = b"".join(upload.parts.values())
        if match[1] is not None:
            if int(match[1]) > len(have):
                raise _RefusalError(400, "a gap")
            have = have[: int(match[1])] + self.body
            upload.parts = {1: have}
        elif not self.headers.get("Content-Range"):
            have = self.body
        if match[2] == str(len(have)) or not self.headers.get("Content-Range"):
            del self.fake.uploads[upload_id]
            self._store(upload.bucket, upload.name, have, upload.resource, upload.query)
        else:
            self._send(308, headers=[("Range", f"bytes=0-{len(have) - 1}")] if have else [])

    def _json_object(self, bucket: str, name: str) -> None:
        found = self._find(bucket, name)
        if self.query.get("alt") == "media":
            self._send_content(found)
        elif self.command == "DELETE":
            self._delete(bucket, name)
        else:
            self._send_json(found.resource(bucket))

    def _json_list(self, bucket: str) -> None:
        first = self.query.get("startOffset", "").encode()
        entries, token = self._page(bucket, first, self.query.get("pageToken"), self.query.get("maxResults"))
        answer: dict[str, Any] = {"kind": "storage#objects", "items": [o.resource(bucket) for o in entries]}
        self._send_json(answer | ({"nextPageToken": token} if token else {}))

    # XML

    def _xml_object(self, bucket: str, name: str) -> None:
        if "uploads" in self.query:
            upload = _Upload(
                bucket, name, {}, self._metadata(), {"contentType": self.headers["Content-Type"]}
            )
            answer = f"<Bucket>{bucket}</Bucket><Key>{escape(name)}</Key><UploadId>{self._begin(upload)}</UploadId>"
            self._send_xml(200, "InitiateMultipartUploadResult", answer)
        elif "uploadId" in self.query:
            self._xml_multipart(self.query["uploadId"])
        elif self.command == "PUT":
            resource = {
                "contentType": self.headers.get("Content-Type", ""),
                "contentEncoding": self.headers.get("Content-Encoding", ""),
                "metadata": self._metadata(),
            }
            expected = self.headers.get("x-goog-if-generation-match")
            query = {"ifGenerationMatch": expected} if expected is not None else {}
            self._store(bucket, name, self.body, resource | self._hashes_sent(), query)
        elif self.command == "DELETE":
            self._find(bucket, name)
            self._delete(bucket, name)
        else:
            self._send_content(self._find(bucket, name))

    def _xml_multipart(self, upload_id: str) -> None:
        upload = self._upload(upload_id)
        if self.command == "PUT":
            _check_hashes(self.body, self._hashes_sent())
            upload.parts[int(self.query["partNumber"])] = self.body
            hashes = [("x-goog-hash", f"{name}={value}") for name, value in _hashes(self.body).items()]
            self._send(200, headers=[("ETag", f'"{hashlib.md5(self.body).hexdigest()}"'), *hashes])
        elif self.command == "DELETE":
            del self.fake.uploads[upload_id]
            self._send(204)
        else:
            whole = []
            for part in ET.fromstring(self.body).iterfind("{*}Part"):
                data = upload.parts.get(int(part.findtext("{*}PartNumber") or 0), b"")
                if (part.findtext("{*}ETag") or "").strip('"') != hashlib.md5(data).hexdigest():
                    raise _RefusalError(
                        400, "One or more of the specified parts could not be found.", code="InvalidPart"
                    )
                whole.append(data)
            del self.fake.uploads[upload_id]
            resource = {"metadata": upload.metadata, **upload.resource}
            self._store(upload.bucket, upload.name, b"".join(whole), resource, {}, has_md5=False)

    def _xml_list(self, bucket: str) -> None:
        after = self.query.get("start-after", "")
        first = after.encode() + b"\0" if after else b""
        token = self.query.get("continuation-token")
        entries, token = self._page(bucket, first, token, self.query.get("max-keys"))
        answer = f"<Name>{bucket}</Name><Prefix>{escape(self.query.get('prefix', ''))}</Prefix>"
        answer += f"<IsTruncated>{str(token is not None).lower()}</IsTruncated>"
        if token is not None:
            answer += f"<NextContinuationToken>{token}</NextContinuationToken>"
        for found in entries:
            updated = found.updated.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            answer += (
                f"<Contents><Key>{escape(found.name)}</Key><Generation>{found.generation}</Generation>"
                f"<LastModified>{updated}</LastModified><ETag>{escape(found.xml_etag)}</ETag>"
                f"<Size>{len(found.data)}</Size></Contents>"
            )
        self._send_xml(200, "ListBucketResult", answer)

    def _metadata(self) -> dict[str, str]:
        return {n.lower()[12:]: v for n, v in self.headers.items() if n.lower().startswith("x-goog-meta-")}

    def _hashes_sent(self) -> dict[str, str]:
        """Return the hashes in the headers, by their names in JSON."""
        sent = {}
        for value in ",".join(self.headers.get_all("x-goog-hash") or []).split(","):
            algorithm, _, digest = value.strip().partition("=")
            sent[{"md5": "md5Hash"}.get(algorithm, algorithm)] = digest
        if digest := self.headers.get("Content-MD5"):
            sent["md5Hash"] = digest
        return sent

    # Objects

    def _store(
        self,
        bucket: str,
        name: str,
        data: bytes,
        resource: Mapping[str, Any],
        query: Mapping[str, str],
        *,
        has_md5: bool = True,
    ) -> None:
        _check_hashes(data, resource)
        with self.fake.lock:
            objects = self.fake.buckets[bucket]
            self._check_generation(objects.get(name), query.get("ifGenerationMatch"))
            stored = objects[name] = _Object(
                name,
                data,
                int(time.time() * 1e6) * 1000 + next(self.fake.numbers) % 1000,
                dict(resource.get("metadata") or {}),
                resource.get("contentType") or "application/octet-stream",
                resource.get("contentEncoding") or "",
                has_md5,
            )
        if self.is_json:
            self._send_json(stored.resource(bucket))
        else:
            headers = [h for h in stored.headers() if h[0] in ("ETag", "x-goog-generation", "x-goog-hash")]
            if self.command == "PUT":
                self._send(200, headers=headers)
            else:
                answer = f"<Key>{escape(name)}</Key><ETag>{escape(stored.xml_etag)}</ETag>"
                self._send_xml(200, "CompleteMultipartUploadResult", answer, headers)

    def _find(self, bucket: str, name: str) -> _Object:
        found = self.fake.buckets[bucket].get(name)
        if found is None:
            raise _RefusalError(404, f"No such object: {bucket}/{name}")
        if expected := self.query.get("ifGenerationMatch") or self.headers.get("x-goog-if-generation-match"):
            self._check_generation(found, expected)
        if (expected := self.headers.get("If-Match")) and expected.strip('"') != found.xml_etag.strip('"'):
            raise _RefusalError(412, "At least one of the pre-conditions you specified did not hold.")
        return found

    def _check_generation(self, found: _Object | None, expected: str | None) -> None:
        if expected is not None and expected != str(found.generation if found else 0):
            raise _RefusalError(412, "At least one of the pre-conditions you specified did not hold.")

    def _delete(self, bucket: str, name: str) -> None:
        with suppress(KeyError):
            del self.fake.buckets[bucket][name]
        self._send(204)

    def _page(
        self, bucket: str, first: bytes, token: str | None, entries: str | None
    ) -> tuple[list[_Object], str | None]:
        """Return the objects from *first* on, and where the next page begins."""
        if token:
            first = max(first, base64.urlsafe_b64decode(token))
        prefix, limit = self.query.get("prefix", ""), min(int(entries or PAGE_ENTRIES), PAGE_ENTRIES)
        with self.fake.lock:
            found = [o for n, o in self.fake.buckets[bucket].items() if n.startswith(prefix)]
        ordered = sorted((o.name.encode(), o) for o in found if o.name.encode() >= first)
        following = base64.urlsafe_b64encode(ordered[limit][0]).decode() if len(ordered) > limit else None
        return [o for _, o in ordered[:limit]], following

    def _begin(self, upload: _Upload) -> str:
        upload_id = f"upload-{next(self.fake.numbers)}"
        self.fake.uploads[upload_id] = upload
        return upload_id

    def _upload(self, upload_id: str) -> _Upload:
        upload = self.fake.uploads.get(upload_id)
        if upload is None:
            raise _RefusalError(404, "The requested upload was not found.", code="NoSuchUpload")
        return upload

    # Answers

    def _send_content(self, found: _Object) -> None:
        data, headers, status = found.data, found.headers(), 200
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if found.content_encoding == "gzip" and "gzip" not in self.headers.get("Accept-Encoding", ""):
            data = gzip.decompress(data)
        else:
            if found.content_encoding:
                headers.append(("Content-Encoding", found.content_encoding))
            if match:
                start, stop = _range(match[1], match[2], len(data))
                headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}"))
                data, status = data[start:stop], 206
        if data and self.fake.due(is_content=True, method=self.command, path=self.path):
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._send(status, data, headers)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), [("Content-Type", "application/json; charset=UTF-8")])

    def _send_xml(
        self, status: int, root: str, inner: str, headers: list[tuple[str, str]] | None = None
    ) -> None:
        body = f"{_XML}<{root} {_NAMESPACE}>{inner}</{root}>".encode()
        self._send(status, body, [("Content-Type", "application/xml; charset=UTF-8"), *(headers or [])])

    def _refuse(self, refusal: _RefusalError) -> None:
        reason, code = _ERRORS.get(refusal.status, ("", ""))
        headers = list(refusal.headers.items())
        message = str(refusal)
        if self.is_json:
            details = {"message": message, "domain": "global", "reason": refusal.code or reason}
            error = {"code": refusal.status, "message": message, "errors": [details]}
            body = json.dumps({"error": error}).encode()
            headers.append(("Content-Type", "application/json; charset=UTF-8"))
        else:
            body = f"{_XML}<Error><Code>{refusal.code or code}</Code><Message>{escape(message)}</Message></Error>"
            body = body.encode()
            headers.append(("Content-Type", "application/xml; charset=UTF-8"))
        self._send(refusal.status, body, headers)

    def _send(self, status: int, body: bytes = b"", headers: list[tuple[str, str]] | None = None) -> None:
        self.send_response(status)
        for name, value in headers or []:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _range(first: str, last: str, size_bytes: int) -> tuple[int, int]:
    """Return start and end, half-open, of what a Range header asks for."""
    if first:
        start, stop = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
    else:
        start, stop = max(size_bytes - int(last), 0), size_bytes
    if start >= stop:
        raise _RefusalError(
            416,
            "The requested range cannot be satisfied.",
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )
    return start, stop


def _check_hashes(data: bytes, sent: Mapping[str, Any]) -> None:
    for name, digest in _hashes(data).items():
        if (expected := sent.get({"md5": "md5Hash"}.get(name, name))) and expected != digest:
            message = f"Provided {name.upper()} hash {expected!r} doesn't match calculated {digest!r}."
            raise _RefusalError(400, message, code="BadDigest")


def _hashes(data: bytes) -> dict[str, str]:
    return {"crc32c": _crc32c(data), "md5": base64.b64encode(hashlib.md5(data).digest()).decode()}


def _crc32c(data: bytes) -> str:
    import google_crc32c

    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


@pytest.fixture(scope="session")
def _fake_gcs_of_all() -> Iterator[FakeGcs]:
    pytest.importorskip("google_crc32c", reason="pip install '.[gcs]'")
    fake = FakeGcs()
    yield fake
    fake.close()


@pytest.fixture
def fake_gcs(_fake_gcs_of_all: FakeGcs) -> Iterator[FakeGcs]:
    """Yield the fake server, with a clean log and no orders."""
    yield _fake_gcs_of_all
    _fake_gcs_of_all.reset()
