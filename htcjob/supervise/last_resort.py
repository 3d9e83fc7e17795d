"""
The end of an attempt that was asked to stop, whatever hangs.

Python shows a signal to the main thread only, and only between two of its own steps. One that waits inside a
library for a server that says nothing would see it after a minute, long after the platform's SIGKILL.
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
from htcjob.trouble import let_go

TROUBLE_PAUSE_S = 0.05
"""Before it is watched again, where this machine is short of what that takes."""


class LastResort:
    """
    Ends this process by `os._exit` when it is still there some time after a stop signal.

    Must be made in the main thread, and closed there.

    Args:
        request_in: Gives the request to stop that a signal is, a signal too; 0: it is none. Called in
            another thread, as all of these. Signals that are ignored are never seen.
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
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            let_go(self._reader)
            let_go(self._writer)
            raise ShortageError("no thread can be started now; run the same again") from error
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def begin(self, signum: int) -> None:
        """Take it that *signum* came; may be called from any thread, and in a signal handler."""
        with suppress(BlockingIOError):  # full of signals
            os.write(self._writer, bytes([signum]))

    def close(self) -> None:
        """The attempt has ended by itself."""
        signal.set_wakeup_fd(self._before)
        let_go(self._writer)
        self._thread.join()
        let_go(self._reader)

    def _watch(self) -> None:
        stopped_by = 0  # no signal has this number
        deadline = float("inf")
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                if not select.select([self._reader], [], [], left_s if stopped_by else None)[0]:
                    continue
                numbers = os.read(self._reader, 64)
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
