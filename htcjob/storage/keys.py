"""Which object keys are acceptable, and which local file a key means."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from htcjob.errors import BadKeyError, ConfigurationError, TransientError
from htcjob.trouble import in_words, is_passing

LONGEST_KEY_BYTES = 1024
"""S3, GCS: 1,024 bytes of UTF-8; Azure allows as many characters."""

LAST_CHARACTER = "\U0010ffff"
"""Behind the start of names, it sorts after all of them: a listing can go on behind a folder."""


def check_key(key: str) -> None:
    """
    Refuse keys that could reach outside their store, or that no store takes.

    Raises:
        BadKeyError: *key* is empty, absolute, longer than 1,024 bytes, not valid Unicode, or has a NUL, a
            line break or a `..` segment.
    """
    if not key:
        raise BadKeyError(key, "empty")
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError:
        raise BadKeyError(key, "not valid Unicode") from None
    if size_bytes > LONGEST_KEY_BYTES:
        shown = f"{key[:40]}…"
        raise BadKeyError(shown, f"{size_bytes} bytes long, {LONGEST_KEY_BYTES} are allowed")
    if key.startswith("/"):
        raise BadKeyError(key, "absolute path; keys are relative to the store")
    for bad, name in (("\0", "a NUL character"), ("\n", "a line break"), ("\r", "a line break")):
        if bad in key:
            raise BadKeyError(key, f"contains {name}")
    if ".." in key.split("/"):
        raise BadKeyError(key, "contains '..'")


def real_path(path: str) -> str:
    """
    Return *path* from the root on, with all links resolved.

    Raises:
        ConfigurationError: it begins in the working directory, and that is gone.
    """
    try:
        return os.path.realpath(path)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: the working directory has been removed: change to another, or write a path from / on"
        ) from None


def local_path(root: str, key: str) -> str:
    """
    Return the file below the directory *root* that stands for *key*, one folder per `/`.

    Two keys never mean the same file: a key with an empty or `.` segment (`a//b`, `a/./b`, `a/`) has no
    file of its own and is refused.

    Args:
        root: Absolute path with all symbolic links resolved (`os.path.realpath`).
        key: Object key; checked with `check_key` first.

    Raises:
        BadKeyError: the key has no file of its own, or a symbolic link lies on its path.
        TransientError: that cannot be seen now.
    """
    check_key(key)
    segments = key.split("/")
    if "" in segments or "." in segments:
        raise BadKeyError(key, "an empty or '.' part has no file name")
    path = root
    for segment in segments:
        path = os.path.join(path, segment)
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
        except OSError as error:
            if is_passing(error):
                raise TransientError("look at", path, in_words(error)) from error
            break  # nothing there, or not for us to see: opening it will tell
        if is_link:
            raise BadKeyError(key, "a symbolic link lies on its path; links are not followed")
    return os.path.join(root, *segments)


def path_of_copy(root: str, key: str) -> str:
    """
    Return `local_path` of *key* for a copy that is about to be written; make its folders.

    Raises:
        BadKeyError: as there; or the file system takes it for the file of another key that is there.
    """
    from htcjob.storage.local.spelling import ANYWHERE, SPELLED_OTHERWISE

    path = local_path(root, key)
    with suppress(OSError):  # writing it will tell
        if "/" in key:  # first, so that no other writer makes them meanwhile in another spelling
            os.makedirs(os.path.dirname(path), exist_ok=True)
        if not ANYWHERE.is_exact(key, below=root):
            raise BadKeyError(key, f"{SPELLED_OTHERWISE} is there, and two keys cannot be one file")
    return path
