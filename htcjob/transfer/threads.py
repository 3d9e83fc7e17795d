"""The threads of an attempt: they work side by side, on a bounded number of things, with results in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, TypeVar

from htcjob.errors import HtcjobError

T = TypeVar("T")
R = TypeVar("R")

LONGEST_WAIT_S = 1.0
"""Longest that a thread blocks at a time where it may be the main one: Python sees a signal that arrives just
before the thread blocks, or in another thread, only when it wakes."""

WINDOW_PER_THREAD = 4
"""Things on their way for each thread, so that one slow thing in front does not idle the others."""


class AbandonedError(BaseException):
    """Nobody waits for this any more: raised in a thread of the pool, to end what it is about to begin."""


class ThreadPool:
    """
    Threads, started when they are needed and no more than *most*.

    They are daemons: a person who presses Ctrl-C a second time does not wait for them. (No
    `concurrent.futures`: its threads are waited for at exit, and its import costs every job 13 ms.)

    KeyboardInterrupt can strike the main thread anywhere, also just behind the taking of a lock, which then
    is held for ever (bugs.python.org/issue29988). So the thread that calls `each` takes no lock that the
    others need, and leaves it to them to start more threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        """Not yet begun; None ends all threads."""
        self._idle = 0
        """Threads that wait for a task."""
        self._lock = threading.Lock()
        """Guards the two above, between threads of the pool."""
        self._current = threading.local()

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_error: object) -> None:
        self._tasks.put(None)
        while self._threads:
            self._threads.pop().join()

    def each(
        self,
        act: Callable[[T], R],
        things: Iterable[T],
        *,
        tick: Callable[[], None] = lambda: None,
        tick_s: float = LONGEST_WAIT_S,
    ) -> Generator[R | HtcjobError, None, None]:
        """
        Yield what *act* returns for each of *things*, in their order, or the `HtcjobError` that it raised.

        Any other exception of *act* is raised here, at its place in the order, and so is one of *things*.
        *things* is read in the calling thread, a bounded number ahead, so memory does not grow with its
        length. When this generator is closed early, nothing more begins, and whatever has begun has ended
        when `close` returns. One thing alone needs no thread. *act* must not call `each`.

        Args:
            act: Called in threads of the pool.
            things: Its arguments, one for each call.
            tick: Called in the calling thread again and again while it waits.
            tick_s: Seconds between two ticks; more than `LONGEST_WAIT_S` means that.
        """
        gathering = _gathering(act)
        rest = iter(things)
        first = list(islice(rest, 2))
        if len(first) < 2 or not (self._threads or self._start_thread()):
            yield from map(gathering, chain(first, rest))
            return
        batch = _Batch()
        begun: deque[_Task] = deque()
        try:
            for thing in chain(first, rest):
                task = _Task(batch, gathering, thing)
                begun.append(task)
                self._tasks.put(task)
                if len(begun) >= self._most * WINDOW_PER_THREAD:
                    yield begun[0].wait(tick, tick_s)
                    begun.popleft()
            batch.is_complete = True
            while begun:
                yield begun[0].wait(tick, tick_s)
                begun.popleft()
        finally:
            batch.is_complete = batch.is_over = True
            for task in begun:
                self._tasks.put(task)  # again: an interrupt can have come before the first time
            for task in begun:
                task.wait_for_end()

    def is_abandoned(self) -> bool:
        """Whether this thread of the pool works for a call of `each` that is over."""
        batch: _Batch | None = getattr(self._current, "batch", None)
        return batch is not None and batch.is_over

    def _start_thread(self) -> bool:
        """Start one more; return False where this machine gives no more threads."""
        thread = threading.Thread(target=self._work, name="htcjob-transfer", daemon=True)
        with suppress(RuntimeError):
            thread.start()
            self._threads.append(thread)
            return True
        return False

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            task = self._tasks.get()
            with self._lock:
                self._idle -= 1
                if task is None:
                    self._tasks.put(None)  # for the next one
                    return
                # As long as more tasks may come, one thread always waits for them.
                may_come = not task.batch.is_over and not (task.batch.is_complete and self._tasks.empty())
                if may_come and not self._idle and len(self._threads) < self._most:
                    self._start_thread()
            self._current.batch = task.batch
            task.run()
            del task  # its arguments and result must not live until the next one


class _Batch:
    """The tasks of one call of `each`."""

    is_complete = False
    """All its tasks are in the queue."""
    is_over = False
    """Its results are not wanted any more."""


class _Task:
    """One thing on its way; several threads may get the same task."""

    __slots__ = ("_act", "_error", "_has_begun", "_has_ended", "_is_done", "_result", "_thing", "batch")

    def __init__(self, batch: _Batch, act: Callable[[Any], Any], thing: Any) -> None:
        self.batch = batch
        self._act = act
        self._thing = thing
        self._has_begun = threading.Lock()
        self._has_ended = threading.Lock()
        self._has_ended.acquire()
        self._is_done = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Act, unless another thread does, or the result is not wanted any more."""
        if not self._has_begun.acquire(blocking=False):
            return
        try:
            if not self.batch.is_over:
                self._result = self._act(self._thing)
        except BaseException as error:
            self._error = error
        finally:
            self._is_done = True
            self._has_ended.release()

    def wait(self, tick: Callable[[], None], tick_s: float) -> Any:
        """Return the result, or raise the exception, when it is there."""
        wait_s = min(tick_s, LONGEST_WAIT_S)
        while not self._is_done and not self._has_ended.acquire(timeout=wait_s):
            tick()
        if self._error is not None:
            raise self._error
        return self._result

    def wait_for_end(self) -> None:
        """Return when no thread acts any more."""
        while not self._is_done and not self._has_ended.acquire(timeout=LONGEST_WAIT_S):
            pass


def _gathering(act: Callable[[T], R]) -> Callable[[T], R | HtcjobError]:
    """Return *act* with its failures as values."""

    def outcome(thing: T) -> R | HtcjobError:
        try:
            return act(thing)
        except HtcjobError as error:
            return error

    return outcome
