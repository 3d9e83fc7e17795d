"""The threads of an attempt: side by side, in order, a bounded number of things on their way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from itertools import chain, islice
from types import TracebackType
from typing import Any, TypeVar

from htcjob.errors import HtcjobError

T = TypeVar("T")
R = TypeVar("R")

WINDOW_PER_THREAD = 4
"""Things on their way for each thread, so that one slow thing in front does not idle the others."""


class AbandonedError(BaseException):
    """Nobody waits for this any more: raised in a thread of the pool, to end what it is about to begin."""


class Pool:
    """
    Threads, started when they are needed and no more than *most*.

    They are daemons: a person who presses Ctrl-C a second time does not wait for them. (No
    `concurrent.futures`: its threads are waited for at exit, and its import costs every job 13 ms.)
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: list[threading.Thread] = []
        self._tasks: deque[_Task] = deque()
        """Not yet begun."""
        self._idle = 0
        """Threads that wait for a task."""
        self._is_closed = False
        self._changed = threading.Condition()
        self._current = threading.local()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def each(
        self,
        act: Callable[[T], R],
        things: Iterable[T],
        *,
        tick: Callable[[], None] = lambda: None,
        tick_s: float | None = None,
    ) -> Generator[R | HtcjobError, None, None]:
        """
        Give what *act* returns for each of *things*, in their order, or the `HtcjobError` it raised.

        Any other exception of *act* is raised here, at its place in the order, and so is one of *things*.
        *things* is read in the calling thread, a bounded number ahead, so memory does not grow with its
        length. When it is closed early, nothing more begins, and what has begun has ended when that
        returns. One thing alone needs no thread. *act* must not call `each`.

        Args:
            act: Called in threads of the pool.
            things: What to do it with.
            tick: Called in the calling thread again and again while it waits.
            tick_s: Seconds between two ticks; None: never.
        """
        rest = iter(things)
        first = list(islice(rest, 2))
        if len(first) < 2:
            yield from map(_gathering(act), first)
            return
        is_over = threading.Event()
        begun: deque[_Task] = deque()
        try:
            for thing in chain(first, rest):
                task = _Task(_gathering(act), thing, is_over)
                if not self._submit(task):
                    yield _gathering(act)(thing)
                    continue
                begun.append(task)
                if len(begun) >= self._most * WINDOW_PER_THREAD:
                    yield _result(begun, tick, tick_s)
            while begun:
                yield _result(begun, tick, tick_s)
        finally:
            is_over.set()
            for task in begun:
                task.is_done.wait()

    def is_abandoned(self) -> bool:
        """Tell, in a thread of the pool, whether nobody waits any more for what it does."""
        is_over: threading.Event | None = getattr(self._current, "is_over", None)
        return is_over is not None and is_over.is_set()

    def _submit(self, task: _Task) -> bool:
        """Leave *task* to a thread; False: there is none, and this machine gives no more."""
        with self._changed:
            if len(self._tasks) >= self._idle and len(self._threads) < self._most:
                thread = threading.Thread(target=self._work, name="htcjob-transfer", daemon=True)
                with suppress(RuntimeError):
                    thread.start()
                    self._threads.append(thread)
            if self._threads:
                self._tasks.append(task)
                self._changed.notify()
            return bool(self._threads)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._tasks:
                    if self._is_closed:
                        return
                    self._changed.wait()
                self._idle -= 1
                task = self._tasks.popleft()
            self._current.is_over = task.is_over
            task.run()
            del task  # what it holds must not live until the next one


class _Task:
    """One thing on its way."""

    __slots__ = ("_act", "_thing", "error", "is_done", "is_over", "result")

    def __init__(self, act: Callable[[Any], Any], thing: Any, is_over: threading.Event) -> None:
        self._act = act
        self._thing = thing
        self.is_over = is_over
        self.is_done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Act, unless nobody waits for it any more."""
        try:
            if not self.is_over.is_set():
                self.result = self._act(self._thing)
        except BaseException as error:
            self.error = error
        finally:
            self.is_done.set()


def _result(begun: deque[_Task], tick: Callable[[], None], tick_s: float | None) -> Any:
    """Wait for the first of *begun*, take it away, and give its result."""
    task = begun[0]
    while not task.is_done.wait(tick_s):
        tick()
    begun.popleft()
    if task.error is not None:
        raise task.error
    return task.result


def _gathering(act: Callable[[T], R]) -> Callable[[T], R | HtcjobError]:
    """Give *act* with its failures as values."""

    def outcome(thing: T) -> R | HtcjobError:
        try:
            return act(thing)
        except HtcjobError as error:
            return error

    return outcome
