"""
Ends the processes that a killed attempt left running.

In a container everything dies with its PID 1; here the processes of a killed attempt would go on beside the
next one. They are known by a variable that no other process has. Found on Linux only, through /proc.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from htcjob.machine.proc import processes_with

ROUNDS = 100
"""Rounds, 10 ms apart, after which a process that is still there cannot be killed."""


def end(variable: str) -> None:
    """Kill every process that was started with *variable* (`NAME=value`) in its environment."""
    for _ in range(ROUNDS):  # a process may fork between our looking and our killing
        pids = list(processes_with(variable.encode()))
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            return
        time.sleep(0.01)
