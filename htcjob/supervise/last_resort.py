"""
The end of a process that was asked to stop, whatever hangs.

Python runs the handler of a signal in the main thread only, and only between two of its own steps. Inside a
library that waits for a silent server that would be after a minute, long after the platform's SIGKILL.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from htcjob.errors import ShortageError
from htcjob.supervise.kernel import WakeUp

TROUBLE_PAUSE_S = 0.05
"""Seconds before another try to watch, where this machine is short of what that takes."""

LAST_MOMENT_S = 2.0
"""Seconds after Ctrl-C that the transfers of a command have to end tidily."""


def end_promptly() -> None:
    """
    Let Ctrl-C, and SIGTERM for PID 1, end this process soon, whatever hangs: a command that looks or copies.

    It has a moment to end with 130 by itself. A file of ours with a temporary name may stay.
    """
    if os.getpid() == 1:
        # The kernel keeps from PID 1 what it has no handler for. Else SIGTERM ends us without one.
        signal.signal(signal.SIGTERM, lambda *_: None)
    with suppress(ShortageError):  # no thread: it works without, for as long as nothing hangs
        LastResort(
            lambda signum: signum if signum in (signal.SIGINT, signal.SIGTERM) else 0,
            after_s=LAST_MOMENT_S,
            last_words=lambda signum: 128 + signum,
            at_once=lambda signum: None if signum == signal.SIGINT else os._exit(128 + signum),
        )


class LastResort:
    """
    Ends this process by `os._exit` when it is still there some time after a stop signal.

    Must be made in the main thread, and closed there.

    Args:
        request_in: Returns the stop request that a signal stands for, or 0. Called in another thread, as all
            of these. Signals that are ignored are never seen.
        after_s: Seconds from the first request.
        last_words: Called with the request before the end, while the main thread hangs; gives the exit
            status. Must not wait for anything that could hang as well.
        at_once: Called with the first request when it comes.

    Raises:
        ShortageError: this machine gives no thread.
    """

    def __init__(
        self,
        request_in: Callable[[int], int],
        *,
        after_s: float,
        last_words: Callable[[int], int],
        at_once: Callable[[int], None] | None = None,
    ) -> None:
        self._request_in = request_in
        self._after_s = after_s
        self._last_words = last_words
        self._at_once = at_once
        self._wake = WakeUp()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._wake.close()
            raise ShortageError("no thread can be started now; run the same again") from error
        self._wake.install()

    def begin(self, signum: int) -> None:
        """Act as if *signum* had arrived; may be called from any thread, and in a signal handler."""
        self._wake.tell(signum)

    def close(self) -> None:
        """Stop watching: the attempt has ended by itself."""
        self._wake.restore()
        self._wake.hang_up()
        self._thread.join()
        self._wake.close()

    def _watch(self) -> None:
        stopped_by = 0  # no signal has this number
        deadline = float("inf")
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                if not select.select([self._wake.reader], [], [], left_s if stopped_by else None)[0]:
                    continue
                numbers = self._wake.read()
            except OSError:  # passing trouble; and nobody else watches
                time.sleep(TROUBLE_PAUSE_S)
                continue
            if not numbers:
                return
            for number in numbers:
                if not stopped_by and (stopped_by := self._request_in(number)):
                    deadline = time.monotonic() + self._after_s
                    if self._at_once is not None:
                        self._at_once(stopped_by)
        status = 128 + stopped_by
        try:
            status = self._last_words(stopped_by)
        finally:
            os._exit(status)
