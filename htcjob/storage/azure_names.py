"""Names of blobs: which of them Azure would take for another's, and the order in which it lists them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from htcjob.errors import BadKeyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from htcjob.storage.contract import ObjectInfo

MOST_HELD = 2_000
"""Entries that are kept back at one place of a listing; more of them are asked for again."""

_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]")
_HIGH_BMP = re.compile("[\ue000-\uffff]")
"""Behind the others in UTF-8, before the surrogates of the others in UTF-16."""


def check_name(name: str) -> None:
    r"""
    Refuse names that would silently become another blob's.

    Azure stores `a\b` as `a/b` (versity/versitygw#845) and `a.` as `a` (Azure/azure-sdk-for-java#36674), and
    no part of a name should end in a dot
    (learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata).
    HTTP libraries take `a/./b` for `a/b`.

    Raises:
        BadKeyError: it has a backslash, or one of its parts between slashes ends in a dot.
    """
    if "\\" in name:
        raise BadKeyError(name, "Azure turns a backslash into '/'")
    if name.endswith(".") or "./" in name:
        raise BadKeyError(name, "Azure drops a dot at the end of a name or before '/'")


def could_begin_a_name(prefix: str) -> bool:
    """Tell whether the name of a blob can begin so."""
    return "\\" not in prefix and "./" not in prefix


def first_behind(name: str, since: int) -> str:
    """
    Give a name that Azure lists before all names that come after *name* by their UTF-8 bytes.

    Args:
        name: The last one that is not wanted.
        since: Characters at its beginning that all names in question have.
    """
    high = _HIGH_BMP.search(name, since)
    return name if high is None else f"{name[: high.start()]}\U00010000"


def in_key_order(
    infos: Iterator[ObjectInfo], again: Callable[[str, str], Iterator[ObjectInfo]], since: int = 0
) -> Iterator[ObjectInfo]:
    """
    Give what Azure lists, ordered by the UTF-8 bytes of the names instead of their UTF-16 code units.

    Azure's order is that of UTF-16 (blobfile/blobfile#238; Azurite too). The two differ only where a
    character beyond U+FFFF meets one from U+E000: such names are kept back until their neighbours are
    given, at most `MOST_HELD` for each beginning that they share; if there are more, they are listed a
    second time instead.

    Args:
        infos: As Azure lists them.
        again: Lists the names that begin with its first argument, from its second argument on.
        since: Characters at the beginning of the names that are the same, or in the right order already.
    """
    groups: list[_Group] = []
    for info in infos:
        while groups and not info.key.startswith(groups[-1].beginning):
            yield from groups.pop().release(again)
        beyond = None if info.key.isascii() else _BEYOND_BMP.search(info.key, since)
        if beyond is None:
            yield info
            continue
        beginning = info.key[: beyond.start()]
        if not groups or groups[-1].beginning != beginning:
            groups.append(_Group(beginning, info.key))
        groups[-1].hold(info)
    while groups:
        yield from groups.pop().release(again)


class _Group:
    """Names with one beginning and then a character beyond U+FFFF."""

    def __init__(self, beginning: str, first: str) -> None:
        self.beginning = beginning
        self._first = first
        self._held: list[ObjectInfo] | None = []

    def hold(self, info: ObjectInfo) -> None:
        """Keep *info* back."""
        if self._held is not None:
            self._held.append(info)
            if len(self._held) > MOST_HELD:
                self._held = None

    def release(self, again: Callable[[str, str], Iterator[ObjectInfo]]) -> Iterator[ObjectInfo]:
        """Give all of them, in order."""
        if self._held is not None:
            yield from sorted(self._held, key=lambda info: info.key)  # str compares code points, as UTF-8
            return
        place = len(self.beginning)

        def listed_again() -> Iterator[ObjectInfo]:
            for info in again(self.beginning, self._first):
                if (character := info.key[place : place + 1]) >= "\U00010000":
                    yield info
                elif character >= "\ue000":
                    return

        yield from in_key_order(listed_again(), again, place + 1)
