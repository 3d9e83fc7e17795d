"""The flow: every thing takes every step once, in order, within the bounds, whatever happens on the way."""

import random
import threading
from collections import Counter

import pytest

from htcjob.entries.flow import Flow, Next

WITHIN_S = 60


class Luck:
    """Steps that do as the seed says, and note what they see."""

    def __init__(self, seed: int, *, workers: int, prefetch: int, room: int) -> None:
        self.draw = random.Random(seed)
        self.lock = threading.Lock()
        self.workers, self.prefetch, self.room = workers, prefetch, room
        self.steps = Counter()
        """How often each thing took each step."""
        self.in_place = 0
        self.working = 0
        self.seen = Counter()
        self.is_stopped = False
        self.stop_after = None

    def _random(self) -> float:
        with self.lock:
            return self.draw.random()

    def note(self, thing, step) -> None:
        self.steps[thing, step] += 1

    def fetch(self, thing, *, is_alone) -> Next:
        with self.lock:
            if self.in_place >= self.room and not is_alone:
                self.seen["postponed"] += 1
                return Next.POSTPONE
            self.in_place += 1
            if is_alone:
                assert self.in_place == 1, "not alone"
            self.note(thing, "fetch")
        if self._random() < 0.1:
            self.seen["unfetched"] += 1
            return Next.FINISH
        return Next.WORK

    def work(self, thing, worker) -> Next:
        with self.lock:
            assert 0 <= worker < self.workers
            self.working += 1
            assert self.working <= self.workers
            self.note(thing, "work")
            self.seen["worked"] += 1
            if self.seen["worked"] == self.stop_after:
                self.is_stopped = True
        self._random()
        with self.lock:
            self.working -= 1
        return Next.FINISH

    def finish(self, thing) -> Next:
        again = self._random() < 0.1
        with self.lock:
            self.in_place -= 1
            self.note(thing, "finish")
            if again and not self.is_stopped:
                self.seen["again"] += 1
                return Next.AGAIN
            self.note(thing, "end")
        return Next.LEAVE


def ran(steps: Luck, things) -> None:
    flow = Flow(
        things,
        steps,
        workers=steps.workers,
        prefetch=steps.prefetch,
        is_stopped=lambda: steps.is_stopped,
    )
    thread = threading.Thread(target=flow.run, daemon=True)
    thread.start()
    thread.join(WITHIN_S)
    assert not thread.is_alive(), vars(flow)
    assert not [left for left in flow._threads if left.is_alive()]


@pytest.mark.parametrize("seed", range(60))
def test_every_thing_ends_once(seed):
    """With any number of workers, any prefetch, any room, things that fail, wait for room or come again."""
    luck = random.Random(seed)
    n = luck.choice([0, 1, 2, 3, 50, 300])
    steps = Luck(
        seed,
        workers=luck.choice([1, 2, 5]),
        prefetch=luck.choice([0, 1, 3, 16]),
        room=luck.choice([0, 1, 2, 4, 100]),
    )
    ran(steps, range(n))
    assert {thing: count for (thing, step), count in steps.steps.items() if step == "end"} == dict.fromkeys(
        range(n), 1
    )
    assert steps.in_place == 0


@pytest.mark.parametrize("seed", range(20))
def test_after_a_stop_nothing_begins_and_what_was_worked_on_is_finished(seed):
    """Nothing that a worker has had is lost, and most of the rest was never begun."""
    steps = Luck(seed, workers=2, prefetch=4, room=100)
    steps.stop_after = 10
    ran(steps, range(1000))
    worked = {thing: count for (thing, step), count in steps.steps.items() if step == "work"}
    assert len(worked) <= 12
    for thing, count in worked.items():
        assert steps.steps[thing, "finish"] >= count


@pytest.mark.parametrize("step", ["fetch", "work", "finish", "things"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("n", [1, 40])
def test_an_exception_ends_the_flow_and_is_raised(step, workers, n):
    """Whatever raised it, once, in the thread that waits."""
    steps = Luck(1, workers=workers, prefetch=2, room=100)

    def broken(*_, **__):
        raise ZeroDivisionError(step)

    def things():
        yield from range(n)
        broken()

    if step != "things":
        setattr(steps, step, broken)
    if step == "things" and n == 1:
        return  # read before the first step: then it comes straight from the iterator
    with pytest.raises(ZeroDivisionError, match=step):
        Flow(
            things() if step == "things" else range(n),
            steps,
            workers=workers,
            prefetch=2,
            is_stopped=lambda: False,
        ).run()


def test_one_thing_needs_no_thread():
    """A job of one entry does not pay for threads."""
    steps = Luck(2, workers=4, prefetch=16, room=100)
    threads = set()
    steps.note = lambda thing, step: threads.add(threading.current_thread())
    Flow([7], steps, workers=4, prefetch=16, is_stopped=lambda: False).run()
    assert threads == {threading.current_thread()}


def test_fetching_and_finishing_go_on_while_a_worker_works():
    """Seen at one moment: each waits for the other."""
    ahead, behind = threading.Barrier(2), threading.Barrier(2)

    class Steps:
        def fetch(self, thing, *, is_alone):
            if thing == 4:
                ahead.wait(WITHIN_S)
            return Next.WORK

        def work(self, thing, worker):
            if thing == 2:
                ahead.wait(WITHIN_S)
            if thing == 7:
                behind.wait(WITHIN_S)
            return Next.FINISH

        def finish(self, thing):
            if thing == 6:
                behind.wait(WITHIN_S)
            return Next.LEAVE

    Flow(range(20), Steps(), workers=1, prefetch=4, is_stopped=lambda: False).run()
    assert not ahead.broken
    assert not behind.broken


def test_a_store_far_away_gets_as_many_fetches_at_once_as_may_be_ahead():
    """All of them are under way before the first is back."""
    all_under_way = threading.Barrier(8)

    class Steps:
        def fetch(self, thing, *, is_alone):
            if thing < 8:
                all_under_way.wait(WITHIN_S)
            return Next.WORK

        def work(self, thing, worker):
            return Next.FINISH

        def finish(self, thing):
            return Next.LEAVE

    Flow(range(100), Steps(), workers=2, prefetch=8, is_stopped=lambda: False).run()
    assert not all_under_way.broken
