"""Supervision on a terminal, where a person sits: job control as in a shell."""

import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, suppress

import pytest

from tests.conftest import REPOSITORY, wait_until
from tests.support.supervision import (
    ENVIRONMENT,
    HTCJOB,
    NEW_NAMESPACE,
    children_of,
    python,
    script,
    state_of,
)


class Screen:
    """A program on a terminal of its own, as the leader of its session, and a person before it."""

    def __init__(self, *argv: str, as_pid_1: bool = False, **variables: str) -> None:
        self._keys, terminal = os.openpty()
        flags = termios.tcgetattr(terminal)
        flags[1] &= ~termios.OPOST
        flags[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSANOW, flags)
        prefix = NEW_NAMESPACE if as_pid_1 else ()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *prefix, *argv],
            env={**ENVIRONMENT, **variables, "PS1": "$ ", "TERM": "dumb"},
            cwd=REPOSITORY,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        self.shown = ""
        """What was shown and no `sees` has seen."""

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._keys)

    @property
    def foreground(self) -> int:
        """The process group that the terminal's keys are for."""
        return os.tcgetpgrp(self._keys)

    def type(self, text: str) -> None:
        os.write(self._keys, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        size = rows.to_bytes(2, sys.byteorder) + columns.to_bytes(2, sys.byteorder) + bytes(4)
        fcntl.ioctl(self._keys, termios.TIOCSWINSZ, size)

    def sees(self, pattern: str) -> re.Match[str]:
        """Wait until *pattern* is shown; what comes after it is kept."""
        until = time.monotonic() + 30
        while not (match := re.search(pattern, self.shown)):
            assert select.select([self._keys], [], [], max(until - time.monotonic(), 0))[0], self.shown
            try:
                self.shown += os.read(self._keys, 10_000).decode()
            except OSError:  # the other side is closed
                pytest.fail(f"ended without {pattern!r}: {self.shown!r}")
        self.shown = self.shown[match.end() :]
        return match

    def end(self) -> tuple[int, str]:
        """Wait for the program's end; give its exit status and what was not seen yet."""
        with suppress(OSError):
            while select.select([self._keys], [], [], 30)[0]:
                self.shown += os.read(self._keys, 10_000).decode()
        return self.process.wait(timeout=30), self.shown


def test_the_command_reads_and_writes_the_terminal(as_pid_1):
    """As dumb-init's own test has it."""
    with Screen(*HTCJOB, "tac", as_pid_1=as_pid_1) as screen:
        screen.type("1\n2\n3\n\x04")
        assert screen.end() == (0, "3\n2\n1\n")


def test_a_shell_as_command_has_job_control(as_pid_1):
    """It has the controlling terminal and its foreground, and says nothing of the contrary."""
    with Screen(*HTCJOB, "bash", "--norc", "-im", as_pid_1=as_pid_1) as screen:
        screen.type('echo "flags [$-]"\n')
        assert "m" in screen.sees(r"flags \[(\w+)\]\n")[1]
        screen.type("sleep 1000\n")
        time.sleep(0.3)
        screen.type("\x1a")
        screen.sees("Stopped")
        screen.type("kill %1; exit 5\n")
        screen.type("exit 5\n")  # "there are stopped jobs", says bash the first time
        status, shown = screen.end()
        assert status == 5
        assert "no job control" not in shown
        assert "terminal process group" not in shown


def test_ctrl_c_is_for_the_command(as_pid_1):
    """Once, and if it goes on, so do we: no grace period begins."""
    with Screen(*HTCJOB, *script("print_signals", "reads"), as_pid_1=as_pid_1) as screen:
        screen.sees(r"ready \d+\n")
        screen.type("\x03")
        screen.sees(r"^2\n")
        screen.type("still there\n")
        screen.sees(r"^read still there\n")
        screen.type("\x04")
        assert screen.end() == (0, "")


def test_ctrl_c_that_ends_the_command_ends_us(as_pid_1):
    """130, as in a shell."""
    with Screen(*HTCJOB, "sh", "-c", "echo ready; exec sleep 1000", as_pid_1=as_pid_1) as screen:
        screen.sees("ready\n")
        screen.type("\x03")
        assert screen.end()[0] == 130


def test_a_loop_around_us_ends_with_ctrl_c():
    """The script that runs us hears of it, though the terminal told the command alone."""
    loop = f"trap 'echo heard; exit 3' INT; while :; do {' '.join(HTCJOB)} sh -c 'echo ready; exec sleep 1000'; done"
    with Screen("bash", "--norc", "-c", loop) as screen:
        screen.sees("ready\n")
        screen.type("\x03")
        status, shown = screen.end()
        assert status == 3
        assert "ready" not in shown


def test_a_new_window_size_reaches_the_command(as_pid_1):
    """SIGWINCH once, and the size that it tells of."""
    with Screen(*HTCJOB, *script("print_signals", "reads"), as_pid_1=as_pid_1) as screen:
        screen.sees(r"ready \d+\n")
        screen.resize(33, 77)
        screen.sees(rf"^{int(signal.SIGWINCH)}\n")
        screen.type("\x04")
        assert screen.end() == (0, "")


@contextmanager
def shell():
    with Screen("bash", "--norc", "--noediting", "-i") as screen:
        screen.sees(r"\$ $")
        yield screen
        screen.type("exit\nexit\n")  # once more, should it warn of a stopped job
        screen.end()


def test_ctrl_z_and_fg_work_in_a_shell():
    """The command is stopped and so are we; fg gives both back, with the terminal."""
    with shell() as screen:
        screen.type(f"{' '.join(HTCJOB)} sh -c 'echo ready; cat; exit 6'\n")
        screen.sees("ready\n")
        for n in range(3):
            screen.type(f"hello {n}\n")  # its echo says that cat is there: a shell in vfork cannot be stopped
            screen.sees(f"hello {n}\n")
            [wrapper] = children_of(screen.process.pid)
            [command] = children_of(wrapper)
            [cat] = children_of(command)
            screen.type("\x1a")
            screen.sees(r"Stopped[^$]*\$ $")
            wait_until(lambda pid=cat: state_of(pid) == "T")  # or it still reads what is typed for the shell
            screen.type("fg\n")
            screen.sees("htcjob")
        screen.type("\x04")
        screen.sees(r"\$ $")
        screen.type("echo status $?\n")
        screen.sees("status 6\n")


def test_a_job_in_the_background_that_wants_the_terminal_waits_for_fg():
    """It is not given what the shell has, and the shell is told."""
    with shell() as screen:
        screen.type(f"{' '.join(HTCJOB)} cat &\n")
        wait_until(lambda: "T" in {state_of(pid) for pid in children_of(screen.process.pid)})
        screen.type("\n")
        screen.sees("Stopped")
        screen.type("fg\n")
        screen.sees("cat")
        screen.type("hello\n\x04")
        screen.sees(r"hello\n.*\$ $")


def test_a_job_goes_on_in_the_background():
    """bg continues the command without the terminal, fg gives it back."""
    with shell() as screen:
        screen.type(f"{' '.join(HTCJOB)} {' '.join(script('print_signals', 'stops'))}\n")
        screen.sees(r"ready \d+\n")
        screen.type("\x1a")
        screen.sees("Stopped")
        screen.type("bg\n")
        screen.sees(rf"\b{int(signal.SIGCONT)}\n")
        screen.type("echo shell has it\n")
        screen.sees("shell has it\n")
        job = children_of(screen.process.pid)[0]
        screen.type("fg\n")
        wait_until(lambda: screen.foreground == job)
        screen.type("\x03")
        screen.sees(r"\b2\n")
        screen.type("\x1a")
        screen.sees("Stopped")
        screen.type("kill -9 %1; wait\n")


def test_in_a_pipeline_the_others_keep_the_terminal_too():
    """Ctrl-C reaches all of it, and the command still can read what is typed."""
    with shell() as screen:
        screen.type(f"{' '.join(HTCJOB)} cat | tr a-z A-Z\n")
        screen.type("hello\n\x04")
        screen.sees("HELLO\n")
        screen.sees(r"\$ $")
        screen.type(f"{' '.join(HTCJOB)} sh -c 'echo ready >&2; exec sleep 1000' | cat\n")
        screen.sees("ready\n")
        screen.type("\x03")
        screen.sees(r"\$ $")
        screen.type("echo status ${PIPESTATUS[0]}\n")
        screen.sees("status 130\n")


def test_a_pager_behind_us_has_the_terminal():
    """What is lent to a command is taken from the rest of its pipeline."""
    with shell() as screen:
        pager = "sh -c 'read line; echo $line; read key < /dev/tty; echo key $key; exit'"
        screen.type(f"{' '.join(HTCJOB)} sh -c 'echo ready; exec sleep 1000' | {pager}\n")
        screen.sees("ready\n")
        screen.type("q\n")
        screen.sees("key q\n")
        screen.type("\x03")
        screen.sees(r"\$ $")


def test_ctrl_z_where_no_shell_could_continue_us_is_nothing(as_pid_1):
    """As PID 1 of `docker run -it`, a stopped command would stay so for ever."""
    with Screen(*HTCJOB, "sh", "-c", "echo ready; exec cat", as_pid_1=as_pid_1) as screen:
        screen.sees("ready\n")
        screen.type("\x1a")
        screen.type("hello\n")
        screen.sees("hello\n")
        screen.type("\x04")
        assert screen.end()[0] == 0


KEEPING = """
with Signals() as signals:
    result = run_command(sys.argv[1:], environment=os.environ, signals=signals, grace_s=10)
print(result.exit_status, result.stopped_by, flush=True)
"""


def test_ctrl_c_stops_an_attempt_whose_command_has_not_the_terminal():
    """A command that ends tidily of Ctrl-C has not done the work of its chunk."""
    command = ("sh", "-c", "trap 'exit 0' INT; echo ready; while :; do sleep 0.01; done")
    with Screen(*python(KEEPING, *command)) as screen:
        screen.sees("ready\n")
        screen.type("\x03")
        assert screen.end() == (0, "0 2\n")


def test_a_command_that_asks_for_the_terminal_gets_it(as_pid_1):
    """Its question is answered, whether it reads standard input or the terminal itself."""
    command = ("sh", "-c", "read one; read two < /dev/tty; echo $one $two")
    with Screen(*python(KEEPING, *command), as_pid_1=as_pid_1) as screen:
        screen.type("a\nb\n")
        assert screen.end() == (0, "a b\n0 None\n")


def test_our_own_lines_are_shown_while_the_command_has_the_terminal():
    """A terminal with `tostop` stops whoever writes from the background, except us."""
    code = "with Signals() as signals:\n    started = threading.Timer(0.5, print, ['ours'], {'flush': True})\n    started.start()\n"
    code += "    run_command(sys.argv[1:], environment=os.environ, signals=signals, lends_terminal=True)\n"
    with Screen(*python(code, "sh", "-c", "stty tostop; echo ready; exec cat")) as screen:
        screen.sees("ready\n")
        screen.sees("ours\n")
        screen.type("\x04")
        assert screen.end()[0] == 0
