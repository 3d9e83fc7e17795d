"""Signals from outside, as batch systems send them ahead of the end: no entry fails for good of one."""

import os
import signal
import subprocess
import sys

import pytest

WARNINGS = [
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF),
    *(signal.SIGIO, signal.SIGPWR, signal.SIGURG, signal.SIGWINCH, signal.SIGRTMIN + 3),
]

MODULE = """
import os, signal, sys, time

FOLDER = os.environ["FOLDER"]

def path(name):
    return os.path.join(FOLDER, name)

def wait():
    with open(path("new"), "w") as file:
        file.write(str(os.getpid()))
    os.rename(path("new"), path("pid"))
    while not os.path.exists(path("go")):
        time.sleep(0.01)

def handled(_signum, _frame):
    sys.exit(9)

def setup():
    if os.environ.get("WAIT_IN_SETUP"):
        wait()

def work(input, output_dir, key):
    if os.environ.get("HANDLED"):
        signal.signal(int(os.environ["HANDLED"]), handled)
    if key == "a":
        wait()
    open(os.path.join(output_dir, key), "w").close()

if __name__ == "__main__":
    work("", os.environ["HTCJOB_OUTPUT_DIR"], os.environ.get("HTCJOB_KEY", "a"))
"""
"""Entry `a` says its process id and waits for a file; the others take no time."""

WAYS = {
    "each": ("--workers", "1", "--each", "--", sys.executable, "{folder}/mine.py"),
    "call": ("--workers", "1", "--call", "mine:work"),
    "chunk": ("--", sys.executable, "{folder}/mine.py"),
    "loop": (),
}

LOOP = """
import htcjob, mine, signal
had = [signal.getsignal(signum) for signum in (signal.SIGUSR1, signal.SIGUSR2)]
with htcjob.Job.from_env() as job:
    for entry in job.entries():
        mine.work(entry.path, entry.output_dir, entry.key)
        entry.commit()
assert had == [signal.getsignal(signum) for signum in (signal.SIGUSR1, signal.SIGUSR2)]
"""


class Job:
    """A job of three entries, started in one of the ways; its first entry waits until it may `go`."""

    def __init__(self, htcjob, folder, wait_until) -> None:
        self.folder, self.htcjob, self.wait_until = folder, htcjob, wait_until
        (folder / "mine.py").write_text(MODULE)
        (folder / "loop.py").write_text(LOOP)
        htcjob.entries("a", "b", "c")
        htcjob.variables |= {"PYTHONPATH": str(folder), "FOLDER": str(folder)}

    def start(self, way: str, *options: str, **variables: str) -> subprocess.Popen[str]:
        words = [word.format(folder=self.folder) for word in WAYS[way]]
        if way == "loop":
            return subprocess.Popen(
                [sys.executable, str(self.folder / "loop.py")],
                env={**self.htcjob.variables, **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        return self.htcjob.start("run", *options, *words, **variables)

    def pid(self) -> int:
        """Wait for the entry that waits, and give its process."""
        self.wait_until((self.folder / "pid").exists)
        pid = int((self.folder / "pid").read_text())
        (self.folder / "pid").unlink()
        return pid

    def go(self) -> None:
        (self.folder / "go").touch()


@pytest.fixture
def job(htcjob, tmp_path, wait_until):
    folder = tmp_path / "folder"
    folder.mkdir()
    return Job(htcjob, folder, wait_until)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("way", ["each", "call", "loop"])
def test_a_warning_costs_no_entry(job, way):
    """Whatever signals they are: an entry goes on as if there had been none."""
    with job.start(way) as process:
        job.pid()
        for signum in WARNINGS[: 3 if way == "loop" else None]:
            process.send_signal(signum)
        job.go()
        assert ended(process)[0] == 0
    assert job.htcjob.results() == {0: "done", 1: "done", 2: "done"}
    assert set(job.htcjob.outputs()) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("signum", "handled"),
    [
        (signal.SIGUSR1, False),
        (signal.SIGUSR1, True),
        (signal.SIGXCPU, False),
        (signal.SIGALRM, False),
        (signal.SIGTERM, False),
        (signal.SIGTERM, True),
    ],
)
@pytest.mark.parametrize("way", ["each", "call"])
def test_a_signal_to_every_process_of_the_job_is_no_fault_of_the_entry_in_hand(job, way, signum, handled):
    """A command that ends of it, or exits in its handler, is left for another attempt, which does it."""
    with job.start(way, **({"HANDLED": str(int(signum))} if handled else {})) as process:
        pids = [job.pid(), process.pid]  # in the order that is bad luck, where a signal kills
        for pid in reversed(pids) if handled else pids:
            os.kill(pid, signum)
        status, err = ended(process)
    assert status == (75 if signum != signal.SIGTERM else 143), err
    assert job.htcjob.results().get(0) in ("retry", None)
    assert "failed" not in job.htcjob.results().values()
    job.go()
    with job.start(way) as process:
        assert ended(process)[0] == 0
    assert {record["position"] for record in job.htcjob.records() if record["result"] == "done"} == {0, 1, 2}


def test_a_worker_that_a_warning_ends_before_it_is_ready_ends_no_attempt(job):
    """Its import is not what is wrong: 75, and the next attempt does all."""
    with job.start("call", WAIT_IN_SETUP="1") as process:
        os.kill(job.pid(), signal.SIGUSR2)
        process.send_signal(signal.SIGUSR2)
        job.pid()  # of another one, for the next entry
        job.go()
        assert ended(process)[0] == 75
    with job.start("call") as process:
        assert ended(process)[0] == 0


@pytest.mark.parametrize("way", ["each", "call", "chunk"])
def test_a_command_that_ends_itself_by_such_a_signal_has_failed(job, way):
    """Nobody else has sent it: no other attempt would end otherwise."""
    with job.start(way) as process:
        os.kill(job.pid(), signal.SIGUSR1)
        status, err = ended(process)
    assert status == (128 + signal.SIGUSR1 if way == "chunk" else 65), err


def test_a_command_of_a_chunk_gets_the_warning_and_may_act_on_it(job):
    """What it exits with is its own word; one that does not know the signal ends of it, and is tried again."""
    with job.start("chunk", HANDLED=str(int(signal.SIGUSR1))) as process:
        job.pid()
        process.send_signal(signal.SIGUSR1)
        assert ended(process)[0] == 9
    with job.start("chunk") as process:
        job.pid()
        process.send_signal(signal.SIGUSR1)
        status, err = ended(process)
    assert (status, err.splitlines()[-1]) == (
        75,
        "htcjob: error: killed by SIGUSR1: SIGUSR1 was sent to the job before the command had finished; "
        "nothing is committed, run the same again",
    )
    assert job.htcjob.exit_record()["command_signal"] == "SIGUSR1"
    assert job.htcjob.records() == []
    job.go()
    with job.start("chunk") as process:
        assert ended(process)[0] == 0


@pytest.mark.parametrize("limit", ["-S", "-H -S"])
def test_a_limit_of_cpu_time_is_no_verdict_on_an_entry(htcjob, limit):
    """Whether the kernel warns with SIGXCPU or kills at once: left for a machine that gives more, the rest is done."""
    htcjob.entries("a", "b")
    htcjob.prefix = ("sh", "-c", f'ulimit {limit} -t 1; exec "$@"', "sh")
    burn = '[ "$HTCJOB_KEY" = b ] || exec "$0" -c "while True: pass"'
    done = htcjob.run("--workers", "1", "--each", "--", "sh", "-c", burn, sys.executable)
    assert done.returncode == 75, done.stderr
    assert htcjob.results() == {0: "retry", 1: "done"}
    assert "CPU time" in htcjob.records()[0]["message"]


def test_a_warm_worker_whose_cpu_time_is_used_up_costs_no_entry(htcjob, tmp_path):
    """The entries before used it: the one in hand is tried again in a new one."""
    (tmp_path / "mine.py").write_text(
        "import time\ndef burn(input):\n    until = time.process_time() + 0.3\n"
        "    while time.process_time() < until: pass\n"
    )
    htcjob.entries(*"abcde")
    htcjob.prefix = ("sh", "-c", 'ulimit -S -t 1; exec "$@"', "sh")
    options = ("--workers", "1", "--retry-entry", "3")
    done = htcjob.run(*options, "--call", "mine:burn", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "entry_again" in done.stderr
    assert htcjob.results() == dict.fromkeys(range(5), "done")


def test_a_loop_that_handles_a_warning_keeps_its_handler(job):
    """It is called, inside and behind the job."""
    (job.folder / "loop.py").write_text(
        "import htcjob, mine, signal\nseen = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))\n"
        "with htcjob.Job.from_env() as job:\n"
        "    signal.signal(signal.SIGUSR2, lambda *_: seen.append(2))\n"
        "    for entry in job.entries():\n"
        "        mine.work(entry.path, entry.output_dir, entry.key)\n"
        "        entry.commit()\n"
        "signal.raise_signal(signal.SIGUSR2)\n"
        "assert seen == [1, 2, 2], seen\n"
    )
    with job.start("loop") as process:
        job.pid()
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGUSR2)
        job.go()
        status, err = ended(process)
        assert status == 0, err
