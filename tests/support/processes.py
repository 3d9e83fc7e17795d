"""Processes of this machine, known by a variable of their environment, which those that they start inherit."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def pids_with(variable: str) -> list[int]:
    """Return the processes that have *variable*, `NAME=VALUE`, in their environment."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if variable.encode() in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found


def commands_with(variable: str) -> list[str]:
    """Return the commands of these processes."""
    found = []
    for pid in pids_with(variable):
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().rstrip())
    return found


def is_pending(pid: int, signum: int) -> bool:
    """Whether a signal that a process was sent has not reached it yet."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return any(int(status[name], 16) >> (signum - 1) & 1 for name in ("SigPnd", "ShdPnd"))
