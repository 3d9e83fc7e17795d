"""
Which thread does which step next when entries overlap: fetched ahead, finished behind, within bounds.

This module knows threads and nothing of storage or commands; `each.py` has the steps. *Workers* work on
things that are fetched. *Stagers* finish those that have been worked on, which frees disk space, and fetch
ahead; there are more of them as soon as a worker waits. As long as every step is short there is none, and
workers stage for themselves: handing a thing to another thread takes longer than fetching a small file from
this disk. The main thread only waits: signals arrive there.

One module, because these rules hold for all of it:

* `Flow._lock` is held whenever a queue, a count or a flag changes; both conditions are of that lock. Steps
  last, so they are taken without it. `_reading` is held while the next thing is read; `_lock` may be taken
  inside it, never the other way round.
* A thing is in one place at a time: not read yet, in a queue (`_postponed`, `_again`, `_ready`,
  `_worked_on`), in a step, or gone. A thread that takes it out of a queue counts it before the lock is
  released, so that the flow never looks as if nothing were on its way.
* `in_place` counts the things that take disk space, from the start of `fetch` to the end of `finish`. Each is
  taken off once: in `_move_on`, or in `_drop_ready` when the flow is stopped.
* After a change that may give another thread something to do, `_wake` is called before the lock is released.
* A flow that is stopped fetches nothing and works on nothing, and finishes what has been worked on. An
  exception in a step stops it in the same way; `run` raises the first one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

from htcjob.errors import ShortageError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

HUNGRY_S = 0.01
"""Seconds that a worker waits for something to do before there are twice as many stagers. With a store that
is 50 ms away they are all there before its first answer; with one on this disk one is enough."""

SHORT_S = 0.1
"""Seconds; a step that takes longer is worth a thread that stages in the meantime."""

MOST_STAGERS = 32
"""As many as the objects that move at once (`transfers.TRANSFERS`)."""


class Next(Enum):
    """The way a thing goes on after a step."""

    WORK = "work"
    """It is fetched and waits for a worker."""
    FINISH = "finish"
    """It is to be finished."""
    LEAVE = "leave"
    """It leaves the flow."""
    POSTPONE = "postpone"
    """There was no disk space to fetch it: it is the next one when something has left the flow."""
    AGAIN = "again"
    """It begins anew when all others have begun."""


class Steps(Protocol[T_contra]):
    """The steps of a thing. Every method is called from several threads at once."""

    def fetch(self, thing: T_contra, *, is_alone: bool) -> Next:
        """
        Fetch: WORK, FINISH, LEAVE or POSTPONE, which is no answer for a thing that is alone.

        Args:
            thing: What to fetch.
            is_alone: Nothing else takes disk space while this is fetched.
        """

    def work(self, thing: T_contra, worker: int) -> Next:
        """Work on it: FINISH or LEAVE."""

    def finish(self, thing: T_contra) -> Next:
        """Finish it: LEAVE or AGAIN. It takes no disk space any more."""


@dataclass(slots=True)
class _Counts:
    """The threads and things of a flow, by what they do now; guarded by its lock."""

    fetching: int = 0
    """Things that are being fetched."""
    finishing: int = 0
    """Things that are being finished."""
    in_place: int = 0
    """Things that take disk space: between the start of `fetch` and the end of `finish`."""
    hungry: int = 0
    """Workers without a thing."""
    stagers: int = 0
    """Stagers that have been started."""
    idle: int = 0
    """Stagers that wait."""


class Flow(Generic[T]):
    """
    Things on their way through the steps.

    Args:
        things: Read by one thread at a time, no further ahead than things are fetched.
        steps: The steps of each.
        workers: How many are worked on at a time.
        prefetch: How many may be fetched ahead of the workers, and how many may wait to be finished.
        is_stopped: Whether nothing new is to begin. Things that were worked on are finished all the same.
    """

    def __init__(
        self,
        things: Iterable[T],
        steps: Steps[T],
        *,
        workers: int,
        prefetch: int,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._steps = steps
        self._prefetch = prefetch
        self._is_told_to_stop = is_stopped
        first = list(islice(rest := iter(things), max(workers, 2)))
        self._workers = min(workers, len(first))
        self._is_one = len(first) == 1
        self._things: Iterator[T] = chain(first, rest)
        self._reading = threading.Lock()
        """Held while the next thing is taken."""
        self._lock = threading.Lock()
        """Guards all below."""
        self._for_workers = threading.Condition(self._lock)
        self._for_stagers = threading.Condition(self._lock)
        self._has_more = True
        self._postponed: deque[T] = deque()
        self._again: deque[T] = deque()
        self._ready: deque[T] = deque()
        """Things that are fetched and wait for a worker."""
        self._worked_on: deque[T] = deque()
        """Things that wait to be finished."""
        self._counts = _Counts()
        self._is_full = False
        """There was no disk space for one; a thing is only fetched alone until something leaves."""
        self._step_began = [time.monotonic()] * self._workers
        """The moment at which each worker began its present step."""
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._has_ended = threading.Event()

    def run(self) -> None:
        """
        Take all things through the steps; a single one without any thread.

        Raises:
            BaseException: the first that a step raised. Then nothing new began, and the rest was finished.
            ShortageError: this machine gives no thread.
        """
        if self._is_one:
            self._work(0)
        elif self._workers:
            self._run_in_threads()
        if self._error is not None:
            raise self._error

    def _run_in_threads(self) -> None:
        with self._lock:
            for number in range(self._workers):
                if not self._start(self._work, number):
                    break
            if not self._threads:
                self._error = ShortageError("no thread can be started now")
                self._wake()
        while not self._has_ended.wait(None if self._counts.stagers else SHORT_S):
            self._add_stagers_if_slow()
        for thread in self._threads:
            thread.join()

    def _add_stagers_if_slow(self) -> None:
        """Start stagers when a step takes long: many when it is staging, since storage is far away then."""
        with self._lock:
            is_short = min(self._step_began) > time.monotonic() - SHORT_S
            while not is_short and self._may_grow() and self._start(self._stage):
                self._counts.stagers += 1
                is_short = not self._counts.hungry

    def _work(self, number: int) -> None:
        with self._lock:
            self._counts.hungry += 1
        while step := self._next_step(number):
            step()

    def _next_step(self, number: int) -> Callable[[], None] | None:
        """Return the next step of a worker without a thing; None: there is nothing any more."""
        with self._lock:
            self._step_began[number] = time.monotonic()
            while not self._is_over():
                step: Callable[[], None] | None = None
                if self._ready:
                    thing = self._ready.popleft()
                    self._counts.hungry -= 1
                    step = partial(self._work_on, thing, number)
                elif not self._counts.stagers:
                    step = self._staging_step()
                self._wake()
                if step is not None:
                    return step
                if not self._for_workers.wait(
                    HUNGRY_S if self._counts.stagers and self._may_grow() else None
                ):
                    self._grow()
            self._wake()
            return None

    def _work_on(self, thing: T, number: int) -> None:
        def work() -> Next:
            # Asked again: the stop may have come since it was fetched.
            return Next.LEAVE if self._is_stopped() else self._steps.work(thing, number)

        what = self._guarded(work)
        with self._lock:
            self._counts.hungry += 1
        self._move_on(thing, what)

    def _may_grow(self) -> bool:
        """Whether more stagers than there are could do something; the lock is held."""
        has_work = not self._counts.idle or bool(self._worked_on) or self._may_fetch()
        return has_work and self._counts.stagers < min(max(self._prefetch, 1), MOST_STAGERS)

    def _grow(self) -> None:
        """Start as many stagers as there are, or as many of them as could do something; the lock is held."""
        for _ in range(self._counts.stagers):
            if not self._counts.idle and self._may_grow() and self._start(self._stage):
                self._counts.stagers += 1

    def _stage(self) -> None:
        while True:
            with self._lock:
                while (step := self._staging_step()) is None:
                    if self._is_over():
                        self._wake()
                        return
                    self._counts.idle += 1
                    self._for_stagers.wait()
                    self._counts.idle -= 1
                self._wake()
            step()

    def _staging_step(self) -> Callable[[], None] | None:
        """Return the next step of a stager, which counts as begun; None: there is none. The lock is held."""
        may_fetch = self._may_fetch()
        if self._worked_on and (self._ready or not may_fetch or not self._counts.stagers):
            thing = self._worked_on.popleft()
            self._counts.finishing += 1
            return lambda: self._finish(thing)
        if may_fetch:
            is_alone = self._is_full
            self._counts.fetching += 1
            self._counts.in_place += 1
            return lambda: self._fetch_next(is_alone=is_alone)
        return None

    def _may_fetch(self) -> bool:
        """Whether a thing may be fetched now; the lock is held."""
        if self._is_stopped():
            self._drop_ready()
            return False
        return (
            bool(self._has_more or self._postponed or self._again)
            and (not self._is_full or self._counts.in_place == 0)
            and len(self._ready) + self._counts.fetching < self._prefetch + self._counts.hungry
            and len(self._worked_on) + self._counts.finishing <= self._prefetch
        )

    def _drop_ready(self) -> None:
        """Let the things go that no worker will take any more: the flow is stopped; the lock is held."""
        self._counts.in_place -= len(self._ready)
        self._ready.clear()

    def _fetch_next(self, *, is_alone: bool) -> None:
        thing: T | None = None

        def fetch() -> Next:
            nonlocal thing
            thing = self._take()
            return Next.LEAVE if thing is None else self._steps.fetch(thing, is_alone=is_alone)

        what = self._guarded(fetch)
        with self._lock:
            self._counts.fetching -= 1
            if what is Next.FINISH:
                self._counts.finishing += 1
        if thing is not None and what is Next.FINISH:
            self._finish(thing)
        else:
            self._move_on(thing, what)

    def _take(self) -> T | None:
        """Return the next thing to fetch, if there is one."""
        with self._reading:
            with self._lock:
                if self._postponed:
                    return self._postponed.popleft()
            if self._has_more:
                for thing in self._things:
                    return thing
            with self._lock:
                self._has_more = False
                return self._again.popleft() if self._again else None

    def _finish(self, thing: T) -> None:
        what = self._guarded(lambda: self._steps.finish(thing))
        with self._lock:
            self._counts.finishing -= 1
        self._move_on(thing, what)

    def _guarded(self, step: Callable[[], Next | None]) -> Next:
        """Return the answer of *step*; an exception stops the flow."""
        try:
            return step() or Next.LEAVE
        except BaseException as error:  # raised again in the main thread
            with self._lock:
                self._error = self._error or error
            return Next.LEAVE

    def _move_on(self, thing: T | None, what: Next) -> None:
        """Put a thing where it waits for its next step, or let it leave."""
        with self._lock:
            if thing is not None and what is Next.WORK:
                self._ready.append(thing)
                self._for_workers.notify()
            elif thing is not None and what is Next.FINISH:
                self._worked_on.append(thing)
            else:
                self._counts.in_place -= 1
                self._is_full = what is Next.POSTPONE
                if thing is not None and what is Next.POSTPONE:
                    self._postponed.append(thing)
                elif thing is not None and what is Next.AGAIN:
                    self._again.append(thing)
            self._wake()

    def _wake(self) -> None:
        """Wake a thread that has something to do; the lock is held."""
        if self._is_over():
            self._for_workers.notify_all()
            self._for_stagers.notify_all()
            self._has_ended.set()
        elif (self._counts.idle or not self._counts.stagers) and (self._worked_on or self._may_fetch()):
            (self._for_stagers if self._counts.stagers else self._for_workers).notify()

    def _is_stopped(self) -> bool:
        return self._error is not None or self._is_told_to_stop()

    def _is_over(self) -> bool:
        """Whether nothing is on its way and nothing begins any more; the lock is held."""
        if self._counts.in_place and self._is_stopped():
            self._drop_ready()
        return not self._counts.in_place and (
            self._is_stopped() or not (self._has_more or self._postponed or self._again)
        )

    def _start(self, act: Callable[..., None], *arguments: object) -> bool:
        """Start a thread, and return whether there is one; a daemon: one that hangs delays no exit."""
        thread = threading.Thread(target=act, args=arguments, name=f"htcjob{act.__name__}", daemon=True)
        with suppress(RuntimeError):  # no more threads on this machine
            thread.start()
            self._threads.append(thread)
            return True
        return False
