"""
The parts of a ledger, and the one way of reading them that finds every record.

An attempt puts scattered parts together while others read: it writes the new part, then removes the old ones.
Three things ensure that a reader finds every record that was committed before it began:

* The name of the new part sorts behind those of all that it replaces. So a listing, which goes forward, meets
  an old part that is still there, or else the new one.
* The records of a part that was listed and is gone when it is read are in another one: the block is listed
  again, until nothing that is listed is gone. What was read of a part stays true when it is removed.
* A page of a listing is, on some servers, no picture of one moment: they read names first, or in several
  places, and leave out what has been removed since. So commands list twice, and again as long as new parts
  were put together meanwhile. An attempt that starts lists once: what it misses it does again, which costs
  time and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from htcjob.errors import AbsentError, HtcjobError, TransientError
from htcjob.ledger.layout import PART, block_prefix, done_prefix
from htcjob.ledger.records import Spot, Unreadable, counts_more, lines_of

if TYPE_CHECKING:
    import re
    from typing import Protocol

    from htcjob.storage.contract import Store

    class Caller(Protocol):
        """Makes requests, and retries them: a `RetryPolicy`, or `Transfers`."""

        def call(self, operation: Callable[[], T], /) -> T:
            """Return what *operation* returns."""

    Each = Callable[[Callable[[str], bytes | None], Iterable[str]], Iterable[bytes | HtcjobError | None]]


T = TypeVar("T")

LISTINGS = 10
"""Listings of a block while its parts are put together again and again; then that is a passing error."""

WINDOW = 1000
"""Parts that are listed before they are read: as many as one page of a cloud's listing has."""


class Block(NamedTuple):
    """One block, as it was read."""

    number: int
    parts: Mapping[str, bytes]
    """Contents of its parts by key, in order of the keys."""


class Parts:
    """
    The parts of a run's ledger. May be used from any thread.

    Args:
        store: Task storage.
        run: Name of the run.
        caller: Makes the requests.
        n_entries: Entries of the run's manifest, where that is known.
        unreadable: Collects what cannot be read.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        caller: Caller,
        *,
        n_entries: int | None = None,
        unreadable: Unreadable | None = None,
    ) -> None:
        self.unreadable = Unreadable() if unreadable is None else unreadable
        self.n_entries = n_entries
        self._store = store
        self._run = run
        self._prefix = done_prefix(run)
        self._caller = caller

    def read(self, blocks: range) -> Iterator[Block]:
        """
        Yield *blocks* as attempts left them, in order; those without any part are left out.

        Raises:
            StorageError: one cannot be read, or changes faster than it is read.
        """
        keys = self._parts_among(self._caller.call(lambda: list(self._keys(blocks.start, blocks.stop))))
        yield from self._blocks(keys, map(self._read, keys))

    def read_all(self, each: Each) -> Iterator[Block]:
        """
        Yield all blocks, in order, with every record that was committed before.

        Memory does not grow with the run.

        Args:
            each: Reads several parts at a time (`Transfers.each`).

        Raises:
            StorageError: one cannot be read, or changes faster than it is read.
        """
        start: int | None = 0
        while start is not None:
            found, start = self._window(start)
            keys = self._parts_among(found)
            yield from self._blocks(keys, _good(each(self._read, keys)))

    def final(self, block: Block) -> dict[int, dict[str, Any]]:
        """
        Return for each entry of a block the record that counts, by position.

        An entry may have several: failures before it was done, or two attempts that overlapped. The first
        `done` counts; without one, the record that ended last.
        """
        final: dict[int, dict[str, Any]] = {}
        for key, content in block.parts.items():
            for line_number, found in lines_of(content, block.number, self.n_entries):
                if isinstance(found, str):
                    self.unreadable.add(Spot(self._store.url_of(key), line_number, found))
                    continue
                position = found["position"]
                if position not in final or counts_more(found, final[position]):
                    final[position] = found
        return final

    def generation(self, key: str) -> int:
        """Return how often records of that part were put together; 0: it is as an attempt wrote it."""
        found = self._found_in(key)
        return int(found[2] or 0) if found else 0

    def _blocks(self, keys: Iterable[str], contents: Iterable[bytes | None]) -> Iterator[Block]:
        """Yield the contents of parts by block; where a part was gone, the block is read again."""
        pairs = zip(keys, contents, strict=True)
        for number, of_block in groupby(pairs, key=lambda pair: self._block_of(pair[0])):
            found = dict(of_block)
            parts = {key: content for key, content in found.items() if content is not None}
            if len(parts) < len(found):
                parts = self._settled(number, parts, gone=found.keys() - parts.keys())
            yield Block(number, parts)

    def _settled(self, block: int, parts: dict[str, bytes], gone: AbstractSet[str]) -> dict[str, bytes]:
        """Return all parts of a block, of which some were gone when they were to be read."""
        for _ in range(LISTINGS):
            missing = [key for key in self._sure_keys(block, block + 1, gone=gone) if key not in parts]
            found = {key: self._read(key) for key in missing if self._found_in(key)}
            parts.update((key, content) for key, content in found.items() if content is not None)
            gone = found.keys() - parts.keys()
            if not gone:
                return dict(sorted(parts.items()))
        raise self._restless(block)

    def _window(self, start: int) -> tuple[list[str], int | None]:
        """Return all keys from block *start* up to another block, and that block; None: there are no more."""

        def window() -> tuple[list[str], int | None]:
            keys: list[str] = []
            for key in self._keys(start, None):
                if len(keys) >= WINDOW and (found := self._found_in(key)) and int(found[1]) > start:
                    stop = int(found[1])
                    if not keys[-1].startswith(self._folder(stop)):
                        return keys, stop
                keys.append(key)
            return keys, None

        keys, stop = self._caller.call(window)
        return self._sure_keys(start, stop, known=keys), stop

    def _sure_keys(
        self,
        start: int,
        stop: int | None,
        *,
        gone: AbstractSet[str] = frozenset(),
        known: Iterable[str] | None = None,
    ) -> list[str]:
        """
        Return keys of blocks, in order, so that every record is in one of them, or was a moment ago.

        Args:
            start: The first block.
            stop: The block behind the last one; None: there is no other behind it.
            gone: Keys that are not there any more: a listing that still has them is out of date.
            known: The keys that a listing has found already.
        """

        def listed() -> set[str]:
            keys = set(self._keys(start, stop))
            for key in gone & keys:
                raise TransientError(
                    "read", self._store.url_of(key), "storage lists it, but does not have it"
                )
            return keys

        found = set(self._caller.call(listed) if known is None else known)
        for _ in range(LISTINGS):
            new = self._caller.call(listed) - found
            found |= new
            if not any(map(self.generation, new)):
                return sorted(found)
        raise self._restless(start)

    def _keys(self, start: int, stop: int | None) -> Iterator[str]:
        """Yield all keys from block *start* up to block *stop*; None: up to the last."""
        for info in self._store.list(self._prefix, start_after=self._folder(start) if start else None):
            if stop is not None and info.key >= self._folder(stop):
                return
            yield info.key

    def _read(self, key: str) -> bytes | None:
        """Return the content of a part; None: it is gone."""
        try:
            return self._caller.call(lambda: self._store.read_range(key, 0))
        except AbsentError:
            return None

    def _parts_among(self, keys: Iterable[str]) -> list[str]:
        """Return those of *keys* that are parts; count the others, which are never read."""
        parts = []
        for key in keys:
            if self._found_in(key):
                parts.append(key)
            else:
                self.unreadable.add(Spot(self._store.url_of(key), None, "not a part of the ledger"))
        return parts

    def _found_in(self, key: str) -> re.Match[str] | None:
        return PART.fullmatch(key, len(self._prefix))

    def _block_of(self, part: str) -> int:
        return int(part[len(self._prefix) :].partition("/")[0])

    def _folder(self, block: int) -> str:
        return block_prefix(self._run, block)

    def _restless(self, block: int) -> TransientError:
        return TransientError(
            "read",
            self._store.url_of(self._folder(block)),
            "its parts are put together faster than they are read",
        )


def _good(results: Iterable[T | HtcjobError]) -> Iterator[T]:
    for result in results:
        if isinstance(result, HtcjobError):
            raise result
        yield result
