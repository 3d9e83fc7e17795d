"""What hangs after a request to stop is ended."""

import subprocess
import sys

EARLY = """
import os, signal, time
from htcjob.run_options import RunOptions
from htcjob.attempt.attempt import Attempt
from htcjob.attempt.early_end import end_whatever_hangs
from htcjob.supervise.signals import Signals
with Signals() as signals:
    os.kill(os.getpid(), signal.SIGTERM)
    end_whatever_hangs(Attempt(RunOptions(("true",), grace_s=0), {}), signals)
    time.sleep(1000)
"""


def test_a_signal_before_anything_could_hang_is_not_forgotten():
    """It comes while the environment is read; what hangs later is ended all the same."""
    argv = [sys.executable, "-c", EARLY]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 143, done.stderr
