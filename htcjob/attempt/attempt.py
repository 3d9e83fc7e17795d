"""One attempt as far as it is known: every step of the recipe reads it and adds to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from htcjob.outcome.endings import Ending, Facts, FailureBudget

if TYPE_CHECKING:
    from htcjob.entries.each import StagedEntry
    from htcjob.entries.pipeline import Pipeline
    from htcjob.environment.context import JobContext
    from htcjob.ledger.ledger import Ledger
    from htcjob.outcome.results import CommandResult
    from htcjob.run_options import RunOptions
    from htcjob.supervise.last_resort import LastResort


class LoopLeftError(Exception):
    """The user's own loop takes no further entry, which is no error: the ending says why."""


class Loop(Protocol):
    """The user's own loop, which works on the entries in place of a command (`htcjob.Job`)."""

    def act(
        self, staged: StagedEntry, worker: int, timeout_s: float | None, /
    ) -> tuple[CommandResult, object, str]:
        """
        Work on an entry (`entries.each.Act`).

        Raises:
            LoopLeftError: the loop takes no more.
        """

    def flow_ended(self) -> None:
        """Note that there are no more entries."""

    def await_loop(self) -> None:
        """Wait until the loop has ended, or is waited for no longer."""


class Attempt:
    """
    The facts that one attempt has found out so far.

    Args:
        options: What the user asked for.
        environ: The injected environment.
        loop: Works on the entries, where that is neither a command nor a function of a warm worker.
    """

    def __init__(self, options: RunOptions, environ: Mapping[str, str], *, loop: Loop | None = None) -> None:
        self.options = options
        self.environ = environ
        self.loop = loop
        self.facts = Facts(options.max_failures or FailureBudget(), permanent_exit=options.permanent_exit)
        self.started_at = time.time()
        """By the clock on the wall, for people."""
        self.started = time.monotonic()
        """By the clock that never jumps, for durations."""
        self.context: JobContext | None = None
        self.chunk = range(0)
        """Positions of its entries in the manifest."""
        self.ledger: Ledger | None = None
        self.pipeline: Pipeline | None = None
        self.last_resort: LastResort | None = None
        """Ends the process when something hangs after a request to stop."""
        self.ending: Ending | None = None
        """The verdict; None until it is decided and written down."""
        self._is_over = threading.Event()

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()

    def is_over_within(self, seconds: float) -> bool:
        """Wait for at most *seconds*, and return whether the attempt is over."""
        return self._is_over.wait(seconds)

    def await_loop(self) -> None:
        """Wait until the user's own loop, if there is one, has ended or is waited for no longer."""
        if self.loop is not None:
            self.loop.flow_ended()
            self.loop.await_loop()
