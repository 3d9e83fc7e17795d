"""A renewed value: one fetch for all threads, ahead of its end, and no storm when it fails."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from htcjob.errors import DeniedError, TokenError, TransientError
from htcjob.htc_api.renewal import LONGEST_PAUSE_S, REFUSAL_PAUSE_S, SYSTEM_CLOCK, Renewed
from htcjob.retry import RetryPolicy
from tests.support.clock import FakeClock

THREADS = 32


class Source:
    """Counts values from 1, each good for `life_s`; fails while `failure` is set; waits for `gate`."""

    def __init__(self, clock, life_s=100.0):
        self.clock, self.life_s = clock, life_s
        self.fetches = 0
        self.failure = None
        self.gate = threading.Event()
        self.gate.set()
        self.is_here = threading.Event()
        self.renewed = Renewed("thing", self, ahead_s=120, ahead_share=0.2, clock=clock)

    def __call__(self, old):
        self.fetches += 1
        self.is_here.set()
        assert self.gate.wait(30)
        if self.failure is not None:
            raise self.failure
        return self.fetches, None if self.life_s is None else self.clock.time() + self.life_s


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def source(clock):
    return Source(clock)


def outcome_of(act):
    try:
        return act()
    except Exception as error:
        return error


def all_at_once(source, act, wait_until):
    """Let THREADS threads act while the one fetch is held up, until all wait for it."""
    source.gate.clear()
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(outcome_of, act) for _ in range(THREADS)]
        try:
            assert source.is_here.wait(30)
            waiters = source.renewed._changed._waiters
            wait_until(lambda: len(waiters) == THREADS - 1)
        finally:
            source.gate.set()
        return [future.result(timeout=30) for future in futures]


class TestSingleFlight:
    def test_the_first_value(self, source, wait_until):
        """32 threads that need the first value cause one fetch and get the same value."""
        assert all_at_once(source, source.renewed.current, wait_until) == [1] * THREADS
        assert source.fetches == 1

    def test_the_first_failure(self, source, wait_until):
        """32 threads that need the first value cause one failed fetch and get its failure, each its own copy."""
        source.failure = TransientError("GET", "u", "down", retry_after_s=9.0, is_throttled=True)
        errors = all_at_once(source, source.renewed.current, wait_until)
        assert source.fetches == 1
        assert {str(error) for error in errors} == {"GET u: down"}
        assert all(error.is_throttled and error.retry_after_s == 9.0 for error in errors)
        assert len({id(error) for error in errors}) == THREADS

    def test_a_refused_value(self, source, wait_until):
        """32 threads whose value is refused cause one fetch; each is told of another value."""
        source.renewed.current()
        source.is_here.clear()
        assert all_at_once(source, lambda: source.renewed.refused(1), wait_until) == [True] * THREADS
        assert source.fetches == 2
        assert source.renewed.current() == 2

    def test_while_one_renews_the_others_go_on(self, source, clock):
        """Ahead of its end nobody waits for the renewal but the thread that makes it."""
        source.renewed.current()
        clock.move(90)
        source.gate.clear()
        source.is_here.clear()
        with ThreadPoolExecutor(1) as pool:
            renewing = pool.submit(source.renewed.current)
            assert source.is_here.wait(30)
            try:
                assert [source.renewed.current() for _ in range(THREADS)] == [1] * THREADS
            finally:
                source.gate.set()
            assert renewing.result(timeout=30) == 2
        assert source.fetches == 2

    def test_a_bug_in_the_fetch_does_not_lock_the_others_out(self, source):
        """After an exception that is none of ours the next one fetches."""
        source.failure = ValueError("bug")
        with pytest.raises(ValueError, match="bug"):
            source.renewed.current()
        source.failure = None
        assert source.renewed.current() == 2


class TestRenewal:
    def test_ahead_of_its_end(self, source, clock):
        """A life of 100 s is renewed after 80 s, not before."""
        assert source.renewed.current() == 1
        clock.move(79.9)
        assert source.renewed.current() == 1
        clock.move(0.2)
        assert source.renewed.current() == 2

    def test_a_long_life(self, source, clock):
        """An hour is renewed two minutes ahead."""
        source.life_s = 3600.0
        source.renewed.current()
        clock.move(3479)
        assert source.renewed.current() == 1
        clock.move(2)
        assert source.renewed.current() == 2

    def test_no_storm_with_short_lives(self, source, clock):
        """A minute of requests with values of 5 s costs a fetch each 4 s."""
        source.life_s = 5.0
        for _ in range(6000):
            source.renewed.current()
            clock.move(0.01)
        assert source.fetches == 15

    def test_an_end_that_is_not_known(self, clock):
        """Such a value is renewed after the given life, and serves on while that fails."""
        source = Source(clock, life_s=None)
        source.renewed = Renewed(
            "thing", source, ahead_s=120, ahead_share=0.2, unknown_life_s=600, clock=clock
        )
        source.renewed.current()
        clock.move(601)
        source.failure = TransientError("GET", "u", "down")
        assert source.renewed.current() == 1
        clock.move(100_000)
        assert source.renewed.current() == 1
        source.failure = None
        clock.move(LONGEST_PAUSE_S)
        assert source.renewed.current() == 4

    def test_an_end_that_is_never_known(self, clock):
        """Without such a life it is used until it is refused."""
        source = Source(clock, life_s=None)
        source.renewed.current()
        clock.move(1e6)
        assert source.renewed.current() == 1
        assert source.renewed.refused(1)
        assert source.renewed.current() == 2

    def test_a_value_that_is_there_already(self, clock, source):
        """It is used without a fetch, until it is due."""
        renewed = Renewed("x", source, ahead_s=1, ahead_share=0.5, first=(77, clock.time() + 10), clock=clock)
        assert renewed.current() == 77
        assert source.fetches == 0
        clock.move(9.5)
        assert renewed.current() == 1

    def test_the_clock_on_the_wall_is_set_back(self, source, clock):
        """A pause is not made longer by it."""
        source.failure = TransientError("GET", "u", "down")
        with pytest.raises(TransientError):
            source.renewed.current()
        clock.set_back(10_000)
        source.failure = None
        clock.move(1)
        assert source.renewed.current() == 2

    def test_the_real_clock(self):
        """The default clock is the machine's."""
        assert abs(SYSTEM_CLOCK.time() - time.time()) < 60
        renewed = Renewed("x", lambda old: ("v", time.time() + 60), ahead_s=1, ahead_share=0.5)
        assert renewed.current() == renewed.current() == "v"


class TestFailure:
    def test_the_old_value_serves(self, source, clock, caplog):
        """While a renewal fails the old value is given until its end, with one warning."""
        source.renewed.current()
        source.failure = TransientError("GET", "u", "down")
        clock.move(81)
        with caplog.at_level(logging.WARNING, "htcjob"):
            while clock.time() < 1_800_000_000 + 99.9:
                assert source.renewed.current() == 1
                clock.move(0.1)
        assert [r.getMessage() for r in caplog.records] == ["not_renewed"]
        assert caplog.records[0].fields == {"what": "thing", "cause": "GET u: down"}
        assert 3 <= source.fetches <= 9, "0.5 s, 1 s, 2 s, … apart"
        clock.move(1)
        with pytest.raises(TransientError):
            source.renewed.current()
        source.failure = None
        clock.move(LONGEST_PAUSE_S)
        assert source.renewed.current() == source.fetches

    def test_denied_while_the_old_value_serves(self, source, clock):
        """Any failure will do, also one that is not transient."""
        source.renewed.current()
        source.failure = DeniedError("GET", "u", "no")
        clock.move(81)
        assert source.renewed.current() == 1
        clock.move(20)
        with pytest.raises(DeniedError, match="no"):
            source.renewed.current()

    def test_retry_after_is_honoured(self, source, clock):
        """Nobody fetches before the time the other side asked for, and everybody is told the rest of it."""
        source.failure = TransientError("GET", "u", "busy", retry_after_s=30.0)
        for waited_s in (0, 10, 19.5):
            clock.move(waited_s)
            with pytest.raises(TransientError) as caught:
                source.renewed.current()
            assert caught.value.retry_after_s == pytest.approx(30.0 - clock.monotonic())
        assert source.fetches == 1
        source.failure = None
        clock.move(0.5)
        assert source.renewed.current() == 2

    def test_with_the_retry_policy(self, source, clock):
        """One thread's retries come after the pauses, so that each of them is a fetch."""
        source.failure = TransientError("GET", "u", "down")
        with pytest.raises(TransientError):
            RetryPolicy(retries=4, sleep=clock.sleep).call(source.renewed.current)
        assert source.fetches == 5
        assert len(clock.slept) == 4
        assert clock.slept[3] > clock.slept[0]

    def test_an_outage_is_not_met_by_all_threads(self, source, clock):
        """In 30 s of outage 32 busy threads ask a few times, not 32 times as often."""
        source.failure = TransientError("GET", "u", "down")
        for _ in range(3000):
            outcome_of(source.renewed.current)
            clock.move(0.01)
        assert source.fetches <= 9

    def test_errors_with_other_arguments(self, source):
        """A failure of any of our kinds is repeated as the same kind and text."""
        source.failure = TokenError("it has ended")
        for _ in range(2):
            with pytest.raises(TokenError, match="it has ended"):
                source.renewed.current()
        assert source.fetches == 1


class TestRefusal:
    def test_another_is_there_already(self, source, clock):
        """The refusal of an older value fetches nothing."""
        source.renewed.current()
        clock.move(81)
        source.renewed.current()
        assert source.renewed.refused(1)
        assert source.fetches == 2

    def test_the_new_one_is_refused_too(self, source, clock):
        """Then it was not its age, and nothing is fetched for a while."""
        source.renewed.current()
        assert source.renewed.refused(1)
        assert not source.renewed.refused(2)
        assert source.fetches == 2
        clock.move(REFUSAL_PAUSE_S)
        assert source.renewed.refused(2)
        assert source.fetches == 3

    def test_the_new_one_has_ended_too(self, source, clock):
        """With short lives another refusal soon after is about the age after all."""
        source.life_s = 5.0
        source.renewed.current()
        assert source.renewed.refused(1)
        clock.move(5.1)
        assert source.renewed.refused(2)
        assert source.fetches == 3

    def test_the_same_again(self, clock):
        """A source that gives the same again has no other."""
        renewed = Renewed("x", lambda old: ("same", None), ahead_s=1, ahead_share=0.5, clock=clock)
        renewed.current()
        assert not renewed.refused("same")

    def test_the_fetch_fails(self, source, clock):
        """The failure is the caller's, and the next refusal after the pause fetches again."""
        source.renewed.current()
        source.failure = TransientError("GET", "u", "down")
        for _ in range(5):
            with pytest.raises(TransientError) as caught:
                source.renewed.refused(1)
        assert caught.value.retry_after_s > 0
        assert source.fetches == 2
        source.failure = None
        clock.move(1)
        assert source.renewed.refused(1)
