"""Hints for a manifest or an entry whose name is no key: what to write instead."""

from __future__ import annotations

import os

from htcjob.storage.keys import real_path
from htcjob.storage.urls import file_url, local_directory

ENTRIES_HINT = "write keys as 'find . -type f' in the store's folder does, or file:/// URLs"


def why_no_key(name: str, reason: str, store_url: str) -> str:
    """
    Return why *name* is no key of project storage, and what to write instead.

    Args:
        name: The name as given, most often the path of a file.
        reason: Why it cannot be a key.
        store_url: URL of project storage.
    """
    if not name.startswith("/") and ".." not in name.split("/"):
        return f"{name!r}: {reason}; name a key of project storage, or a URL"
    path, folder = real_path(name), local_directory(store_url)
    beginning = os.path.join(folder or "", "")
    if folder is not None and path.startswith(beginning):
        return f"{name} lies in project storage: write {path.removeprefix(beginning)}"
    return (
        f"{name} does not lie in project storage {store_url} ({reason}): write one of its keys, "
        f"or a URL such as {file_url(path)}"
    )
