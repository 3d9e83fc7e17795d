"""Standard error that nobody reads holds nobody, and what was lost is said."""

import os
import pty
import socket
import subprocess
import sys
import termios

import pytest

from htcjob.logs import standard_error
from htcjob.logs.standard_error import BoundedWriter
from tests.support.clock import FakeClock
from tests.support.full_pipe import fill


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch):
    monkeypatch.setattr(standard_error, "WAIT_S", 0.05)


def drain(descriptor):
    """Read what there is."""
    os.set_blocking(descriptor, False)
    data = b""
    try:
        while piece := os.read(descriptor, 1 << 20):
            data += piece
    except BlockingIOError:
        pass
    return data.lstrip(b".")


def pipe():
    return os.pipe()


def socket_pair():
    return tuple(end.detach() for end in socket.socketpair())


@pytest.fixture(params=["pipe", "socket", "pipe of another user", "terminal"])
def ends(request, monkeypatch):
    """Where to read and where to write, and what makes it take nothing and take something again."""
    if request.param == "terminal":
        reader, writer = pty.openpty()
        stop, go_on = (
            (lambda: termios.tcflow(writer, termios.TCOOFF)),
            (lambda: termios.tcflow(writer, termios.TCOON)),
        )
    else:
        reader, writer = socket_pair() if request.param == "socket" else pipe()
        stop, go_on = (lambda: fill(writer)), (lambda: drain(reader))
    if request.param == "pipe of another user":
        monkeypatch.setattr(
            os, "open", lambda path, *_: (_ for _ in ()).throw(PermissionError(13, "denied", path))
        )
    yield reader, writer, stop, go_on
    os.close(reader)
    os.close(writer)


def test_nobody_is_held_and_what_was_lost_is_said(ends):
    """With a pipe, a socket, a terminal at ^S; the file stays as blocking as the command knows it."""
    reader, writer, stop, go_on = ends
    with BoundedWriter(writer) as out:
        out.write(b"first\n")
        assert drain(reader).split() == [b"first"]
        stop()
        for number in range(3):
            assert out.write(b"%d\n" % number) == 2
        go_on()
        out.write(b"last\n")
        assert os.get_blocking(writer)
        lines = drain(reader).splitlines()
    assert lines == [b"htcjob: warning: 3 lines are lost here: standard error took none for a while", b"last"]


def test_a_line_that_is_begun_is_ended_before_the_next():
    """However long it is, and however little is read at a time."""
    reader, writer = pipe()
    long = b"x" * 200_000 + b"\n"
    with BoundedWriter(writer) as out:
        out.write(long)
        out.write(b"lost\n")
        data = b""
        for _ in range(6):
            data += drain(reader)
            out.write(b"")
        out.write(b"last\n")
        data += drain(reader)
    assert (
        data == long + b"htcjob: warning: 1 lines are lost here: standard error took none for a while\nlast\n"
    )
    os.close(reader)
    os.close(writer)


def test_many_lines_wait_no_longer_than_one(monkeypatch):
    """Else each of a million would wait its moment; in the long run it is a small share of the time."""
    clock = FakeClock()
    monkeypatch.setattr(standard_error, "time", clock)
    monkeypatch.setattr(
        BoundedWriter, "_has_room", lambda _self, until: clock.move(max(until - clock.monotonic(), 0.0))
    )
    reader, writer = pipe()
    fill(writer)
    with BoundedWriter(writer) as out:
        for _ in range(1000):
            out.write(b"line\n")
        assert clock.monotonic() < 2 * standard_error.WAIT_S
        clock.move(1000)
        out.write(b"line\n")
        assert clock.monotonic() < 1000 + 3 * standard_error.WAIT_S
    os.close(reader)
    os.close(writer)


def test_another_file_in_its_place_is_written_to(tmp_path):
    """A program may send standard error elsewhere while we are there."""
    (reader, writer), path = pipe(), tmp_path / "log"
    with BoundedWriter(writer) as out:
        out.write(b"pipe\n")
        with path.open("wb") as file:
            os.dup2(file.fileno(), writer)
        out.write(b"file\n")
    assert path.read_bytes() == b"file\n"
    assert os.read(reader, 100) == b"pipe\n"
    assert os.read(reader, 100) == b"", "we hold the pipe open"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", ["full disk", "reader gone", "closed"])
def test_other_trouble_is_no_reason_for_more_talk(kind):
    """Nothing is raised, and nothing said."""
    reader, writer = pipe()
    if kind == "full disk":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    os.close(reader)
    if kind == "closed":
        os.close(writer)
    with BoundedWriter(writer) as out:
        assert out.write(b"line\n") == 5
        assert out.write(b"line\n") == 5
    if kind != "closed":
        os.close(writer)


WAYS = {
    "entries": (("run", "--log-level", "debug", "--each", "--", "true"), 0),
    "chunk": (("run", "--log-format", "json", "--", "sh", "-c", "exit 3"), 3),
    "usage": (("run", "--nonsense"), 64),
    "storage": (("storage", "cat", "task:absent"), 66),
    "command that talks": (("run", "--timeout", "1s", "--grace", "1s", "--", "sh", "-c", "echo x >&2"), 124),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_full_standard_error_ends_no_attempt_otherwise(htcjob, way):
    """Exit status and records are as if somebody read."""
    htcjob.entries("a", "b")
    reader, writer = pipe()
    fill(writer)
    arguments, status = WAYS[way]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "htcjob", *arguments],
            env=htcjob.variables,
            stdout=subprocess.DEVNULL,
            stderr=writer,
            timeout=120,
            check=False,
        )
        assert done.returncode == status
    finally:
        os.close(reader)
        os.close(writer)
    assert way != "entries" or htcjob.results() == {0: "done", 1: "done"}
