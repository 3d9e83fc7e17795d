"""A person at the keyboard."""

from __future__ import annotations

import signal
import subprocess

import pytest


def press_ctrl_c(process: subprocess.Popen[str], times: int) -> None:
    """Interrupt a process, a second time only where the first one does not end it; wait for its end."""
    process.send_signal(signal.SIGINT)
    if times == 2:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
