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
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .messages import Messages
from .side import Side

KINDS = frozenset({"answer", "stall", "drop", "lose", "reset", "truncate", "corrupt", "corrupt_request"})
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
        self.bytes_up = self.bytes_down = 0
        """Bodies of requests and of answers, as they came to us, where they can be read (no TLS)."""
        self.struck: Counter[str] = Counter()
        """Faults that had an effect, by kind."""
        self.in_flight = 0
        """Requests that are not answered yet."""
        self.most_in_flight = 0
        """Largest number of them; may be set back."""
        self.gathers = 0
        """No answer is passed on before so many requests have been in flight at once."""
        self.upstream = host, port
        self.delay_s = round_trip_s / 2
        self.tasks: set[asyncio.Task[None]] = set()
        """That connect to the server: the loop itself keeps none of them alive."""
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

    def began_one(self) -> None:
        """Count a request in flight."""
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.most_in_flight == self.gathers:
            for connection in self._connections:
                connection.pass_on_held()

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
        # asyncio loses the socket of a connection that it is still accepting when the server is closed, and one
        # that is still connecting has nothing to reset.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        self._server.close()
        for connection in self._connections:
            connection.reset()
        await asyncio.sleep(0)  # connections are lost in the next round of the loop


class _Connection:
    """One client's connection, and our own one to the server."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self.client = Side(proxy.loop, proxy.delay_s, self._from_client, self._client_lost)
        self._server = Side(proxy.loop, proxy.delay_s, self._from_server, self._server_lost)
        self.client.other, self._server.other = self._server, self.client
        self._requests, self._answers = Messages(), Messages()
        self._is_begun = self._is_opaque = self._is_connecting = self._is_in_flight = False
        self._fault: _Fault | None = None
        self._held = b""
        """The beginning of an answer, for as long as requests gather."""

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
            if what == "body":
                self._proxy.bytes_up += len(piece)
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
        self._proxy.began_one()

    def _to_server(self, data: bytes) -> None:
        if not self._is_connecting:
            self._is_connecting = True
            task = self._proxy.loop.create_task(self._connect())
            self._proxy.tasks.add(task)
            task.add_done_callback(self._proxy.tasks.discard)
        self._server.send(data)

    async def _connect(self) -> None:
        try:
            await self._proxy.loop.create_connection(lambda: self._server, *self._proxy.upstream)
        except OSError:
            self.client.reset()

    def pass_on_held(self) -> None:
        """Pass on what was held while requests gathered."""
        held, self._held = self._held, b""
        if held:
            self._from_server(held)

    def _from_server(self, data: bytes) -> None:
        if self._proxy.most_in_flight < self._proxy.gathers:
            self._held += data
            return
        if self._is_opaque:
            self.client.send(data)
            return
        for what, piece in self._answers.feed(data):
            if what == "body":
                self._proxy.bytes_down += len(piece)
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
