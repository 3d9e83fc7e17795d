"""
When a command is asked to stop, and when it is killed: pure, for commands and warm workers alike.

A command that may finish has most of the grace period to do so before it is asked. One that is asked has the
grace period, or what is left of it, to end; then it is killed.
"""

from __future__ import annotations

import signal
from enum import Enum

FINISHING_SHARE = 0.8
"""Part of the grace period in which a command that may finish is left alone; the rest is for SIGTERM."""


class Step(Enum):
    """The thing to do now."""

    WAIT = "wait"
    """Nothing, until `Stopping.wait_until`."""
    RESUME = "resume"
    """The request has reached the command's group; where it is suspended, send SIGCONT."""
    TERMINATE = "terminate"
    """Send SIGTERM."""
    KILL = "kill"
    """Send SIGKILL."""
    LEAVE = "leave"
    """Nothing more: it has ended."""


class StoppedFor(Enum):
    """Why we stopped a command."""

    TIMEOUT = "timeout"
    REQUEST = "request"
    """This attempt was asked to stop."""


class Stopping:
    """
    One command, from its start to its end. All moments are seconds of one clock of the caller's.

    Args:
        grace_s: Seconds from SIGTERM to SIGKILL.
        deadline: The moment of its timeout; None: it has none.
        may_finish: Requests to stop are not passed to it, except Ctrl-C (SIGINT); most of the grace period is
            for finishing.
    """

    def __init__(self, *, grace_s: float, deadline: float | None = None, may_finish: bool = False) -> None:
        self._grace_s = grace_s
        self._deadline = deadline
        self._may_finish = may_finish
        self._finish_by: float | None = None
        """When finishing is over."""
        self._kill_at: float | None = None
        self.stopped_for: StoppedFor | None = None
        """Why it was stopped; None: it was not. The first reason stays, however it ends then."""

    @property
    def listens(self) -> bool:
        """Whether a request to stop would change anything still."""
        return self.stopped_for is None and self._finish_by is None

    @property
    def wait_until(self) -> float | None:
        """The next moment with something to do, should nothing happen before; None: there is none."""
        if self.stopped_for is not None:
            return self._kill_at
        return min((at for at in (self._deadline, self._finish_by) if at is not None), default=None)

    def step(self, now: float, *, has_ended: bool = False, stop_signal: int | None = None) -> Step:
        """
        Return the thing to do now; TERMINATE, KILL and RESUME are each returned once.

        Args:
            now: This moment.
            has_ended: The command has.
            stop_signal: The request to stop, where one has come.
        """
        if has_ended:
            return Step.LEAVE
        if stop_signal is not None and self.listens:
            if self._may_finish and stop_signal != signal.SIGINT:
                self._finish_by = now + self._grace_s * FINISHING_SHARE
                return Step.WAIT
            self._stop(StoppedFor.REQUEST, now + self._grace_s)
            return Step.RESUME
        if self.wait_until is None or now < self.wait_until:
            return Step.WAIT
        if self.stopped_for is not None:
            self._kill_at = None
            return Step.KILL
        if self._deadline is not None and now >= self._deadline:
            self._stop(StoppedFor.TIMEOUT, now + self._grace_s)
        else:
            self._stop(StoppedFor.REQUEST, now + self._grace_s * (1 - FINISHING_SHARE))
        return Step.TERMINATE

    def _stop(self, reason: StoppedFor, kill_at: float) -> None:
        self.stopped_for, self._kill_at = reason, kill_at
