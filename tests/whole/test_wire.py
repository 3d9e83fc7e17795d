"""The fault proxy: what it breaks is broken as it says, and nothing else."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.wire.wire import FaultProxy

BODY = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """Gives `BODY`, and what is put."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        if "chunked" in self.path:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(BODY), 1000):
                piece = BODY[start : start + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(BODY)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.puts.append(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Notes what is put."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address) -> None:
        pass  # connections that the proxy cut


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.puts = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server):
    with FaultProxy(*server.server_address) as proxy:
        yield proxy


@pytest.fixture
def connection(proxy):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    yield connection
    connection.close()


def ask(connection, method="GET", path="/", **options) -> http.client.HTTPResponse:
    connection.request(method, path, **options)
    return connection.getresponse()


def status(connection) -> int:
    answer = ask(connection, "HEAD")
    answer.read()
    return answer.status


def test_what_is_not_struck_goes_through_unchanged(connection, proxy, server, wait_until):
    """Bodies with a length, chunked ones in both directions and none at all, on one connection."""
    assert ask(connection).read() == BODY
    assert (proxy.bytes_down, proxy.bytes_up) == (len(BODY), 0)
    socket = connection.sock
    assert ask(connection, path="/chunked").read() == BODY
    assert ask(connection, "HEAD").read() == b""
    assert ask(connection, "PUT", body=BODY).read() == BODY
    assert proxy.bytes_up == len(BODY)
    assert ask(connection, "PUT", body=iter([BODY, b"\n"]), encode_chunked=True).read() == BODY + b"\n"
    assert ask(connection).read() == BODY
    assert connection.sock is socket
    assert (proxy.requests, proxy.struck.total()) == (6, 0)
    wait_until(lambda: proxy.in_flight == 0)
    assert server.puts == [BODY, BODY + b"\n"]


def test_an_answer_of_the_proxy_keeps_the_connection(connection, proxy, server):
    """The body of the request is swallowed, the next request goes to the server."""
    proxy.faults.add("answer", status=429, code="Slow", times=2, retry_after_s=7)
    for options in ({"body": BODY}, {"body": iter([BODY]), "encode_chunked": True}):
        answer = ask(connection, "PUT", **options)
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert b"<Code>Slow</Code>" in answer.read()
    assert server.puts == []
    assert ask(connection, "PUT", body=b"x").read() == b"x"
    assert (proxy.requests, proxy.struck) == (3, {"answer": 2})


def test_an_answer_to_head_has_no_body(connection, proxy):
    """Or the next answer would begin in the middle of it."""
    proxy.faults.add("answer", times=1)
    assert status(connection) == 503
    assert ask(connection).read() == BODY


def test_a_truncated_body_has_the_right_length_in_its_head(connection, proxy):
    """So that only a client that counts notices."""
    proxy.faults.add("truncate", at=1000, times=1)
    answer = ask(connection)
    assert answer.headers["Content-Length"] == str(len(BODY))
    with pytest.raises(http.client.IncompleteRead) as error:
        answer.read()
    assert error.value.partial == BODY[:1000]
    connection.close()
    assert ask(connection).read() == BODY
    assert proxy.struck == {"truncate": 1}


@pytest.mark.parametrize("kind", ["reset", "lose", "drop"])
def test_a_reset_is_a_reset(connection, proxy, server, wait_until, kind):
    """In the answer's body, instead of the answer, or before the server hears of the request."""
    proxy.faults.add(kind, at=2, times=1)
    with pytest.raises(ConnectionResetError):
        ask(connection, "PUT", body=b"12345").read()
    connection.close()
    assert server.puts == ([] if kind == "drop" else [b"12345"])
    assert ask(connection).read() == BODY
    assert proxy.struck == {kind: 1}
    wait_until(lambda: proxy.in_flight == 0)


def test_one_byte_is_corrupted_in_either_direction(connection, proxy, server):
    """At its place, and the rest is right."""
    wrong = BODY[:5000] + bytes([BODY[5000] ^ 1]) + BODY[5001:]
    proxy.faults.add("corrupt", at=5000, method="GET")
    proxy.faults.add("corrupt_request", at=5000, method="PUT")
    assert ask(connection).read() == wrong
    assert ask(connection, "PUT", body=BODY).read() == wrong
    assert ask(connection, "PUT", body=b"short").read() == b"short"
    assert server.puts == [wrong, b"short"]
    assert proxy.struck == {"corrupt": 1, "corrupt_request": 1}


def test_a_stalled_connection_says_nothing(proxy, server):
    """The client's own timeout is all that ends it."""
    proxy.faults.add("stall", path="/slow")
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=0.2)
    with pytest.raises(TimeoutError):
        ask(connection, "PUT", "/slow", body=b"x")
    assert (proxy.in_flight, server.puts) == (1, [])
    connection.close()


def test_a_refused_connection_comes_back_at_the_same_port(connection, proxy):
    """As a server does that was started again."""
    ask(connection).read()
    with proxy.refusing():
        with pytest.raises(ConnectionError):
            ask(connection)
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            ask(connection)
        connection.close()
    assert ask(connection).read() == BODY


def test_the_same_seed_strikes_the_same_requests(proxy, connection):
    """A share of requests fails, and a test that failed can be repeated."""
    seen = []
    for _ in range(2):
        proxy.faults.clear()
        proxy.faults.add("answer", probability=0.3, seed=7)
        seen.append([status(connection) for _ in range(50)])
    assert seen[0] == seen[1]
    assert 5 < seen[0].count(503) < 25


def test_a_far_server_costs_the_round_trip_and_not_the_bandwidth(server):
    """Each request takes at least the delay; side by side they wait side by side, and bodies are whole."""
    with FaultProxy(*server.server_address, round_trip_s=0.1) as proxy:

        def fetch() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
            for _ in range(3):
                began = time.monotonic()
                assert ask(connection).read() == BODY
                waits.append(time.monotonic() - began)
            connection.close()

        waits: list[float] = []
        threads = [threading.Thread(target=fetch) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(waits) == 96
        assert min(waits) >= 0.1
        assert proxy.most_in_flight > 16


def test_what_is_not_http_goes_through(server):
    """A TLS connection is not looked into."""
    import socket

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        FaultProxy(*listener.getsockname()) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as client,
    ):
        client.sendall(b"\x16hello")
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(10)
            assert accepted.recv(100) == b"\x16hello"
            accepted.sendall(b"\x16back")
            assert client.recv(100) == b"\x16back"
