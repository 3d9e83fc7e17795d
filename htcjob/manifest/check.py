"""
Finds what is wrong with a manifest: unusable lines, entries that occur twice, a bad index, absent objects.

Entries are sorted on disk: memory grows by a few bytes per 16 KiB of manifest, no more.
"""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, NamedTuple

from htcjob.errors import (
    AbsentError,
    BadKeyError,
    DeniedError,
    DisorderError,
    HtcjobError,
    PermanentError,
    UnusableIndexError,
    UnwritableError,
)
from htcjob.machine.sorted_lines import SortedLines
from htcjob.manifest.local_copy import LocalCopy
from htcjob.manifest.manifest import Manifest
from htcjob.storage.local.errors import Blame
from htcjob.storage.urls import split_object_url
from htcjob.transfer.key_ranges import can_begin_anywhere, in_range, range_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from htcjob.manifest.entry import Entry
    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import Store
    from htcjob.transfer.locations import Location
    from htcjob.transfer.transfers import Transfers

BATCH = 1000
"""Keys that are looked for with one listing: as many as one page of a cloud's listing has."""
LISTED = 5 * BATCH
"""Objects that such a listing reads at most; each key that is not among them is then asked for."""
BATCHES = 64
"""Batches that are looked for side by side."""

_SEPARATOR = b"\0"
"""Between the fields of a sorted line; no key has one."""


class Problem(NamedTuple):
    """Something that is wrong."""

    line_number: int | None
    """Number of the line, from 1; None: the index is wrong."""
    text: str
    """The problem in words, with the line number."""


class _Known(NamedTuple):
    """An entry without problems, with the fields that it is sorted by."""

    store: str
    """URL of its store; empty for project storage."""
    key: str
    """Its key in that store."""
    parameters: str
    line_number: int


class Check:
    """
    A check of one manifest; `problems` makes it.

    Args:
        location: The manifest.
        transfers: Makes the requests.
        retry: How a transient failure of reading the manifest is met.
        folder: A directory of this machine, for sorting.
    """

    def __init__(self, location: Location, *, transfers: Transfers, retry: RetryPolicy, folder: str) -> None:
        self._location = location
        self._transfers = transfers
        self._retry = retry
        self._folder = folder
        self._copy = LocalCopy(location, transfers=transfers, retry=retry, folder=folder)
        self._sorted = SortedLines(folder)
        self.n_entries = 0
        """Entries in the manifest; known once `problems` has begun."""

    def problems(self, open_store: Callable[[str, str], Store] | None = None) -> Iterator[Problem]:
        """
        Yield all problems: unusable lines in order, then the index, then the others ordered by key.

        Args:
            open_store: Opens the store of a URL (project storage for the empty URL) for a key in it, to look
                for objects that are absent; None: these are not looked for.

        Raises:
            AbsentError: there is no such manifest.
            StorageError: it cannot be read, storage cannot be asked, or the disk of this machine is full.
        """
        with Blame("check", self._location.url, file=self._folder):
            yield from self._problems(open_store)

    def _problems(self, open_store: Callable[[str, str], Store] | None) -> Iterator[Problem]:
        manifest = Manifest(self._location.store, self._location.key, self._retry)
        self.n_entries = manifest.n_entries
        for entry in manifest.entries(range(manifest.n_entries)):
            if entry.problem is not None:
                yield Problem(entry.line_number, entry.problem)
            else:
                self._sorted.add(_sortable(entry))
        yield from self._index_problems(manifest)
        known = map(_known, self._sorted)
        if open_store is None:
            for problem, _ in _unique(known):
                if problem is not None:
                    yield problem
            return
        for store, entries in groupby(known, key=lambda one: open_store(one.store, one.key)):
            unique = _unique(entries)
            while batch := list(islice(unique, BATCH * BATCHES)):
                yield from (problem for problem, _ in batch if problem is not None)
                wanted = [one for _, one in batch if one is not None]
                yield from self._absent(store, wanted)

    def _index_problems(self, manifest: Manifest) -> Iterator[Problem]:
        try:
            index = self._copy.index()
            if (index.head.tag, index.head.sha256) == (manifest.tag, manifest.sha256):
                index.check()
                return
            cause = "it is of another version of the manifest"
        except (AbsentError, DeniedError):
            return
        except UnwritableError:
            raise
        except (UnusableIndexError, PermanentError) as error:
            cause = str(error)
        except BadKeyError as error:
            cause = error.reason
        yield Problem(None, f"index not usable: {cause}; make it again with htcjob manifest index")

    def _absent(self, store: Store, wanted: Sequence[_Known]) -> Iterator[Problem]:
        """Yield a problem for each of *wanted*, ordered by key, whose object does not exist."""
        transfers = self._transfers
        batches = [wanted[start : start + BATCH] for start in range(0, len(wanted), BATCH)]
        unknown: list[_Known] = []
        with closing(transfers.each(partial(_look_in_listing, store, transfers), batches)) as looked:
            for found in looked:
                if isinstance(found, HtcjobError):
                    raise found
                unknown += found
        with closing(transfers.each(partial(_ask, store, transfers), unknown)) as asked:
            for one, reason in zip(unknown, asked, strict=True):
                if isinstance(reason, HtcjobError):
                    raise reason
                if reason:
                    yield _absent(store, one, reason)


def _sortable(entry: Entry) -> bytes:
    store, key = split_object_url(entry.key) if entry.is_url else ("", entry.key)
    parameters = json.dumps(entry.parameters, sort_keys=True) if entry.parameters else ""
    parts = store.encode(), key.encode(), parameters.encode(), b"%015d" % entry.line_number
    return _SEPARATOR.join(parts)


def _known(line: bytes) -> _Known:
    store, key, parameters, line_number = line.split(_SEPARATOR)
    return _Known(store.decode(), key.decode(), parameters.decode(), int(line_number))


def _unique(entries: Iterable[_Known]) -> Iterator[tuple[Problem | None, _Known | None]]:
    """Yield a problem for each entry that occurred before, and the first entry of each object."""
    before: _Known | None = None
    first_line = 0
    for entry in entries:
        is_same_object = before is not None and before[:2] == entry[:2]
        if is_same_object and before is not None and before.parameters == entry.parameters:
            number = entry.line_number
            yield Problem(number, f"manifest line {number}: the same entry as line {first_line}"), None
        else:
            first_line = entry.line_number
            # Without its parameters, which may be long: many entries wait to be looked for.
            yield None, None if is_same_object else entry._replace(parameters="")
        before = entry


def _look_in_listing(store: Store, transfers: Transfers, wanted: Sequence[_Known]) -> list[_Known]:
    """
    Return those of *wanted*, ordered by key, that a listing from the first of them does not show.

    Each of these is then asked for by its name, since the server may list in another order, many other
    objects may lie between them, or listing may not be allowed.
    """
    if len(wanted) < BATCH // 10 or not can_begin_anywhere(store):
        return list(wanted)
    left = {one.key: one for one in wanted}
    try:
        for info in islice(in_range(store, range_of(wanted[0].key, wanted[-1].key), transfers), LISTED):
            left.pop(info.key, None)
            if info.key >= wanted[-1].key:
                break
    except (DeniedError, DisorderError):
        pass
    return list(left.values())


def _ask(store: Store, transfers: Transfers, one: _Known) -> str | None:
    """Return why there is no such object; None: there is one."""
    try:
        transfers.call(lambda: store.head(one.key))
    except AbsentError:
        return "no such object"
    except BadKeyError as error:
        return error.reason
    return None


def _absent(store: Store, one: _Known, reason: str) -> Problem:
    return Problem(one.line_number, f"manifest line {one.line_number}: {reason}: {store.url_of(one.key)}")
