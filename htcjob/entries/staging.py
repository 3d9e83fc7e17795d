"""
Stages files: inputs from their stores to a directory, outputs from a directory to task storage.

Where an object lies is decided here, which files are outputs in `outputs.py`; `transfer/` moves them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from htcjob.errors import BadKeyError, HtcjobError, OutputError
from htcjob.ledger.records import Output
from htcjob.storage.keys import path_of_copy
from htcjob.storage.urls import split_object_url
from htcjob.transfer.progress import Progress

if TYPE_CHECKING:
    from htcjob.manifest.entry import Entry
    from htcjob.storage.contract import Store
    from htcjob.transfer.transfers import Transfers


@dataclass(slots=True)
class Staging:
    """The inputs and outputs of one attempt."""

    project: Store
    """Where keys of the manifest are."""
    task: Store
    """Where outputs go."""
    transfers: Transfers
    """Moves the files."""
    open_store: Callable[[str, str], Store]
    """Opens the store of an entry that is a full URL, for the key in it; any thread may call it."""

    @property
    def staged_in(self) -> int:
        """Objects fetched so far."""
        return self.transfers.objects_got

    @property
    def staged_out(self) -> int:
        """Objects put so far."""
        return self.transfers.objects_put

    def stage_in(self, entry: Entry, directory: str, *, folder: str = "") -> str:
        """
        Fetch the object of *entry* to its place below *directory*, and return the path.

        The place is the key with its folders; that of a URL lies below a folder `s3:`, `file:` and so on, a
        name that no key begins with. A path that is there already is another entry's with the same
        object: it is not fetched again.

        Args:
            entry: The entry.
            directory: Absolute, links resolved.
            folder: A folder in *directory* to put it below (`lie_apart`): empty, or with a slash at its end.

        Raises:
            HtcjobError: it cannot be fetched; the message names the object and the reason.
        """
        store, key, place = self._locate(entry)
        path = path_of_copy(directory, folder + place)
        if not os.path.lexists(path):
            self.transfers.get(store, key, path)
        return path

    def size_of(self, entry: Entry) -> int:
        """
        Return the size of the object of *entry*, as storage tells it.

        Raises:
            HtcjobError: it is not there, or cannot be asked for.
        """
        store, key, _ = self._locate(entry)
        return self.transfers.call(lambda: store.head(key)).size_bytes

    def stage_out(self, directory: str, keys: Sequence[str]) -> list[Output]:
        """
        Put the files *keys* of *directory* (`OutputPatterns.find`) into task storage under the same names.

        Raises:
            StorageError: a file could not be put, for good (`OutputError`: this store takes no such name) or
                after the retries.
        """
        outputs = []
        with closing(self.transfers.each(lambda key: self._put(directory, key), keys)) as results:
            for result in results:
                if isinstance(result, HtcjobError):
                    raise result
                outputs.append(result)
        return outputs

    @contextmanager
    def shown(self, what: str, objects: int | None = None) -> Iterator[None]:
        """Show how far the transfers have come, until the context ends."""
        with Progress(what, objects=objects) as self.transfers.progress:
            try:
                yield
            finally:
                self.transfers.progress = None

    def _put(self, directory: str, key: str) -> Output:
        try:
            info = self.transfers.put(self.task, os.path.join(directory, key), key)
        except BadKeyError as error:
            raise OutputError.of(key, error.reason) from None
        return Output(key, info.size_bytes, (info.checksum or "").removeprefix("sha256:"))

    def _locate(self, entry: Entry) -> tuple[Store, str, str]:
        """Return the store and key of an entry's object, and its place in a directory."""
        if not entry.is_url:
            return self.project, entry.key, entry.key
        url, key = split_object_url(entry.key)
        return self.open_store(url, key), key, _place_of(entry)


def lie_apart(entries: Iterable[Entry]) -> dict[int, str]:
    """
    Return the folders of those entries, by position, whose inputs cannot lie beside the others'.

    A bucket may have both `a` and `a/b`; in a directory the second lies below a folder of its own, with a
    name that no other place begins with. So do `a/b/c` and so on, each level in another folder.
    """
    places = {entry.position: _place_of(entry) for entry in entries if entry.problem is None}
    taken, levels = set(places.values()), {}
    for position, place in places.items():
        if level := sum(folder in taken for folder in _folders_of(place)):
            levels[position] = level
    first = {place.partition("/")[0] for place in taken} if levels else set()
    name = next(name for n in count() if (name := "apart" + "_" * n) not in first)
    return {position: f"{name}/{level}/" for position, level in levels.items()}


def _folders_of(place: str) -> Iterator[str]:
    end = place.find("/")
    while end >= 0:
        yield place[:end]
        end = place.find("/", end + 1)


def _place_of(entry: Entry) -> str:
    """Return the place of an entry's object in a directory."""
    if not entry.is_url:
        return entry.key
    url, key = split_object_url(entry.key)
    scheme, _, rest = url.partition(":")
    return f"{scheme}:/{rest.strip('/')}/{key}"
