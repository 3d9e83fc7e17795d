"""Listings of storage as one stream, which goes on where it was after a transient failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from htcjob.errors import DisorderError, TransientError
from htcjob.storage.contract import LeftOut, ObjectInfo
from htcjob.storage.keys import LAST_CHARACTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from htcjob.storage.contract import Store
    from htcjob.transfer.transfers import Transfers

_Listed = TypeVar("_Listed", ObjectInfo, ObjectInfo | LeftOut)

SKIP_AFTER = 2000
"""Objects of one folder that a folded listing reads before it asks for what comes behind the folder: two
pages, because the question begins a new listing."""


def listed(
    store: Store,
    prefix: str,
    transfers: Transfers,
    *,
    start_after: str | None = None,
    may_repeat: bool = False,
) -> Iterator[ObjectInfo]:
    """
    Yield what `Store.list` does; after a transient failure, go on behind the last key.

    Args:
        store: The store to list.
        prefix: How the keys begin.
        transfers: Makes the requests.
        start_after: Only keys after that.
        may_repeat: Begin again after a `DisorderError`, and yield some objects twice.

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
    """Yield what `Store.list_all` does, as `listed` does for `Store.list`."""
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


def listed_with_folders(
    store: Store, prefix: str, fold: Callable[[str], str | None], transfers: Transfers
) -> Iterator[ObjectInfo | LeftOut | str]:
    """Yield the objects for which *fold* names no folder, and each folder once; large ones are not read."""
    folder, n_inside, start_after = "", 0, None
    while True:
        for info in everything(store, prefix, transfers, start_after=start_after):
            found = fold(name_of(info))
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


def name_of(entry: ObjectInfo | LeftOut) -> str:
    """Return what globs are compared with: the key, without the slash of a folder that is left out."""
    return entry.key.removesuffix("/") if isinstance(entry, LeftOut) else entry.key
