"""
Whether a file is called exactly what it is asked for by.

Some file systems ignore case (exFAT, SMB shares, most Macs) or the Unicode form of letters: there `A.txt`
opens the file `a.txt`, and two keys would be one file. Nothing portable tells what a file system ignores, so
another spelling of a name that is there is looked up: if that opens nothing, the folder tells names apart.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

SPELLED_OTHERWISE = "this file system ignores case or the form of letters; the same name in other spelling"
"""Start of the reason for which a key is refused."""

_MOST_FOLDERS = 10_000
"""Folders that are remembered: a job reads most of its inputs from few."""


class _Listed(NamedTuple):
    """The names in a folder when it was last read."""

    folder: str
    mtime_ns: int
    names: frozenset[str]


class Spelling:
    """
    Compares the spelling of paths below *root* with what their folders hold. May be used from any thread.

    Args:
        root: Absolute; its own spelling is not looked at.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._exact: set[str] = set()
        """Folders that tell apart names which differ in the case of ASCII letters."""
        self._listed = _Listed("", 0, frozenset())
        """A folder that does not, as it was read last: most keys lie beside each other."""

    def tells_apart(self, folder: str, name: str) -> bool:
        """Whether *folder* tells other spellings from *name*, which is there and has ASCII letters."""
        if folder in self._exact:
            return True
        if _opens(os.path.join(folder, name.swapcase())):
            return False
        self._remember(folder)
        return True

    def is_exact(self, key: str, *, below: str | None = None) -> bool:
        """
        Whether all parts of *key* that are there are called exactly that; what is not there cannot be wrong.

        Args:
            key: Relative path.
            below: Where it begins; None: at the root.

        Raises:
            OSError: a folder cannot be read.
        """
        folder = self._root if below is None else below
        for name in key.split("/"):
            if not self._is_exact_in(folder, name):
                return False
            folder = os.path.join(folder, name)
        return True

    def _is_exact_in(self, folder: str, name: str) -> bool:
        if name.isascii() and folder in self._exact:
            return True
        others = {other for other in _other_spellings(name) if other != name}
        if not others or not _opens(os.path.join(folder, name)):
            return True
        if not any(_opens(os.path.join(folder, other)) for other in others):
            if name.isascii():
                self._remember(folder)
            return True
        return self._lists(folder, name)

    def _lists(self, folder: str, name: str) -> bool:
        """Whether reading *folder* gives *name*, as it stands."""
        mtime_ns = os.stat(folder).st_mtime_ns
        listed = self._listed
        # Clocks of file systems are coarse: a name that is not in the last reading may be new since.
        if listed[:2] == (folder, mtime_ns) and name in listed.names:
            return True
        self._listed = listed = _Listed(folder, mtime_ns, frozenset(os.listdir(folder)))
        return name in listed.names

    def _remember(self, folder: str) -> None:
        if len(self._exact) >= _MOST_FOLDERS:
            self._exact.clear()
        self._exact.add(folder)


ANYWHERE = Spelling("/")
"""For files outside of stores."""


def folded(key: str) -> str:
    """Return the same text for all keys that a file system could take for one."""
    if key.isascii():
        return key.lower()
    import unicodedata

    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", key).casefold())


def _other_spellings(name: str) -> Iterator[str]:
    yield name.swapcase()
    if not name.isascii():
        import unicodedata

        yield unicodedata.normalize("NFC", name)
        yield unicodedata.normalize("NFD", name)


def _opens(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR):
            return False  # a spelling that this file system cannot have
        raise
    return True
