"""What commands leave behind, one command or several at a time: all of it is ended, nobody else's is."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from htcjob.machine import proc
from htcjob.supervise.children import Children, RunningCommand
from htcjob.supervise.command import run_command
from htcjob.supervise.signals import Signals
from tests.conftest import REPOSITORY, wait_until
from tests.support.supervision import (
    ENVIRONMENT,
    HTCJOB,
    SCRIPTS,
    is_alive,
    output_of,
    python,
    ready,
    script,
    started,
    state_of,
    wrapper_of,
)


def test_orphans_are_reaped_while_the_command_runs(as_pid_1):
    """A thousand of them, and none is a zombie for long."""
    assert output_of(*HTCJOB, *script("make_orphans", "1000", "sessions"), as_pid_1=as_pid_1) == "clean\n"


def test_leftovers_are_asked_to_end_when_the_command_has_ended():
    """SIGTERM reaches what is left of the group, as dumb-init does it."""
    background = f"{sys.executable} -S {SCRIPTS / 'print_signals.py'} & read line; exit 0"
    with started(*HTCJOB, "sh", "-c", background, stdin=subprocess.PIPE) as process:
        pid = int(process.stdout.readline().split()[1])
        process.stdin.close()
        assert process.stdout.readline() == f"{int(signal.SIGTERM)}\n"
        wait_until(lambda: not is_alive(pid))  # it does not end of SIGTERM
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("manner", ["", "stubborn"])
def test_a_daemon_that_left_group_and_session_is_ended(as_pid_1, manner, tmp_path):
    """And its own child, and before htcjob ends."""
    pids = tmp_path / "pids"
    with started(*python(DAEMON, *script("daemon", str(pids), manner)), as_pid_1=as_pid_1) as process:
        out, _ = process.communicate(timeout=30)
    assert out == "0 []\n", "what is left of it"


DAEMON = """
with Signals() as signals:
    result = run_command(sys.argv[1:], environment=os.environ, signals=signals, grace_s=0.5)
    pids = open(sys.argv[4]).read().split()
    print(result.exit_status, [pid for pid in pids if os.path.exists(f"/proc/{pid}")], flush=True)
"""


def test_a_daemon_that_keeps_stdout_open_does_not_hold_the_job(as_pid_1):
    """Whoever reads our output sees its end."""
    assert output_of(*HTCJOB, "sh", "-c", "setsid sleep 1000 & exit 0", as_pid_1=as_pid_1) == ""


def test_nobody_survives_a_killed_htcjob():
    """SIGKILL leaves no time for anything; the kernel ends the command's process group for us."""
    with started(*HTCJOB, "sh", "-c", "sleep 1000 & echo $$ $!; exec sleep 1000 <&- >&- 2>&-") as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert all(is_alive(pid) for pid in pids)
        wait_until(lambda: Path(f"/proc/{pids[0]}/comm").read_text() == "sleep\n")
        # The command may be there before we could ask the kernel to end it with us.
        wait_until(lambda: len(asynchronous_descriptors(process.pid)) == 2)
        process.kill()
        process.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in pids))


def asynchronous_descriptors(pid: int) -> list[str]:
    """Give the descriptors of a process that have O_ASYNC."""
    found = []
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if int(info.read_text().split("flags:")[1].split()[0], 8) & os.O_ASYNC:
                found.append(info.name)
    return found


def test_the_command_inherits_no_file_descriptor_of_ours(as_pid_1):
    """Only standard input, output and error."""
    assert output_of(*HTCJOB, "sh", "-c", "ls /proc/self/fd", as_pid_1=as_pid_1).split() == [
        "0",
        "1",
        "2",
        "3",
    ]


def test_the_command_works_where_htcjob_was_started(as_pid_1):
    """Its working directory is ours."""
    assert output_of(*HTCJOB, "pwd", as_pid_1=as_pid_1) == f"{REPOSITORY}\n"


def test_waiting_wakes_nobody(as_pid_1):
    """While the command runs, no thread of htcjob gives up the processor: it never has it."""
    with started(*HTCJOB, *script("print_signals"), as_pid_1=as_pid_1) as process:
        wrapper, command = ready(process, as_pid_1=as_pid_1)

        def switches() -> list[str]:
            tasks = sorted(Path(f"/proc/{wrapper}/task").glob("*/status"))
            return re.findall(r"ctxt_switches:\s*(\d+)", "".join(path.read_text() for path in tasks))

        wait_until(lambda: state_of(wrapper) == "S")
        os.kill(wrapper, signal.SIGWINCH)  # once this is through, it waits for nothing but the end
        assert process.stdout.readline()
        wait_until(lambda: (before := switches(), time.sleep(0.1)) and before == switches())
        before = switches()
        time.sleep(1)
        assert switches() == before
        os.kill(command, signal.SIGKILL)


CONCURRENT = """
failures = []
def work(number):
    for n in range(20):
        status = (number * 20 + n) % 256
        argv = ["sh", "-c", f"(setsid sh -c 'sleep 0.01; exit 99' &) ; exit {status}"]
        environment = {**os.environ, "HTCJOB_OUTPUT_DIR": f"/{number}"}
        result = run_command(argv, environment=environment, signals=signals, may_finish=True)
        if result.exit_status != status:
            failures.append((status, result))
def bystand():
    while not is_over.is_set():
        done = subprocess.run(["sh", "-c", "exit 7"])
        if done.returncode != 7:
            failures.append(done)
is_over = threading.Event()
with Signals() as signals:
    bystander = threading.Thread(target=bystand)
    bystander.start()
    workers = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    is_over.set()
    bystander.join()
print(failures, subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True)
    .stdout.splitlines()[1:], flush=True)
"""


def test_several_commands_at_a_time_keep_their_statuses_and_leave_nobody(as_pid_1):
    """Nor does a child that another thread of ours waits for lose its own to the reaper of orphans."""
    assert output_of(*python(CONCURRENT), as_pid_1=as_pid_1) == "[] []\n"


FORWARD_TO_ALL = """
results = []
def work(number):
    results.append(run_command(sys.argv[1:], environment=os.environ, signals=signals).exit_status)
with Signals() as signals:
    workers = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for worker in workers: worker.start()
    for worker in workers:
        while worker.is_alive(): worker.join(1)  # a signal that comes just before a wait wakes nobody
print(results, signals.stop_signal, flush=True)
"""


def test_a_signal_reaches_every_command(as_pid_1):
    """Not only the one that was started last."""
    command = ("sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done")
    with started(*python(FORWARD_TO_ALL, *command), as_pid_1=as_pid_1) as process:
        assert [process.stdout.readline() for _ in range(4)] == ["ready\n"] * 4
        os.kill(wrapper_of(process, as_pid_1=as_pid_1), signal.SIGUSR1)
        assert process.communicate(timeout=30)[0] == "[9, 9, 9, 9] None\n"


def test_a_daemon_lives_as_long_as_its_own_command(tmp_path):
    """The end of another command does not end it, whoever is first."""
    pids, go = tmp_path / "pids", tmp_path / "go"
    with Signals() as signals:

        def run(number: int, *argv: str):
            environment = {**ENVIRONMENT, "HTCJOB_OUTPUT_DIR": f"/{number}"}
            return run_command(argv, environment=environment, signals=signals, grace_s=0.5)

        daemon = " ".join(script("daemon", str(pids)))
        command = ("sh", "-c", f"{daemon}; until [ -e {go} ]; do sleep 0.01; done")
        worker = threading.Thread(target=run, args=(1, *command))
        worker.start()
        wait_until(pids.exists)
        family = [int(pid) for pid in pids.read_text().split()]
        assert run(2, "true").exit_status == 0
        assert all(is_alive(pid) for pid in family)

        pids.unlink()
        go_too = tmp_path / "go too"
        other = threading.Thread(
            target=run, args=(3, "sh", "-c", f"{daemon}; until [ -e '{go_too}' ]; do sleep 0.01; done")
        )
        other.start()
        wait_until(pids.exists)
        others = [int(pid) for pid in pids.read_text().split()]
        go.touch()
        worker.join()
        assert not any(is_alive(pid) for pid in family)
        assert all(is_alive(pid) for pid in others)
        go_too.touch()
        other.join()
        assert not any(is_alive(pid) for pid in others)


def test_a_daemon_without_origin_is_the_last_commands(tmp_path):
    """An emptied environment hides it only while another command runs."""
    pids, go = tmp_path / "pids", tmp_path / "go"
    with Signals() as signals:

        def run(*argv: str):
            return run_command(argv, environment=ENVIRONMENT, signals=signals, grace_s=0.5)

        other = threading.Thread(target=run, args=("sh", "-c", f"until [ -e {go} ]; do sleep 0.01; done"))
        other.start()
        wait_until(lambda: signals.children.running)
        assert run("env", "-i", *script("daemon", str(pids))).exit_status == 0
        family = [int(pid) for pid in pids.read_text().split()]
        assert all(is_alive(pid) for pid in family)
        go.touch()
        other.join()
        assert not any(is_alive(pid) for pid in family)


def test_children_from_before_are_left_alone():
    """A helper that our own process started is no leftover of a command."""
    with started("sleep", "1000", start_new_session=True) as helper, Signals() as signals:
        assert run_command(["true"], environment=ENVIRONMENT, signals=signals).exit_status == 0
        assert helper.poll() is None
        helper.kill()
        assert run_command(["true"], environment=ENVIRONMENT, signals=signals).exit_status == 0
        assert helper.wait(timeout=30) == -signal.SIGKILL


@pytest.mark.parametrize(("signum", "may_finish"), [(signal.SIGUSR1, False), (signal.SIGINT, True)])
def test_a_signal_during_the_start_is_not_lost(signum, may_finish):
    """What comes before the process id is known reaches the command all the same."""
    with Signals() as signals:

        def spawn() -> int:
            pid = os.posix_spawnp("sleep", ["sleep", "1000"], os.environ, setsid=True)
            os.kill(os.getpid(), signum)
            return pid

        command = RunningCommand(may_finish=may_finish, is_job=False, mark=None)
        pid = signals.start(spawn, command, lends_terminal=False)
        status, _ = signals.wait(pid)
        assert os.WTERMSIG(status) == signum


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_where_orphans_are_not_ours_the_group_is_ended(monkeypatch, has_pidfd, tmp_path):
    """A system without prctl, or with another namespace's /proc."""
    monkeypatch.setattr("htcjob.machine.proc.sees_itself", lambda: False)
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    with Signals() as signals:
        leftover = f"(trap 'echo > {tmp_path}/told; exit' TERM; echo > {tmp_path}/ready; sleep 1000 & wait)"
        command = ["sh", "-c", f"{leftover} & until [ -e {tmp_path}/ready ]; do sleep 0.01; done"]
        run_command(command, environment=ENVIRONMENT, signals=signals)
        assert not signals.children.adopts
    assert (tmp_path / "told").exists(), "killed without a word"


def test_a_kernel_without_the_list_of_children_is_scanned(monkeypatch, tmp_path):
    """CONFIG_PROC_CHILDREN is an option; pidfds are from Linux 5.3."""
    real, refused = proc.content_of, []

    def refuse(path):
        if path.endswith("/children"):
            refused.append(path)
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(proc, "content_of", refuse)
    monkeypatch.delattr(os, "pidfd_open")
    with Signals() as signals:
        run_command(script("daemon", str(tmp_path / "pids")), environment=ENVIRONMENT, signals=signals)
        assert signals.children.adopts
    assert refused
    assert not any(is_alive(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_a_leftover_that_cannot_be_ended_does_not_hold_the_job(monkeypatch):
    """Every wait has a bound, even for a process in the kernel's hands."""
    monkeypatch.setattr(os, "killpg", lambda group, signum: None)
    children = Children()
    with started("sleep", "1000", start_new_session=True) as stubborn:
        monkeypatch.setattr(children, "_adopts", True)
        monkeypatch.setattr(children, "_left_by", lambda command: ([(stubborn.pid, stubborn.pid)], []))
        children.end_leftovers(None, grace_s=0.1)
        assert stubborn.poll() is None
