"""
A long listing, cut into ranges of keys that can be listed side by side.

A cloud gives a thousand keys with one answer, and each answer says where the next one begins. It does not
tell how keys are distributed; but a listing can begin behind any name, real or not, and its first key then
tells how the next names begin. So a listing is cut where the characters of its keys first differ.
"""

from __future__ import annotations

from itertools import islice
from os.path import commonprefix
from typing import TYPE_CHECKING, NamedTuple

from htcjob.errors import HtcjobError
from htcjob.storage.keys import LAST_CHARACTER
from htcjob.transfer.listing import everything, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from htcjob.storage.contract import LeftOut, ObjectInfo, Store
    from htcjob.transfer.transfers import Transfers

WORTHWHILE = 20_000
"""Keys that are listed before the rest is cut: twenty answers, about as many as finding the cuts takes."""

ENOUGH = 32
"""Ranges that keep all transfers busy; fewer are cut once more."""

MOST_GROUPS = 100
"""Beginnings of names that are told apart at one place; the last range has all that follow."""


class KeyRange(NamedTuple):
    """Keys of a store that follow one another."""

    prefix: str
    """How all of them begin."""
    first: str = ""
    """No key of the range comes before it."""
    stop: str | None = None
    """The first key that is behind the range; None: it has all the others."""
    known: Sequence[ObjectInfo] | None = None
    """All its objects, where they are listed already."""


def can_begin_anywhere(store: Store) -> bool:
    """
    Whether it is worth a request to begin a listing in the middle.

    It is not where each listing reads everything: a folder of files, or storage that does not list by key.
    """
    return store.url.startswith(("s3:", "gs:")) and store.lists_in_order


def is_cut(store: Store) -> bool:
    """
    Whether a listing of *store* may be cut: only where the cloud itself promises its order.

    From a server that lists in another order, keys would be lost between the ranges, and no one would see it.
    """
    return can_begin_anywhere(store) and store.promises_order


def in_range(store: Store, keys: KeyRange, transfers: Transfers) -> Iterator[ObjectInfo | LeftOut]:
    """Yield the objects of a range, and names left out, in the order of their keys' UTF-8 bytes."""
    if keys.known is not None:
        yield from keys.known
        return
    start_after = just_before(keys.first) if keys.first else None
    for info in everything(store, keys.prefix, transfers, start_after=start_after):
        if keys.stop is not None and info.key >= keys.stop:
            return
        if info.key >= keys.first:
            yield info


def range_of(first: str, last: str) -> KeyRange:
    """Return the range that begins with the key *first* and reaches at least to *last*."""
    return KeyRange(_shared(first, last), first)


def cut(store: Store, prefix: str, transfers: Transfers) -> list[KeyRange]:
    """
    Return ranges that have all keys with *prefix* together, in order; one alone where cutting does not pay.

    Raises:
        StorageError: storage cannot be listed.
    """
    if not is_cut(store):
        return [KeyRange(prefix)]
    known = list(islice(listed(store, prefix, transfers), WORTHWHILE))
    if len(known) < WORTHWHILE:
        return [KeyRange(prefix, known=known)]
    first, last = known[0].key, known[-1].key
    probe = _Probe(store, prefix, transfers)
    common = _shared(first, last)
    while (beyond := probe.first_after(common + LAST_CHARACTER)) is not None:
        if beyond.startswith(common):  # it has that last character itself
            break
        common = _shared(common, beyond)
    groups = probe.groups(common, first)
    if len(groups) < ENOUGH:
        cut_again: list[str] = []
        for found in transfers.each(probe.groups_within, groups):
            if isinstance(found, HtcjobError):
                raise found
            cut_again += found
        groups = cut_again
    # The first name behind what is known ends in NUL.
    borders = [last + "\0", *(group for group in sorted(set(groups)) if group > last)]
    others = zip(borders, [*borders[1:], None], strict=True)
    return [KeyRange(prefix, known=known), *(KeyRange(prefix, begin, stop) for begin, stop in others)]


class _Probe:
    """Finds where the characters of keys differ, one request at a time. May be used from any thread."""

    def __init__(self, store: Store, prefix: str, transfers: Transfers) -> None:
        self._store = store
        self._prefix = prefix
        self._transfers = transfers

    def first_after(self, start_after: str) -> str | None:
        """Return the first key behind that name."""
        found = next(listed(self._store, self._prefix, self._transfers, start_after=start_after), None)
        return None if found is None else found.key

    def groups(self, common: str, first: str) -> list[str]:
        """
        Return the beginnings, one character longer than *common*, of the keys that begin with *common*.

        Args:
            common: A beginning of keys.
            first: The first of them.
        """
        found: list[str] = []
        key: str | None = first
        while key is not None and key.startswith(common) and len(found) < MOST_GROUPS:
            group = key[: len(common) + 1]
            found.append(group)
            key = self.first_after(group + LAST_CHARACTER if len(group) > len(common) else group)
        return found

    def groups_within(self, common: str) -> list[str]:
        """Return the beginnings of the keys that begin with *common*, up to where these first differ."""
        first = self.first_after(just_before(common))
        while first is not None and first.startswith(common) and first != common:
            found = self.groups(common, first)
            if len(found) > 1:
                return found
            common = found[0]
        return [common]


def _shared(one: str, other: str) -> str:
    """Return the characters, not the folders, that both begin with."""
    return commonprefix((one, other))  # noqa: RUF071


def just_before(key: str) -> str:
    """Return a name, never behind *key*, after which *key* is the first name that is likely to exist."""
    last = ord(key[-1]) - 1
    if last < ord(" "):
        return key[:-1]
    if 0xD800 <= last <= 0xDFFF:  # surrogates are no characters
        last = 0xD7FF
    return key[:-1] + chr(last) + LAST_CHARACTER
