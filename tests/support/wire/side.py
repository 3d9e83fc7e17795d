"""One end of a TCP connection through a proxy, reached after a delay."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress

_ON_THE_WAY_BYTES = 16 << 20
"""Most that is on its way in one direction of a connection: 10 ms at more than a gigabyte a second."""


class Side(asyncio.Protocol):
    """One end of a connection through the proxy, and what is on its way to it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        delay_s: float,
        receive: Callable[[bytes], None],
        lost: Callable[[], None],
    ) -> None:
        self._loop, self._delay_s = loop, delay_s
        self._receive, self._lost = receive, lost
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self._queue: deque[tuple[float, bytes | Callable[[], None]]] = deque()
        self._queued_bytes = 0
        self._is_clogged = self._is_other_paused = self._is_timer_set = False

    def connection_made(self, transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=1 << 20)
        self.transport = transport
        self._deliver()

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None  # which has no loop any more that could abort it
        self._queue.clear()
        self._lost()

    def pause_writing(self) -> None:
        self._is_clogged = True
        self._slow_other()

    def resume_writing(self) -> None:
        self._is_clogged = False
        self._slow_other()

    def send(self, data: bytes) -> None:
        """Deliver *data* after the delay."""
        self._queued_bytes += len(data)
        self._enqueue(data)

    def end(self, *, is_reset: bool = False) -> None:
        """Close the connection once everything sent before has been delivered."""
        self._enqueue(self.reset if is_reset else self._close)

    def reset(self) -> None:
        """End the connection with a TCP reset, now."""
        if self.transport is not None:
            linger = struct.pack("ii", 1, 0)
            with suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            self.transport.abort()

    def _close(self) -> None:
        self.transport.close()

    def _enqueue(self, thing: bytes | Callable[[], None]) -> None:
        self._queue.append((self._loop.time() + self._delay_s, thing))
        self._slow_other()
        if not self._is_timer_set:
            self._deliver()

    def _deliver(self) -> None:
        self._is_timer_set = False
        if self.transport is None or self.transport.is_closing():
            return
        now = self._loop.time()
        while self._queue and self._queue[0][0] <= now:
            _, thing = self._queue.popleft()
            if isinstance(thing, bytes):
                self._queued_bytes -= len(thing)
                self.transport.write(thing)
            else:
                thing()
                return
        self._slow_other()
        if self._queue:
            self._is_timer_set = True
            self._loop.call_at(self._queue[0][0], self._deliver)

    def _slow_other(self) -> None:
        """Let the sender wait while too much is on its way to this side."""
        should_pause = self._is_clogged or self._queued_bytes > _ON_THE_WAY_BYTES
        source = self.other.transport if self.other else None
        if should_pause != self._is_other_paused and source is not None and not source.is_closing():
            self._is_other_paused = should_pause
            (source.pause_reading if should_pause else source.resume_reading)()
