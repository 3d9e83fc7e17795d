"""What became of an entry, judged by the error it met or by its command's ending."""

import signal
import subprocess
import sys

import pytest

from htcjob import errors
from htcjob.outcome.results import (
    CommandResult,
    EntryResult,
    judge_command,
    judge_stage_in,
    status_of_code,
    stops_attempt,
)


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (errors.BadKeyError("a//b", "why"), EntryResult.FAILED),
        (errors.AbsentError("get", "a", "why"), EntryResult.FAILED),
        (errors.DeniedError("get", "a", "why"), EntryResult.FAILED),
        (errors.TransientError("get", "a", "why"), EntryResult.RETRY),
        (errors.ShortageError("why"), EntryResult.RETRY),
        (errors.UnauthenticatedError("get", "a", "why"), None),
        (errors.UnwritableError("get", "a", "why"), None),
        (errors.TokenError("why"), None),
    ],
)
def test_an_input_that_cannot_be_fetched_is_its_entrys_fault_or_nobodys(error, result):
    """A token that has ended in the middle fails no entry for good; it ends the attempt."""
    assert stops_attempt(error, staging_out=False) == (result is None)
    assert result is None or judge_stage_in(error) is result


@pytest.mark.parametrize(
    ("result", "verdict", "said"),
    [
        (CommandResult(0), EntryResult.DONE, ""),
        (CommandResult(1), EntryResult.FAILED, "exit status 1"),
        (CommandResult(75), EntryResult.RETRY, "tried again"),
        (CommandResult(139, signal=11), EntryResult.FAILED, "SIGSEGV"),
        (CommandResult(0, timed_out=True, elapsed_s=5), EntryResult.TIMED_OUT, "5.0 s"),
        (CommandResult(127, start_error="command not found: x"), EntryResult.FAILED, "not found"),
    ],
)
def test_an_entry_is_judged_by_its_commands_ending(result, verdict, said):
    """A timeout stays a timeout even if the command then exits 0."""
    assert judge_command(result)[0] is verdict
    assert said in judge_command(result)[1]


@pytest.mark.parametrize(
    ("code", "status"), [(0, 0), (1, 1), (255, 255), (-signal.SIGTERM, 143), (-signal.SIGKILL, 137)]
)
def test_a_signal_is_shown_as_a_shell_does(code, status):
    """128 and the number of the signal; a status of its own is left alone."""
    program = f"import os, sys; os.kill(os.getpid(), {-code}) if {code} < 0 else sys.exit({code})"
    ended = subprocess.run([sys.executable, "-c", program], check=False).returncode
    assert status_of_code(ended) == status
    shell = subprocess.run(["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", program], check=False)
    assert shell.returncode == status
