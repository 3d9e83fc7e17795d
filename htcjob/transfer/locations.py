"""
What a LOCATION on a command line means: a place in storage, and the objects that are there.

    s3://bucket/photos/a.jpg   project:photos/a.jpg   task:photos/a.jpg     one object
    project:photos/            project:               s3://bucket           a folder, a whole store
    project:photos/*.jpg       task:**/*.dat                                a glob

A name that exists is taken as it is, whatever characters it has; only then is it looked at as a glob. An
object's own name is what follows the last `/` of its LOCATION before the first glob character: so a folder
keeps its name, and with a `/` behind it, only what is in it counts (as rsync does it).
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from htcjob.errors import AbsentError, BadKeyError, DisorderError, TransientError, UsageError
from htcjob.storage.contract import LeftOut, ObjectInfo
from htcjob.storage.keys import LAST_CHARACTER, check_key
from htcjob.storage.urls import is_url, split_object_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from htcjob.storage.contract import Store
    from htcjob.transfer.transfers import Transfers

_Listed = TypeVar("_Listed", ObjectInfo, ObjectInfo | LeftOut)

GLOB = re.compile(r"[*?\[]")
"""Where the literal beginning of a glob ends."""

SKIP_AFTER = 2000
"""Objects of one folder that a folded listing reads before it asks for what comes behind the folder: two
pages, because the question begins a new listing."""


class Stores(Protocol):
    """Opens what a LOCATION names (`job_stores.py`)."""

    @property
    def project(self) -> Store:
        """Project storage of this job."""

    @property
    def task(self) -> Store:
        """Task storage of this job."""

    def open(self, url: str) -> Store:
        """Give the store of a URL."""


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
    """What storage said about it; None: nobody has asked yet whether it exists."""


def is_local(text: str) -> bool:
    """Tell whether *text* is a path on this machine rather than a LOCATION."""
    return not text.startswith(("project:", "task:")) and not is_url(text)


def parse(text: str, stores: Stores) -> Location:
    """
    Give the place that *text* means; no request is made to it.

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
    return Location(text, stores.open(url), key)


def _split(url: str) -> tuple[str, str]:
    """Give the URL of the store and the key, glob or folder in it."""
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
    Give the objects that *location* means, and what may be meant and is none. Streams, as listings do.

    Where storage turns out late not to list in order, some come twice.

    Args:
        location: Where to look.
        is_recursive: A folder means all that is in it.
        transfers: What makes the requests.
        is_checked: Ask whether a plain name exists; otherwise it is given as it is, unasked.

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
        folder = key if location.is_folder else f"{key}/"
        for info in everything(store, folder, transfers, may_repeat=True):
            is_nothing = False
            yield info if isinstance(info, LeftOut) else Found(info.key, _own_name(info.key, key), info)
    elif is_nothing and next(listed(store, f"{key}/", transfers), None) is not None:
        require_recursive(location, is_recursive=False)
    if is_nothing:
        raise AbsentError("list", location.url, "no object matches" if is_glob else "no such object")


def require_recursive(location: Location, *, is_recursive: bool) -> None:
    """Raise a UsageError about a folder that was not to be taken with all that is in it."""
    if not is_recursive:
        raise UsageError(f"{location.text} is a folder: add -r to mean all that is in it")


def look(
    location: Location, *, is_recursive: bool, transfers: Transfers
) -> Iterator[ObjectInfo | LeftOut | str]:
    """
    Give what a person wants to see there: objects, folders as keys that end in `/`, and what is neither.

    Args:
        location: Where to look.
        is_recursive: Give the objects in folders instead of the folders.
        transfers: What makes the requests.

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
    folder = key if location.is_folder else f"{key}/"
    prefix, wanted = folder, re.compile(f"({re.escape(folder)}[^/]*)(/?)", re.DOTALL)
    if GLOB.search(key) and exact is None:
        prefix, wanted = location.literal, glob_pattern(key)

    def fold(name: str) -> str | None:
        match = wanted.match(name)
        return f"{match[1]}/" if match and match[2] else None

    entries: Iterator[ObjectInfo | LeftOut | str] = _folded(store, prefix, fold, transfers)
    if is_recursive:
        entries = everything(store, prefix, transfers)
    for entry in entries:
        if isinstance(entry, str) or wanted.match(_name_of(entry)):
            is_nothing = False
            yield entry
    if is_nothing:
        raise AbsentError("list", location.url, "nothing is there")


def listed(
    store: Store,
    prefix: str,
    transfers: Transfers,
    *,
    start_after: str | None = None,
    may_repeat: bool = False,
) -> Iterator[ObjectInfo]:
    """
    Give what `Store.list` gives; after a transient failure it goes on behind the last key.

    Args:
        store: What is listed.
        prefix: How the keys begin.
        transfers: What makes the requests.
        start_after: Only keys after that.
        may_repeat: Begin again after a `DisorderError`, and give again what was given already.

    Raises:
        DisorderError: it has to begin again, and must not repeat anything.
        StorageError: as `Store.list`, for good or after the retries.
    """
    return _going_on(store.list, prefix, transfers, start_after, may_repeat=may_repeat)


def everything(
    store: Store,
    prefix: str,
    transfers: Transfers,
    *,
    start_after: str | None = None,
    may_repeat: bool = False,
) -> Iterator[ObjectInfo | LeftOut]:
    """Give what `Store.list_all` gives, as `listed` does."""
    return _going_on(store.list_all, prefix, transfers, start_after, may_repeat=may_repeat)


def _going_on(
    begin_listing: Callable[..., Iterator[_Listed]],
    prefix: str,
    transfers: Transfers,
    start_after: str | None,
    *,
    may_repeat: bool,
) -> Iterator[_Listed]:
    last = start_after

    def begin() -> tuple[Iterator[_Listed], _Listed | None]:
        listing = begin_listing(prefix, start_after=last)
        return listing, next(listing, None)

    while True:
        listing, info = transfers.call(begin)
        if info is None:
            return
        try:
            while info is not None:
                last = info.key
                yield info
                info = next(listing, None)
            return
        except DisorderError:
            if not may_repeat:
                raise
            last = start_after
        except TransientError:
            pass  # that was one try; the next ones are `begin`


def _folded(
    store: Store, prefix: str, fold: Callable[[str], str | None], transfers: Transfers
) -> Iterator[ObjectInfo | LeftOut | str]:
    """Give the objects for which *fold* names no folder, and each folder once; large ones are not read."""
    folder, n_inside, start_after = "", 0, None
    while True:
        for info in everything(store, prefix, transfers, start_after=start_after):
            found = fold(_name_of(info))
            if found is None:
                yield info
                continue
            if found != folder:
                yield found
                folder, n_inside = found, 0
            n_inside += 1
            if n_inside == SKIP_AFTER and store.lists_in_order:
                start_after = folder + LAST_CHARACTER
                break
        else:
            return


def _name_of(entry: ObjectInfo | LeftOut) -> str:
    return entry.key.removesuffix("/") if isinstance(entry, LeftOut) else entry.key


def may_mean(glob: str, left_out: LeftOut, *, is_recursive: bool = True) -> bool:
    """
    Return whether *glob* means what is left out, or may mean something in it.

    Args:
        glob: What is wanted.
        left_out: What is no object.
        is_recursive: A folder means all that is in it.
    """
    key, parts = left_out.key, glob.split("/")
    if not key.endswith("/"):
        match = glob_pattern(glob).match(key)
        return match is not None and (is_recursive or not match[2])
    depth = key.count("/")
    if depth >= len(parts) and not is_recursive and "**" not in parts:
        return False
    above = parts[:depth]
    if "**" in above:
        above = above[: above.index("**")]
    return not above or glob_pattern("/".join(above)).match(key[:-1]) is not None


def glob_pattern(glob: str) -> re.Pattern[str]:
    """
    Give the expression whose group 1 is what *glob* matches, and group 2 what follows in its folder.

    `*`, `?` and `[…]` stay within a part, `**` is any number of folders (as the last part: any name below),
    and a name with a leading dot matches only where the glob has that dot, as in a shell.
    """
    parts = glob.split("/")
    expressions = []
    for n, part in enumerate(parts):
        is_last = n == len(parts) - 1
        if part == "**":
            name = r"(?!\.)[^/]+"
            expressions.append(rf"{name}(?:/{name})*" if is_last else rf"(?:{name}/)*")
            continue
        dot = "" if part.startswith(".") else r"(?!\.)"
        expressions.append(dot + _part_pattern(part) + ("" if is_last else "/"))
    return re.compile(rf"({''.join(expressions)})(/.*)?\Z", re.DOTALL)


def _part_pattern(part: str) -> str:
    """Give the expression of one part of a glob: as `fnmatch` has it, but no wildcard is a `/`."""
    pieces = []
    for piece in re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", part):
        if piece.startswith("*"):
            pieces.append("[^/]*")
        elif piece == "?":
            pieces.append("[^/]")
        elif piece.startswith("[") and piece.endswith("]"):
            pieces.append("(?!/)" + fnmatch.translate(piece)[: -len(r"\Z")])
        else:
            pieces.append(re.escape(piece))
    return "".join(pieces)


def _own_name(key: str, literal: str) -> str:
    return key[literal.rfind("/") + 1 :]


def _head(store: Store, key: str, transfers: Transfers) -> ObjectInfo | None:
    try:
        return transfers.call(lambda: store.head(key))
    except AbsentError:
        return None
