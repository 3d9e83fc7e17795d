"""Signals as an init's: all of them reach the command, as PID 1 of a container or under another init.

What the test suites of tini and dumb-init check is checked here of `htcjob run`, and more.
"""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.support.supervision import (
    FAULTS,
    HTCJOB,
    OF_OURS,
    PAUSING,
    UNSEEN,
    children_of,
    is_alive,
    need_namespaces,
    output_of,
    ready,
    script,
    started,
    state_of,
    wrapper_of,
)


def test_every_signal_reaches_the_command(as_pid_1):
    """Each once, none is lost, as dumb-init proxies them; what is about ourselves is not passed on."""
    with started(*HTCJOB, *script("print_signals"), as_pid_1=as_pid_1) as process:
        wrapper, command = ready(process, as_pid_1=as_pid_1)
        for signum in sorted(signal.valid_signals() - UNSEEN - OF_OURS - FAULTS - PAUSING):
            os.kill(wrapper, signum)
            assert process.stdout.readline() == f"{int(signum)}\n"
        os.kill(command, signal.SIGKILL)
        assert process.communicate(timeout=30)[0] == ""
        assert process.returncode == 137


@pytest.mark.parametrize("signum", sorted(PAUSING))
def test_a_pause_stops_and_continues_htcjob_and_its_command(signum):
    """A queue that suspends a job means the whole of it."""
    with started(*HTCJOB, *script("print_signals")) as process:
        wrapper, command = ready(process)
        os.kill(wrapper, signum)
        wait_until(lambda: state_of(wrapper) == state_of(command) == "T")
        os.kill(wrapper, signal.SIGCONT)
        assert process.stdout.readline() == f"{int(signal.SIGCONT)}\n"
        assert state_of(wrapper) in "SR"
        os.kill(command, signal.SIGKILL)
        process.communicate(timeout=30)
        assert process.returncode == 137


def test_a_pause_stops_and_continues_the_command_of_pid_1():
    """The kernel does not stop PID 1 at its own wish, but it stops what PID 1 runs."""
    need_namespaces()
    with started(*HTCJOB, *script("print_signals"), as_pid_1=True) as process:
        wrapper, command = ready(process, as_pid_1=True)
        os.kill(wrapper, signal.SIGTSTP)
        wait_until(lambda: state_of(command) == "T")
        os.kill(wrapper, signal.SIGCONT)
        assert process.stdout.readline() == f"{int(signal.SIGCONT)}\n"
        os.kill(wrapper, signal.SIGUSR1)
        assert process.stdout.readline() == f"{int(signal.SIGUSR1)}\n"
        os.kill(command, signal.SIGKILL)


def test_a_signal_reaches_the_whole_process_group(as_pid_1):
    """A shell does not tell what it runs; we do."""
    shell = f"trap : USR1; {' '.join(script('print_signals'))} & wait; wait"
    with started(*HTCJOB, "sh", "-c", shell, as_pid_1=as_pid_1) as process:
        assert process.stdout.readline().startswith("ready")
        os.kill(wrapper_of(process, as_pid_1=as_pid_1), signal.SIGUSR1)
        assert process.stdout.readline() == f"{int(signal.SIGUSR1)}\n"


def test_the_end_of_the_group_is_the_end_of_all(as_pid_1):
    """Both pipelines of this shell, as dumb-init's own test has it."""
    pipelines = "sleep 1000 | tail & sleep 1000 | tail"
    with started(*HTCJOB, "sh", "-c", pipelines, as_pid_1=as_pid_1) as process:
        wrapper = wrapper_of(process, as_pid_1=as_pid_1)
        wait_until(lambda: children_of(wrapper))
        shell = children_of(wrapper)[0]
        family: set[int] = set()

        def is_complete() -> bool:
            direct = children_of(shell)
            family.update([shell, *direct], *(children_of(pid) for pid in direct))
            names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in family if is_alive(pid)]
            return names.count("sleep") == names.count("tail") == 2

        wait_until(is_complete)
        os.kill(wrapper, signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 143
        assert not any(is_alive(pid) for pid in family)


def test_the_command_has_the_signal_mask_and_the_ignored_signals_of_its_starter(as_pid_1):
    """As if it had been started directly."""

    def prepare() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})

    out = output_of(*HTCJOB, "cat", "/proc/self/status", as_pid_1=as_pid_1, preexec_fn=prepare)
    private = 3 << 31  # of the C library: glibc's posix_spawn ignores them in the child
    masks = {name: int(value, 16) & ~private for name, value in re.findall(r"(Sig(?:Ign|Blk)):\s*(\w+)", out)}
    assert masks == {"SigIgn": 1 << signal.SIGUSR1 - 1, "SigBlk": 1 << signal.SIGUSR2 - 1}
