"""Sorts lines on disk, in bounded memory."""

from __future__ import annotations

import heapq
import os
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

IN_MEMORY = 100_000
"""Lines at a time, or fewer where they are long."""
IN_MEMORY_BYTES = 16 * 1024 * 1024
"""Bytes of such lines together, exceeded by one line at most."""
MOST_RUNS = 200
"""Files of sorted lines that are open at a time; a process may have 1,024 files or less."""


class SortedLines:
    """
    Takes lines in any order, yields them ordered by their bytes.

    Args:
        folder: A directory for its files; the caller removes it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lines: list[bytes] = []
        self._size_bytes = 0
        """Bytes of these lines together."""
        self._runs: list[str] = []
        self._n_files = 0

    def add(self, line: bytes) -> None:
        """Take a line, which has no line end."""
        self._lines.append(line + b"\n")
        self._size_bytes += len(line)
        if len(self._lines) >= IN_MEMORY or self._size_bytes >= IN_MEMORY_BYTES:
            self._write_run()

    def __iter__(self) -> Iterator[bytes]:
        self._lines.sort()
        with ExitStack() as stack:
            files: list[IO[bytes]] = [stack.enter_context(open(path, "rb")) for path in self._runs]
            for line in heapq.merge(*files, self._lines):
                yield line[:-1]

    def _write_run(self) -> None:
        self._lines.sort()
        self._runs.append(self._write(self._lines))
        self._lines.clear()
        self._size_bytes = 0
        if len(self._runs) >= MOST_RUNS:
            runs, self._runs = self._runs, []
            with ExitStack() as stack:
                merged = heapq.merge(*[stack.enter_context(open(path, "rb")) for path in runs])
                self._runs.append(self._write(merged))
            for path in runs:
                os.unlink(path)

    def _write(self, lines: Iterable[bytes]) -> str:
        path = os.path.join(self._folder, f"sorted-{self._n_files}")
        self._n_files += 1
        with open(path, "wb") as file:
            file.writelines(lines)
        return path
