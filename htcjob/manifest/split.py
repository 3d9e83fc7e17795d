"""What every index of an array would get of a manifest."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from htcjob.errors import (
    AbsentError,
    BadKeyError,
    ConfigurationError,
    DeniedError,
    HtcjobError,
    PermanentError,
    RunMismatchError,
    UnusableIndexError,
    UnwritableError,
)
from htcjob.manifest.chunk import Share, chunk_bounds
from htcjob.manifest.groups import GROUP_BYTES
from htcjob.manifest.index import Index
from htcjob.manifest.index_format import SUFFIX
from htcjob.manifest.manifest import Manifest
from htcjob.manifest.opening import open_chunk
from htcjob.storage.local.store import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from htcjob.retry import RetryPolicy
    from htcjob.transfer.locations import Location
    from htcjob.transfer.transfers import Transfers

_COPY = "list"
"""Name of copies of the manifest and, with its suffix, of the index on this machine."""


class Part(NamedTuple):
    """What one job would get."""

    array_index: int
    chunk: range
    """Positions of its entries."""
    size_bytes: int | None
    """Of its inputs together; None: no index tells."""
    first: str | None
    """Its first line of the manifest; None: it has no entry."""
    last: str | None
    """Its last one."""


def split(
    place: Location, array_size: int, balance: str, transfers: Transfers, retry: RetryPolicy, folder: str
) -> Iterator[Part]:
    """
    Give the part of every job of an array, as `htcjob run` would have it.

    The index is copied once, and the manifest only where that is less than the lines at all borders.

    Args:
        place: The manifest.
        array_size: Jobs, 1 or more.
        balance: As of a `Share`.
        transfers: What makes the requests.
        retry: What a transient failure of reading the manifest is met with.
        folder: A directory of this machine.

    Raises:
        AbsentError: there is no such manifest.
        ConfigurationError: the share is of bytes, and no index tells the sizes of the entries; or the index
            is damaged where some jobs look.
    """
    store, key = place.store, place.key
    manifest, _ = open_chunk(store, key, Share(0, array_size, balance), retry)
    here = LocalStore(folder)
    index = None
    try:
        transfers.get(store, key + SUFFIX, os.path.join(folder, _COPY + SUFFIX))
    except UnwritableError:
        raise
    except (AbsentError, DeniedError, PermanentError, BadKeyError):
        pass  # `open_chunk` has said so
    else:
        index = _index_of(manifest, here, retry)
    lines = manifest
    if 2 * array_size * GROUP_BYTES > manifest.size_bytes:
        transfers.get(store, key, os.path.join(folder, _COPY))
        lines = Manifest(here, _COPY, retry)
        if (lines.sha256, lines.n_entries) != (manifest.sha256, manifest.n_entries):
            if index is None or retry.call(lambda: store.head(key)).tag != manifest.tag:
                raise RunMismatchError(f"manifest {place.url} was changed while it was read")
            raise _wrong(store.url_of(key + SUFFIX), "it contradicts its manifest")

    def part_of(array_index: int) -> Part:
        share = Share(array_index, array_size, balance)
        if index is not None:
            chunk = index.chunk(share)
        else:
            chunk = chunk_bounds(array_index=array_index, array_size=array_size, n_entries=manifest.n_entries)
        size_bytes = None
        if index is not None and index.head.weight is not None:
            size_bytes = index.weight_before(chunk.stop) - index.weight_before(chunk.start)
        first, last = (
            next((entry.text for entry in lines.entries(end)), None) for end in (chunk[:1], chunk[-1:])
        )
        return Part(array_index, chunk, size_bytes, first, last)

    with closing(transfers.each(part_of, range(array_size))) as parts:
        for part in parts:
            if isinstance(part, UnusableIndexError):
                raise _wrong(store.url_of(key + SUFFIX), str(part)) from part
            if isinstance(part, HtcjobError):
                raise part
            yield part


def _wrong(url: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"index {url}: {reason}; make it again")


def _index_of(manifest: Manifest, here: LocalStore, retry: RetryPolicy) -> Index | None:
    """Give the copied index, if it is of that manifest."""
    try:
        index = Index(here, _COPY, retry)
    except HtcjobError:
        return None  # `open_chunk` has said so
    head = index.head
    is_of_it = (head.tag, head.sha256, head.n_entries) == (
        manifest.tag,
        manifest.sha256,
        manifest.n_entries,
    )
    return index if is_of_it else None
