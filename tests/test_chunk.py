"""Chunks: every position exactly once, whatever the array size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcjob.chunk import chunk_bounds
from htcjob.errors import ConfigurationError


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
