"""Every exit status and every signal of a command comes through."""

import signal
import subprocess

import pytest

from tests.support.supervision import HARMLESS, HTCJOB, PAUSING, output_of, python, started

ALL_STATUSES = """
with Signals() as signals:
    for status in range(256):
        result = run_command(["sh", "-c", f"exit {status}"], environment=os.environ, signals=signals)
        assert (result.exit_status, result.signal) == (status, None), (status, result)
"""


def test_every_exit_status_comes_through(as_pid_1):
    """All 256 of them."""
    output_of(*python(ALL_STATUSES), as_pid_1=as_pid_1)


ALL_SIGNALS = """
for signum in map(int, sys.argv[1:]):
    with Signals() as signals:
        code = f"import os, signal; signal.signal({signum}, signal.SIG_DFL); os.kill(os.getpid(), {signum})"
        command = [sys.executable, "-ISc", code if signum != 9 else "import os; os.kill(os.getpid(), 9)"]
        result = run_command(command, environment=os.environ, signals=signals)
        assert (result.exit_status, result.signal) == (128 + signum, signum), (signum, result)
"""


def test_every_deadly_signal_is_told_as_128_plus_its_number(as_pid_1):
    """Real-time signals too."""
    deadly = signal.valid_signals() - HARMLESS - PAUSING - {signal.SIGSTOP}
    assert len(deadly) > 50
    output_of(*python(ALL_SIGNALS, *(str(int(signum)) for signum in deadly)), as_pid_1=as_pid_1)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("sh", "-c", "exit 42"), 42),
        (("sh", "-c", "kill -9 $$"), 137),
        (("/no/such",), 127),
        (("/etc",), 126),
    ],
)
def test_the_status_of_the_whole_process_is_the_commands(as_pid_1, command, status):
    """Through the command line, as a platform sees it."""
    with started(*HTCJOB, *command, as_pid_1=as_pid_1, stderr=subprocess.PIPE) as process:
        process.communicate(timeout=30)
    assert process.returncode == status
