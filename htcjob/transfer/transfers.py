"""
The transfers of one attempt or command: retried, paced, counted, side by side.

    with Transfers(retry) as transfers:
        info = transfers.get(store, key, path)
        for result in transfers.each(lambda key: transfers.get(store, key, path_of(key)), keys):
            ...  # what get returned for each key, in order, or the HtcjobError it raised
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from htcjob.errors import HtcjobError, TransientError
from htcjob.storage.local.errors import Blame
from htcjob.storage.local.files import open_regular
from htcjob.transfer.pace import Pace
from htcjob.transfer.threads import LONGEST_WAIT_S, AbandonedError, ThreadPool

if TYPE_CHECKING:
    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import ObjectInfo, Store
    from htcjob.transfer.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

TRANSFERS = 32
"""Objects that move at once. Small ones wait for the network, not for us: 16 hide a round trip of 20 ms,
longer round trips need more."""

BYTES_UP = 128 << 20
"""Bytes of files on their way up at once: a small one is held in memory as a whole."""
LARGE_BYTES = 64 << 20
"""A file counts with no more than this: a larger one goes up in a bounded number of parts at once
(`storage/multipart.py`), and two such files are enough for any line."""

LONGEST_MOMENT_S = 0.5
"""Seconds after which a wait checks whether its transfer is still wanted."""


class Transfers:
    """
    Moves objects. May be used from any thread; everything of one attempt goes through one of these.

    When storage says "slow down", all transfers do (`Pace`). Counters count objects that arrived.

    Args:
        retry: How a transient failure is tried again.
        progress: Counts what arrives; may be replaced between two calls of `each`.
    """

    def __init__(self, retry: RetryPolicy, *, progress: Progress | None = None) -> None:
        self.progress = progress
        self.objects_got = 0
        self.objects_put = 0
        self.bytes_got = 0
        self.bytes_put = 0
        self._sleep = retry.sleep
        self._retry = replace(retry, sleep=self._wait)
        self._pool = ThreadPool(TRANSFERS)
        self._pace = Pace(
            most=TRANSFERS,
            first_pause_s=retry.first_wait_s,
            longest_pause_s=retry.longest_wait_s,
            longest_asked_s=retry.total_s,
        )
        self._written: set[Store] = set()
        """Stores that something was put into."""
        self._moving = 0
        """Transfers under way now."""
        self._bytes_up = 0
        self._changed = threading.Condition()
        """Guards all counters and the pace."""

    def __enter__(self) -> Transfers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        self._pool.__exit__()
        if kind is None:
            for store in self._written:  # what we report as done survives a power cut
                self._retry.call(store.sync)

    def get(self, store: Store, key: str, path: str) -> ObjectInfo:
        """
        Copy an object to the file *path* (`Store.get`).

        Raises:
            HtcjobError: for good, or after the retries.
        """
        info = self.call(lambda: store.get(key, path))
        with self._changed:
            self.objects_got += 1
            self.bytes_got += info.size_bytes
        self._arrived(info)
        return info

    def put(self, store: Store, path: str, key: str, *, sha256: str | None = None) -> ObjectInfo:
        """
        Copy the file *path* to *key* (`Store.put`), with its digest.

        The checksum that is returned is always the file's `sha256:…`. A file that is written to meanwhile is
        put again; when it never rests, that is a `TransientError`.

        Args:
            store: Where it goes.
            path: The file.
            key: Its name there.
            sha256: Its digest, in hexadecimal, where it is known already.

        Raises:
            HtcjobError: for good, or after the retries.
        """
        reading = Blame("put", store.url_of(key), file=path)
        hashed = None if sha256 is None else (_version(path, reading), sha256)

        def put() -> ObjectInfo:
            nonlocal hashed
            version = _version(path, reading)
            if hashed is None or hashed[0] != version:
                hashed = version, _sha256(path, reading)
            with self._turn(size_bytes=version.size_bytes):
                info = store.put(path, key, sha256=hashed[1])
            if _version(path, reading) != version:
                raise TransientError("put", store.url_of(key), f"{path} was written to while it was put")
            return replace(info, checksum=f"sha256:{hashed[1]}")

        info = self._retry.call(put)
        with self._changed:
            self._written.add(store)
            self.objects_put += 1
            self.bytes_put += info.size_bytes
        self._arrived(info)
        return info

    def call(self, request: Callable[[], T]) -> T:
        """
        Return what any other request returns; it is retried, and waits for its turn.

        Raises:
            HtcjobError: for good, or after the retries.
        """

        def in_turn() -> T:
            with self._turn():
                return request()

        return self._retry.call(in_turn)

    def each(self, act: Callable[[T], R], things: Iterable[T]) -> Generator[R | HtcjobError, None, None]:
        """
        Yield what *act* returns for each of *things*, in their order, or the `HtcjobError` that it raised.

        *act* runs side by side in threads and may use every method of this object but `each`. *things* is
        read in the calling thread, a bounded number ahead. When this generator is closed early
        (`contextlib.closing`), nothing more begins, and no thread writes any more when `close` returns. One
        thing alone needs no thread.
        """
        if self.progress is None:
            return self._pool.each(act, things)
        return self._pool.each(act, things, tick=self.progress.tick, tick_s=self.progress.tick_s)

    def _arrived(self, info: ObjectInfo) -> None:
        if self.progress is not None:
            self.progress.add(objects=1, size_bytes=info.size_bytes)

    @contextmanager
    def _turn(self, *, size_bytes: int = 0) -> Iterator[None]:
        """Wait until one more transfer may begin, and learn from how it ends."""
        size_bytes = min(size_bytes, LARGE_BYTES)
        self._begin(size_bytes)
        began_at = time.monotonic()
        try:
            yield
        except TransientError as error:
            if error.is_throttled:
                with self._changed:
                    self._pace.throttled(
                        began_at=began_at, now=time.monotonic(), retry_after_s=error.retry_after_s
                    )
            raise
        else:
            with self._changed:
                self._pace.succeeded(began_at=began_at)
        finally:
            with self._changed:
                self._moving -= 1
                self._bytes_up -= size_bytes
                self._changed.notify_all()

    def _begin(self, size_bytes: int) -> None:
        waited_until = float("-inf")
        while not self._pool.is_abandoned():
            with self._changed:
                begin_at = self._pace.begin_at
                pause_s = begin_at - time.monotonic() if begin_at > waited_until else 0.0
                if pause_s <= 0:
                    if self._moving < self._pace.at_once and self._bytes_up + size_bytes <= BYTES_UP:
                        self._moving += 1
                        self._bytes_up += size_bytes
                        return
                    self._changed.wait(LONGEST_WAIT_S)
                    continue
            # A stop signal ends all waiting: what is about to begin is the last try.
            waited_until = float("inf") if self._wait(pause_s) else begin_at
        raise AbandonedError

    def _wait(self, seconds: float) -> bool:
        """Wait as the retry policy does; return True, too, soon after the transfer is not wanted any more."""
        while seconds > 0:
            if self._sleep(min(seconds, LONGEST_MOMENT_S)) or self._pool.is_abandoned():
                return True
            seconds -= LONGEST_MOMENT_S
        return False


class _Version(NamedTuple):
    """The facts by which a file that has changed is known."""

    size_bytes: int
    changed_ns: int


def _version(path: str, reading: Blame) -> _Version:
    with reading:
        status = os.stat(path)
    return _Version(status.st_size, status.st_mtime_ns)


def _sha256(path: str, reading: Blame) -> str:
    digest, left = hashlib.sha256(), 0
    with open_regular(path, reading, follow_link=True) as (descriptor, status):
        left = status.st_size
        block_bytes = min(left + 1, 1 << 20)
        while True:
            with reading:
                block = os.read(descriptor, block_bytes)
            if not block:
                break
            digest.update(block)
            left -= len(block)
    if left:  # it grows or shrinks; or is one of /proc, which says 0 bytes and has more
        raise reading.changed()
    return digest.hexdigest()
