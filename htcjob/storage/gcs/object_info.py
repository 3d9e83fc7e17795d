"""Facts about an object, from answers of Google's two APIs."""

from __future__ import annotations

import base64
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from htcjob.storage.bucket import SHA256_METADATA
from htcjob.storage.contract import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Mapping


def info_of_answer(name: str, headers: Mapping[str, str]) -> ObjectInfo:
    """Return what an answer of the XML API says about its object."""
    # https://cloud.google.com/storage/docs/xml-api/reference-headers
    hashes = dict(one.strip().split("=", 1) for one in headers.get("x-goog-hash", "").split(",") if one)
    return ObjectInfo(
        name,
        int(headers["x-goog-stored-content-length"]),
        headers["x-goog-generation"],
        parsedate_to_datetime(headers["Last-Modified"]),
        _checksum(headers.get(f"x-goog-meta-{SHA256_METADATA}"), hashes.get("md5"), hashes.get("crc32c")),
    )


def info_of_blob(blob: Any) -> ObjectInfo:
    """Return what the SDK knows about an object."""
    sha256 = (blob.metadata or {}).get(SHA256_METADATA)
    checksum = _checksum(sha256, blob.md5_hash, blob.crc32c)
    return ObjectInfo(blob.name, blob.size, str(blob.generation), blob.updated, checksum)


def _checksum(sha256: str | None, md5: str | None, crc32c: str | None) -> str | None:
    """Return the best of the checksums; *md5* and *crc32c* are in base64."""
    if sha256 is not None:
        return f"sha256:{sha256.lower()}"
    for name, value in (("md5", md5), ("crc32c", crc32c)):
        if value is not None:
            return f"{name}:{base64.b64decode(value).hex()}"
    return None
