"""Copies the output of an attempt to its log, and passes it on line by line as it comes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import BinaryIO

LONGEST_LINE = 4096
"""Bytes; a longer line is passed on in pieces."""
LATE_S = 5.0
"""Seconds to wait for processes that still hold the output open when the attempt has ended."""


@asynccontextmanager
async def copied_to(log: BinaryIO, on_line: Callable[[str], None]) -> AsyncIterator[int]:
    """
    Yield a descriptor; everything written to it goes to *log*, and line by line to *on_line*.

    Afterwards all of it is there, except for the output of processes that outlive the attempt.
    """
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
    )
    copying = asyncio.create_task(_copy(reader, log, on_line))
    try:
        yield writing
    finally:
        os.close(writing)
        await asyncio.wait({copying}, timeout=LATE_S)
        copying.cancel()
        transport.close()


async def _copy(reader: asyncio.StreamReader, log: BinaryIO, on_line: Callable[[str], None]) -> None:
    rest = b""
    while piece := await reader.read(65536):
        log.write(piece)
        log.flush()
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) >= LONGEST_LINE:
            lines.append(rest)
            rest = b""
        for line in lines:
            on_line(line.decode(errors="replace").rstrip("\r"))
    if rest:
        on_line(rest.decode(errors="replace"))
