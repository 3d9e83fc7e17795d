"""
How long storage may take: every request has a bound, by its progress and as a whole.

The limits of both engines, in seconds and bytes. Python's and reqwest's own timeouts begin anew with every
byte, so a server that gives one a second would hold a request for ever.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from htcjob.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
Piece = TypeVar("Piece", bytes, "bytes | memoryview")

STALLED_S = 60
"""A request is given up after this many seconds without an answer, or without a byte of it."""
SLOWEST_BYTES_PER_S = 1024
"""A request that moves fewer, but for its first `STALLED_S`, is given up as well."""
LISTING_S = 120
"""Bound for a thousand keys of a listing, and for the headers of an answer."""
COMPLETION_S = 600
"""Bound for S3 to put the parts of a large object together, which takes minutes."""
LARGEST_ANSWER_BYTES = 64 << 20
"""The largest answer that an SDK reads as a whole: errors, and listings, whose pages have a few MiB."""


class _ThisThread(threading.local):
    """The verb of a store that this thread carries out."""

    operation = ""
    """The verb; empty: nothing. Requests that are made meanwhile are htcjob's own."""


this_thread = _ThisThread()


def longest_s(size_bytes: int) -> float:
    """Return how many seconds *size_bytes* bytes may take."""
    return STALLED_S + size_bytes / SLOWEST_BYTES_PER_S


def paced(pieces: Iterable[Piece], most_bytes: int, operation: str, url: str) -> Iterator[Piece]:
    """
    Yield the *pieces* of an answer as they come, and no more once they are more than *most_bytes*.

    Raises:
        TransientError: they come too slowly.
    """
    began_at, size_bytes = time.monotonic(), 0
    for piece in pieces:
        size_bytes += len(piece)
        elapsed_s = time.monotonic() - began_at
        if elapsed_s > longest_s(size_bytes):
            raise TransientError(operation, url, f"only {size_bytes} bytes came in {elapsed_s:.0f} s")
        yield piece
        if size_bytes > most_bytes:
            return


def within(seconds: float, act: Callable[[], T], operation: str, url: str) -> T:
    """
    Return what *act* returns. It runs in a thread of its own, which is left alone when it takes too long.

    Raises:
        TransientError: it takes longer than that.
    """
    answer: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            answer.put((act(), None))
        except BaseException as error:
            answer.put((None, error))

    try:
        threading.Thread(target=run, name="htcjob-bounded", daemon=True).start()
    except RuntimeError as error:  # this machine gives no more threads
        raise TransientError(operation, url, str(error)) from None
    try:
        result, failure = answer.get(timeout=seconds)
    except Empty:
        raise TransientError(operation, url, f"no end after {seconds:.0f} s") from None
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value] # of *act*
