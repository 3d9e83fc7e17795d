"""Readers of /proc, on this very process and on one that has ended."""

import os
import signal
import subprocess
from pathlib import Path

from htcjob.machine import proc
from tests.conftest import wait_until


def test_a_process_is_read_as_the_kernel_shows_it():
    """Family, environment, memory and state of a child; nothing is an error once it has gone."""
    with subprocess.Popen(
        ["sleep", "1000"], env={"MARK": "a b", "OTHER": "1"}, start_new_session=True
    ) as child:
        wait_until(lambda: proc.has_variable(child.pid, b"MARK=a b"))
        assert child.pid in proc.children()
        assert proc.all_processes()[child.pid] == (os.getpid(), child.pid, child.pid)
        assert child.pid in set(proc.processes_with(b"MARK=a b"))
        assert not proc.has_variable(child.pid, b"MARK=a"), "a part of a value is another value"
        assert proc.memory_of(child.pid) > 0
        assert not proc.is_suspended(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        wait_until(lambda: proc.is_suspended(child.pid))
        child.kill()
    assert child.pid not in proc.children()
    assert child.pid not in proc.all_processes()
    assert not proc.has_variable(child.pid, b"MARK=a b")
    assert not proc.is_suspended(child.pid)
    assert proc.memory_of(child.pid) == 0


def test_a_program_whose_name_looks_like_the_end_of_a_name_is_read_too(tmp_path):
    """/proc/PID/stat has it in parentheses, and spaces and parentheses in it as they are."""
    program = tmp_path / "a) R 1 ("
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"], start_new_session=True) as child:
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "a) R 1 (\n")
        assert proc.all_processes()[child.pid] == (os.getpid(), child.pid, child.pid)
        child.kill()


def test_without_the_list_of_children_all_processes_are_looked_at(monkeypatch):
    """CONFIG_PROC_CHILDREN is an option of the kernel."""
    real = proc.content_of

    def refuse(path):
        if path.endswith("/children"):
            raise FileNotFoundError(path)
        return real(path)

    with subprocess.Popen(["sleep", "1000"]) as child:
        expected = proc.children()
        monkeypatch.setattr(proc, "content_of", refuse)
        assert sorted(proc.children()) == sorted(expected)
        child.kill()
