"""Checksums of contents, as storage tells them: `algorithm:hexadecimal`, for example `md5:9e10…`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Hasher(Protocol):
    """Takes a content, piece by piece."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add *data*."""

    def hexdigest(self) -> str:
        """Return the digest of all data so far."""


def hasher_of(checksum: str | None) -> Hasher | None:
    """Return a hasher of the algorithm of *checksum*; None: there is none, or it cannot be computed here."""
    make = _HASHERS.get(checksum.partition(":")[0]) if checksum else None
    return make() if make else None


def is_right(hasher: Hasher, checksum: str) -> bool:
    """Whether what *hasher* was fed with has that checksum."""
    return hasher.hexdigest() == checksum.partition(":")[2]


def file_has(path: str, checksum: str) -> bool:
    """Whether the file has that checksum; also False when the algorithm is not known here."""
    hasher = hasher_of(checksum)
    if hasher is None:
        return False
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
    return is_right(hasher, checksum)


class _Crc32c:
    """Google's checksum of objects that came in parts, computed by a library that comes with its SDK."""

    def __init__(self) -> None:
        from google_crc32c import extend

        self._extend = extend
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        """Add *data*."""
        self._value = self._extend(self._value, bytes(data))

    def hexdigest(self) -> str:
        """Return the digest of all data so far."""
        return f"{self._value:08x}"


def _crc32c() -> Hasher | None:
    try:
        from google_crc32c import implementation
    except ImportError:
        return None
    return _Crc32c() if implementation == "c" else None  # in Python it takes seconds per megabyte


_HASHERS: dict[str, Callable[[], Hasher | None]] = {
    "sha256": hashlib.sha256,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "crc32c": _crc32c,
}
_BLOCK_BYTES = 1 << 20
