"""What the arguments of `htcjob storage` mean: locations to copy from, and targets to copy to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from htcjob.errors import UsageError
from htcjob.storage.keys import real_path
from htcjob.storage.urls import file_url
from htcjob.transfer.copying import Target
from htcjob.transfer.globs import GLOB
from htcjob.transfer.locations import Location, as_folder, parse, require_recursive

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from htcjob.job_stores import JobStores


def sources(texts: Iterable[str], stores: JobStores, *, is_recursive: bool) -> list[Location]:
    """
    Return the locations to copy from, or to remove.

    Raises:
        UsageError: one is no LOCATION, or a folder without --recursive.
    """
    locations = [parse(text, stores) for text in texts]
    for location in locations:
        if location.is_folder:
            require_recursive(location, is_recursive=is_recursive)
    return locations


def target_in_store(text: str, stores: JobStores, *, is_many: bool) -> Target:
    """
    Return where copies go: a folder or store, or the name of the one object.

    Raises:
        UsageError: it is no LOCATION, or copies of many files would have one name.
    """
    location = parse(text, stores)
    if is_many and not location.is_folder:
        raise UsageError(f"{text} is the name of one object: for a folder, end it with /")
    return Target(location.store, location.key, is_folder=location.is_folder)


def target_here(path: str, *, is_many: bool) -> Target:
    """
    Return where copies go on this machine: a folder, or the name of the one file.

    Raises:
        UsageError: copies of many objects would have one name.
    """
    if path.endswith("/") or os.path.isdir(path):
        return Target(None, real_path(path), is_folder=True)
    if is_many:
        raise UsageError(f"{path} is the name of one file: for a new folder, end it with /")
    folder, name = os.path.split(path)
    return Target(None, os.path.join(real_path(folder), name), is_folder=False)


def have_several_folders(locations: Sequence[Location]) -> bool:
    """Whether objects of different *locations* could have the same own name."""
    return len({(one.store.url, one.key.rpartition("/")[0]) for one in locations}) > 1


def check_apart(source: Location | str, target: Target, *, is_recursive: bool) -> None:
    """
    Refuse to copy a folder into itself, which would never end.

    Args:
        source: A location, or the path of a file or folder on this machine.
        target: Where the copies go.
        is_recursive: Folders are copied with everything in them.

    Raises:
        UsageError: the copies would lie in what is copied.
    """
    if isinstance(source, str):
        beginning = _folder_url(source) if os.path.isdir(source) else None
    elif GLOB.search(source.key):
        is_deep = is_recursive or "**" in source.key
        beginning = source.store.url_of(source.literal) if is_deep else None
    else:
        beginning = source.store.url_of(as_folder(source.key)) if is_recursive else None
    here = (
        _folder_url(target.key_or_path) if target.store is None else target.store.url_of(target.key_or_path)
    )
    if beginning is not None and here.startswith(beginning):
        raise UsageError("the copies would lie in the folder that is copied")


def _folder_url(path: str) -> str:
    return file_url(os.path.join(real_path(path), ""))
