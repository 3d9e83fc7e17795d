"""
Which lines of a manifest are entries, and the groups of lines by which entries are found.

Both have one meaning of an entry: `is_entry` tests a line, and `Grouper` counts at the speed of a checksum.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

from htcjob.errors import PermanentError

GROUP_BYTES = 16 * 1024
"""Bytes of all lines of a group, at most; a longer line is a group by itself."""

BOM = b"\xef\xbb\xbf"
"""Skipped at the beginning of a manifest."""

_NEWLINE = ord("\n")
_BEGIN_NO_ENTRY = b" \t\n\r\v\f#"
"""First bytes of lines that may not be entries."""
_MAYBE_NO_ENTRY = re.compile(rb"\n[\s#]")
"""The beginning of such a line behind another; most manifests have none, and are counted fast."""


class Group(NamedTuple):
    """Consecutive lines of the manifest."""

    number: int
    """Number among the groups, from 0."""
    position: int
    """Position of its first entry."""
    n_entries: int
    offset: int
    """Offset of its first line in the manifest."""
    size_bytes: int
    """Length of its lines together."""
    line_number: int
    """Number of its first line, from 1."""
    weight_before: int = 0
    """Size of the objects of all entries before it, in bytes, where sizes are known."""

    @property
    def stop(self) -> int:
        """Offset of the line that follows it."""
        return self.offset + self.size_bytes


def is_entry(line: bytes) -> bool:
    """Whether a line, without a byte order mark, is an entry: neither blank nor a comment."""
    return bool(line.strip()) and not line.startswith(b"#")


class Grouper:
    """
    Cuts a manifest that comes piece by piece into groups, counts its entries, and computes its SHA-256.

    About ten bytes for each group are in memory, and no line that is longer than one.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._begins_file = True
        """Whether no group is closed yet: the next one may begin with a byte order mark."""
        self._tail = b""
        """The lines that are in no group yet, of which the last may not have ended."""
        self._long_line = _LongLine()
        self.size_bytes = 0
        """Bytes fed so far."""
        self.group_bytes = array("I")
        """Length of each group."""
        self.group_entries = array("H")
        """Entries in each group."""
        self.group_lines = array("H")
        """Lines in each group."""
        self._positions: array[int] = array("Q")
        self._offsets: array[int] = array("Q")
        self._line_numbers: array[int] = array("Q")
        """All three: where each group begins, and where the group after the last would; set by `finish`."""

    @property
    def n_entries(self) -> int:
        """Entries in the manifest; known after `finish`."""
        return self._positions[-1]

    @property
    def sha256(self) -> str:
        """Digest of the manifest, in hexadecimal."""
        return self._digest.hexdigest()

    def feed(self, data: bytes) -> None:
        """Add the next bytes of the manifest."""
        self._digest.update(data)
        self.size_bytes += len(data)
        if self._long_line.size_bytes:
            stop = data.find(b"\n") + 1
            self._long_line.add(data[:stop] if stop else data)
            if not stop:
                return
            self._end_long_line()
            data = data[stop:]
        self._tail = self._cut(self._tail + data if self._tail else data)

    def finish(self) -> None:
        """Close the last group, at the end of the manifest."""
        if self._long_line.size_bytes:
            self._end_long_line()
        if self._tail:
            self._close(self._tail, 0, len(self._tail), may_have_others=True)
        self._tail = b""
        self._positions = array("Q", accumulate(self.group_entries, initial=0))
        self._offsets = array("Q", accumulate(self.group_bytes, initial=0))
        self._line_numbers = array("Q", accumulate(self.group_lines, initial=1))

    def group_of(self, position: int) -> Group:
        """Return the group that has the entry at *position*; known after `finish`."""
        number = bisect_right(self._positions, position) - 1
        return Group(
            number,
            self._positions[number],
            self.group_entries[number],
            self._offsets[number],
            self.group_bytes[number],
            self._line_numbers[number],
        )

    def _cut(self, data: bytes) -> bytes:
        """Close the groups whose end is certain, and return the bytes that are left."""
        may_have_others = self._begins_file or _MAYBE_NO_ENTRY.search(data) is not None
        start = 0
        while len(data) - start > GROUP_BYTES:
            stop = data.rfind(b"\n", start, start + GROUP_BYTES) + 1
            if stop <= start:
                stop = data.find(b"\n", start + GROUP_BYTES) + 1
                if not stop:
                    self._long_line.add(data[start:], begins_file=self._begins_file)
                    self._begins_file = False
                    return b""
            self._close(data, start, stop, may_have_others=may_have_others)
            start = stop
        return data[start:]

    def _close(self, data: bytes, start: int, stop: int, *, may_have_others: bool) -> None:
        """Make a group of the whole lines from *start* to *stop* in *data*."""
        n_lines = data.count(b"\n", start, stop) + (data[stop - 1] != _NEWLINE)
        n_entries = n_lines
        if (
            self._begins_file
            or data[start] in _BEGIN_NO_ENTRY
            or (may_have_others and _MAYBE_NO_ENTRY.search(data, start, stop))
        ):
            n_entries = _count_entries(data[start:stop], begins_file=self._begins_file)
        self._begins_file = False
        self._add_group(stop - start, n_entries, n_lines)

    def _end_long_line(self) -> None:
        line, self._long_line = self._long_line, _LongLine()
        self._add_group(line.size_bytes, int(line.is_entry), 1)

    def _add_group(self, size_bytes: int, n_entries: int, n_lines: int) -> None:
        try:
            self.group_bytes.append(size_bytes)
        except OverflowError:
            raise PermanentError(
                "index", "manifest", f"a line of {size_bytes} bytes is too long for an index"
            ) from None
        self.group_entries.append(n_entries)
        self.group_lines.append(n_lines)


class _LongLine:
    """A line that is longer than a group: its length, and whether it is an entry."""

    def __init__(self) -> None:
        self.size_bytes = 0
        """Its length so far, with its line end; 0: there is no such line now."""
        self._is_comment = False
        self._is_blank = True

    @property
    def is_entry(self) -> bool:
        return not (self._is_blank or self._is_comment)

    def add(self, data: bytes, *, begins_file: bool = False) -> None:
        """Add more of the line, maybe its end."""
        content = data.removeprefix(BOM) if begins_file else data
        if self.size_bytes == 0:
            self._is_comment = content.startswith(b"#")
        self._is_blank = self._is_blank and not content.strip()
        self.size_bytes += len(data)


def _count_entries(group: bytes, *, begins_file: bool) -> int:
    """Return how many lines of a group are entries."""
    lines = (group.removeprefix(BOM) if begins_file else group).split(b"\n")
    return sum(map(is_entry, lines))
