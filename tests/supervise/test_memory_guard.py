"""The memory guard: real commands in real control groups with a limit, and the guard alone on made numbers."""

import json
import os
import signal
import subprocess
import sys

import pytest

from htcjob.machine.cgroup_memory import CgroupMemory
from htcjob.outcome.results import EntryResult, judge_command
from htcjob.supervise.children import Children, RunningCommand
from htcjob.supervise.command import run_command
from htcjob.supervise.memory_guard import FUTILE_PAUSE_S, MemoryGuard
from htcjob.supervise.signals import Signals
from htcjob.supervise.worker import Worker
from tests.conftest import REPOSITORY, wait_until
from tests.machine.test_limits import V2, group, make
from tests.support.skipping import skip_or_fail

MB = 1_000_000
LIMIT = 400 * MB

FILL = """
import os, signal, sys, time

def fill(megabytes):
    held = []
    for n in range(megabytes):
        held.append(bytearray(b"x" * 1_000_000))
        time.sleep(0.05 if n > 300 else 0)  # else the kernel may be first on a machine with much to do
    return held
"""


@pytest.fixture
def limited(htcjob, limited_memory):
    """`htcjob` in a control group of 400 MB."""
    htcjob.prefix = limited_memory(LIMIT)
    return htcjob


@pytest.fixture
def program(tmp_path):
    """Write a Python program that may fill memory, and give the words that start it."""

    def write(code: str) -> tuple[str, ...]:
        path = tmp_path / "program.py"
        path.write_text(FILL + code)
        return (sys.executable, "-S", str(path))

    return write


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- in a control group


def test_a_plain_command_that_needs_too_much_is_ended_with_137(limited, program):
    """The reason is the truth, and the message has both numbers."""
    done = limited.run("--", *program("fill(2000)"), HTCJOB_TASK_STORE="")
    assert done.returncode == 137, done.stderr
    record = limited.exit_record()
    assert record["termination_reason"] == "out_of_memory"
    assert record["command_signal"] == "SIGKILL"
    assert "out of memory" in done.stderr
    assert " MB of 400 MB in use" in record["message"]


def test_a_command_of_a_whole_chunk_commits_nothing_then(limited, program):
    """The same status and reason; the entries are left."""
    limited.entries("a", "b")
    done = limited.run("--", *program("fill(2000)"))
    assert done.returncode == 137, done.stderr
    assert limited.exit_record()["termination_reason"] == "out_of_memory"
    assert limited.results() == {}


def test_it_costs_the_biggest_entry_only(limited, program, tmp_path):
    """Those that run beside it go on to their end, for they began before it and end after it."""
    names = [f"small-{n}" for n in range(3)]
    limited.entries(*names, "big", "next")
    code = f"""
entry, pid_file = os.environ["HTCJOB_ENTRY"], {str(tmp_path / "pid")!r}
if entry == "big":
    while sum(os.path.exists(f"{{pid_file}}-{{n}}") for n in range(3)) < 3:
        time.sleep(0.01)
    with open(pid_file + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(pid_file + ".new", pid_file)
    fill(2000)
elif entry != "next":
    held = fill(20)
    open(pid_file + entry.removeprefix("small"), "w")
    while not os.path.exists(pid_file):
        time.sleep(0.01)
    big = int(open(pid_file).read())
    try:
        while True:
            os.kill(big, 0)
            time.sleep(0.01)
    except ProcessLookupError:
        pass
"""
    done = limited.run("--workers", "4", "--each", "--", *program(code))
    assert done.returncode == 65, done.stderr
    assert limited.results() == {0: "done", 1: "done", 2: "done", 3: "out_of_memory", 4: "done"}
    assert limited.records()[3]["message"].startswith("out of memory: ")


DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(os.environ["PID_FILE"], "w") as file:
        file.write(str(os.getpid()))
    fill(2000)
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize("way", ["plain", "each"])
def test_the_memory_of_a_daemon_is_its_commands(limited, program, tmp_path, way):
    """A grandchild in a session of its own fills the memory: it and its command are ended."""
    if way == "each":
        limited.entries("a", "b")
    code = "if os.environ.get('HTCJOB_ENTRY') == 'b': sys.exit()\n" + DAEMON
    options = ("--each", "--workers", "2") if way == "each" else ()
    done = limited.run(*options, "--", *program(code), PID_FILE=str(tmp_path / "pid"))
    assert done.returncode == (65 if way == "each" else 137), done.stderr
    assert limited.results() == ({0: "out_of_memory", 1: "done"} if way == "each" else {})
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_many_small_processes_are_one_big_command(limited, program):
    """
    None of them is as big as htcjob, and what they started dies with them.

    On a machine with much to do the kernel may be first. Then it takes one of these, not htcjob.
    """
    code = """
for n in range(200):
    if os.fork() == 0:
        if n % 2:
            os.setsid()
        held = fill(5)
        time.sleep(1000)
_, status = os.wait()
sys.exit(128 + os.WTERMSIG(status))
"""
    limited.entries("many", "one")
    command = program("if os.environ['HTCJOB_ENTRY'] == 'one': sys.exit()\n" + code)
    done = limited.run("--each", "--workers", "2", "--grace", "1s", "--", *command)
    assert done.returncode == 65, done.stderr
    assert limited.results() == {0: "out_of_memory", 1: "done"}


def test_a_warm_worker_is_replaced(limited, program, tmp_path):
    """The entry in hand is lost, the next one finds a new process."""
    (tmp_path / "mine.py").write_text(
        FILL + "def work(key):\n    if key == 'big': fill(2000)\n    return os.getpid()\n"
    )
    limited.entries("a", "big", "b")
    done = limited.run("--workers", "1", "--call", "mine:work", PYTHONPATH=str(tmp_path))
    assert done.returncode == 65, done.stderr
    assert limited.results() == {0: "done", 1: "out_of_memory", 2: "done"}
    records = limited.records()
    assert records[0]["value"] != records[2]["value"]
    assert records[1]["message"].startswith("out of memory: ")


def test_a_module_too_big_to_import_is_out_of_memory(limited, tmp_path):
    """No entry is to blame."""
    (tmp_path / "mine.py").write_text(FILL + "fill(2000)\ndef work(key): pass\n")
    limited.entries("a", "b")
    done = limited.run("--workers", "1", "--call", "mine:work", PYTHONPATH=str(tmp_path))
    assert done.returncode == 137, done.stderr
    assert limited.exit_record()["termination_reason"] == "out_of_memory"
    assert limited.results() == {}


def test_files_in_a_tmpfs_are_memory(limited, program, tmp_path):
    """They go with the entry that wrote them, so that the next one has room."""
    folder = tmp_path / "memory"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        skip_or_fail("HTCJOB_REQUIRE_MOUNT", "no tmpfs, only root can mount one")
    try:
        limited.entries("big", "small")
        code = """
size = 2000 if os.environ["HTCJOB_ENTRY"] == "big" else 100
with open(os.environ["HTCJOB_OUTPUT_DIR"] + "/" + os.environ["HTCJOB_ENTRY"], "wb") as file:
    for _ in range(size):
        file.write(b"x" * 1_000_000)
"""
        options = ("--workers", "1", "--work-dir", str(folder), "--each")
        done = limited.run(*options, "--", *program(code))
        assert done.returncode == 65, done.stderr
        assert limited.results() == {0: "out_of_memory", 1: "done"}
    finally:
        subprocess.run(["umount", folder], check=True)


def test_page_cache_is_no_reason(limited, program, tmp_path):
    """Files on a disk may fill all of it: the kernel takes that back."""
    code = f"""
with open({str(tmp_path / "big")!r}, "wb") as file:
    for n in range(600):
        file.write(b"x" * 1_000_000)
        if n % 50 == 0:
            file.flush()
            os.fsync(file.fileno())
with open({str(tmp_path / "big")!r}, "rb") as file:
    while file.read(1_000_000):
        pass
"""
    done = limited.run("--", *program(code))
    (tmp_path / "big").unlink()
    assert done.returncode == 0, done.stderr


def test_the_kernel_is_told_to_take_commands_first(limited):
    """Where it is faster than the guard, htcjob lives on to say so."""
    theirs, ours = "$(cat /proc/self/oom_score_adj)", "$(cat /proc/$PPID/oom_score_adj)"
    script = f"until [ {theirs} -gt {ours} ]; do sleep 0.01; done"  # it is told when the command has begun
    done = limited.run("--timeout", "60s", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr


IN_GROUP = """
import os, sys
from htcjob.supervise.command import run_command
from htcjob.supervise.signals import Signals
from htcjob.machine.cgroup_memory import CgroupMemory
with Signals() as signals:
    signals.children.memory = CgroupMemory()
    for script in sys.argv[1:]:
        result = run_command(["sh", "-c", script], environment=os.environ, signals=signals)
        print(result.exit_status, result.shortage or "-", flush=True)
"""


def test_what_the_kernel_kills_is_out_of_memory_too(limited_memory, program):
    """With no guard to be faster. Behind a shell it is a status of 137; what somebody else kills is not."""
    command = " ".join(program("fill(2000)"))
    scripts = (f"exec {command}", f"{command}; exit $?", "kill -9 $$", "exit 137", "true")
    argv = [*limited_memory(LIMIT), sys.executable, "-c", IN_GROUP, *scripts]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == -signal.SIGKILL:  # `memory.oom.group`
        pytest.skip("here the kernel ends the whole group")
    by_kernel, not_by_kernel = "137 killed by the kernel", "137 -"
    assert done.stdout.splitlines() == [by_kernel, by_kernel, not_by_kernel, not_by_kernel, "0 -"], done


# ---- alone, on made numbers


@pytest.fixture
def numbers(tmp_path):
    """A control group of 1000 MB that is said to use what a test says."""
    root = make(tmp_path, V2, group("a/b", str(1000 * MB), f"{0:020}", stat=f"shmem {0:020}", kills=0))

    class Numbers:
        memory = CgroupMemory(root)

        def use(self, megabytes: int, *, tmpfs: int = 0) -> None:
            for name, text in (("stat", f"shmem {tmpfs * MB:020}"), ("current", f"{megabytes * MB:020}")):
                # In one piece and in place: the file is open, and is being read.
                with open(f"{root}/sys/fs/cgroup/a/b/memory.{name}", "r+b", buffering=0) as file:
                    file.write(text.encode())

        def kernel_kills(self, number: int) -> None:
            """Say that the kernel has ended so many processes."""
            with open(f"{root}/sys/fs/cgroup/a/b/memory.events", "r+b", buffering=0) as file:
                file.write(f"oom_kill_disable 0\noom 9\noom_kill {number}\n".encode())

    return Numbers()


def hog(signals: Signals, megabytes: int) -> tuple[int, RunningCommand]:
    """Start a command with so much memory, and wait until it has it."""
    code = FILL + f"held = fill({megabytes})\nos.write({{}}, b'x')\ntime.sleep(1000)"
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    command = RunningCommand(may_finish=True, is_job=False, mark=None)
    argv = [sys.executable, "-S", "-c", code.replace("{}", str(writer))]
    pid = signals.start(
        lambda: os.posix_spawn(argv[0], argv, os.environ, setsid=True), command, lends_terminal=False
    )
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    return pid, command


def code_of(signals: Signals, pid: int) -> int:
    status, _ = signals.wait(pid)
    return os.waitstatus_to_exitcode(status)


def test_the_next_one_is_ended_when_the_memory_is_not_back(numbers):
    """The biggest first; the smallest is spared when there is room again."""
    with Signals() as signals, MemoryGuard(signals.children, numbers.memory) as guard:
        small, middle, big = (hog(signals, megabytes) for megabytes in (30, 60, 120))
        numbers.use(970, tmpfs=900)
        assert code_of(signals, big[0]) == -signal.SIGKILL
        assert code_of(signals, middle[0]) == -signal.SIGKILL
        numbers.use(500)
        wait_until(lambda: guard._victim is None)
        assert is_alive(small[0])
        assert [bool(command.shortage) for _, command in (small, middle, big)] == [False, True, True]
        assert big[1].shortage == "970 MB of 1000 MB in use"
        os.kill(small[0], signal.SIGKILL)
        assert code_of(signals, small[0]) == -signal.SIGKILL
        assert signals.children.shortage(small[1], -signal.SIGKILL) == ""


def test_where_the_kernel_is_first_no_other_one_is_ended(numbers, monkeypatch):
    """Memory of the kernel's victim is on its way back; a small command must not pay for it as well."""
    monkeypatch.setattr("htcjob.supervise.memory_guard.SETTLE_S", 1000.0)
    with Signals() as signals, MemoryGuard(signals.children, numbers.memory) as guard:
        small = hog(signals, 30)
        numbers.kernel_kills(1)
        numbers.use(990, tmpfs=900)
        wait_until(lambda: guard._settled_at is not None)
        looks = []
        look = guard._check
        guard._check = lambda: (looks.append(1), look())[1]
        wait_until(lambda: len(looks) > 100)
        assert is_alive(small[0])
        numbers.use(995, tmpfs=900)  # filled again
        assert code_of(signals, small[0]) == -signal.SIGKILL
        assert small[1].shortage


def test_a_victim_that_is_not_gone_is_waited_for(numbers):
    """Its memory is not back yet: that is no reason to end another one."""
    with Signals() as signals, MemoryGuard(signals.children, numbers.memory) as guard:
        small, big = hog(signals, 30), hog(signals, 60)
        numbers.use(970, tmpfs=900)
        wait_until(lambda: not is_alive(big[0]))  # and nobody has waited for it
        looks = []
        look = guard._check
        guard._check = lambda: (looks.append(1), look())[1]
        wait_until(lambda: len(looks) > 100)
        assert is_alive(small[0])
        numbers.use(500)
        wait_until(lambda: guard._victim is None)
        for pid, _ in (small, big):
            os.kill(pid, signal.SIGKILL)
            code_of(signals, pid)


def test_no_command_is_ended_when_that_would_not_help(numbers):
    """Memory that is full of others, or of htcjob itself, is no entry's fault; nor is it looked at all the time."""
    with Signals() as signals, MemoryGuard(signals.children, numbers.memory) as guard:
        numbers.use(999)
        pid, command = hog(signals, 10)
        looks = []
        look = guard._check
        guard._check = lambda: (looks.append(look()), looks[-1])[1]
        wait_until(lambda: looks[5:])
        assert set(looks[1:]) == {FUTILE_PAUSE_S}
        assert is_alive(pid)
        assert command.shortage == ""
        os.kill(pid, signal.SIGKILL)
        code_of(signals, pid)


def test_one_that_ends_at_that_very_moment_has_ended(numbers):
    """Whatever the guard meant to do to it, its own exit status counts, and a timeout stays one."""
    command = RunningCommand(may_finish=True, is_job=False, mark=None)
    command.shortage = "much"
    children = Children()
    assert children.shortage(command, 0) == children.shortage(command, 3) == ""
    assert children.shortage(command, -signal.SIGTERM) == ""
    assert children.shortage(command, -signal.SIGKILL) == "much"
    with Signals() as signals:
        result = run_command(["true"], environment={"PATH": os.environ["PATH"]}, signals=signals)
    assert judge_command(result._replace(shortage="much"))[0] is EntryResult.OUT_OF_MEMORY
    assert judge_command(result._replace(shortage="much", timed_out=True))[0] is EntryResult.TIMED_OUT


def test_an_idle_worker_that_is_ended_costs_no_entry(tmp_path):
    """The guard may choose one that holds on to memory; the next entry finds a new process."""
    (tmp_path / "mine.py").write_text("import os\ndef work(key): return os.getpid()\n")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    with Signals() as signals:
        worker = Worker(
            "mine:work",
            python=sys.executable,
            environment=environment,
            number=0,
            signals=signals,
            grace_s=5,
        )
        first = worker.call({"key": "a", "params": {}}, timeout_s=60)
        os.kill(first.value, signal.SIGKILL)
        wait_until(lambda: not is_alive(first.value))
        second = worker.call({"key": "b", "params": {}}, timeout_s=60)
        next(iter(signals.children.running.values())).shortage = "being ended just now"
        third = worker.call({"key": "c", "params": {}}, timeout_s=60)
        assert [answer.result.exit_status for answer in (first, second, third)] == [0, 0, 0]
        assert len({answer.value for answer in (first, second, third)}) == 3
        worker.hang_up()
        worker.close()


def test_without_a_limit_nothing_is_watched(htcjob):
    """No thread, and nothing imported."""
    code = (
        "import sys, threading\nfrom htcjob.attempt import recipe\nrecipe.has_memory_limit = lambda: False\n"
        "from htcjob.cli.main import main\n"
        "try: main(['run', '--', 'true'])\n"
        "except SystemExit as e: assert e.code == 0, e.code\n"
        "print(json.dumps([*sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import json\n" + code],
        env=htcjob.variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"htcjob.supervise.memory_guard", "htcjob.machine.cgroup_memory"} & set(
        json.loads(done.stdout.splitlines()[-1])
    )


def test_files_that_vanish_are_said_once_and_the_job_goes_on(numbers, caplog, tmp_path):
    """A control group may be removed, or be closed to us."""
    with Signals() as signals, MemoryGuard(signals.children, numbers.memory) as guard:
        numbers.memory._groups[0]._files["memory.max"] = os.open(tmp_path, os.O_RDONLY)  # EISDIR
        guard._thread.join(timeout=30)
        assert not guard._thread.is_alive()
    assert [record.getMessage() for record in caplog.records] == ["memory_not_watched"]
