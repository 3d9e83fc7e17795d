"""Transfers: side by side and in order, slowed down together, ended promptly, with nothing left running."""

import hashlib
import os
import signal
import threading
import time
from contextlib import closing

import pytest

from htcjob.errors import AbsentError, DeniedError, PermanentError, TransientError
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore
from htcjob.transfer import threads as pool_module
from htcjob.transfer import transfers as transfer
from htcjob.transfer.pace import Pace
from htcjob.transfer.threads import ThreadPool
from htcjob.transfer.transfers import TRANSFERS, Transfers


@pytest.fixture
def retry():
    return RetryPolicy(sleep=lambda _: False)


@pytest.fixture
def transfers(retry):
    with Transfers(retry) as transfers:
        yield transfers
    assert not ours()


@pytest.fixture
def store():
    return MemoryStore("far")


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "htcjob-transfer"]


def throttled(operation="get", url="u", reason="slow down", *, retry_after_s=None):
    return TransientError(operation, url, reason, is_throttled=True, retry_after_s=retry_after_s)


class Crowd:
    """Counts who is inside at once; lets nobody out before `enough` are in, or it is opened."""

    def __init__(self, enough: int) -> None:
        self.most = self._inside = 0
        self._enough = enough
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._inside += 1
            self.most = max(self.most, self._inside)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self.most >= self._enough, timeout=30)

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._inside -= 1


# each


def test_results_come_in_order_and_failures_are_values(transfers):
    """The answer belongs to its question, and one that fails does not hide the others."""

    def act(n: int) -> int:
        if n % 7 == 3:
            raise AbsentError("get", f"u{n}", "no such object")
        return n * n

    results = list(transfers.each(act, range(500)))
    for n, result in enumerate(results):
        if n % 7 == 3:
            assert isinstance(result, AbsentError)
            assert result.url == f"u{n}"
        else:
            assert result == n * n


def test_they_go_side_by_side(transfers):
    """As many at once as the limit says, and no more."""
    crowd = Crowd(TRANSFERS)

    def act(_: int) -> None:
        with crowd:
            pass

    list(transfers.each(act, range(3 * TRANSFERS)))
    assert crowd.most == TRANSFERS
    assert len(ours()) == TRANSFERS


def test_few_things_start_few_threads_and_one_starts_none(transfers):
    """One file of one entry is the common case."""
    assert list(transfers.each(lambda _: threading.current_thread(), [1])) == [threading.main_thread()]
    assert list(transfers.each(str, [])) == []
    assert not ours()
    assert threading.main_thread() not in list(transfers.each(lambda _: threading.current_thread(), [1, 2]))
    assert len(ours()) <= 2


def test_what_is_to_be_done_is_read_only_a_little_ahead(transfers):
    """A listing of a million names is never in memory."""
    read = 0

    def names():
        nonlocal read
        for n in range(5000):
            read += 1
            yield n

    ahead = 0
    for given, _ in enumerate(transfers.each(str, names())):
        ahead = max(ahead, read - given)
    assert read == 5000
    assert ahead <= TRANSFERS * pool_module.WINDOW_PER_THREAD


def test_a_failed_listing_is_raised_and_not_taken_for_its_end(transfers):
    """What comes before it is given; then its error leaves the iteration."""

    def names():
        yield from range(3)
        raise DeniedError("list", "u", "no")

    with pytest.raises(DeniedError):
        list(transfers.each(str, names()))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_ends_everything(transfers, error):
    """A bug, or Ctrl-C: nothing more begins, and nothing still runs when it is raised."""
    begun, ended = [], []

    def act(n: int) -> None:
        begun.append(n)
        time.sleep(0.001)
        ended.append(n)
        if n == 20:
            raise error

    with pytest.raises(error):
        list(transfers.each(act, range(10_000)))
    assert len(begun) < 1000
    assert sorted(begun) == sorted(ended)
    before = len(begun)
    assert list(transfers.each(str, range(100))) == [str(n) for n in range(100)]
    assert len(begun) == before


@pytest.mark.timeout(60)
def test_ctrl_c_does_not_wait_for_the_waits_between_tries(store, tmp_path):
    """Threads that wait for their next try, or for the end of everybody's pause, give up at once."""
    interrupt = iter([signal.SIGINT])

    def sleep(seconds: float) -> bool:
        for signum in interrupt:
            signal.pthread_kill(threading.main_thread().ident, signum)
        time.sleep(seconds)
        return False

    store.put_bytes(b"x", "k")
    store.faults.add(verb="get", error=lambda *facts: throttled(*facts, retry_after_s=100))
    with Transfers(RetryPolicy(sleep=sleep)) as transfers, pytest.raises(KeyboardInterrupt):
        list(transfers.each(lambda n: transfers.get(store, "k", str(tmp_path / str(n))), range(1000)))
    assert os.listdir(tmp_path) == []
    assert not ours()


@pytest.mark.timeout(60)
def test_ctrl_c_that_interrupts_no_wait_is_heard_all_the_same(transfers):
    """Delivered to another thread, as one that comes just before the main thread blocks, it wakes nobody."""
    is_heard, in_time = threading.Event(), []

    def act(n: int) -> None:
        if n == 0:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            in_time.append(is_heard.wait(30))

    results = transfers.each(act, range(2))
    before = signal.signal(signal.SIGINT, lambda *_: is_heard.set())
    try:
        assert list(results) == [None, None]
    finally:
        signal.signal(signal.SIGINT, before)
    assert in_time == [True]


def test_closing_early_ends_everything(transfers):
    """Who has seen enough leaves nothing running."""
    begun = []
    with closing(transfers.each(begun.append, range(10_000))) as results:
        next(results)
    seen = len(begun)
    assert seen < 1000
    list(transfers.each(str, range(100)))
    assert len(begun) == seen


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_a_machine_without_threads_goes_one_by_one(transfers, monkeypatch, allowed):
    """`can't start new thread` costs time, not the attempt."""
    plain_start = threading.Thread.start
    left = [allowed]

    def start(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        plain_start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert list(transfers.each(str, range(300))) == [str(n) for n in range(300)]
    assert len(ours()) == allowed


def test_whoever_waits_is_called_now_and_then():
    """So that progress is shown without a timer."""
    ticks = []
    go_on = threading.Event()

    def tick() -> None:
        ticks.append(threading.current_thread())
        if len(ticks) == 3:
            go_on.set()

    with ThreadPool(4) as pool:
        assert list(pool.each(lambda _: go_on.wait(30), range(2), tick=tick, tick_s=0.001)) == [True, True]
    assert ticks[:3] == [threading.main_thread()] * 3


# One object


def test_a_put_carries_the_digest_of_what_was_put(transfers, store, tmp_path):
    """The store is told it, and so is the caller; a known one is not computed again."""
    (tmp_path / "a").write_bytes(b"content" * 300_000)
    digest = hashlib.sha256(b"content" * 300_000).hexdigest()
    told = []
    plain_put = store.put

    def put(path, key, *, sha256=None):
        told.append(sha256)
        return plain_put(path, key, sha256=sha256)

    store.put = put
    assert transfers.put(store, str(tmp_path / "a"), "k").checksum == f"sha256:{digest}"
    assert transfers.put(store, str(tmp_path / "a"), "k", sha256="0" * 64).checksum == f"sha256:{'0' * 64}"
    assert told == [digest, "0" * 64]


def test_a_file_is_read_for_its_digest_once(transfers, store, tmp_path, monkeypatch):
    """However many tries the put takes; a file that changes between two tries is read again."""
    path = tmp_path / "a"
    path.write_bytes(b"1")
    hashed = []
    plain = transfer._sha256
    monkeypatch.setattr(transfer, "_sha256", lambda *args: hashed.append(args) or plain(*args))
    store.faults.add(verb="put", nth=1)
    store.faults.add(verb="put", nth=2)
    transfers.put(store, str(path), "k")
    assert len(hashed) == 1

    def change(operation, url, reason):
        path.write_bytes(b"22")
        return TransientError(operation, url, reason)

    store.faults.clear()
    store.faults.add(verb="put", nth=1, error=change)
    info = transfers.put(store, str(path), "k")
    assert info.checksum == f"sha256:{hashlib.sha256(b'22').hexdigest()}"
    assert store.read_range("k", 0) == b"22"


def test_a_file_that_cannot_be_read_is_named(transfers, store, tmp_path):
    """Neither a folder, nor what is not there, is worth a retry."""
    for name in ("", "absent"):
        with pytest.raises(PermanentError, match=str(tmp_path)):
            transfers.put(store, str(tmp_path / name), "k")


def test_what_arrived_is_counted(transfers, store, tmp_path):
    """Objects and bytes, each way; tries that failed are not."""
    (tmp_path / "a").write_bytes(b"12345")
    store.faults.add(verb="put", nth=1)
    store.faults.add(verb="get", nth=1)
    transfers.put(store, str(tmp_path / "a"), "k")
    transfers.get(store, "k", str(tmp_path / "b"))
    transfers.get(store, "k", str(tmp_path / "c"))
    with pytest.raises(AbsentError):
        transfers.get(store, "absent", str(tmp_path / "d"))
    assert (transfers.objects_put, transfers.bytes_put) == (1, 5)
    assert (transfers.objects_got, transfers.bytes_got) == (2, 10)
    assert transfers.call(lambda: store.head("k")).size_bytes == 5


@pytest.mark.parametrize(("size_bytes", "at_once"), [(10, TRANSFERS), (250, 4), (100_000, 2)])
def test_large_files_do_not_go_up_all_at_once(retry, store, tmp_path, monkeypatch, size_bytes, at_once):
    """Memory is bounded by bytes, not only by the number of files; small ones still go side by side."""
    monkeypatch.setattr(transfer, "BYTES_UP", 1000)
    monkeypatch.setattr(transfer, "LARGE_BYTES", 500)
    crowd = Crowd(at_once)
    plain_put = store.put

    def put(path, key, *, sha256=None):
        with crowd:
            return plain_put(path, key)

    store.put = put
    (tmp_path / "a").write_bytes(b"x" * size_bytes)
    with Transfers(retry) as transfers:
        list(transfers.each(lambda n: transfers.put(store, str(tmp_path / "a"), f"{n}"), range(64)))
    assert crowd.most == at_once


# Slowing down


class TestPace:
    """Decisions only: moments are given, nothing waits."""

    @staticmethod
    def pace(**members) -> Pace:
        defaults = {"most": 32, "first_pause_s": 1.0, "longest_pause_s": 8.0, "longest_asked_s": 120.0}
        return Pace(**{**defaults, "draw": lambda: 1.0, **members})

    def test_at_first_everything_goes(self):
        """Nothing waits, and successes change nothing."""
        pace = self.pace()
        for _ in range(100):
            pace.succeeded(began_at=0)
        assert (pace.at_once, pace.begin_at) == (32, float("-inf"))

    def test_of_a_burst_only_the_first_answer_slows_down(self):
        """Thirty-two refusals at once are one piece of news."""
        pace = self.pace()
        for n in range(32):
            pace.throttled(began_at=n / 100, now=1 + n / 100)
        assert (pace.at_once, pace.begin_at) == (16, 2.0)

    def test_each_refusal_of_the_new_pace_halves_it_again_and_doubles_the_pause(self):
        """Down to one at a time, and to the longest pause."""
        pace = self.pace()
        seen = []
        for now in (0, 10, 20, 30, 40, 50, 60):
            pace.throttled(began_at=now, now=now)
            seen.append((pace.at_once, pace.begin_at - now))
        assert seen == [(16, 1), (8, 2), (4, 4), (2, 8), (1, 8), (1, 8), (1, 8)]

    def test_pauses_are_random_below_their_bound(self):
        """A thousand jobs do not come back together."""
        pauses = set()
        for n in range(20):
            pace = self.pace(draw=lambda n=n: n / 20)
            pace.throttled(began_at=0, now=0)
            pauses.add(pace.begin_at)
        assert len(pauses) == 20
        assert 0 <= min(pauses) < max(pauses) <= 1

    @pytest.mark.parametrize(
        ("asked_s", "pause_s"), [(None, 1), (0.5, 1), (30, 30), (120, 120), (121, 1), (86400, 1)]
    )
    def test_the_other_sides_wish_is_kept_when_it_is_reasonable(self, asked_s, pause_s):
        """Retry-After of a day would be the end of the attempt; then tries fail, as fast as they come."""
        pace = self.pace()
        pace.throttled(began_at=0, now=0, retry_after_s=asked_s)
        assert pace.begin_at == pause_s

    def test_a_late_answer_can_still_ask_for_a_longer_wait(self):
        """It does not halve the pace again, but what it asks for is kept."""
        pace = self.pace()
        pace.throttled(began_at=0, now=1)
        pace.throttled(began_at=0, now=1.1, retry_after_s=5)
        assert (pace.at_once, pace.begin_at) == (16, pytest.approx(6.1))

    def test_with_each_round_of_successes_it_is_one_more(self):
        """Slowly up, to where it was and no further; old transfers that still succeed say nothing."""
        pace = self.pace(most=4)
        pace.throttled(began_at=0, now=1)
        pace.throttled(began_at=1, now=2)
        assert pace.at_once == 1
        for _ in range(10):
            pace.succeeded(began_at=1)
        assert pace.at_once == 1
        seen = []
        for _ in range(12):
            pace.succeeded(began_at=3)
            seen.append(pace.at_once)
        assert seen == [2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]

    def test_after_a_success_the_next_pause_is_a_first_one(self):
        """What was long ago is forgotten."""
        pace = self.pace()
        for now in (0, 10, 20):
            pace.throttled(began_at=now, now=now)
        pace.succeeded(began_at=30)
        pace.throttled(began_at=40, now=40)
        assert pace.begin_at == 41


def test_nothing_begins_until_the_pause_of_all_is_over(store, tmp_path, monkeypatch):
    """One transfer is asked to wait 7 s: all others wait with it, whoever they are."""
    waits = []

    def sleep(seconds: float) -> bool:
        waits.append(seconds)
        return False

    monkeypatch.setattr(transfer, "LONGEST_MOMENT_S", 1000.0)
    store.put_bytes(b"x", "k")
    store.faults.add(verb="head", error=lambda *facts: throttled(*facts, retry_after_s=7))
    with Transfers(RetryPolicy(retries=0, sleep=sleep)) as transfers:
        with pytest.raises(TransientError):
            transfers.call(lambda: store.head("k"))
        assert waits == []
        transfers.get(store, "k", str(tmp_path / "a"))
        assert 6 < waits[0] <= 7
        assert len(waits) == 1


def test_a_stop_signal_ends_the_pause(store, tmp_path):
    """One more try, at once; a minute's pause would outlast the grace period."""
    store.put_bytes(b"x", "k")
    store.faults.add(verb="get", nth=1, error=lambda *facts: throttled(*facts, retry_after_s=60))
    with Transfers(RetryPolicy(sleep=lambda _: True)) as transfers:
        transfers.get(store, "k", str(tmp_path / "a"))


def test_fewer_go_at_once_after_a_refusal(store):
    """The requests that go on side by side are halved, for everybody."""
    store.faults.add(verb="head", nth=1, error=throttled)
    with Transfers(RetryPolicy(retries=0, first_wait_s=0.0)) as transfers:
        with pytest.raises(TransientError):
            transfers.call(lambda: store.head("k"))
        crowd = Crowd(TRANSFERS // 2)

        def request() -> None:
            with crowd:
                pass

        list(transfers.each(lambda _: transfers.call(request), range(TRANSFERS)))
        assert TRANSFERS // 2 <= crowd.most <= TRANSFERS // 2 + 1
