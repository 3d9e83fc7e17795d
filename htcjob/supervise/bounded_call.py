"""
Calls that are waited for up to a bound.

A socket's time-out begins anew with each byte; a name server or a network file system has none at all. What
must not hold an attempt is called in a thread of its own, and left to it when its time is over.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

OVERTIME_S = 2.0
"""Seconds after the grace period in which an attempt that was asked to stop has to end; then it is ended."""


class TooLongError(TimeoutError):
    """A call has not ended within its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(errno.ETIMEDOUT, f"no end within {seconds:g} s")


_left: list[threading.Thread] = []
"""Threads whose call was not waited for."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """
    Return what *call*, made in another thread, returns within *seconds*.

    Where this machine gives no thread, it is made here, and waited for to its end.

    Raises:
        TooLongError: it has not returned, and goes on alone.
        BaseException: what *call* raised.
    """
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(call())
        except BaseException as error:  # the caller's, in its own thread
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return call()
    thread.join(max(seconds, 0.0))
    if raised:
        try:
            raise raised[0]
        finally:
            raised.clear()  # an exception that holds its own frame is freed late
    if not returned:
        _left.append(thread)
        raise TooLongError(seconds)
    return returned[0]


def is_any_left() -> bool:
    """
    Whether a call goes on that is waited for no longer.

    Python's own end would wait for what such a call has started, pools of a library's threads say.
    """
    return any(thread.is_alive() for thread in _left)
