"""
Copies many objects between stores and this machine, and leaves a copy that is there already as it is.

A copy is there already when it has the same size and the same checksum. Where storage tells no checksum,
files (and memory) are compared byte by byte; from and to a cloud, the object is copied again.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from htcjob.errors import (
    AbsentError,
    DeniedError,
    HtcjobError,
    PermanentError,
    TransientError,
    UsageError,
)
from htcjob.storage.checksum import file_has
from htcjob.storage.contract import LeftOut
from htcjob.storage.keys import path_of_copy
from htcjob.storage.local.files import TEMP_PREFIX
from htcjob.transfer.listing import listed
from htcjob.transfer.locations import find
from htcjob.transfer.tasks import COPIED, SKIPPED, Outcome, Task, failing, left_out
from htcjob.trouble import in_words, is_passing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from htcjob.storage.contract import ObjectInfo, Store
    from htcjob.transfer.locations import Found, Location
    from htcjob.transfer.transfers import Transfers

BLOCK_BYTES = 8 << 20
"""Size of the pieces in which an object is read."""


class Target(NamedTuple):
    """Where copies go."""

    store: Store | None
    """None: this machine."""
    key_or_path: str
    """Names are added to that of a folder: to an absolute path without links, or to "" or `a/`."""
    is_folder: bool
    """Whether copies keep their own names, below it."""

    def of(self, name: str) -> str:
        """
        Return the key or path of the copy that has the name *name*.

        Raises:
            BadKeyError: no file can have it, or it would lie elsewhere.
        """
        if not self.is_folder:
            return self.key_or_path
        return path_of_copy(self.key_or_path, name) if self.store is None else self.key_or_path + name


class Copier:
    """
    Makes the tasks of one command that copies.

    Args:
        target: Where all copies go.
        transfers: Moves them.
        is_new: Nothing is at the target yet, so there is no need to ask.
        has_folders: Names come from several folders, so that two could be the same.
        scratch: Directory for what is on its way from one store to another.
    """

    def __init__(
        self,
        target: Target,
        transfers: Transfers,
        *,
        is_new: bool = False,
        has_folders: bool = False,
        scratch: str = "",
    ) -> None:
        self._target = target
        self._transfers = transfers
        self._is_new = is_new
        self._taken: dict[str, str] | None = {} if has_folders else None
        """The source of each name that is given away; kept only where two sources could want the same."""
        self._scratch = scratch

    def objects(self, location: Location, *, is_recursive: bool) -> Iterator[Task]:
        """Yield a task for each object that *location* means."""
        try:
            for found in find(location, is_recursive=is_recursive, transfers=self._transfers):
                if isinstance(found, LeftOut):
                    yield left_out(found, location.store)
                elif _is_marker(found):
                    yield Task(found.key, partial(Outcome, found.key, 0, SKIPPED))
                else:
                    source = location.store.url_of(found.key)
                    yield self._task(
                        found.key, found.name, source, partial(self._copy, location.store, found)
                    )
        except HtcjobError as error:
            yield failing(location.text, error)

    def files(self, path: str, *, is_recursive: bool) -> Iterator[Task]:
        """Yield a task for each file that *path*, as it was typed, means; a folder means the files in it."""
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except OSError as error:
            if is_passing(error):
                yield failing(path, TransientError("put", path, in_words(error)))
                return
            if not os.path.lexists(path):
                yield failing(path, AbsentError("put", path, "no such file"))
                return
            is_folder = False
        if not is_folder:
            yield self._task(path, os.path.basename(path), path, partial(self._put, path))
            return
        if not is_recursive:
            yield failing(path, UsageError(f"{path} is a folder: add -r to mean all that is in it"))
            return
        own_name = os.path.basename(path)
        prefix = "" if own_name in ("", ".", "..") else f"{own_name}/"
        for found, name in files_below(path):
            if isinstance(name, HtcjobError):
                yield failing(found, name)
            else:
                yield self._task(found, prefix + name, found, partial(self._put, found))

    def _task(self, key: str, name: str, source: str, act: Callable[[str], Outcome]) -> Task:
        """Return the task that makes the copy *name*; *act* gets the copy's key or path."""
        if self._taken is not None and (other := self._taken.setdefault(name, source)) != source:
            reason = f"{other} has the same name {name}, and one would replace the other"
            return failing(key, PermanentError("copy", source, reason))
        if self._target.store is not None:
            key = self._target.of(name)
        return Task(key, lambda: act(self._target.of(name)))

    def _copy(self, store: Store, found: Found, key_or_path: str) -> Outcome:
        """Copy an object to a file, or by way of a file to another store."""
        try:
            if self._target.store is None:
                return self._get(store, found, key_or_path)
            return self._across(store, found, self._target.store, key_or_path)
        except AbsentError:
            if found.info is None and next(listed(store, f"{found.key}/", self._transfers), None):
                raise UsageError(f"{store.url_of(found.key)} is a folder: add -r") from None
            raise

    def _get(self, store: Store, found: Found, path: str) -> Outcome:
        if os.path.isfile(path):
            info = found.info or self._transfers.call(lambda: store.head(found.key))
            if self._is_same(store, info, path):
                return Outcome(found.key, info.size_bytes, SKIPPED)
        info = self._transfers.get(store, found.key, path)
        return Outcome(found.key, info.size_bytes, COPIED)

    def _put(self, path: str, key: str) -> Outcome:
        store = self._target.store
        if store is None:
            raise UsageError(f"{path}: both sides are on this machine: use cp")
        return self._put_unless(path, store, key, self._at(store, key))

    def _across(self, store: Store, found: Found, target: Store, key: str) -> Outcome:
        if store.url_of(found.key) == target.url_of(key):
            raise PermanentError("copy", store.url_of(found.key), "source and target are the same object")
        there = self._at(target, key)
        if there is not None and there.checksum is not None:
            info = found.info
            if info is None or info.checksum is None:
                info = self._transfers.call(lambda: store.head(found.key))
            if (info.size_bytes, info.checksum) == (there.size_bytes, there.checksum):
                return Outcome(key, info.size_bytes, SKIPPED)
        path = os.path.join(self._scratch, os.urandom(8).hex())
        try:
            self._transfers.call(lambda: store.get(found.key, path))
            return self._put_unless(path, target, key, there)
        finally:
            with suppress(OSError):
                os.unlink(path)

    def _put_unless(self, path: str, store: Store, key: str, there: ObjectInfo | None) -> Outcome:
        """Put the file, unless the object *there* is the same."""
        if there is not None and self._is_same(store, there, path):
            return Outcome(key, there.size_bytes, SKIPPED)
        return Outcome(key, self._transfers.put(store, path, key).size_bytes, COPIED)

    def _at(self, store: Store, key: str) -> ObjectInfo | None:
        """Return the object that is at the target already; None: there is none, or we may not see it."""
        if self._is_new:
            return None
        try:
            return self._transfers.call(lambda: store.head(key))
        except (AbsentError, DeniedError):
            return None

    def _is_same(self, store: Store, info: ObjectInfo, path: str) -> bool:
        """Whether the file at *path* is certainly the object; in doubt, it is not."""
        try:
            if os.stat(path).st_size != info.size_bytes:
                return False
            if info.checksum is None:  # listings of some stores tell less
                info = self._transfers.call(lambda: store.head(info.key))
            if info.checksum is not None:
                return file_has(path, info.checksum)
            return store.url.startswith(("file:", "memory:")) and self._is_equal(store, info, path)
        except OSError:  # copying it will tell what is wrong
            return False

    def _is_equal(self, store: Store, info: ObjectInfo, path: str) -> bool:
        with open(path, "rb") as file:
            return all(file.read(len(block)) == block for block in blocks(store, info, self._transfers))


def is_empty(target: Target, transfers: Transfers) -> bool:
    """Whether nothing is at the target folder yet; False, too, where we may not know."""
    if target.store is None:
        return False  # this machine is asked file by file
    try:
        return next(listed(target.store, target.key_or_path, transfers), None) is None
    except AbsentError:
        return True
    except DeniedError:
        return False


def blocks(store: Store, info: ObjectInfo, transfers: Transfers) -> Iterator[bytes]:
    """Yield the content of an object piece by piece, in bounded memory."""
    for start in range(0, info.size_bytes, BLOCK_BYTES):
        stop = min(start + BLOCK_BYTES, info.size_bytes)
        yield transfers.call(partial(store.read_range, info.key, start, stop))


def files_below(folder: str) -> Iterator[tuple[str, str | HtcjobError]]:
    """
    Yield the path of each file below *folder* and its name there, or the error about it.

    A link to a file is a file. A link to a folder is not followed, and not passed over in silence.
    Memory grows only with the folders that are still to be read.
    """
    unread = [""]
    while unread:
        above = unread.pop()
        try:
            with os.scandir(os.path.join(folder, above)) as entries:
                for entry in entries:
                    name = above + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        unread.append(f"{name}/")
                    elif entry.name.startswith(TEMP_PREFIX):
                        continue  # an incomplete file of ours
                    elif entry.is_file():
                        yield entry.path, name
                    else:
                        yield entry.path, _not_a_file(entry)
        except OSError as error:
            path = os.path.join(folder, above)
            kind = TransientError if is_passing(error) else PermanentError
            yield path, kind("list", path, error.strerror or str(error))


def _not_a_file(entry: os.DirEntry[str]) -> PermanentError:
    reason = "neither a file nor a folder"
    if entry.is_symlink():
        reason = "a link to a folder is not followed" if entry.is_dir() else "a link that leads to no file"
    return PermanentError("put", entry.path, reason)


def _is_marker(found: Found) -> bool:
    """Whether the object only stands for a folder, as the clouds' consoles make them."""
    is_empty = found.info is not None and found.info.size_bytes == 0
    return is_empty and (not found.name or found.name.endswith("/"))
