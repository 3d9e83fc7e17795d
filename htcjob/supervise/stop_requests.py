"""Requests to stop an attempt: by a signal, at its deadline, or at a notice of the cloud."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from htcjob.outcome.reasons import StopCause
from htcjob.supervise import kernel
from htcjob.trouble import let_go

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that ask this attempt to stop; they are passed on, and the grace period begins."""

_LONGEST_TIMER_S = 1e9
"""Longest time that setitimer(2) is given; --deadline may be longer."""


class StopRequests:
    """
    The requests to stop this attempt, from `__enter__` to `__exit__`; the first one counts.

    Derived classes receive the signals and set the alarm: `Signals` in a process of ours, where commands run,
    and `htcjob.Job`'s in a program of the user's.
    """

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        """The first signal that asked us to stop."""
        self.stopped_at: float | None = None
        """When it came."""
        self.stop_cause = StopCause.SIGNAL
        """Why: a signal, the deadline (`stop_after`), or a notice (`stop_by_notice`)."""
        self.on_stop: Callable[[int], None] | None = None
        """Called with the signal's number, possibly inside its handler: must not wait, nor take a lock."""
        self.is_noticed = False
        """`stop_by_notice` was called."""
        self._requests: set[int] = set()
        """All signals that asked us to stop."""
        self._stop_read, self._stop_write = -1, -1
        self._stop_at: float | None = None
        """When `stop_after` takes effect."""

    def __enter__(self) -> StopRequests:
        self._stop_read, self._stop_write = os.pipe()
        return self

    def __exit__(self, *_error: object) -> None:
        let_go(self._stop_read)
        let_go(self._stop_write)

    def stop_after(self, seconds: float) -> None:
        """Ask this attempt to stop after *seconds*, as SIGTERM would; must be called in the main thread."""
        seconds = min(seconds, _LONGEST_TIMER_S)
        self._stop_at = time.monotonic() + seconds
        self.set_alarm(seconds)

    def set_alarm(self, seconds: float) -> None:
        """Let the alarm of `stop_after` come after *seconds*, in place of an earlier one."""
        raise NotImplementedError

    @property
    def stops_in_s(self) -> float | None:
        """Seconds until `stop_after` takes effect; None: never."""
        return None if self._stop_at is None else max(self._stop_at - time.monotonic(), 0.0)

    def stop_by_notice(self) -> None:
        """Ask this attempt to stop now, as SIGTERM would; may be called in any thread."""
        self.is_noticed = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def ask_to_stop(self, signum: int) -> None:
        """Take *signum* for a request to stop; the first one counts. May be called from any thread."""
        self._requests.add(signum)
        if self.stop_signal is None:
            self.stop_cause = self._cause()
            self.stop_signal, self.stopped_at = signum, time.monotonic()
            os.write(self._stop_write, b"!")
            if self.on_stop is not None:
                self.on_stop(signum)

    def _cause(self) -> StopCause:
        """Return why we are asked to stop now."""
        if self.stops_in_s == 0:
            return StopCause.DEADLINE
        return StopCause.NOTICE if self.is_noticed else StopCause.SIGNAL

    def request_in(self, signum: int) -> int:
        """Return the request to stop that *signum* stands for (our own alarm: SIGTERM); 0: none."""
        if signum == signal.SIGALRM and self.stops_in_s == 0:
            return signal.SIGTERM
        return signum if signum in STOP_SIGNALS else 0

    def may_have_ended(self, code: int) -> bool:
        """
        Whether a command that may finish has perhaps ended because of a request to stop.

        Ctrl-C reaches every command; any other can only have ended it if it was sent to the whole job.

        Args:
            code: Its exit status, or -n for signal n.
        """
        return signal.SIGINT in self._requests or -code in self._requests

    @property
    def stop_fd(self) -> int:
        """A file descriptor that is readable, for ever, once a stop signal came."""
        return self._stop_read

    def sleep(self, seconds: float) -> bool:
        """Wait, from any thread; True when a stop signal came, at once."""
        until = time.monotonic() + seconds
        while not (ready := self.wait_readable([self._stop_read], until)) and time.monotonic() < until:
            pass
        return bool(ready)

    def wait_readable(self, descriptors: Sequence[int], until: float | None) -> list[int]:
        """Return the descriptors that are readable before the moment *until*, or, early, none of them."""
        return kernel.wait_readable(descriptors, until)

    def many_commands(self) -> AbstractContextManager[object]:
        """Return a context in which many commands run; `Signals` saves wake-ups there, this one nothing."""
        return nullcontext()
