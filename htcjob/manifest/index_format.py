"""
The index of a manifest, byte by byte: read and checked here, written by `index_writer`.

The format is described in docs/manifest-index.md, so that other programs can read it. `<manifest>.idx` has a
head with a table of its pages, pages with a row for each group of lines, and maybe the size of every entry.
One module, because the place of each of these follows from the numbers of the others.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from htcjob.errors import UnusableIndexError
from htcjob.manifest.groups import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIX = ".idx"
"""Behind the key of a manifest, it makes the key of its index."""

MOST_PAGES = 512
"""Pages at most, so that the head stays small."""
PAGE_GROUPS = 128
"""Groups in a page at least; more where there would be too many pages."""
LONGEST_TAG_BYTES = 512
HEAD_BYTES = 9 * 1024
"""No head is longer: one read of this length has all of it, and all of a small index."""
SIZE_BYTES = 8
"""Length of the size of one entry."""

MAGIC = b"\x89HTCIDX\n"
VERSION = 1
HAS_SIZES = 1

HEAD = struct.Struct("<8sHHIQQ32sQQIIII")
TABLE_ROW = struct.Struct("<QQ")
PAGE_START = struct.Struct("<QQQQ")
GROUP_ROW = struct.Struct("<IHHQ")
CRC = struct.Struct("<I")


class HeadFields(NamedTuple):
    """The numbers that the head begins with, in the order of `HEAD`."""

    magic: bytes
    version: int
    flags: int
    head_bytes: int
    index_bytes: int
    manifest_bytes: int
    sha256: bytes
    n_entries: int
    weight: int
    n_groups: int
    page_groups: int
    n_pages: int
    tag_bytes: int

    @property
    def length(self) -> int:
        """The length that an index with this head must have."""
        length = pages_stop(self.head_bytes, self.n_groups, self.page_groups)
        if self.flags & HAS_SIZES:
            length += self.n_entries * SIZE_BYTES + self.n_groups * CRC.size
        return length


class Head(NamedTuple):
    """What an index tells of its manifest, and where its pages are."""

    index_bytes: int
    """Length of the index."""
    manifest_bytes: int
    """Length of the manifest."""
    sha256: str
    """Digest of the manifest, in hexadecimal."""
    tag: str
    """Tag of the version of the manifest that it was made of (`ObjectInfo.tag`)."""
    n_entries: int
    """Entries in the manifest."""
    weight: int | None
    """Size of all entries together, in bytes; None: the index has no sizes."""
    n_groups: int
    page_groups: int
    """Groups in a page; fewer in the last one."""
    head_bytes: int
    positions: list[int]
    """Position of the first entry of each page."""
    weights: list[int]
    """Size of all entries before each page."""

    @property
    def page_bytes(self) -> int:
        """Length of every page but the last."""
        return page_length(self.page_groups)

    @property
    def pages_stop(self) -> int:
        """Offset at which the last page ends, and the sizes begin."""
        return pages_stop(self.head_bytes, self.n_groups, self.page_groups)

    def page_bounds(self, page: int) -> tuple[int, int]:
        """Return the offsets at which a page begins and ends in the index."""
        start = self.head_bytes + page * self.page_bytes
        return start, min(start + self.page_bytes, self.pages_stop)

    def page_of(self, position: int) -> int:
        """Return the number of the page that has the group of *position*, which must be an entry's."""
        return bisect_right(self.positions, position) - 1

    def page_before(self, weight: int) -> int:
        """Return the last page before which the entries have less than *weight*, or else the first, 0."""
        return max(bisect_left(self.weights, weight) - 1, 0)

    def sizes_bounds(self, group: Group) -> tuple[int, int]:
        """Return the offsets at which the sizes of a group's entries, with their CRC, begin and end."""
        start = self.pages_stop + group.position * SIZE_BYTES + group.number * CRC.size
        return start, start + group.n_entries * SIZE_BYTES + CRC.size


class Page(NamedTuple):
    """
    A page of the index: a row for each of its groups, whose CRC was right.

    All lists but `entries` have one number more, for the group that would follow.
    """

    first: int
    """Number of its first group."""
    entries: Sequence[int]
    """Entries in each group."""
    positions: Sequence[int]
    """Position of the first entry of each group."""
    offsets: Sequence[int]
    """Offset of the first line of each group in the manifest."""
    line_numbers: Sequence[int]
    """Number of the first line of each group, from 1."""
    weights: Sequence[int]
    """Size of all entries before each group."""

    def group_of(self, position: int) -> Group:
        """Return the group that has the entry at *position*, which is on this page."""
        group = self._group(bisect_right(self.positions, position) - 1)
        if not group.position <= position < group.position + group.n_entries:
            raise UnusableIndexError(f"no group has position {position}")
        return group

    def group_before(self, weight: int) -> Group:
        """Return the last group before which the entries have less than *weight*, or else the first."""
        return self._group(max(bisect_left(self.weights, weight) - 1, 0))

    def _group(self, row: int) -> Group:
        row = min(row, len(self.entries) - 1)
        return Group(
            self.first + row,
            self.positions[row],
            self.entries[row],
            self.offsets[row],
            self.offsets[row + 1] - self.offsets[row],
            self.line_numbers[row],
            self.weights[row],
        )


def page_length(n_groups: int) -> int:
    """Return the length of a page of *n_groups* groups."""
    return PAGE_START.size + n_groups * GROUP_ROW.size + CRC.size


def pages_stop(head_bytes: int, n_groups: int, page_groups: int) -> int:
    """Return the offset at which the pages end."""
    full, rest = divmod(n_groups, page_groups)
    return head_bytes + full * page_length(page_groups) + (page_length(rest) if rest else 0)


def read_head(data: bytes, index_bytes: int) -> Head:
    """
    Return the head of an index.

    Args:
        data: Its first `HEAD_BYTES`, or all of a shorter one.
        index_bytes: Length of the object.

    Raises:
        UnusableIndexError: *data* is no index, or damaged, or of another version.
    """
    if len(data) < HEAD.size or not data.startswith(MAGIC):
        raise UnusableIndexError("it is not an index of a manifest")
    said = HeadFields(*HEAD.unpack_from(data))
    if said.version != VERSION:
        raise UnusableIndexError(f"version {said.version} is not supported, only {VERSION}")
    table_at = HEAD.size + said.tag_bytes
    table_stop = table_at + said.n_pages * TABLE_ROW.size
    if not table_stop + CRC.size == said.head_bytes <= len(data):
        raise UnusableIndexError("its head is damaged")
    _check(data[: said.head_bytes], "head")
    rows = list(TABLE_ROW.iter_unpack(data[table_at:table_stop]))
    head = Head(
        index_bytes=said.index_bytes,
        manifest_bytes=said.manifest_bytes,
        sha256=said.sha256.hex(),
        tag=data[HEAD.size : table_at].decode(errors="replace"),
        n_entries=said.n_entries,
        weight=said.weight if said.flags & HAS_SIZES else None,
        n_groups=said.n_groups,
        page_groups=said.page_groups,
        head_bytes=said.head_bytes,
        positions=[row[0] for row in rows],
        weights=[row[1] for row in rows],
    )
    if not _agree(said, head):
        raise UnusableIndexError("its numbers contradict each other")
    if not said.index_bytes == index_bytes == said.length:
        raise UnusableIndexError(f"it has {index_bytes} bytes, its head says {said.index_bytes}")
    return head


def _agree(said: HeadFields, head: Head) -> bool:
    """Whether the numbers of a head may all be true."""
    return (
        said.page_groups >= 1
        and said.n_pages == -(-said.n_groups // said.page_groups)
        and (said.n_groups > 0 or said.n_entries == 0)
        and _is_ascending(head.positions, said.n_entries)
        and _is_ascending(head.weights, said.weight)
    )


def _is_ascending(numbers: Sequence[int], largest: int) -> bool:
    """Whether *numbers* ascend from 0 to *largest* at most."""
    return not numbers or (numbers[0] == 0 and numbers == sorted(numbers) and numbers[-1] <= largest)


def read_page(data: bytes, page: int, head: Head) -> Page:
    """
    Return a page from its bytes.

    Raises:
        UnusableIndexError: it is damaged.
    """
    _check(data, f"page {page}")
    start, stop = head.page_bounds(page)
    if len(data) != stop - start:
        raise UnusableIndexError(f"its page {page} is damaged")
    position, offset, line_number, weight = PAGE_START.unpack_from(data)
    rows = list(GROUP_ROW.iter_unpack(data[PAGE_START.size : -CRC.size]))
    if not rows:
        raise UnusableIndexError(f"its page {page} is empty")
    sizes, entries, lines, weights = zip(*rows, strict=True)
    read = Page(
        page * head.page_groups,
        entries,
        list(accumulate(entries, initial=position)),
        list(accumulate(sizes, initial=offset)),
        list(accumulate(lines, initial=line_number)),
        list(accumulate(weights, initial=weight)),
    )
    if read.positions[-1] > head.n_entries or read.offsets[-1] > head.manifest_bytes:
        raise UnusableIndexError(f"its page {page} contradicts its head")
    return read


def find_weight(data: bytes, group: Group, weight: int) -> int:
    """
    Return the first position in *group*, or else the one behind it, before which entries have *weight*.

    Args:
        data: The group's sizes, with their CRC.
        group: The group; the entries before it have less.
        weight: In bytes.

    Raises:
        UnusableIndexError: they are damaged.
    """
    _check(data, f"sizes of group {group.number}")
    sizes = struct.unpack_from(f"<{group.n_entries}Q", data)
    sums = list(accumulate(sizes, initial=group.weight_before))
    return group.position + min(bisect_left(sums, weight), group.n_entries)


def weight_in(data: bytes, group: Group, position: int) -> int:
    """
    Return the size of all entries before *position*, which is in *group*.

    Args:
        data: The group's sizes, with their CRC.
        group: The group.
        position: In the manifest.

    Raises:
        UnusableIndexError: they are damaged.
    """
    _check(data, f"sizes of group {group.number}")
    sizes: tuple[int, ...] = struct.unpack_from(f"<{position - group.position}Q", data)
    return group.weight_before + sum(sizes)


def _check(data: bytes, what: str) -> None:
    """Compare the CRC at the end of *data*."""
    if len(data) < CRC.size or CRC.unpack(data[-CRC.size :])[0] != zlib.crc32(data[: -CRC.size]):
        raise UnusableIndexError(f"its {what} is damaged")
