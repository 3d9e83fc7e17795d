"""Chunks: every position exactly once, whatever the array size."""

from bisect import bisect_left
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcjob.errors import ConfigurationError
from htcjob.manifest.chunk import Share, chunk_bounds, weighted_bounds


def chunks(n_entries: int, array_size: int) -> list[range]:
    return [
        chunk_bounds(array_index=index, array_size=array_size, n_entries=n_entries)
        for index in range(array_size)
    ]


@given(n_entries=st.integers(0, 5000), array_size=st.integers(1, 600))
def test_every_position_is_in_exactly_one_chunk(n_entries, array_size):
    """Put together, the chunks are all positions in order."""
    found = chunks(n_entries, array_size)
    assert [position for chunk in found for position in chunk] == list(range(n_entries))
    lengths = [len(chunk) for chunk in found]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@given(n_entries=st.integers(0, 10**12), array_size=st.integers(1, 10**9), data=st.data())
def test_neighbours_touch_at_any_scale(n_entries, array_size, data):
    """One chunk ends where the next begins, also with numbers that cannot be listed."""
    index = data.draw(st.integers(0, array_size - 1))
    chunk = chunk_bounds(array_index=index, array_size=array_size, n_entries=n_entries)
    if index == 0:
        assert chunk.start == 0
    if index == array_size - 1:
        assert chunk.stop == n_entries
    else:
        assert (
            chunk_bounds(array_index=index + 1, array_size=array_size, n_entries=n_entries).start
            == chunk.stop
        )


def test_the_tutorial_loses_one_of_5001_and_we_do_not():
    """5,001 entries over 1,000 jobs: the first job has six, and none is lost."""
    found = chunks(5001, 1000)
    assert [len(chunk) for chunk in found] == [6] + [5] * 999
    assert found[-1].stop == 5001


@pytest.mark.parametrize(("n_entries", "array_size"), [(0, 1), (0, 7), (3, 8)])
def test_fewer_entries_than_jobs_leaves_empty_chunks(n_entries, array_size):
    """The last chunks are empty, and that is no error."""
    assert [len(chunk) for chunk in chunks(n_entries, array_size)] == [1] * n_entries + [0] * (
        array_size - n_entries
    )


@pytest.mark.parametrize(
    ("index", "size", "n", "said"),
    [(0, 0, 1, "array size 0"), (3, 3, 9, "index 3"), (-1, 3, 9, "index -1"), (0, 1, -1, "-1 entries")],
)
def test_numbers_out_of_range_are_configuration_errors(index, size, n, said):
    """The message names the number that is wrong."""
    with pytest.raises(ConfigurationError, match=said):
        chunk_bounds(array_index=index, array_size=size, n_entries=n)


def weighted(sizes: list[int], array_size: int) -> list[range]:
    sums = list(accumulate(sizes, initial=0))
    return [
        weighted_bounds(
            Share(index, array_size, "bytes"),
            n_entries=len(sizes),
            weight=sums[-1],
            find=lambda weights: [bisect_left(sums, weight) for weight in weights],
        )
        for index in range(array_size)
    ]


SIZES = st.lists(st.sampled_from([0, 0, 1, 2, 7, 1000, 10**15]) | st.integers(0, 50), max_size=80)


@given(sizes=SIZES, array_size=st.integers(1, 100))
def test_every_position_is_in_exactly_one_weighted_chunk(sizes, array_size):
    """Put together, the chunks are all positions in order, whatever the sizes are."""
    found = weighted(sizes, array_size)
    assert [position for chunk in found for position in chunk] == list(range(len(sizes)))
    assert all(one.stop == other.start for one, other in pairwise(found))


@given(sizes=SIZES, array_size=st.integers(1, 100))
def test_no_weighted_chunk_is_heavier_than_its_part_and_the_largest_entry(sizes, array_size):
    """Equal bytes, as nearly as entries can be had whole."""
    for chunk in weighted(sizes, array_size):
        assert (
            sum(sizes[chunk.start : chunk.stop]) * array_size <= sum(sizes) + max(sizes) * array_size
            if sizes
            else not chunk
        )


def test_an_entry_belongs_to_the_part_that_its_first_byte_lies_in():
    """As in `docs/manifests.md`; inputs without a byte are shared by their number."""
    assert weighted([5, 5, 10, 20], 4) == [range(2), range(2, 3), range(3, 4), range(4, 4)]
    assert weighted([40, 0, 0], 2) == [range(1), range(1, 3)]
    assert weighted([0, 0, 0], 2) == [range(2), range(2, 3)]


def test_a_weighted_index_must_be_below_the_size():
    """As with equal numbers."""
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        weighted_bounds(
            Share(2, 2, "bytes"), n_entries=1, weight=1, find=lambda weights: [0 for _ in weights]
        )
