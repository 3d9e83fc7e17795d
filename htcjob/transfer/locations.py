"""
The meaning of a LOCATION on a command line: a place in storage, and the objects that are there.

    s3://bucket/photos/a.jpg   project:photos/a.jpg   task:photos/a.jpg     one object
    project:photos/            project:               s3://bucket           a folder, a whole store
    project:photos/*.jpg       task:**/*.dat                                a glob

A name that exists is taken as it is, whatever characters it has; only then is it looked at as a glob. An
object's own name is what follows the last `/` of its LOCATION before the first glob character: so a folder
keeps its name, and with a `/` behind it, only what is in it counts (as rsync does it).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from htcjob.errors import AbsentError, BadKeyError, UsageError
from htcjob.storage.contract import LeftOut
from htcjob.storage.keys import check_key
from htcjob.storage.urls import is_url, split_object_url
from htcjob.transfer.globs import GLOB, glob_pattern, may_mean
from htcjob.transfer.listing import everything, listed, listed_with_folders, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from htcjob.storage.contract import ObjectInfo, Store
    from htcjob.transfer.transfers import Transfers


class Stores(Protocol):
    """Opens what a LOCATION names (`job_stores.py`)."""

    @property
    def project(self) -> Store:
        """Project storage of this job."""

    @property
    def task(self) -> Store:
        """Task storage of this job."""

    def open(self, url: str, key: str) -> Store:
        """Return the store of a URL, for a key in it or for keys that begin so."""


class Location(NamedTuple):
    """A place in storage."""

    text: str
    """As it was typed."""
    store: Store
    """Where it is."""
    key: str
    """Name of an object, or start of names that ends in `/`, or glob; empty: the whole store."""

    @property
    def is_folder(self) -> bool:
        """Whether it can only mean what is in it."""
        return not self.key or self.key.endswith("/")

    @property
    def literal(self) -> str:
        """The start that all names meant have in common, when it is a glob."""
        return GLOB.split(self.key, maxsplit=1)[0]

    @property
    def url(self) -> str:
        """The full URL, for messages."""
        return self.store.url_of(self.key) if self.key else self.store.url


class Found(NamedTuple):
    """An object that a LOCATION means."""

    key: str
    """Its name in the store."""
    name: str
    """Its own name, without the folders it was looked for in; empty for the marker of such a folder."""
    info: ObjectInfo | None
    """Its facts, as storage lists them; None: it is not known yet whether it exists."""


def is_local(text: str) -> bool:
    """Whether *text* is a path on this machine rather than a LOCATION."""
    return not text.startswith(("project:", "task:")) and not is_url(text)


def as_folder(key: str) -> str:
    """Return how the names of all objects in the folder *key* begin; empty: it is the whole store."""
    return key if not key or key.endswith("/") else f"{key}/"


def parse(text: str, stores: Stores, *, is_folder: bool = False) -> Location:
    """
    Return the location that *text* means, without a request to its store.

    Args:
        text: A LOCATION.
        stores: Opens its store.
        is_folder: A name, too, means what is in the folder of that name, and nothing else.

    Raises:
        UsageError: it is no LOCATION, or its key must not be used.
        ConfigurationError: its store cannot be opened here.
    """
    if is_local(text):
        raise UsageError(f"{text!r} is no place in storage: write project:KEY, task:KEY or a URL")
    try:
        if not is_url(text):
            whose, _, key = text.partition(":")
            if key:
                check_key(key)
            return Location(text, stores.project if whose == "project" else stores.task, key)
        url, key = _split(text)
    except BadKeyError as error:
        raise UsageError(f"{text.partition(':')[0]}:…: {error.reason}") from None
    beginning = GLOB.split(key, maxsplit=1)[0]
    if is_folder and beginning == key:  # no glob
        beginning = as_folder(key)
    return Location(text, stores.open(url, beginning), key)


def _split(url: str) -> tuple[str, str]:
    """Return the URL of the store and the key, glob or folder in it."""
    try:
        store, key = split_object_url(url)
    except BadKeyError as error:
        if error.key:
            raise
        return url, ""  # a whole bucket, or a folder of files
    if store.startswith("file:") and GLOB.search(store):
        # A directory as a store is what lies above the first glob.
        folders = store.split("/")
        first = next(n for n, folder in enumerate(folders) if GLOB.search(folder))
        names = [split_object_url(f"file:///{name}")[1] for name in folders[first:-1] if name]
        store, key = "/".join([*folders[:first], ""]), "/".join([*names, key])
    return store, key


def find(
    location: Location, *, is_recursive: bool, transfers: Transfers, is_checked: bool = False
) -> Iterator[Found | LeftOut]:
    """
    Yield the objects that *location* means, and names it may mean that are no objects, as they are listed.

    Where storage turns out late not to list in order, some come twice.

    Args:
        location: Where to look.
        is_recursive: A folder means all that is in it.
        transfers: Makes the requests.
        is_checked: Ask whether a plain name exists; otherwise it is taken as it is.

    Raises:
        UsageError: it is a folder, and that was not asked for.
        AbsentError: it means no object at all.
        StorageError: it cannot be looked at.
    """
    store, key = location.store, location.key
    is_glob = GLOB.search(key) is not None
    if location.is_folder:
        require_recursive(location, is_recursive=is_recursive)
    elif not (is_recursive or is_glob or is_checked):
        yield Found(key, _own_name(key, key), None)
        return
    is_nothing = bool(key)  # an empty store is no mistake
    exact = None if location.is_folder else _head(store, key, transfers)
    if exact is not None:
        is_nothing = False
        yield Found(key, _own_name(key, key), exact)
    if is_glob and exact is None:
        wanted, literal = glob_pattern(key), location.literal
        for info in everything(store, literal, transfers, may_repeat=True):
            if isinstance(info, LeftOut):
                if may_mean(key, info, is_recursive=is_recursive):
                    is_nothing = False
                    yield info
                continue
            match = wanted.match(info.key)
            if match and (is_recursive or not match[2]):
                is_nothing = False
                yield Found(info.key, _own_name(info.key, literal), info)
    elif location.is_folder or is_recursive:
        for info in everything(store, as_folder(key), transfers, may_repeat=True):
            is_nothing = False
            yield info if isinstance(info, LeftOut) else Found(info.key, _own_name(info.key, key), info)
    elif is_nothing and next(listed(store, as_folder(key), transfers), None) is not None:
        require_recursive(location, is_recursive=False)
    if is_nothing:
        raise AbsentError("list", location.url, "no object matches" if is_glob else "no such object")


def require_recursive(location: Location, *, is_recursive: bool) -> None:
    """Raise a UsageError about a folder that was not to be taken with all that is in it."""
    if not is_recursive:
        raise UsageError(f"{location.text} is a folder: add -r to mean all that is in it")


def browse(
    location: Location, *, is_recursive: bool, transfers: Transfers
) -> Iterator[ObjectInfo | LeftOut | str]:
    """
    Yield what `ls` shows there: objects, folders as keys that end in `/`, and names that are neither.

    Args:
        location: Where to look.
        is_recursive: Yield the objects in folders instead of the folders.
        transfers: Makes the requests.

    Raises:
        AbsentError: there is nothing.
        StorageError: it cannot be looked at.
    """
    store, key = location.store, location.key
    is_nothing = bool(key)
    exact = None if location.is_folder else _head(store, key, transfers)
    if exact is not None:
        is_nothing = False
        yield exact
    folder = as_folder(key)
    prefix, wanted = folder, re.compile(f"({re.escape(folder)}[^/]*)(/?)", re.DOTALL)
    if GLOB.search(key) and exact is None:
        prefix, wanted = location.literal, glob_pattern(key)

    def fold(name: str) -> str | None:
        match = wanted.match(name)
        return f"{match[1]}/" if match and match[2] else None

    entries: Iterator[ObjectInfo | LeftOut | str] = listed_with_folders(store, prefix, fold, transfers)
    if is_recursive:
        entries = everything(store, prefix, transfers)
    for entry in entries:
        if isinstance(entry, str) or wanted.match(name_of(entry)):
            is_nothing = False
            yield entry
    if is_nothing:
        raise AbsentError("list", location.url, "nothing is there")


def _own_name(key: str, literal: str) -> str:
    return key[literal.rfind("/") + 1 :]


def _head(store: Store, key: str, transfers: Transfers) -> ObjectInfo | None:
    try:
        return transfers.call(lambda: store.head(key))
    except AbsentError:
        return None
