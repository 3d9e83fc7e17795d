"""The index of a manifest in a store: how a job's chunk is found in it with few requests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from htcjob.errors import PermanentError, UnusableIndexError
from htcjob.manifest.chunk import weighted_bounds
from htcjob.manifest.groups import Group
from htcjob.manifest.index_format import (
    HEAD_BYTES,
    SUFFIX,
    Page,
    find_weight,
    read_head,
    read_page,
    weight_in,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from htcjob.manifest.chunk import Share
    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import ObjectInfo, Store

GAP_BYTES = 8 * 1024
"""The longest gap between two wanted pages, or two groups' sizes, that is read along with them; where it is
longer, each has a request of its own."""


class Span(NamedTuple):
    """The groups at both ends of a chunk."""

    first: Group
    """The group of its first entry."""
    last: Group
    """The group of its last entry."""


class Index:
    """
    The index of a manifest in a store.

    One request opens it, and reads all of a small one. Finding a chunk takes one more, or two where its ends
    are far from each other; chunks of equal bytes take as many again for the sizes of entries.

    Args:
        store: The store of the manifest.
        key: The key of the manifest.
        retry: How a transient failure is met.

    Raises:
        AbsentError: there is none.
        DeniedError: there may be none: S3 answers so for an absent one where listing is not allowed.
        UnusableIndexError: it cannot be trusted.
    """

    def __init__(self, store: Store, key: str, retry: RetryPolicy) -> None:
        self.url = store.url_of(key + SUFFIX)
        self._store = store
        self._key = key + SUFFIX
        self._retry = retry
        self._start, info = self._read(0, HEAD_BYTES)
        self._tag = info.tag
        self.head = read_head(self._start, info.size_bytes)
        self._pages: dict[int, Page] = {}
        """The pages that were read already, by number."""

    def chunk(self, share: Share) -> range:
        """
        Return the positions of a share of the manifest.

        Raises:
            UnusableIndexError: it is damaged, or has no sizes, which the share needs.
        """
        head = self.head
        if not share.is_weighted:
            return share.by_number(head.n_entries)
        if head.weight is None:
            raise UnusableIndexError("it has no sizes")
        return weighted_bounds(share, n_entries=head.n_entries, weight=head.weight, find=self._positions)

    def span(self, chunk: range) -> Span:
        """
        Return the groups of the first and the last entry of *chunk*, which is not empty.

        Raises:
            UnusableIndexError: it is damaged.
        """
        ends = chunk.start, chunk.stop - 1
        pages = [self.head.page_of(position) for position in ends]
        self._load(pages)
        first, last = (self._pages[page].group_of(at) for page, at in zip(pages, ends, strict=True))
        return Span(first, last)

    def weight_before(self, position: int) -> int:
        """
        Return the size of all entries before *position*, which may be the one behind the last.

        Raises:
            UnusableIndexError: it is damaged, or has no sizes.
        """
        if self.head.weight is None:
            raise UnusableIndexError("it has no sizes")
        if position == self.head.n_entries:
            return self.head.weight
        group = self.span(range(position, position + 1)).first
        data = self._piece(*self.head.sizes_bounds(group))
        return weight_in(data, group, position)

    def check(self) -> None:
        """
        Read the whole index, with a request for each page and for each group's sizes: meant for a local copy.

        Raises:
            UnusableIndexError: some of it is damaged.
        """
        for number in range(len(self.head.positions)):
            self._load([number])
            if self.head.weight is not None:
                for position in self._pages[number].positions[:-1]:
                    self.weight_before(position)

    def _positions(self, weights: Sequence[int]) -> list[int]:
        """Return for each of *weights*, in order, the first position before which the entries have it."""
        pages = [self.head.page_before(weight) for weight in weights]
        self._load(pages)
        groups = [self._pages[page].group_before(weight) for page, weight in zip(pages, weights, strict=True)]
        found = self._read_pieces([self.head.sizes_bounds(group) for group in groups])
        return [find_weight(*arguments) for arguments in zip(found, groups, weights, strict=True)]

    def _load(self, pages: Sequence[int]) -> None:
        """Read those of *pages* that were not read yet; they are in order."""
        missing = sorted(set(pages) - self._pages.keys())
        found = self._read_pieces([self.head.page_bounds(page) for page in missing])
        for page, data in zip(missing, found, strict=True):
            self._pages[page] = read_page(data, page, self.head)

    def _read_pieces(self, bounds: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return pieces of the index; they are in order, and neighbours take one request."""
        if not bounds:
            return []
        (first_start, first_stop), (last_start, last_stop) = bounds[0], bounds[-1]
        if last_start - first_stop <= GAP_BYTES:
            data = self._piece(first_start, last_stop)
            return [data[start - first_start : stop - first_start] for start, stop in bounds]
        return [self._piece(start, stop) for start, stop in bounds]

    def _piece(self, start: int, stop: int) -> bytes:
        if stop <= len(self._start):
            return self._start[start:stop]
        data, info = self._read(start, stop)
        if info.tag != self._tag:
            raise UnusableIndexError("it was replaced while it was read")
        return data

    def _read(self, start: int, stop: int) -> tuple[bytes, ObjectInfo]:
        try:
            return self._retry.call(partial(self._store.read_part, self._key, start, stop))
        except PermanentError as error:
            raise UnusableIndexError(f"it cannot be read: {error.reason}") from error
