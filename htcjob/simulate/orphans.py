"""
Ends what an attempt that was killed left running.

In a container everything dies with its PID 1. Here the simulation becomes the parent of such orphans
(Linux' `PR_SET_CHILD_SUBREAPER`) and ends them itself. Elsewhere than on Linux they are not found.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h."""


def adopt() -> None:
    """Become the parent of orphaned descendants."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end(*, except_for: AbstractSet[int]) -> None:
    """Kill and reap our children other than *except_for*, and theirs in turn."""
    while pids := [pid for pid in _children() if pid not in except_for]:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> Iterator[int]:
    """Give the process ids of our children."""
    if not os.path.isdir("/proc/self"):
        return
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The command's name, in parentheses, may hold anything; state and parent follow it.
                _, parent, *_ = file.read().rpartition(b")")[2].split()
                if int(parent) == os.getpid():
                    yield int(name)
