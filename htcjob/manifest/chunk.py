"""Which positions of the manifest belong to which job of the array. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from htcjob.errors import ConfigurationError


class Share(NamedTuple):
    """The share of the manifest that a job asks for."""

    array_index: int
    """This job's number, from 0."""
    array_size: int
    """Jobs in the array, 1 or more."""
    balance: str = "entries"
    """The measure that is shared out equally: `entries`, or `bytes` of input."""

    @property
    def is_weighted(self) -> bool:
        """Whether the sizes of the entries matter."""
        return self.balance == "bytes"

    def by_number(self, n_entries: int) -> range:
        """Return the positions of this share of *n_entries* where sizes do not matter (`chunk_bounds`)."""
        return chunk_bounds(array_index=self.array_index, array_size=self.array_size, n_entries=n_entries)


def chunk_bounds(*, array_index: int, array_size: int, n_entries: int) -> range:
    """
    Return the positions of the manifest entries that belong to one job of the array.

    Chunks are consecutive and their lengths differ by at most one, the longer ones first, so every
    position is in exactly one chunk. With fewer entries than jobs the last chunks are empty; that is not
    an error.

    Args:
        array_index: This job's number, from 0 (as AWS Batch counts).
        array_size: Jobs in the array, 1 or more.
        n_entries: Entries in the manifest, 0 or more.

    Returns:
        Half-open range of 0-based positions.

    Raises:
        ConfigurationError: *array_index* is not below *array_size*, or a number is out of range.
    """
    if array_size < 1:
        raise ConfigurationError(f"array size {array_size}: it must be 1 or more")
    if not 0 <= array_index < array_size:
        raise ConfigurationError(
            f"array index {array_index} with array size {array_size}: "
            f"the index must be from 0 to {array_size - 1}"
        )
    if n_entries < 0:
        raise ConfigurationError(f"{n_entries} entries: there cannot be fewer than 0")
    length, longer = divmod(n_entries, array_size)
    start = array_index * length + min(array_index, longer)
    return range(start, start + length + (array_index < longer))


def weighted_bounds(
    share: Share, *, n_entries: int, weight: int, find: Callable[[Sequence[int]], Sequence[int]]
) -> range:
    """
    Return the positions of the entries that belong to one job, where each job gets equal bytes of input.

    Lay all inputs end to end and cut the whole into as many equal pieces as there are jobs: an entry belongs
    to the piece that its first byte lies in (empty ones at the very end, to the last). So chunks are
    consecutive, every position is in exactly one, and none has more than its piece and the largest input.
    Chunks may be empty. Where all inputs are empty, they are shared by their number.

    Args:
        share: Which job of which array.
        n_entries: Entries in the manifest, 0 or more.
        weight: Bytes of all inputs together.
        find: Returns, for numbers of bytes in ascending order, the first positions before which the entries
            have as many bytes together, or more.

    Returns:
        Half-open range of 0-based positions.

    Raises:
        ConfigurationError: the index is not below the size, or a number is out of range.
    """
    index, size = share.array_index, share.array_size
    by_number = share.by_number(n_entries)
    if weight == 0:
        return by_number
    start, stop = find([-(-index * weight // size), -(-(index + 1) * weight // size)])
    return range(start, n_entries if index == size - 1 else stop)
