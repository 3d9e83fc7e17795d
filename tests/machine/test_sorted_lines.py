"""Sorting through files: what `sorted` would give."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.machine import sorted_lines as sorting
from htcjob.machine.sorted_lines import SortedLines

LINES = st.lists(st.binary(max_size=5).map(lambda line: line.replace(b"\n", b"\t")), max_size=100)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(lines=LINES, in_memory=st.integers(1, 40), most_runs=st.integers(2, 5))
def test_lines_come_in_the_order_of_their_bytes(tmp_path_factory, lines, in_memory, most_runs):
    """Whether they fit into memory, into a few files, or into more files than may be open."""
    folder = tmp_path_factory.mktemp("sorted")
    with patch.multiple(sorting, IN_MEMORY=in_memory, MOST_RUNS=most_runs):
        lines_sorted = SortedLines(str(folder))
        for line in lines:
            lines_sorted.add(line)
        assert list(lines_sorted) == sorted(lines, key=lambda line: line + b"\n")
        assert len(list(folder.iterdir())) <= most_runs


def test_only_so_many_lines_are_in_memory(tmp_path):
    """The others are in files."""
    with patch.object(sorting, "IN_MEMORY", 10):
        lines = SortedLines(str(tmp_path))
        for number in range(95):
            lines.add(b"%d" % (number % 7))
        written = sum(path.read_bytes().count(b"\n") for path in tmp_path.iterdir())
    assert written == 90


def test_long_lines_are_fewer_in_memory(tmp_path):
    """Lines may have 64 KiB: so many of them as of short ones would take gigabytes."""
    with patch.object(sorting, "IN_MEMORY_BYTES", 1000):
        lines = SortedLines(str(tmp_path))
        for _ in range(95):
            lines.add(bytes(100))
        written = sum(path.read_bytes().count(b"\n") for path in tmp_path.iterdir())
    assert written == 90


def test_no_line_is_lost_when_nothing_was_added(tmp_path):
    """An empty list is sorted too."""
    assert list(SortedLines(str(tmp_path))) == []
    with pytest.raises(StopIteration):
        next(iter(SortedLines(str(tmp_path))))
