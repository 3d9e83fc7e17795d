"""A server that says what it is told to, whole or byte by byte, for as long as somebody listens."""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def dripping(first: bytes, then: bytes = b"", *, pause_s: float = 0.02) -> Iterator[Drip]:
    """Send *first* to everyone who asks, then *then* again and again, in pieces of *pause_s* each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        drip = Drip(server, first, then, pause_s)
        drip.thread.start()
        try:
            yield drip
        finally:
            drip.over.set()
            server.shutdown(socket.SHUT_RDWR)
            drip.thread.join()


class Drip:
    """Such a server."""

    def __init__(self, server: socket.socket, first: bytes, then: bytes, pause_s: float) -> None:
        self.url = f"http://127.0.0.1:{server.getsockname()[1]}"
        self.asked: list[bytes] = []
        """Heads of the requests."""
        self.over = threading.Event()
        self.left: list[bool] = []
        """One for each client that has closed its connection while it was spoken to."""
        self._server, self._first, self._then, self._pause_s = server, first, then, pause_s
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                self._speak(connection)

    def _speak(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (piece := connection.recv(4096)):
            head += piece
        self.asked.append(head)
        try:
            connection.sendall(self._first)
            for piece in itertools.repeat(self._then) if self._then else ():
                connection.sendall(piece)
                if self.over.wait(self._pause_s):
                    return
        except OSError:
            self.left.append(True)
