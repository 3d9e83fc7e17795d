"""One attempt as it is known so far: what every step of the recipe reads and adds to."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from htcjob.outcome.endings import Ending, Facts, FailureBudget

if TYPE_CHECKING:
    from htcjob.entries.each import Act
    from htcjob.entries.pipeline import Pipeline
    from htcjob.environment.context import JobContext
    from htcjob.ledger.ledger import Ledger
    from htcjob.run_options import RunOptions


class Attempt:
    """
    What one attempt has found out so far.

    Args:
        options: What the user asked for.
        environ: The injected environment.
        act: Does the work of one entry in place of the user's command (`each.Each`).
    """

    def __init__(self, options: RunOptions, environ: Mapping[str, str], *, act: Act | None = None) -> None:
        self.options = options
        self.environ = environ
        self.act = act
        self.facts = Facts(options.max_failures or FailureBudget(), permanent_exit=options.permanent_exit)
        self.started_at = time.time()
        self.started = time.monotonic()
        self.context: JobContext | None = None
        self.chunk = range(0)
        self.ledger: Ledger | None = None
        self.pipeline: Pipeline | None = None
        self.ending: Ending | None = None
        """Once it is decided and written down."""
        self._is_over = threading.Event()

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()

    def end_in(self, seconds: float, last_words: Callable[[], int]) -> None:
        """
        End this process by `os._exit` where the attempt is not over by then; costs a thread that waits.

        Called in a signal handler, so by means that take no lock.
        """

        def watch() -> None:
            if not self._is_over.wait(seconds):
                status = os.EX_SOFTWARE
                try:
                    status = last_words()
                finally:
                    os._exit(status)

        # The kernel may hand a signal to any thread that takes it, and the main thread would not wake.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with suppress(RuntimeError):  # this machine gives no thread
                _thread.start_new_thread(watch, ())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
