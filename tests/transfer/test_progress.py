"""Progress: a live line for people, few log lines for everybody else, no thread and no timer."""

import io
import logging
import threading

import pytest

from htcjob.logs import events as logs
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore
from htcjob.transfer.progress import ERASE, Progress, size_in_words
from htcjob.transfer.transfers import Transfers


class Terminal(io.StringIO):
    """Standard error of a person."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log():
    stream = io.StringIO()
    logs.set_up(log_format="text", level="info", stream=stream)
    return stream


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    logs.set_up(log_format="text", level="info", stream=stream)
    return stream


def test_what_is_quick_says_nothing(log, clock):
    """Most stage-ins end before anybody could wonder."""
    with Progress("stage_in", objects=1000, stream=log, clock=clock) as progress:
        for n in range(1000):
            clock.now = 100 + n * 0.0299
            progress.add(objects=1, size_bytes=10)
    assert log.getvalue() == ""


def test_elsewhere_one_line_every_30_seconds(log, clock):
    """With what is done, what there is in all, and the time."""
    with Progress("stage_in", objects=1000, stream=log, clock=clock) as progress:
        for n in range(1000):
            clock.now = 100 + n / 10
            progress.add(objects=1, size_bytes=10)
    lines = log.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].endswith(
        "INFO transfer_progress what=stage_in objects=301 objects_in_all=1000 size_bytes=3010 elapsed_s=30.0"
    )
    assert "elapsed_s=90" in lines[2]


def test_whoever_waits_for_one_large_file_shows_it_too(log, clock):
    """Nothing arrives for two minutes; a line comes all the same."""
    with Progress("stage_out", stream=log, clock=clock) as progress:
        assert progress.tick_s == 30
        for clock.now in (110, 131, 140, 165):
            progress.tick()
    assert [line.split("elapsed_s=")[1] for line in log.getvalue().splitlines()] == ["31.0", "65.0"]


def test_a_total_may_grow_while_the_list_is_read(log, clock):
    """Nobody counts a listing before it is used."""
    with Progress("get", stream=log, clock=clock) as progress:
        progress.expect(objects=1, size_bytes=100)
        progress.expect(objects=1, size_bytes=50)
        clock.now += 30
        progress.add(objects=1, size_bytes=100)
    assert "objects=1 objects_in_all=2 size_bytes=100 size_bytes_in_all=150" in log.getvalue()


def test_a_terminal_gets_one_live_line(terminal, clock):
    """Redrawn in its place a few times a second, and gone at the end."""
    with Progress("get", objects=10, size_bytes=40_000_000, stream=terminal, clock=clock) as progress:
        for n in range(10):
            clock.now = 100 + n / 4
            progress.add(objects=1, size_bytes=4_000_000)
    shown = terminal.getvalue()
    states = shown.split(ERASE)[1:]
    assert states[0] == "get 3/10 files, 12.0 MB/40.0 MB, 24.0 MB/s, 0 s"
    assert states[-2] == "get 10/10 files, 40.0 MB/40.0 MB, 17.8 MB/s, 2 s"
    assert states[-1] == ""
    assert "\n" not in shown
    assert len(states) == 9


def test_a_log_line_does_not_run_into_the_live_line(terminal, clock):
    """The line is cleared first, and comes back."""
    with Progress("get", stream=terminal, clock=clock) as progress:
        clock.now += 1
        progress.add(objects=1)
        logs.event(logging.getLogger("htcjob.x"), logging.WARNING, "retry", number=1)
        clock.now += 1
        progress.add(objects=1)
    live, warning, again, end = terminal.getvalue().split(ERASE)[1:]
    assert live.startswith("get 1 files")
    assert warning.endswith("WARNING retry number=1\n")
    assert again.startswith("get 2 files")
    assert end == ""
    logs.event(logging.getLogger("htcjob.x"), logging.WARNING, "later")
    assert terminal.getvalue().endswith("WARNING later\n")


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_terminal_that_cannot_gets_log_lines(terminal, clock, monkeypatch, term):
    """An editor's shell shows escape codes as they are."""
    monkeypatch.delenv("TERM")
    if term:
        monkeypatch.setenv("TERM", term)
    with Progress("get", stream=terminal, clock=clock) as progress:
        clock.now += 30
        progress.add(objects=1)
    assert "transfer_progress" in terminal.getvalue()
    assert "\033" not in terminal.getvalue()


def test_a_closed_standard_error_is_no_failure(monkeypatch, clock):
    """Neither none at all, nor one that goes away."""
    monkeypatch.setattr("sys.stderr", None)
    with Progress("get", clock=clock) as progress:
        clock.now += 100
        progress.add(objects=1)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress("get", stream=stream, clock=clock) as progress:
        stream.isatty = lambda: True
        stream.close()
        clock.now += 100
        progress.add(objects=1)


def test_threads_may_add_at_the_same_time(log, clock):
    """No object is lost between two of them."""
    with Progress("get", stream=log, clock=clock) as progress:
        threads = [
            threading.Thread(target=lambda: [progress.add(objects=1, size_bytes=2) for _ in range(2000)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clock.now += 30
        progress.tick()
    assert "objects=16000 size_bytes=32000" in log.getvalue()


def test_transfers_tell_what_arrived(log, clock, tmp_path):
    """Both ways."""
    (tmp_path / "a").write_bytes(b"12345")
    store = MemoryStore("far")
    with Progress("get", stream=log, clock=clock) as progress:
        with Transfers(RetryPolicy(), progress=progress) as transfers:
            transfers.put(store, str(tmp_path / "a"), "k")
            list(transfers.each(lambda n: transfers.get(store, "k", str(tmp_path / n)), "bcd"))
        clock.now += 30
        progress.tick()
    assert "objects=4 size_bytes=20" in log.getvalue()


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_540_000, "1.5 MB"),
        (2e9, "2.0 GB"),
        (5e12, "5.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes_in_words(size_bytes, words):
    """Decimal, as the clouds count."""
    assert size_in_words(size_bytes) == words
