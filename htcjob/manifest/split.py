"""Shows which entries of a manifest every job of an array would get."""

from __future__ import annotations

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
from htcjob.manifest.chunk import Share
from htcjob.manifest.groups import GROUP_BYTES
from htcjob.manifest.index_format import SUFFIX
from htcjob.manifest.local_copy import LocalCopy
from htcjob.manifest.opening import open_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from htcjob.manifest.index import Index
    from htcjob.manifest.manifest import Manifest
    from htcjob.retry import RetryPolicy
    from htcjob.transfer.locations import Location
    from htcjob.transfer.transfers import Transfers


class JobChunk(NamedTuple):
    """The entries that one job would get."""

    array_index: int
    chunk: range
    """Positions of its entries."""
    size_bytes: int | None
    """Size of its inputs together; None: no index tells."""
    first: str | None
    """Its first line of the manifest; None: it has no entry."""
    last: str | None
    """Its last line."""


def split(
    location: Location,
    *,
    array_size: int,
    balance: str,
    transfers: Transfers,
    retry: RetryPolicy,
    folder: str,
) -> Iterator[JobChunk]:
    """
    Yield the chunk of every job of an array, as `htcjob run` would have it.

    The index is copied once, and the manifest only where that is less than the lines at all borders.

    Args:
        location: The manifest.
        array_size: Jobs, 1 or more.
        balance: The measure that is shared out equally, as in a `Share`.
        transfers: Makes the requests.
        retry: How a transient failure of reading the manifest is met.
        folder: A directory of this machine.

    Raises:
        AbsentError: there is no such manifest.
        ConfigurationError: the share is of bytes, and no index tells the sizes of the entries; or the index
            is damaged where some jobs look.
        RunMismatchError: the manifest was changed meanwhile.
    """
    index_url = location.store.url_of(location.key + SUFFIX)
    manifest, _ = open_chunk(location.store, location.key, Share(0, array_size, balance), retry=retry)
    copy = LocalCopy(location, transfers=transfers, retry=retry, folder=folder)
    index = _index_of(manifest, copy)
    lines = manifest
    if 2 * array_size * GROUP_BYTES > manifest.size_bytes:
        lines = copy.manifest()
        if (lines.sha256, lines.n_entries) != (manifest.sha256, manifest.n_entries):
            if index is None or retry.call(lambda: location.store.head(location.key)).tag != manifest.tag:
                raise RunMismatchError(f"manifest {location.url} was changed while it was read")
            raise _wrong(index_url, "it contradicts its manifest")

    def chunk_of(array_index: int) -> JobChunk:
        return _job_chunk(Share(array_index, array_size, balance), lines, index)

    with closing(transfers.each(chunk_of, range(array_size))) as chunks:
        for found in chunks:
            if isinstance(found, UnusableIndexError):
                raise _wrong(index_url, str(found)) from found
            if isinstance(found, HtcjobError):
                raise found
            yield found


def _job_chunk(share: Share, lines: Manifest, index: Index | None) -> JobChunk:
    size_bytes = None
    if index is None:
        chunk = share.by_number(lines.n_entries)
    else:
        chunk = index.chunk(share)
        if index.head.weight is not None:
            size_bytes = index.weight_before(chunk.stop) - index.weight_before(chunk.start)
    first, last = (
        next((entry.text for entry in lines.entries(end)), None) for end in (chunk[:1], chunk[-1:])
    )
    return JobChunk(share.array_index, chunk, size_bytes, first, last)


def _index_of(manifest: Manifest, copy: LocalCopy) -> Index | None:
    """Return a copy of the index, if there is one of that manifest; why not, `open_chunk` has logged."""
    try:
        index = copy.index()
    except UnwritableError:
        raise
    except (AbsentError, DeniedError, PermanentError, BadKeyError, UnusableIndexError):
        return None
    head = index.head
    is_its = (head.tag, head.sha256, head.n_entries) == (manifest.tag, manifest.sha256, manifest.n_entries)
    return index if is_its else None


def _wrong(url: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"index {url}: {reason}; make it again")
