"""One request over HTTP: whatever the other side does, it ends."""

import socket
import threading
from urllib.parse import urlsplit

import pytest

from htcjob.errors import PermanentError, TransientError
from htcjob.htc_api.web import LARGEST_ANSWER_BYTES, Host
from htcjob.supervise.bounded_call import is_any_left, within
from tests.support.servers.drip import HEAD, dripping

CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def ask(url, **options):
    return Host(urlsplit(url), {}, **options).ask("/x", {})


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 100 Continue\r\n", b"X: y\r\n"),
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),
        (HEAD + b"\r\n", b" "),
        (CHUNKED, b"1\r\n \r\n"),
        (CHUNKED + b"0\r\n", b"X: y\r\n"),
        (CHUNKED, b"1"),
    ],
    ids=["status", "header", "continue", "continue-headers", "body", "endless", "chunks", "trailer", "size"],
)
def test_what_trickles_in_for_ever_is_given_up(wait_until, first, then):
    """Each byte comes well within the time-out of a wait, and the whole never; the connection is closed."""
    with dripping(first, then) as server:
        with pytest.raises(TransientError, match=r"^GET .*/x: no whole answer within 0\.4 s$"):
            ask(server.url, whole_s=0.4)
        wait_until(lambda: server.left)
        wait_until(lambda: not is_any_left())


def test_an_answer_without_end_is_not_kept():
    """Above the limit it is given up, and for good."""
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    too_many = pytest.raises(PermanentError, match=f"more than {LARGEST_ANSWER_BYTES} bytes")
    with dripping(CHUNKED, piece, pause_s=0) as server, too_many:
        ask(server.url)


@pytest.mark.parametrize(
    "said",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"5\r\nab",
        HEAD + b"Content-Length: 5\r\n\r\nab",
    ],
)
def test_what_is_no_http_is_transient(said):
    """A connection that was cut looks the same."""
    with dripping(said) as server, pytest.raises(TransientError):
        ask(server.url)


def test_a_name_server_that_says_nothing_is_not_waited_for(monkeypatch):
    """The C library has no time-out that could be set."""
    says_nothing = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: says_nothing.wait())
    try:
        with pytest.raises(TransientError, match="no whole answer within"):
            ask("http://api.invalid", whole_s=0.2)
        assert is_any_left()
    finally:
        says_nothing.set()


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".org"])
def test_a_name_that_no_name_server_can_know_is_refused(host):
    """Python's own complaint is no OSError."""
    with pytest.raises(PermanentError, match="name server"):
        ask(f"http://{host}")


def test_a_call_within_its_time_returns_and_raises_as_called():
    """Whatever thread it was made in."""
    assert within(10, lambda: 5) == 5
    with pytest.raises(KeyError, match="x"):
        within(10, lambda: {}["x"])
