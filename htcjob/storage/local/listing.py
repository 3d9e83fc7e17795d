"""A walk through a directory in the order of keys; only the names of the folders above are in memory."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from htcjob.errors import AbsentError
from htcjob.storage.contract import LeftOut
from htcjob.storage.keys import LONGEST_KEY_BYTES
from htcjob.storage.local.files import RESERVED
from htcjob.trouble import is_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from htcjob.storage.local.errors import Blame

_RESERVED = tuple(start.encode() for start in RESERVED)


class Walk:
    """
    The files of a directory whose key begins with a prefix, and comes after another key.

    Args:
        root: The directory, absolute.
        blame: Returns, for a key, whose failure an error is.
        prefix: How the keys begin.
        start_after: They come after it.
    """

    def __init__(
        self, root: str, blame: Callable[[str], Blame], prefix: str, start_after: str | None
    ) -> None:
        self._root = root
        self._root_bytes = os.fsencode(root)
        self._blame = blame
        self._wanted = _Wanted(prefix, start_after)

    def below(self, folder: bytes) -> Iterator[LeftOut | tuple[str, os.stat_result]]:
        """
        Yield the files below *folder* with their status, and what is left out.

        *folder* is empty or ends in `/`.
        """
        open_folders = [_OpenFolder(folder, self._names(folder))]
        while open_folders:
            now = open_folders[-1]
            if not now.names and now.has_gone:
                now.names = [name for name in self._names(now.above) if name > now.last]
                now.has_gone = False
            if not now.names:
                open_folders.pop()
                continue
            now.last = now.names.pop()
            key = now.above + now.last
            reason = self._wanted.left_out.pop(key, None)
            if reason is not None:
                yield LeftOut(os.fsdecode(key), reason)
                continue
            if key.endswith(b"/"):
                open_folders.append(_OpenFolder(key, self._names(key)))
                continue
            status = self._status_now(key)
            if status is not None:
                yield key.decode(), status
            else:
                now.has_gone = True

    def _names(self, folder: bytes) -> list[bytes]:
        """
        Names in *folder*, which is empty or ends in `/`: last first; subfolders end in `/`.

        Those that are left out are among them, and in `_Wanted.left_out`.
        """
        names = []
        try:
            with (
                self._blame(folder.decode()),
                os.scandir(os.path.join(self._root_bytes, folder)) as entries,
            ):
                for entry in entries:
                    name = entry.name
                    if name.startswith(_RESERVED):
                        continue
                    # A folder sorts as its keys do, which all go on with `/`: behind `a!`.
                    reason = None
                    if entry.is_dir(follow_symlinks=False):
                        name += b"/"
                    elif not entry.is_file(follow_symlinks=False):
                        reason = "a special file"
                        if entry.is_symlink():
                            reason = "a symbolic link, and links are not followed"
                            name += b"/" * _may_be_folder(entry)
                    key = folder + name
                    if not self._wanted.has(key):
                        continue
                    reason = reason or _why_no_key(key)
                    if reason is not None:
                        if key <= self._wanted.start_after:
                            continue
                        self._wanted.left_out[key] = reason
                    names.append(name)
        except AbsentError:
            with self._blame(folder.decode()):
                is_there = is_folder(self._root)
            if not is_there:
                raise
            return []  # no such folder, or removed since the one above was read
        names.sort(reverse=True)
        return names

    def _status_now(self, key: bytes) -> os.stat_result | None:
        """Return the status of a file whose name was read a while ago; None: it is no file any more."""
        try:
            status = os.lstat(os.path.join(self._root_bytes, key))
        except OSError:
            with suppress(AbsentError), self._blame(key.decode()):
                raise
            return None
        return status if stat.S_ISREG(status.st_mode) else None


class _OpenFolder:
    """A folder in the middle of a listing."""

    __slots__ = ("above", "has_gone", "last", "names")

    def __init__(self, above: bytes, names: list[bytes]) -> None:
        self.above = above
        """Start of its keys."""
        self.names = names
        """Names whose turn has not come yet, last first."""
        self.last = b""
        """The name whose turn it was."""
        self.has_gone = False
        """A file was gone when its turn came."""


class _Wanted:
    """Which keys a listing asks for."""

    def __init__(self, prefix: str, start_after: str | None) -> None:
        self._prefix = _bytes_of(prefix)
        self.start_after = _bytes_of(start_after or "")
        self.left_out: dict[bytes, str] = {}
        """Why names in the open folders, whose turn has not come yet, are left out."""

    def has(self, name: bytes) -> bool:
        """Whether *name* is a wanted key, or a folder (ending in `/`) that may hold one."""
        if not name.startswith(self._prefix):
            return False
        return name > self.start_after or (name.endswith(b"/") and self.start_after.startswith(name))


def _bytes_of(text: str) -> bytes:
    """Return the start of a name; text that is not Unicode begins no key, and sorts somewhere."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _why_no_key(key: bytes) -> str | None:
    """Return why no key can be that name, or lie in the folder of that name; None: one can."""
    try:
        key.decode()
    except UnicodeDecodeError:
        return "its name is not UTF-8"
    if b"\n" in key or b"\r" in key:
        return "its name has a line break"
    return "its name is too long for a key" if len(key) > LONGEST_KEY_BYTES else None


def _may_be_folder(link: os.DirEntry[bytes]) -> bool:
    try:
        return link.is_dir()
    except OSError:
        return True
