"""Ctrl-C, and SIGTERM for PID 1, end a command soon, whatever hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import NoReturn

LAST_MOMENT_S = 2.0
"""Seconds that transfers on their way have to end tidily."""


def end_promptly() -> None:
    """
    Let an interrupt end this process within a moment: with 130, and without waiting for transfers after that.

    Python shows a signal to the main thread only, and only between two of its own steps: one that waits for
    a dead connection inside a library would not see it. A file of ours with a temporary name may stay.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if os.getpid() == 1:
        # The kernel keeps from PID 1 what it has no handler for. Else SIGTERM ends us without one.
        signal.signal(signal.SIGTERM, lambda *_: None)
    with suppress(
        RuntimeError
    ):  # this machine gives no thread: it works without, for as long as nothing hangs
        threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def _watch(reader: int) -> NoReturn:
    while (signum := _next(reader)) not in (signal.SIGINT, signal.SIGTERM):
        pass
    if signum == signal.SIGINT:
        time.sleep(LAST_MOMENT_S)
    os._exit(128 + signum)


def _next(reader: int) -> int:
    try:
        return os.read(reader, 1)[0]
    except OSError:  # passing trouble; and nobody else watches
        time.sleep(LAST_MOMENT_S)
        return 0
