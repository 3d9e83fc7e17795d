"""Which positions of the manifest belong to which job of the array. Pure arithmetic."""

from __future__ import annotations

from htcjob.errors import ConfigurationError


def chunk_bounds(*, array_index: int, array_size: int, n_entries: int) -> range:
    """
    Positions of the manifest entries that belong to one job of the array.

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
