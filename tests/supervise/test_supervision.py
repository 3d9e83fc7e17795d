"""
Supervision as an init's: PID 1 of a container or a process under another init, on a terminal or not.

What the test suites of tini and dumb-init check is checked here of `htcjob run`, and more.
"""

import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from htcjob.machine import proc
from htcjob.supervise.children import Children, RunningCommand
from htcjob.supervise.command import run_command
from htcjob.supervise.signals import Signals
from tests.conftest import REPOSITORY, wait_until
from tests.support.skipping import skip_or_fail

SCRIPTS = Path(__file__).parents[1] / "support" / "children"
HTCJOB = (sys.executable, "-m", "htcjob", "run", "--")
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
NEW_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

UNSEEN = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
OF_OURS = {signal.SIGPIPE, signal.SIGXFSZ}
FAULTS = {getattr(signal, f"SIG{name}") for name in ("SEGV", "BUS", "FPE", "ILL", "TRAP", "ABRT", "SYS")}
PAUSING = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}


@pytest.fixture(params=["under an init", "as PID 1"])
def as_pid_1(request) -> bool:
    if request.param == "as PID 1":
        need_namespaces()
    return request.param == "as PID 1"


def need_namespaces() -> None:
    tried = subprocess.run([*NEW_NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        skip_or_fail(
            "HTCJOB_REQUIRE_MOUNT", f"no PID namespace, only root can make one: {tried.stderr.strip()}"
        )


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-S", str(SCRIPTS / f"{name}.py"), *arguments)


@contextmanager
def started(*argv: str, as_pid_1: bool = False, **options):
    """Start *argv*, as PID 1 of a namespace of its own or not; whatever a failed test leaves is ended."""
    prefix = NEW_NAMESPACE if as_pid_1 else ()
    options = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True} | options
    with subprocess.Popen([*prefix, *argv], env=ENVIRONMENT, cwd=REPOSITORY, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def output_of(*argv: str, as_pid_1: bool = False, **options) -> str:
    with started(*argv, as_pid_1=as_pid_1, stderr=subprocess.PIPE, **options) as process:
        out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    return out


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """Give the argv of Python code that may use run_command."""
    preamble = (
        "import os, resource, signal, subprocess, sys, threading, time\n"
        "from htcjob.supervise.command import run_command\n"
        "from htcjob.supervise.signals import Signals\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    )
    return (sys.executable, "-c", preamble + code, *arguments)


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            stat = path.read_text()
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def wrapper_of(process: subprocess.Popen, *, as_pid_1: bool) -> int:
    """Give the process id, as we see it, of htcjob."""
    if not as_pid_1:
        return process.pid
    wait_until(lambda: children_of(process.pid))
    return children_of(process.pid)[0]


def state_of(pid: int) -> str:
    """Give one letter; `-`: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "-"


def is_alive(pid: int) -> bool:
    return state_of(pid) not in "Z-"


def ready(process: subprocess.Popen, *, as_pid_1: bool = False) -> tuple[int, int]:
    """Wait for `print_signals.py`, and give the process ids of htcjob and of it."""
    assert process.stdout.readline().startswith("ready ")
    wrapper = wrapper_of(process, as_pid_1=as_pid_1)
    wait_until(lambda: state_of(wrapper) == "S")  # it waits: a signal that comes just before wakes nobody
    return wrapper, children_of(wrapper)[0]


# ---- exit statuses


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


# ---- signals


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


# ---- what the command leaves behind


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


# ---- several commands at a time


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


# ---- on a terminal


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
            screen.type("\x1a")
            screen.sees(r"Stopped[^$]*\$ $")
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
