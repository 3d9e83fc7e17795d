"""Which store a URL means; a kind of storage is imported when its first URL is opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from htcjob.errors import BadKeyError, ConfigurationError
from htcjob.storage.keys import check_key, real_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from htcjob.storage.access import Access
    from htcjob.storage.contract import Store


def is_cloud(url: str) -> bool:
    """Whether *url* is of a store in a cloud, which needs an `Access`."""
    return url.partition(":")[0].lower() in _CLOUDS


def open_store(url_or_directory: str, access: Access | None = None) -> Store:
    """
    Open the store that a URL or a directory means; no request is made.

    A directory is taken as it is. In a `file:///` URL, `%` and two hexadecimal digits are one byte.

    Args:
        url_or_directory: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://account/container/prefix`,
            `file:///directory`, `memory:name` or a directory.
        access: How the clouds are reached; only local storage can be opened without one.

    Raises:
        ConfigurationError: it means no store, or what serves it is not installed. A query, fragment or
            user information is refused, and not repeated in the message: it may be a secret.
    """
    scheme, rest = _split_scheme(url_or_directory)
    if not scheme:
        first = url_or_directory.split("/", 1)[0]
        if first.lower() in _SCHEMES and url_or_directory.startswith(f"{first}//"):
            raise ConfigurationError(f"store {first}//…: a colon is missing, write {first}://")
        return _open_directory(url_or_directory)
    try:
        if "?" in rest or "#" in rest:
            raise _MalformedError("the URL of a store has no query (?) and no fragment (#)")
        location = _location(scheme, rest)
    except _MalformedError as error:
        raise ConfigurationError(f"store {scheme}:…: {error}") from None
    if scheme in _CLOUDS:
        if access is None:
            raise TypeError(f"a store of {scheme}:// is opened with an Access (job_stores.py)")
        return _open_cloud(scheme, location, access)
    return _OPENERS[scheme](location)


def is_url(entry: str) -> bool:
    """Whether a manifest entry is a full URL, good or bad, and not a key."""
    return bool(_split_scheme(entry)[0])


def local_directory(url_or_directory: str) -> str | None:
    """
    Return the real path of the directory that a store is; None: it is elsewhere.

    Raises:
        ConfigurationError: a `file:` URL is malformed.
    """
    scheme, rest = _split_scheme(url_or_directory)
    if scheme not in ("", "file"):
        return None
    try:
        return real_path(_location(scheme, rest) if scheme else rest)
    except _MalformedError as error:
        raise ConfigurationError(f"store {scheme}:…: {error}") from None


def split_object_url(url: str) -> tuple[str, str]:
    """
    Divide the URL of an object, as a manifest may have it, into its store's URL and its key.

    The store is a whole bucket, container or named memory store, or the folder of a file. As in the
    clouds' own tools, `#`, `?` and `%` are ordinary characters of a key (not in a `file:///` URL); only
    what looks like a query (`?name=value`) is refused: a signed URL's secret would be in every message.

    Raises:
        BadKeyError: the URL is of no known form, or its key must not be used.
    """
    scheme, rest = _split_scheme(url)
    if not scheme:
        raise BadKeyError(url, "not a URL")
    try:
        if "=" in rest.partition("?")[2]:
            raise _MalformedError("a query (?name=value) is no part of an object's name")
        if scheme == "file" and ("?" in rest or "#" in rest):
            raise _MalformedError("in a file:/// URL write %3F for ? and %23 for #")
        location = _location(scheme, rest)
    except _MalformedError as error:
        raise BadKeyError(f"{scheme}:…", str(error)) from None
    if scheme == "file":
        folder, _, key = location.rpartition("/")
        if ".." in folder.split("/"):
            raise BadKeyError(key, "contains '..'")
        store = f"file:{rest[: rest.rindex('/') + 1]}"
    else:
        parts = location.split("/", _CONTAINER_PARTS[scheme])
        key = parts.pop() if len(parts) > _CONTAINER_PARTS[scheme] else ""
        store = f"{scheme}:{'' if scheme == 'memory' else '//'}{'/'.join(parts)}/"
    check_key(key)
    return store, key


def file_url(path: str) -> str:
    """Return the `file://` URL of an absolute *path*; letters outside ASCII stay readable."""
    return f"file://{quoted(path)}"


def quoted(path: str) -> str:
    """Return *path* with what would end the path or the line of a URL as `%` and two digits."""
    return path.translate(_QUOTED)


class _MalformedError(ValueError):
    """A fault of a URL, in words that repeat nothing of it."""


def _split_scheme(text: str) -> tuple[str, str]:
    """Return the scheme and what follows its colon; no scheme: *text* is a directory or a key."""
    scheme, colon, rest = text.partition(":")
    if not colon:  # most keys; there may be millions
        return "", text
    is_scheme = scheme[:1].isalpha() and scheme.isascii()
    is_scheme = is_scheme and all(c.isalnum() or c in "+-." for c in scheme)
    # `s3:/bucket` must not become a directory named `s3:`, although it could.
    if is_scheme and (rest.startswith("//") or scheme.lower() in _SCHEMES):
        return scheme.lower(), rest
    return "", text


def _location(scheme: str, rest: str) -> str:
    """Return the path of a `file` URL, the name of a `memory` URL, else container and what follows it."""
    if scheme not in _SCHEMES:
        raise _MalformedError(f"no such kind of storage; known are {_KNOWN_FORMS}")
    if scheme == "file":
        if not rest.startswith("///"):
            raise _MalformedError("expected file:///directory, without a host")
        return _unquote(rest[2:])
    if scheme == "memory":
        if not rest.partition("/")[0]:
            raise _MalformedError("expected memory:name")
        return rest
    if not rest.startswith("//"):
        raise _MalformedError(f"expected {scheme}://")
    parts = rest[2:].split("/")[: _CONTAINER_PARTS[scheme]]
    if "@" in parts[0]:
        raise _MalformedError("user information (@) does not belong in it")
    if len(parts) < _CONTAINER_PARTS[scheme] or not all(map(_is_container_name, parts)):
        raise _MalformedError(f"expected one of {_KNOWN_FORMS}")
    return rest[2:]


def _is_container_name(text: str) -> bool:
    """
    Whether *text* may name a bucket, an account or a container.

    The name becomes part of a host's name or of a path, where other characters would lead to another server.
    """
    return (text[:1].isalnum() and text.isascii() and all(c.isalnum() or c in "._-" for c in text)) or (
        text in ("$root", "$web", "$logs")
    )


def _unquote(path: str) -> str:
    first, *others = os.fsencode(path).split(b"%")
    decoded = [first]
    for other in others:
        try:
            byte = bytes.fromhex(other[:2].decode())
        except ValueError:
            byte = b""
        if len(byte) != 1 or byte in (b"/", b"\0"):
            raise _MalformedError("% needs two hexadecimal digits behind it, not those of / or NUL")
        decoded += byte, other[2:]
    return os.fsdecode(b"".join(decoded))


def _open_directory(path: str) -> Store:
    from htcjob.storage.local.store import LocalStore

    return LocalStore(path)


def _open_memory(name: str) -> Store:
    from htcjob.storage.memory.store import MemoryStore

    return MemoryStore.named(name.rstrip("/"))


def _open_cloud(scheme: str, location: str, access: Access) -> Store:
    """Open `bucket/prefix`, as the user wrote it."""
    from htcjob.storage.cloud import CloudStore
    from htcjob.storage.engines import open_bucket

    parts = location.split("/", _CONTAINER_PARTS[scheme])
    prefix = parts.pop() if len(parts) > _CONTAINER_PARTS[scheme] else ""
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    container = "/".join(parts)
    return CloudStore(f"{scheme}://{container}", open_bucket(scheme, container, access), prefix, access)


_OPENERS: dict[str, Callable[[str], Store]] = {"file": _open_directory, "memory": _open_memory}
_CLOUDS = ("s3", "gs", "az")
_SCHEMES = (*_OPENERS, *_CLOUDS)
_CONTAINER_PARTS = {"s3": 1, "gs": 1, "az": 2, "memory": 1}
"""Parts of a URL's path that name the container, the rest being a key."""
_KNOWN_FORMS = (
    "s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix, file:///directory, "
    "memory:name and a plain directory"
)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


_LINE_BREAKS = (0x2028, 0x2029)
_BYTES_NOT_UTF8 = range(0xDC80, 0xDD00)  # as os.fsdecode gives them
_QUOTED = str.maketrans(
    {
        character: _percent(character)
        for codes in (b"%?#", range(0x21), range(0x7F, 0xA1), _LINE_BREAKS, _BYTES_NOT_UTF8)
        for character in map(chr, codes)
    }
)
"""Characters that would end the path or the line of a URL, and how they are written."""
