"""Requests to stop an attempt inside a program of the user's; all other signals are the program's own."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from htcjob.supervise.last_resort import LastResort
from htcjob.supervise.stop_requests import STOP_SIGNALS, StopRequests

_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals that batch systems send ahead of the end; they would end a program that does not handle them."""


class StopSignals(StopRequests):
    """
    Requests to stop, and warnings that nobody handles: other signals, children, the terminal are the user's.

    A handler that was there before is called too; Python's own of SIGINT raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last_resort: LastResort | None = None
        self.is_loop_over = False
        """No other handler is called any more: the rest of the work is ours."""
        self._previous: dict[int, Any] = {}
        """Handlers that were there before ours, by signal."""
        self._timer: threading.Timer | None = None
        self._masks: dict[int, set[int]] = {}
        """Signals that were blocked before, by thread, while it forks."""

    def __enter__(self) -> StopSignals:
        super().__enter__()
        for signum in STOP_SIGNALS:
            # None: it was set by other means than Python's, and could not be set back.
            if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                self._previous[signum] = signal.signal(signum, self._receive)
        for signum in _WARNINGS:
            if signal.getsignal(signum) is signal.SIG_DFL:
                self._previous[signum] = signal.signal(signum, _go_on)
        os.register_at_fork(
            before=self._hold_signals,
            after_in_parent=self._let_signals_come,
            after_in_child=self._leave_child,
        )
        return self

    def __exit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            if self._timer.is_alive():
                self._timer.join()
        self._set_back()
        if self.last_resort is not None:  # no handler of ours tells it of a signal any more
            self.last_resort.close()
            self.last_resort = None
        super().__exit__(*error)

    def set_alarm(self, seconds: float) -> None:
        """Let a thread wait for it; SIGALRM is the user's."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, self._deadline_came)
        self._timer.daemon = True
        self._timer.start()

    def _deadline_came(self) -> None:
        if self.last_resort is not None:
            self.last_resort.begin(signal.SIGTERM)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.ask_to_stop(signum)
        if self.last_resort is not None:
            self.last_resort.begin(signum)  # another library may have taken its place
        before = self._previous.get(signum)
        if callable(before) and not self.is_loop_over:
            before(signum, frame)

    def _set_back(self) -> None:
        """Put back the former handler of every signal."""
        for signum in _WARNINGS:
            if signal.getsignal(signum) is not _go_on:  # the program has a handler of its own by now
                self._previous.pop(signum, None)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _leave_child(self) -> None:
        """A child that the user forked has our handlers and our pipes: what it is sent must not stop us."""
        if self._previous:
            signal.set_wakeup_fd(-1)
            self._set_back()
        self._let_signals_come()

    def _hold_signals(self) -> None:
        """Keep them from a child that still has our handlers: Python would forget them there."""
        if self._previous:
            self._masks[threading.get_ident()] = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._previous))

    def _let_signals_come(self) -> None:
        if (mask := self._masks.pop(threading.get_ident(), None)) is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _go_on(_signum: int, _frame: FrameType | None) -> None:
    """Nothing more than not to end."""
