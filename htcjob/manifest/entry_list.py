"""Entries that were given on the command line, in place of a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from htcjob.manifest.entry import Entry, parse_entry


class EntryList:
    """Entries that were given on the command line, with the members of a `Manifest`."""

    def __init__(self, lines: Sequence[str]) -> None:
        """Hold *lines*, written as in a manifest."""
        self._lines = [line.encode(errors="surrogateescape") for line in lines]
        data = b"\n".join(self._lines)
        self.tag = self.sha256 = hashlib.sha256(data).hexdigest()
        self.size_bytes = len(data)
        self.url = f"entries:{self.tag[:12]}"
        self.n_entries = len(lines)
        # A run of its own, so that trying one entry by hand does not clash with the run of the manifest.
        self.default_run = f"entries-{self.tag[:12]}"

    def entries(self, chunk: range) -> Iterator[Entry]:
        """Yield the entries at the positions of *chunk*, in order."""
        for position in chunk:
            line = self._lines[position]
            yield parse_entry(line, position=position, line_number=position + 1, where="--entry")
