"""
A TCP proxy on loopback that makes a connection worse: far away, slow, broken, or answering for the server.

    with FaultProxy("127.0.0.1", server_port) as proxy:
        proxy.faults.add("answer", status=503, code="SlowDown", probability=0.2, seed=1)
        ...  # talk to proxy.url
        assert proxy.struck["answer"] == retries_seen
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

KINDS = frozenset({"answer", "stall", "drop", "lose", "reset", "truncate", "corrupt", "corrupt_request"})
_ON_THE_WAY_BYTES = 16 << 20
"""Most that is on its way in one direction of a connection: 10 ms at more than a gigabyte a second."""
_TLS_HANDSHAKE = 22
"""First byte of every TLS connection (RFC 8446 §5.1); what follows cannot be read, only delayed."""


@dataclass
class _Fault:
    """One line of the plan."""

    kind: str
    draw: Callable[[], float]
    probability: float
    left: float
    method: str | None
    path: str
    at: int
    status: int
    code: str
    retry_after_s: int | None


class Faults:
    """
    What goes wrong, and how often; empty at first. May be changed at any time, from any thread.

    Every request that a line concerns draws from that line; of those that are due the first one strikes.
    """

    def __init__(self) -> None:
        self._plan: list[_Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        kind: str,
        *,
        probability: float = 1.0,
        seed: int = 0,
        times: float = float("inf"),
        method: str | None = None,
        path: str = "",
        at: int = 0,
        status: int = 503,
        code: str = "SlowDown",
        retry_after_s: int | None = None,
    ) -> None:
        """
        Plan a fault.

        Args:
            kind: `answer`: the proxy answers, the server hears nothing. `stall`: silence for ever. `drop`:
                the connection is reset before the server hears of the request. `lose`: it is reset instead
                of the answer. `reset`, `truncate`: the connection is reset, or closed, after *at* bytes of
                the answer's body. `corrupt`, `corrupt_request`: byte *at* of the body is changed.
            probability: Of each request.
            seed: Of this line's own random numbers.
            times: How often it strikes at most.
            method: Concerns only requests with this method.
            path: Concerns only requests whose path and query contain this.
            at: Place in the body, from 0. A fault behind the end of a body has no effect and does not count.
            status: Of an `answer`.
            code: Of an `answer`, as S3 and Azure write it.
            retry_after_s: Of an `answer`.
        """
        if kind not in KINDS:
            raise ValueError(f"no kind {kind!r} in {sorted(KINDS)}")
        draw = random.Random(seed).random
        fault = _Fault(kind, draw, probability, times, method, path, at, status, code, retry_after_s)
        with self._lock:
            self._plan.append(fault)

    def clear(self) -> None:
        """Let everything through from now on."""
        with self._lock:
            self._plan.clear()

    def due(self, method: str, path: str) -> _Fault | None:
        """Give the fault that strikes this request."""
        struck = None
        with self._lock:
            for fault in self._plan:
                if fault.left <= 0 or fault.method not in (None, method) or fault.path not in path:
                    continue
                if fault.draw() < fault.probability and struck is None:
                    struck = fault
                    fault.left -= 1
        return struck


class FaultProxy:
    """
    Forwards a free port of 127.0.0.1 to *host* and *port*, from `__enter__` to `__exit__`.

    Args:
        host: Of the server.
        port: Of the server.
        round_trip_s: Added to every round trip, half in each direction; bandwidth is not limited, and
            connecting takes no longer.
    """

    def __init__(self, host: str, port: int, *, round_trip_s: float = 0.0) -> None:
        self.faults = Faults()
        self.requests = 0
        """Since the beginning, struck ones included."""
        self.struck: Counter[str] = Counter()
        """Faults that had an effect, by kind."""
        self.in_flight = 0
        """Requests that are not answered yet."""
        self.most_in_flight = 0
        """Largest number of them; may be set back."""
        self.upstream = host, port
        self.delay_s = round_trip_s / 2
        self.tasks: list[asyncio.Task[None]] = []
        """That connect to the server."""
        self.loop = asyncio.new_event_loop()
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse connections while the context lasts; those that are open are reset."""
        self._do(self._stop())
        try:
            yield
        finally:
            self._do(self._listen())

    def _do(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout=30)

    async def _listen(self) -> None:
        def accept() -> asyncio.Protocol:
            connection = _Connection(self)
            self._connections.add(connection)
            return connection.client

        self._server = await self.loop.create_server(accept, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        await asyncio.gather(*self.tasks)
        for connection in self._connections:
            connection.reset()
        await asyncio.sleep(0)  # connections are lost in the next round of the loop


class _Side(asyncio.Protocol):
    """One end of a connection through the proxy, and what is on its way to it."""

    def __init__(self, proxy: FaultProxy, receive: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._loop, self._delay_s = proxy.loop, proxy.delay_s
        self._receive, self._lost = receive, lost
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
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


class _Messages:
    """Takes the HTTP/1.1 messages of one direction apart; bodies are counted, not read."""

    def __init__(self) -> None:
        self.method = ""
        """Of the request that the next answer is for: HEAD's has no body."""
        self.offset = 0
        """Of the piece of a body, as it comes over the wire."""
        self._head = self._line = b""
        self._left: float = 0
        """Bytes until the body, or this chunk of it, ends."""
        self._is_in_body = self._is_chunked = self._is_trailer = False

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Give `head`s, pieces of a `body`, an empty `end` after each message, and `interim` answers."""
        while data:
            if self._is_in_body:
                n = self._in_body(data)
                piece, data = data[:n], data[n:]
                yield "body", piece
                self.offset += n
            else:
                self._head += data
                end = self._head.find(b"\r\n\r\n") + 4
                if end < 4:
                    return
                head, data, self._head = self._head[:end], self._head[end:], b""
                if head.startswith(b"HTTP/1.1 1"):
                    yield "interim", head
                    continue
                self._begin_body(head)
                yield "head", head
            if not (self._left or self._is_chunked):
                self._is_in_body = False
                yield "end", b""

    def _begin_body(self, head: bytes) -> None:
        self.offset, self._is_in_body, self._is_trailer = 0, True, False
        is_answer = head.startswith(b"HTTP/")
        has_none = is_answer and (self.method == "HEAD" or head[9:12] in (b"204", b"304"))
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        self._is_chunked = not has_none and b"\r\ntransfer-encoding: chunked" in head.lower()
        if has_none or self._is_chunked:
            self._left = 0
        else:
            self._left = int(length[1]) if length else float("inf") if is_answer else 0

    def _in_body(self, data: bytes) -> int:
        """Give how many bytes of *data* belong to this body."""
        at = 0
        while at < len(data) and (self._left or self._is_chunked):
            if self._left:
                n = int(min(self._left, len(data) - at))
                self._left -= n
                at += n
                continue
            end = data.find(b"\n", at) + 1 or len(data)  # a line with a chunk's size, or of the trailer
            self._line += data[at:end]
            at = end
            if self._line.endswith(b"\n"):
                line, self._line = self._line.strip(), b""
                if self._is_trailer:
                    self._is_chunked = bool(line)
                else:
                    size = int(line.split(b";")[0], 16)
                    self._is_trailer = size == 0
                    self._left = size + 2 if size else 0  # with its line break
        return at


class _Connection:
    """One client's connection, and our own one to the server."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self.client = _Side(proxy, self._from_client, self._client_lost)
        self._server = _Side(proxy, self._from_server, self._server_lost)
        self.client.other, self._server.other = self._server, self.client
        self._requests, self._answers = _Messages(), _Messages()
        self._is_begun = self._is_opaque = self._is_connecting = self._is_in_flight = False
        self._fault: _Fault | None = None

    def reset(self) -> None:
        """End both ends, now."""
        self.client.reset()
        self._server.reset()

    def _client_lost(self) -> None:
        self._answered()
        self._server.end()

    def _server_lost(self) -> None:
        self._answered()
        self.client.end()

    def _from_client(self, data: bytes) -> None:
        self._is_opaque = self._is_opaque or (not self._is_begun and data[0] == _TLS_HANDSHAKE)
        self._is_begun = True
        if self._is_opaque:
            self._to_server(data)
            return
        for what, piece in self._requests.feed(data):
            if what == "head":
                self._begin_request(piece)
                if self._is_struck_by("drop"):
                    self._strike()
                    self.client.reset()
                    return
                if self._is_struck_by("stall"):
                    self._strike()
            if self._is_struck_by("answer"):
                # Who waits for "100 Continue" sends no body after this answer.
                is_waiting = what == "head" and b"\r\nexpect:" in piece.lower()
                if what == "end" or is_waiting:
                    self._answer(is_last=is_waiting)
            elif what == "body" and self._is_struck_by("corrupt_request"):
                self._to_server(self._corrupted(piece, self._requests.offset))
            elif piece and not self._is_struck_by("stall"):
                self._to_server(piece)

    def _begin_request(self, head: bytes) -> None:
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        self._fault = self._proxy.faults.due(method, path)
        self._answers.method = method
        self._answered()
        self._is_in_flight = True
        self._proxy.requests += 1
        self._proxy.in_flight += 1
        self._proxy.most_in_flight = max(self._proxy.most_in_flight, self._proxy.in_flight)

    def _to_server(self, data: bytes) -> None:
        if not self._is_connecting:
            self._is_connecting = True
            self._proxy.tasks.append(self._proxy.loop.create_task(self._connect()))
        self._server.send(data)

    async def _connect(self) -> None:
        try:
            await self._proxy.loop.create_connection(lambda: self._server, *self._proxy.upstream)
        except OSError:
            self.client.reset()

    def _from_server(self, data: bytes) -> None:
        if self._is_opaque:
            self.client.send(data)
            return
        for what, piece in self._answers.feed(data):
            if what == "head" and self._is_struck_by("lose"):
                self._cut(is_reset=True)
                return
            if what == "body" and self._fault is not None:
                left = self._fault.at - self._answers.offset
                if self._is_struck_by("corrupt"):
                    piece = self._corrupted(piece, self._answers.offset)
                elif self._fault.kind in ("reset", "truncate") and left < len(piece):
                    self.client.send(piece[:left])
                    self._cut(is_reset=self._fault.kind == "reset")
                    return
            if piece:
                self.client.send(piece)
            if what == "end":
                self._answered()

    # Faults

    def _is_struck_by(self, kind: str) -> bool:
        return self._fault is not None and self._fault.kind == kind

    def _strike(self) -> None:
        self._proxy.struck[self._fault.kind] += 1

    def _cut(self, *, is_reset: bool) -> None:
        self._strike()
        self.client.end(is_reset=is_reset)
        self._server.reset()

    def _corrupted(self, piece: bytes, offset: int) -> bytes:
        place = self._fault.at - offset
        if not 0 <= place < len(piece):
            return piece
        self._strike()
        return piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]

    def _answer(self, *, is_last: bool) -> None:
        self._strike()
        fault = self._fault
        body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>planned</Message></Error>"
        head = [
            f"HTTP/1.1 {fault.status} {fault.code}",
            "Content-Type: application/xml",
            f"Content-Length: {len(body)}",
            f"x-ms-error-code: {fault.code}",
        ]
        head += [f"Retry-After: {fault.retry_after_s}"] if fault.retry_after_s is not None else []
        head += ["Connection: close"] if is_last else []
        text = "\r\n".join([*head, "", "" if self._answers.method == "HEAD" else body])
        self.client.send(text.encode())
        if is_last:
            self.client.end()
        self._answered()

    def _answered(self) -> None:
        self._proxy.in_flight -= self._is_in_flight
        self._is_in_flight = False
