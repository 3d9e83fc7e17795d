"""
Each system call of a small job fails in its turn, in every way that it can: `make faults`.

    python -m tests.whole.faults [--share PERCENT] [--only SCENARIO[:KIND[:N[:ERRNO]]]]

For every scenario the calls of each kind are counted in an undisturbed run, from where htcjob's own code
begins (`htcjob.cli.main` is imported; a fault while Python itself starts is Python's). Then it is run once
for each call and errno, with that one call failing (support/faults/faults.c). Whatever fails: the process ends
by itself, with a status of the table and never 70, without a traceback; what it reports done is there; and
where it did not end with 0, the same again, undisturbed, does, and all is there, once.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SUPPORT = Path(__file__).parents[1] / "support" / "faults"
REPOSITORY = Path(__file__).parents[2]

KINDS = (
    *("open", "read", "write", "close", "stat", "statvfs", "opendir", "readdir", "mkdir", "unlink", "rename"),
    *("link", "fsync", "chmod", "pipe", "spawn", "thread", "poll", "fcntl", "mmap", "wait", "kill", "getcwd"),
    *("readlink", "copy", "dup", "socket", "connect", "prctl", "syscall", "seek", "affinity", "fork"),
)
"""As faults.c has them."""

PASSING = ("EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EINTR", "EBUSY", "ETXTBSY", "ENOLCK")
"""What is no verdict for good."""

ERRNOS: Mapping[str, tuple[str, ...]] = {
    "open": ("EMFILE", "EIO", "EACCES", "ESTALE", "ENOMEM"),
    "read": ("EIO", "ESTALE", "EINTR"),
    "write": ("EIO", "ENOSPC"),
    "close": ("EIO", "ENOSPC"),
    "stat": ("EIO", "ESTALE", "EACCES", "ENOMEM"),
    "statvfs": ("EIO", "ENOSYS"),
    "opendir": ("EMFILE", "EACCES", "ENOMEM"),
    "readdir": ("EIO", "ESTALE"),
    "mkdir": ("EIO", "EACCES", "ENOSPC"),
    "unlink": ("EIO", "EACCES", "EROFS"),
    "rename": ("EIO", "ENOSPC", "EACCES"),
    "link": ("EIO", "EPERM"),
    "fsync": ("EIO", "ENOSPC"),
    "chmod": ("EPERM",),
    "pipe": ("EMFILE", "ENFILE"),
    "spawn": ("EAGAIN", "ENOMEM", "ETXTBSY", "EIO"),
    "thread": ("EAGAIN",),
    "poll": ("ENOMEM", "EINTR"),
    "fcntl": ("EMFILE", "EPERM", "ENOLCK"),
    "mmap": ("ENOMEM",),
    "wait": ("EINTR",),
    "kill": ("EPERM", "ESRCH"),
    "getcwd": ("ENOENT", "EACCES", "ENOMEM"),
    "readlink": ("EIO", "EACCES"),
    "copy": ("EIO", "EXDEV", "ENOMEM"),
    "dup": ("EMFILE", "EBUSY"),
    "socket": ("EMFILE",),
    "connect": ("ECONNREFUSED",),
    "prctl": ("EPERM",),
    "syscall": ("EMFILE", "ENOSYS"),
    "seek": ("EIO",),
    "affinity": ("EPERM",),
    "fork": ("EAGAIN", "ENOMEM"),
}

STATUSES = {0, 64, 65, 66, 74, 75, 77, 78, 124, 126, 127, 137}
"""Of the table, without those of signals that nobody sent, and without 70."""

OUTPUT_ERRNOS = ("write", "close")
"""Kinds that may be about standard output, which is no storage: 74 whatever the errno."""

IS_SHOWN = False
"""Whether what a process said is shown where something is wrong."""

LADDERS: Mapping[str, tuple[int, ...]] = {
    "RLIMIT_NOFILE": (*range(4, 24), 28, 32),
    "RLIMIT_AS": tuple(n << 20 for n in (60, 80, 100, 120, 140, 160, 200, 240, 280, 320, 400)),
    "RLIMIT_FSIZE": (0, 1, 3, 100, 300, 500, 1000, 2000, 10_000, 100_000),
    "lasting-thread": tuple(range(1, 13)),
    "lasting-spawn": (1, 2, 3),
    "lasting-pipe": tuple(range(1, 13)),
}
"""What this machine gives no more of; of processes and threads there is none from the n-th on, as RLIMIT_NPROC has it,
which root is not bound by."""

HARMLESS = ("unsupported hash type", "signal wakeup fd", "import of m failed")
"""Words of tracebacks that are no bug: what Python itself prints, and goes on, of `hashlib` and in a signal
handler's place; and what the user sees of a module of theirs that cannot be imported."""

STILLBORN = "Exception ignored in thread started by"
"""A thread that finds no memory for its very first step: Python's `Thread.start` then waits for it for ever."""

RUNG = "rung"
"""In place of an errno."""

MOST_CALLS = 1000
"""Of a kind in a scenario; a scenario with more is too large."""


class Fault(NamedTuple):
    """One call that fails."""

    scenario: str
    kind: str
    number: int
    errno: str

    def __str__(self) -> str:
        return ":".join(map(str, self))


class WrongError(Exception):
    """What is not as it must be."""


def need(is_true: object, what: str) -> None:
    if not is_true:
        raise WrongError(what)


class World:
    """A folder with inputs, and what a scenario made of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inputs, self.task, self.work = root / "in", root / "out", root / "work"
        for folder in (self.inputs, self.task, self.work, self.inputs / "d"):
            folder.mkdir(parents=True)
        for key in KEYS:
            (self.inputs / key).write_text(f"{key}\n")
        (self.inputs / "big").write_bytes(BIG)
        (self.inputs / "list").write_text("".join(f"{key}\n" for key in KEYS))
        (root / "m.py").write_text(FUNCTION)
        (root / "loop.py").write_text(LOOP)

    def outputs(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.task)): path.read_bytes()
            for path in self.task.rglob("*")
            if path.is_file() and ".htcjob" not in path.relative_to(self.task).parts
        }

    def records(self) -> list[dict]:
        parts = sorted((self.task / ".htcjob" / "default" / "done").rglob("[!.]*.jsonl"))
        return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


KEYS = ("a", "b", "d/c")
BIG = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(4000))
FUNCTION = """
def f(input, output_dir, key):
    with open(input) as source, open(f"{output_dir}/{key}.o", "w") as target:
        target.write(source.read())
    return key
"""
LOOP = """
import os, htcjob
htcjob.Job
try:
    os.stat("//faults/begin")
except OSError:
    pass
with htcjob.Job.from_env() as job:
    for entry in job.entries():
        with open(entry.path) as source, open(f"{entry.output_dir}/{entry.key}.o", "w") as target:
            target.write(source.read())
        entry.commit(entry.key)
"""
EACH = ("run", "--each", "--", "cp", "{input}", "{output_dir}/{key}.o")
CHUNK = """
cd "$HTCJOB_WORK_DIR" || exit 1
for k in a b d/c; do
  mkdir -p "$HTCJOB_OUTPUT_DIR/d"
  [ ! -e $k ] || cp $k "$HTCJOB_OUTPUT_DIR/$k.o" || exit 75
done
"""


def check_run(world: World, out: bytes, *, is_over: bool) -> None:
    """Nothing is done that is not there; at the end all is, once."""
    outputs = world.outputs()
    for name, data in outputs.items():
        need(data == f"{name.removesuffix('.o')}\n".encode(), f"half or wrong output {name}")
    done: dict[int, dict] = {}
    for record in world.records():
        if record["result"] == "done":
            known = done.setdefault(record["position"], record)
            need(known == record, f"entry {record['position']} is done twice")
            for output in record.get("outputs", ()):
                need(output["key"] in outputs, f"done without output {output['key']}")
    if is_over:
        need(set(done) == {0, 1, 2}, f"status 0 with done: {sorted(done)}")
        need(set(outputs) == {f"{key}.o" for key in KEYS}, f"status 0 with outputs {sorted(outputs)}")


def check_nothing(world: World, out: bytes, *, is_over: bool) -> None:
    """Only the status counts."""


def check_out(expected: bytes | Callable[[bytes], bool]) -> Callable[..., None]:
    def check(world: World, out: bytes, *, is_over: bool) -> None:
        if is_over:
            is_right = expected(out) if callable(expected) else out == expected
            need(is_right, f"status 0 with output {out[:200]!r}")

    return check


def check_files(folder: str, expected: Mapping[str, bytes], *, is_exact: bool = True) -> Callable[..., None]:
    """Files of *folder* are whole or absent; at the end all are there."""

    def check(world: World, out: bytes, *, is_over: bool) -> None:
        root = world.root / folder
        found = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and not path.name.startswith(".htcjob-tmp-") and ".htcjob" not in path.parts
        }
        for name, data in found.items():
            if name in expected or is_exact:
                need(data == expected.get(name), f"half or wrong file {name}")
        if is_over:
            need(expected.keys() <= found.keys(), f"status 0 with files {sorted(found)}")

    return check


@dataclass(frozen=True)
class Scenario:
    """A way to use htcjob."""

    argv: tuple[str, ...] = ()
    check: Callable[..., None] = check_nothing
    before: tuple[tuple[str, ...], ...] = ()
    """Commands that make what it needs."""
    script: str = ""
    """A Python program, in place of htcjob."""
    variables: Mapping[str, str] = field(default_factory=dict)
    is_in_worker: bool = False
    """The calls that fail are those of a warm worker."""


INPUTS = {**{key: f"{key}\n".encode() for key in KEYS}, "big": BIG, "list": b"a\nb\nd/c\n"}
LIST = {"HTCJOB_MANIFEST": "list"}
SCENARIOS: Mapping[str, Scenario] = {
    "run-plain": Scenario(("run", "--", "true")),
    "run-chunk": Scenario(("run", "--", "sh", "-c", CHUNK), check_run, variables=LIST),
    "run-each": Scenario(EACH, check_run, variables=LIST),
    "run-call": Scenario(("run", "--call", "m:f"), check_run, variables=LIST),
    "run-call-worker": Scenario(("run", "--call", "m:f"), check_run, variables=LIST, is_in_worker=True),
    "job": Scenario(script="loop.py", check=check_run, variables=LIST),
    "storage-cat": Scenario(("storage", "cat", "project:big"), check_out(BIG)),
    "storage-ls": Scenario(
        ("storage", "ls", "-r", "project:"),
        check_out(lambda out: [line.split()[-1].decode() for line in out.splitlines()] == sorted(INPUTS)),
    ),
    "storage-get": Scenario(("storage", "get", "-r", "project:", "-d", "got"), check_files("got", INPUTS)),
    "storage-put": Scenario(
        ("storage", "put", "-r", "in", "task:"),
        check_files("out", {f"in/{key}": data for key, data in INPUTS.items()}),
    ),
    "storage-cp": Scenario(("storage", "cp", "-r", "project:", "task:"), check_files("out", INPUTS)),
    "storage-rm": Scenario(
        ("storage", "rm", "-r", "--all", "project:"),
        lambda world, out, is_over: need(
            not is_over or not [p for p in world.inputs.rglob("*") if p.is_file()], "status 0 with files left"
        ),
    ),
    "manifest-build": Scenario(
        ("manifest", "build", "project:", "--exclude", "list", "-o", "new"),
        check_files("in", {**INPUTS, "new": b"a\nb\nbig\nd/c\n"}, is_exact=False),
    ),
    "manifest-index": Scenario(("manifest", "index", "list"), check_files("in", INPUTS, is_exact=False)),
    "manifest-check": Scenario(("manifest", "check", "list")),
    "manifest-split": Scenario(
        ("manifest", "split", "list", "--array-size", "2"), check_out(lambda out: b"d/c" in out)
    ),
    "status": Scenario(
        ("status", "--task-store", "out", "--json"),
        check_out(lambda out: b'"done": 3' in out or b'"done":3' in out),
        before=(EACH,),
        variables=LIST,
    ),
    "collect": Scenario(
        ("collect", "--task-store", "out"),
        check_out(lambda out: len(out.splitlines()) == 3),
        before=(EACH,),
        variables=LIST,
    ),
    "failed": Scenario(("failed", "--task-store", "out"), check_out(b""), before=(EACH,), variables=LIST),
    "chunk": Scenario(
        ("chunk", "--array-size", "1", "--array-index", "0"),
        check_out(lambda out: b"d/c" in out),
        variables=LIST,
    ),
}


def library(folder: Path) -> Path:
    """Compile faults.c; raises CalledProcessError or FileNotFoundError where that cannot be."""
    path = folder / "faults.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-o", str(path), str(SUPPORT / "faults.c"), "-ldl"]
    subprocess.run(command, check=True)
    return path


class Starter:
    """Starts processes in a world, one at a time; used by one thread."""

    def __init__(self, preload: Path, folder: Path) -> None:
        self.folder = folder
        self._preload = preload
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "LD_PRELOAD": str(preload)},
        )
        self._counts = folder / "counts"

    def close(self) -> None:
        self._process.communicate()

    def start(
        self,
        world: World,
        scenario: Scenario,
        *,
        argv: tuple[str, ...] | None = None,
        fault: Fault | None = None,
        **more: object,
    ) -> tuple[int | None, bytes, str, dict[str, int]]:
        """Give status, output, talk and counts of one process."""
        environment = {
            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            "HOME": str(world.root),
            "TMPDIR": str(world.work),
            "HTCJOB_PROJECT_STORE": str(world.inputs),
            "HTCJOB_TASK_STORE": str(world.task),
            "HTCJOB_TERMINATION_LOG": str(world.root / "termination-log"),
            "HTCJOB_LOG_LEVEL": "error",
            "HTCJOB_WORKERS": "2",
            "HTCJOB_GRACE": "3s",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",  # with RLIMIT_FSIZE, Python leaves a part of m.pyc, for ever
            "FAULT_COUNTS": str(self._counts),
            **scenario.variables,
        }
        self._counts.write_bytes(bytes(8 * (len(KINDS) + 1)))
        if scenario.is_in_worker:
            environment |= {
                "FAULT_MARK": "/htcjob/supervise/worker_program/program.py",
                "LD_PRELOAD": str(self._preload),
            }
        if fault is not None and fault.kind.startswith("RLIMIT_"):
            more["limits"] = {fault.kind: fault.number}
        elif fault is not None and fault.errno == RUNG:
            environment |= {"FAULT_KIND": fault.kind.removeprefix("lasting-"), "FAULT_N": str(fault.number)}
            environment |= {"FAULT_ERRNO": str(errno.EAGAIN), "FAULT_LASTS": "1"}
        elif fault is not None:
            number = str(getattr(errno, fault.errno))
            environment |= {"FAULT_KIND": fault.kind, "FAULT_N": str(fault.number), "FAULT_ERRNO": number}
        request: dict[str, object] = {"environment": environment, "folder": str(world.root), **more}
        out, err = self.folder / "stdout", self.folder / "stderr"
        request |= {"out": str(out), "err": str(err)}
        if scenario.script and argv is None:
            request["script"] = scenario.script
        else:
            request["argv"] = argv if argv is not None else scenario.argv
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = json.loads(self._process.stdout.readline())
        numbers = struct.unpack(f"{len(KINDS) + 1}Q", self._counts.read_bytes())
        counts = dict(zip((*KINDS, "struck"), numbers, strict=True))
        return status, out.read_bytes(), err.read_text(errors="replace"), counts

    def world(self, scenario: Scenario) -> World:
        """Make a world in which *scenario* can be run."""
        root = self.folder / "world"
        shutil.rmtree(root, ignore_errors=True)
        world = World(root)
        for argv in scenario.before:
            status, _, talk, _ = self.start(world, scenario, argv=argv)
            assert status == 0, talk
        return world


def counted(starter: Starter, name: str) -> dict[str, int]:
    """Give how many calls of each kind an undisturbed run makes."""
    scenario = SCENARIOS[name]
    world = starter.world(scenario)
    status, out, talk, counts = starter.start(world, scenario)
    assert status == 0, (name, status, talk)
    scenario.check(world, out, is_over=True)
    return counts


def faults_of(name: str, counts: Mapping[str, int]) -> Iterator[Fault]:
    if not SCENARIOS[name].is_in_worker:
        for ladder, rungs in LADDERS.items():
            yield from (Fault(name, ladder, rung, RUNG) for rung in rungs)
    for kind in KINDS:
        for number in range(1, min(counts[kind], MOST_CALLS) + 1):
            for word in ERRNOS[kind]:
                yield Fault(name, kind, number, word)


def tried(starter: Starter, fault: Fault) -> tuple[bool, int | None, str]:
    """
    Run a scenario with one call failing; give whether it did, the status, and what is wrong with that.

    Nothing is, where the last is empty.
    """
    scenario = SCENARIOS[fault.scenario]
    world = starter.world(scenario)
    status, out, talk, counts = starter.start(world, scenario, fault=fault)
    if not counts["struck"] and not fault.kind.startswith("RLIMIT_"):
        return False, status, ""
    try:
        judge(world, scenario, status, out, talk, is_passing=fault.errno in PASSING, kind=fault.kind)
        if status != 0:
            again, out, talk, _ = starter.start(world, scenario)
            need(again == 0, f"again, undisturbed: {again}: {last_line(talk)}")
            scenario.check(world, out, is_over=True)
    except WrongError as error:
        if IS_SHOWN:
            print(fault, talk, file=sys.stderr)
        return True, status, str(error)
    return True, status, ""


def judge(
    world: World,
    scenario: Scenario,
    status: int | None,
    out: bytes,
    talk: str,
    *,
    is_passing: bool,
    kind: str = "",
) -> None:
    """Raise WrongError where a disturbed run is not as it must be."""
    if status is None and STILLBORN in talk:
        return
    need(status is not None, "hangs")
    files = [line for line in talk.splitlines() if line.startswith('  File "')]
    if files and any(name in files[-1] for name in ('/m.py"', '"loop.py"')):
        is_passing = False  # it failed in the user's own code, which says so
        status = 65 if status == 1 else status
    elif not any(words in talk for words in HARMLESS):
        need("Traceback" not in talk, f"{status} with a traceback: {last_line(talk)}")
    need(status in STATUSES, f"status {status}: {last_line(talk)}")
    if is_passing:
        allowed = {0, 75, *({74} if kind in OUTPUT_ERRNOS else {})}
        need(status in allowed, f"passing trouble is {status}: {last_line(talk)}")
    scenario.check(world, out, is_over=status == 0)


def last_line(talk: str) -> str:
    lines = [line for line in talk.splitlines() if not line.startswith("htcjob: error: this is a bug")]
    return lines[-1][:300] if lines else "(silent)"


def chosen(faults: Iterable[Fault], percent: float) -> list[Fault]:
    """Give a fixed part of *faults*, the same every time."""
    return [
        f for f in faults if int(hashlib.sha256(str(f).encode()).hexdigest()[:8], 16) < percent / 100 * 2**32
    ]


def walk(
    folder: Path, preload: Path, *, percent: float, only: str = "", starters: int = 2
) -> tuple[Counter, dict[Fault, str]]:
    """Try faults; give how many of each scenario and kind struck, and what was wrong."""
    struck: Counter[tuple[str, str]] = Counter()
    wrong: dict[Fault, str] = {}
    own = threading.local()
    made: list[Starter] = []

    def starter() -> Starter:
        if not hasattr(own, "starter"):
            own.starter = Starter(preload, Path(tempfile.mkdtemp(dir=folder)))
            made.append(own.starter)
        return own.starter

    def one(fault: Fault) -> None:
        has_struck, _, problem = tried(starter(), fault)
        struck[fault.scenario, fault.kind] += has_struck
        if problem:
            wrong[fault] = problem

    with ThreadPoolExecutor(starters) as threads:
        wanted = [name for name in SCENARIOS if only in ("", name) or only.startswith(f"{name}:")]
        counts = dict(zip(wanted, threads.map(lambda name: counted(starter(), name), wanted), strict=True))
        faults = [fault for name in wanted for fault in faults_of(name, counts[name])]
        faults = [fault for fault in faults if f"{fault}:".startswith(f"{only}:" if only else "")]
        list(threads.map(one, chosen(faults, percent)))
    for each in made:
        each.close()
    return struck, wrong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--share",
        type=float,
        default=100.0,
        metavar="PERCENT",
        help="of all faults, the same ones every time",
    )
    parser.add_argument("--only", default="", metavar="SCENARIO[:KIND[:N[:ERRNO]]]", help="as it was printed")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--show", action="store_true", help="also what the process said")
    asked = parser.parse_args()
    global IS_SHOWN
    IS_SHOWN = asked.show
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        struck, wrong = walk(
            Path(folder), library(Path(folder)), percent=asked.share, only=asked.only, starters=asked.jobs
        )
    for fault, problem in sorted(wrong.items()):
        print(f"python -m tests.whole.faults --only {fault}  # {problem}")
    by_scenario: Counter[str] = Counter()
    for (name, _), n in struck.items():
        by_scenario[name] += n
    for name, n in by_scenario.items():
        n_wrong = sum(fault.scenario == name for fault in wrong)
        print(f"{name:20} {n:6} faults {n_wrong:5} wrong")
    print(f"{sum(struck.values())} faults, {len(wrong)} wrong, {time.monotonic() - started:.0f} s")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
