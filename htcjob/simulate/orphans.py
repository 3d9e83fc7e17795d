"""
Ends what an attempt that was killed left running.

In a container everything dies with its PID 1; here the processes of a killed attempt would go on beside the
next one. They are known by a variable that no other process has. Found on Linux only, through /proc.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

ROUNDS = 100
"""What is still there after so many rounds, 10 ms apart, cannot be killed."""


def end(variable: str) -> None:
    """Kill every process that was started with *variable* (`NAME=value`) in its environment."""
    for _ in range(ROUNDS):  # a process may fork between our looking and our killing
        pids = list(_processes_with(variable.encode()))
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            return
        time.sleep(0.01)


def _processes_with(variable: bytes) -> Iterator[int]:
    if not os.path.isdir("/proc/self"):
        return
    for name in os.listdir("/proc"):
        if name.isdigit():
            # Other users' processes cannot be read, those that just ended have nothing to read.
            with suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if variable in file.read().split(b"\0"):
                    yield int(name)
