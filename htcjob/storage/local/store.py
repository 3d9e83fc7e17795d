"""A directory as a store: laptops, network file systems, Slurm sites."""

from __future__ import annotations

import logging
import os
import stat
import sys
import threading
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from htcjob.errors import AbsentError, BadKeyError, ConfigurationError, PermanentError, TransientError
from htcjob.storage.contract import LeftOut, ObjectInfo, Store
from htcjob.storage.keys import check_key, local_path, real_path
from htcjob.storage.local.errors import Blame
from htcjob.storage.local.files import RESERVED, NewFile, open_regular, read_range, sync_folder
from htcjob.storage.local.spelling import SPELLED_OTHERWISE, Spelling
from htcjob.storage.urls import file_url, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class LocalStore(Store):
    """
    The files below *directory*, one folder for each `/` of a key.

    Complete files only: an object is written under a temporary name and synced to disk, then renamed. So
    it is whole after a kill or a power cut; a power cut can still undo the renames since the last `sync`.
    Symbolic links are refused in keys and left out of listings, and so is all that is neither a file nor
    a folder, or whose name cannot be a key: `list` warns of it once, `list_all` gives it. Folders are made as
    needed, the store's own too, and never removed.

    What a directory cannot do: keys `a` and `a/b` side by side, `a//b`, `a/`, parts longer than 255 bytes.
    Where the file system ignores case or the Unicode form of letters, a key that is another one's file is
    absent to a reader and refused to a writer (`spelling.py`).

    Args:
        directory: Need not exist before the first `put`.

    Raises:
        ConfigurationError: names on this system are not UTF-8, or *directory* is no path at all.
    """

    def __init__(self, directory: str) -> None:
        if sys.getfilesystemencoding() != "utf-8":
            raise ConfigurationError("file names are not UTF-8 in this locale: set PYTHONUTF8=1")
        if not directory or "\0" in directory:
            raise ConfigurationError(f"directory {directory!r} of a store: not a path")
        self._root = real_path(directory)
        self.url = file_url(os.path.join(self._root, ""))
        self._has_warned = False
        self._identity = self._look_at_root()
        """Device and inode of the root; None until it exists."""
        self._spelling = Spelling(self._root)
        self._top = _existing(self._root)
        """The folder that holds the first one which we may have to make."""
        self._syncing = threading.Lock()
        self._written = threading.Lock()
        """Guards the next two."""
        self._not_synced: set[str] = set()
        """Folders in which a name, or a folder, is new."""
        self._known: set[str] = set()
        """Folders that were noted there once, and so were those above them."""

    def url_of(self, key: str) -> str:
        """Return the `file://` URL of *key*; characters that a URL cannot hold are `%` and two digits."""
        return self.url + quoted(key)

    def get(self, key: str, path: str) -> ObjectInfo:
        """Copy the object to the file *path*, whole or not at all."""
        reading = self._blame("get", key)
        with self._open("get", key) as (descriptor, status):
            with NewFile(path, Blame("get", self.url_of(key), file=path)) as new:
                new.copy_from(descriptor, status, reading)
                new.complete(status.st_size)
                new.take_name_of_copy()
            return _info(key, status)

    def read_range(self, key: str, start: int, stop: int | None = None) -> bytes:
        """Return the bytes from *start* up to, not including, *stop*."""
        reading = self._blame("read_range", key)
        with self._open("read_range", key) as (descriptor, status):
            end = status.st_size if stop is None else stop
            if not 0 <= start <= end <= status.st_size:
                reason = f"no bytes {start} to {end}, it has {status.st_size}"
                raise PermanentError("read_range", self.url_of(key), reason)
            return read_range(descriptor, start, end, reading)

    def read_part(self, key: str, start: int, stop: int) -> tuple[bytes, ObjectInfo]:
        """Return the bytes from *start* up to *stop* or the end, and the facts about the file."""
        reading = self._blame("read_range", key)
        with self._open("read_range", key) as (descriptor, status):
            if not 0 <= start < min(stop, status.st_size):
                reason = f"no bytes {start} to {stop}, it has {status.st_size}"
                raise PermanentError("read_range", self.url_of(key), reason)
            data = read_range(descriptor, start, min(stop, status.st_size), reading)
            return data, _info(key, status)

    def put(self, path: str, key: str, *, sha256: str | None = None) -> ObjectInfo:
        """Copy the file *path* to *key*, atomically."""
        target, writing = self._path("put", key), self._blame("put", key)
        reading = Blame("put", self.url_of(key), file=path)
        with open_regular(path, reading, follow_link=True) as (descriptor, status):
            self._is_taken(key, target, writing)
            with NewFile(target, writing) as new:
                new.copy_from(descriptor, status, reading)
                now = new.complete(status.st_size, durable=True)
                self._take_name(new, key, target, writing)
                return _info(key, now)

    def put_bytes(self, data: bytes, key: str, *, if_absent: bool = False) -> bool:
        """Write *data* as the object *key*, atomically; True when it was written."""
        target, writing = self._path("put_bytes", key), self._blame("put_bytes", key)
        if self._is_taken(key, target, writing) and if_absent:
            return False
        with NewFile(target, writing) as new:
            new.write(data)
            new.complete(len(data), durable=True)
            return self._take_name(new, key, target, writing, if_absent=if_absent)

    def sync(self) -> None:
        """Write to disk the names of all objects that were put so far, and the folders made for them."""
        with self._syncing:  # a second caller must not go on before the first is done
            while self._not_synced:
                with self._written:
                    folder = self._not_synced.pop()
                try:
                    with self._blame("put", folder[len(self._root) + 1 :]):
                        sync_folder(folder)
                except BaseException:
                    with self._written:
                        self._not_synced.add(folder)
                    raise

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with *prefix*, ordered by the UTF-8 bytes of the key."""
        for found in self.list_all(prefix, start_after=start_after):
            if isinstance(found, ObjectInfo):
                yield found
            elif not self._has_warned:
                self._has_warned = True
                where = self.url_of(found.key)
                _log.warning("%s: left out of the listing, and others like it: %s", where, found.reason)

    def list_all(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo | LeftOut]:
        """
        Yield the objects whose key begins with *prefix* and all that is left out, ordered by bytes.

        Holds the names of one folder, and of those above it. Folders without a wanted key are not read. Where
        a file was gone when its turn came, the folder's end is read again: what has taken its place may be
        there, under a name behind all others. Our temporary files, and those of NFS, are not worth a word.
        """
        folder = prefix[: prefix.rfind("/") + 1]
        try:
            if folder:
                self._path("list", folder[:-1])
                if not self._spelling.is_exact(folder[:-1]):
                    return
        except BadKeyError:
            return  # a folder that no key can be in
        from htcjob.storage.local.listing import Walk  # most jobs list nothing

        walk = Walk(self._root, lambda key: self._blame("list", key), prefix, start_after)
        for found in walk.below(folder.encode()):
            yield found if isinstance(found, LeftOut) else _info(*found)

    def head(self, key: str) -> ObjectInfo:
        """Return the object's size, ETag and time of change."""
        path, reading = self._path("head", key), self._blame("head", key)
        with reading:
            status = os.lstat(path)
        reading.check_regular(status)
        self._refuse_other_spelling(key, reading)
        return _info(key, status)

    def delete(self, key: str) -> None:
        """Remove the object; folders stay."""
        path = self._path("delete", key)
        with suppress(AbsentError), self._blame("delete", key):
            if stat.S_ISREG(os.lstat(path).st_mode) and self._spelling.is_exact(key):
                os.unlink(path)

    @contextmanager
    def _open(self, operation: str, key: str) -> Iterator[tuple[int, os.stat_result]]:
        """Open the object *key* for reading; yield the descriptor and its status."""
        reading = self._blame(operation, key)
        with open_regular(self._path(operation, key), reading) as opened:
            self._refuse_other_spelling(key, reading)
            yield opened

    def _refuse_other_spelling(self, key: str, reading: Blame) -> None:
        with reading:
            if self._spelling.is_exact(key):
                return
        raise reading.absent(f"{SPELLED_OTHERWISE} is there")

    def _is_taken(self, key: str, target: str, writing: Blame) -> bool:
        """Whether there is an object to replace; refuse to replace anything else."""
        with writing:
            try:
                status = os.lstat(target)
            except FileNotFoundError:
                status = None
            is_exact = self._spelling.is_exact(key)
        if not is_exact:
            raise BadKeyError(key, f"{SPELLED_OTHERWISE} is there, and two keys cannot be one file")
        if status is None:
            return False
        writing.check_regular(status)
        return True

    def _take_name(
        self, new: NewFile, key: str, target: str, writing: Blame, *, if_absent: bool = False
    ) -> bool:
        """Let the complete file *new* take its name; False: something has it, and the put was *if_absent*."""
        with writing:
            is_told_apart = self._spelling.tells_apart(*os.path.split(new.temp))
        is_ours: bool | None = None
        if is_told_apart and not if_absent:
            new.take_name()
            is_ours = True
        elif is_told_apart:
            is_ours = new.take_free_name()
        if is_ours is None:
            from htcjob.storage.local.claims import claim

            with claim(target, writing, new.temp):
                is_ours = not (self._is_taken(key, target, writing) and if_absent)
                if is_ours and if_absent:
                    is_ours = new.take_name_unless_taken()
                elif is_ours:
                    new.take_name()
        if is_ours:
            self._note(os.path.dirname(target))
        return is_ours

    def _note(self, folder: str) -> None:
        """Remember that *folder* has a new name, and maybe those above it a new folder, for `sync`."""
        with self._written:
            self._not_synced.add(folder)
            while folder not in self._known and len(folder) > len(self._top):
                self._known.add(folder)
                folder = os.path.dirname(folder)
                self._not_synced.add(folder)

    def _path(self, operation: str, key: str) -> str:
        check_key(key)
        if any(segment.startswith(RESERVED) for segment in key.split("/")):
            raise BadKeyError(key, f"names beginning with {' or '.join(RESERVED)} are reserved")
        self._check_root(operation, key)
        return local_path(self._root, key)

    def _check_root(self, operation: str, key: str) -> None:
        """
        Refuse to go on where the directory is no longer the one that it was.

        After an unmount, inputs would look absent, and results would lie in the bare mount point.
        """
        known = self._identity  # read first: another thread may be making the directory just now
        found = self._look_at_root()
        if known is None:
            self._identity = found or self._identity
        elif found != known:
            reason = f"{self._root} is gone, or another directory than before: was it unmounted?"
            raise TransientError(operation, self.url_of(key), reason)

    def _look_at_root(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._root)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _blame(self, operation: str, key: str) -> Blame:
        return Blame(operation, self.url_of(key), root=self._root)


def _existing(path: str) -> str:
    """Return *path*, or the next folder above it that is there."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return ObjectInfo(key, status.st_size, etag, _time(status.st_mtime_ns))


def _time(ns: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=ns // 1000)
    except OverflowError:  # some file systems keep years beyond 9999
        return _EPOCH
