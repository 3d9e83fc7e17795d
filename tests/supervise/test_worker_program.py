"""A warm worker, whatever the user's function does to its process: that costs its own entry at most."""

import json
import os
import subprocess
import sys

import pytest

MODULE = '''
import asyncio, ctypes, fcntl, functools, io, json, multiprocessing, os, signal, stat, subprocess, sys
import tempfile, threading, time

def is_answers(descriptor):
    try:
        is_written = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        return is_written and stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False

ANSWERS = next(filter(is_answers, range(3, 100)), None)

class Odd(Exception):
    def __str__(self): raise RuntimeError("no text")

class OddItem:
    shape = ()
    def item(self): raise KeyError("no item")

class Number:
    shape = ()
    def item(self): return 2.5

class Broken(io.StringIO):
    def flush(self): raise OSError("no flush")

def nested(depth):
    return functools.reduce(lambda value, _: [value], range(depth - 1), [])

def hand(name):
    """Give the function of that name among those of `DEEDS`."""
    return DEEDS[name]

def forked(after):
    if os.fork() == 0:
        return after()
    os.wait()

def raising(error): raise error

def answer(times=1, **members):
    line = json.dumps({"number": NUMBER, "pid": os.getpid(), **members})
    os.write(ANSWERS, times * (line.encode() + b"\\n"))

def in_c():
    if ctypes.CDLL(None).fork() == 0: return "a child"
    os.wait()

def pool(way="fork"):
    with multiprocessing.get_context(way).Pool(1) as workers: return workers.apply(abs, (-3,))

def detached():
    sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8")
    print("detached")

def gone():
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)

def stubborn():
    sys.excepthook = lambda *error: 1 / 0
    raise ValueError("hooked")

def thread():
    threading.Thread(target=raising, args=(ValueError("in a thread"),)).start()

def child_thread():
    if os.fork() == 0:
        one = threading.Thread(target=os.getpid)
        one.start()
        one.join()
        return "a child"
    os.wait()

def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.wait()

async def slept():
    await asyncio.sleep(0)
    return "slept"

async def failing():
    await asyncio.sleep(0)
    raise LookupError("in async")

NUMBER = 0
DEEDS = {
    # A child: each must leave its parent to answer, with "fine".
    "fork-exit": lambda: forked(lambda: sys.exit(0)),
    "fork-exit-3": lambda: forked(lambda: sys.exit(3)),
    "fork-return": lambda: forked(lambda: "a child"),
    "fork-raise": lambda: forked(lambda: raising(ValueError("in a child"))),
    "fork-interrupt": lambda: forked(lambda: raising(KeyboardInterrupt())),
    "fork-thread": child_thread,
    "fork-in-c": in_c,
    "fork-daemon": daemon,
    "fork-pool": pool,
    # What is put back.
    "chdir": lambda: os.chdir("/"),
    "chdir-gone": gone,
    "umask": lambda: os.umask(0o777),
    "stdout-none": lambda: setattr(sys, "stdout", None),
    "stdout-gone": lambda: delattr(sys, "stdout"),
    "stdout-closed": lambda: sys.stdout.close(),
    "stdout-detached": detached,
    "stdout-text": lambda: setattr(sys, "stdout", io.StringIO()),
    "stdout-broken": lambda: setattr(sys, "stdout", Broken()),
    "stdout-object": lambda: setattr(sys, "stdout", object()),
    "stderr-closed": lambda: sys.stderr.close(),
    "close-1": lambda: os.close(1),
    "close-1-2": lambda: (os.close(1), os.close(2)),
    "dup2-1": lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 1),
    "chroot": lambda: os.chroot(tempfile.mkdtemp()),
    "json": lambda: (setattr(json, "dumps", None), setattr(json, "loads", None)),
    "thread": thread,
    "alarm": lambda: (signal.signal(signal.SIGALRM, lambda *_: raising(TimeoutError())), signal.setitimer(signal.ITIMER_REAL, 0.02), None)[2],
    "before-alarm": lambda: time.sleep(0.1),
    "spawn-pool": lambda: pool("spawn"),
    "signal": lambda: (signal.signal(signal.SIGCHLD, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.SIG_IGN)),
    "nice": lambda: os.nice(1),
    # How it ends.
    "async": lambda: slept(),
    "async-raise": lambda: failing(),
    "exit-true": lambda: sys.exit(True),
    "exit-256": lambda: sys.exit(256),
    "exit-huge": lambda: sys.exit(2 ** 70),
    "exit-minus": lambda: sys.exit(-9),
    "exit-object": lambda: sys.exit(("no", "licence")),
    "exit-odd": lambda: sys.exit(Odd()),
    "interrupt": lambda: raising(KeyboardInterrupt("by itself")),
    "generator-exit": lambda: raising(GeneratorExit()),
    "base": lambda: raising(type("Base", (BaseException,), {})("of all")),
    "empty": lambda: raising(ValueError()),
    "odd": lambda: raising(Odd()),
    "surrogate": lambda: raising(ValueError("caf\\udce9")),
    "long-text": lambda: raising(ValueError("x" * 10_000_000)),
    "hook": stubborn,
    "recursion": lambda: hand("recursion")(),
    "abort": lambda: os.abort(),
    "exec": lambda: os.execv("/bin/sleep", ["sleep", "1000"]),
    "exec-true": lambda: os.execv("/bin/true", ["true"]),
    "close-all": lambda: os.closerange(3, 1000),
    "close-all-sleep": lambda: (os.closerange(3, 1000), time.sleep(1000)),
    # What it gives.
    "number": lambda: [Number(), (1,)],
    "item": lambda: OddItem(),
    "deep-100": lambda: nested(100),
    "deep-101": lambda: nested(101),
    "deep-5000": lambda: nested(5000),
    "cyclic": lambda: (lambda one: (one.append(one), one)[1])([]),
    "infinity": lambda: {"a": float("inf")},
    "keys": lambda: {1: "a", "1": "b"},
    "tuple-key": lambda: {(1, 2): 3},
    "bytes": lambda: b"a",
    "set": lambda: {1},
    "generator": lambda: (n for n in ()),
    "digits": lambda: (sys.set_int_max_str_digits(0), 10 ** 5000)[1],
    "lone": lambda: "caf\\udce9",
    # What comes by the answer pipe.
    "garbage": lambda: os.write(ANSWERS, b"garbage\\n"),
    "garbage-bytes": lambda: os.write(ANSWERS, b"\\xff\\xfe\\n"),
    "garbage-array": lambda: os.write(ANSWERS, b"[1]\\n"),
    "garbage-deep": lambda: os.write(ANSWERS, b"[" * 60000 + b"\\n"),
    "partial": lambda: os.write(ANSWERS, b"{"),
    "endless": lambda: [os.write(ANSWERS, b"x" * 65536) for _ in range(100)],
    "two": lambda: answer(times=2),
    "other-pid": lambda: answer(pid=1),
    "no-status": lambda: answer(exit_status="0"),
    "odd-status": lambda: answer(exit_status=256),
    "true-status": lambda: answer(exit_status=False),
    "nan-cpu": lambda: answer(cpu_s=float("nan")),
    "odd-memory": lambda: answer(peak_memory_bytes=-1),
    "odd-problem": lambda: answer(problem=["a"]),
    "more": lambda: answer(more=1),
    "earlier": lambda: answer(number=NUMBER - 1),
    "fork-garbage": lambda: forked(lambda: (os.write(ANSWERS, b"child\\n"), os._exit(0))),
}

def do(input, output_dir, key):
    """Do as the entry's name says."""
    global NUMBER
    frame = sys._getframe(1)
    NUMBER = frame.f_locals["request"]["number"]
    open("here").close()
    print("out", key)
    print("err", key, file=sys.stderr)
    with open(output_dir + "/" + key, "w") as file:
        file.write(key)
    assert stat.S_IMODE(os.stat(file.name).st_mode) == 0o644
    given = DEEDS[key]() if key in DEEDS else "fine"
    return "fine" if given is None else given
'''

NOT_RECORDED = "what deeds:do returned cannot be recorded: "
NO_ANSWER = "the worker was ended, it gave no valid answer: "

DONE = {
    **dict.fromkeys(["fork-exit", "fork-exit-3", "fork-return", "fork-raise", "fork-interrupt"], "fine"),
    **dict.fromkeys(["fork-thread", "fork-in-c", "fork-daemon", "fork-garbage", "thread", "chroot"], "fine"),
    **dict.fromkeys(["chdir", "chdir-gone", "stdout-none", "stdout-gone", "stdout-closed"], "fine"),
    **dict.fromkeys(["stdout-detached", "stdout-text", "stdout-broken", "stdout-object"], "fine"),
    **dict.fromkeys(["stderr-closed", "close-1"], "fine"),
    "fork-pool": 3,
    "spawn-pool": 3,
    "alarm": "fine",
    "before-alarm": "fine",
    "json": [None, None],
    "signal": [0, 0],
    "nice": 1,
    "umask": 0o022,
    "dup2-1": 1,
    "close-1-2": [None, None],
    "async": "slept",
    "number": [2.5, [1]],
    "deep-100": json.loads("[" * 100 + "]" * 100),
    "lone": "caf\udce9",
}
"""What is done, and the value."""

FAILED = {
    "async-raise": "LookupError: in async",
    "exit-true": "exit status 1",
    "exit-256": "exit status 1",
    "exit-huge": "exit status 1",
    "exit-minus": "exit status 247",
    "exit-object": "('no', 'licence')",
    "exit-odd": "(its text cannot be had)",
    "interrupt": "KeyboardInterrupt: by itself",
    "generator-exit": "GeneratorExit",
    "base": "Base: of all",
    "empty": "ValueError",
    "odd": "Odd: (its text cannot be had)",
    "surrogate": "ValueError: caf\\udce9",
    "long-text": "ValueError: " + "x" * 488,
    "hook": "ValueError: hooked",
    "recursion": "RecursionError: maximum recursion depth exceeded",
    "abort": "killed by SIGABRT",
    "exec": NO_ANSWER + "it closed the pipe of its answers",
    "exec-true": "the worker ended in the middle of it",
    "close-all": "exit status 1",
    "close-all-sleep": NO_ANSWER + "it closed the pipe of its answers",
    "item": NOT_RECORDED + "KeyError: 'no item'",
    "deep-101": NOT_RECORDED + "it is nested more than 100 deep",
    "deep-5000": NOT_RECORDED + "it is nested more than 100 deep",
    "cyclic": NOT_RECORDED + "Circular reference detected",
    "infinity": NOT_RECORDED + "Out of range float values are not JSON compliant",
    "keys": NOT_RECORDED + "two of its keys are '1' as JSON",
    "tuple-key": NOT_RECORDED + "keys must be str, int, float, bool or None, not tuple",
    "bytes": NOT_RECORDED + "JSON has nothing for bytes",
    "set": NOT_RECORDED + "JSON has nothing for set",
    "generator": NOT_RECORDED + "JSON has nothing for generator",
    "digits": NOT_RECORDED + "an integer of 5001 digits, more than 4300",
    **dict.fromkeys(["garbage", "garbage-bytes", "garbage-deep", "partial"], NO_ANSWER + "it is not JSON"),
    "garbage-array": NO_ANSWER + "it has no number",
    "endless": NO_ANSWER + "more than 262144 bytes without a line break",
    "two": NO_ANSWER + "there is more than one",
    "earlier": NO_ANSWER + "it is of another request",
    "more": NO_ANSWER + "it has other members than an answer",
    **dict.fromkeys(
        ["other-pid", "no-status", "odd-status", "true-status", "odd-memory", "odd-problem"],
        NO_ANSWER + "its members are not those of an answer",
    ),
    "nan-cpu": NO_ANSWER + "it is not JSON",
}
"""What is failed, and why."""


@pytest.fixture
def beside(htcjob, tmp_path):
    """Give what writes a module of the user's, calls a function where it lies, and gives the ended process."""
    folder = tmp_path / "beside"
    folder.mkdir()
    (folder / "here").touch()

    def run(target, *arguments, before=(), **files):
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        command = [*before, os.path.join(os.path.dirname(sys.executable), "htcjob"), "run", "--workers", "1"]
        return subprocess.run(
            [*command, *arguments, "--call", target],
            env=htcjob.variables,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_whatever_a_function_does_is_its_own_entrys_affair(htcjob, beside):
    """Each deed has its own result, told in words, and what follows it is as if nothing had been."""
    if not hasattr(sys, "set_int_max_str_digits"):
        pytest.skip("an old Python")
    names = [name for deed in (*DONE, *FAILED) for name in (deed, f"after-{deed}")]
    htcjob.entries(*names)
    done = beside("deeds:do", "--max-failures", "100%", deeds=MODULE)
    found = {record["entry"]: record for record in htcjob.records()}
    assert done.returncode == 0, done.stderr
    assert sorted(found) == sorted(names)
    told = {name: record["message"] for name, record in found.items() if record["result"] == "failed"}
    for name, message in FAILED.items():
        assert told.pop(name, "").startswith(message), name
    assert told == {}
    values = {name: found[name]["value"] for name in DONE}
    assert values == DONE
    assert all(found[f"after-{name}"]["value"] == "fine" for name in (*DONE, *FAILED))
    printed = set(done.stdout.splitlines())
    assert {f"out after-{name}" for name in (*DONE, *FAILED)} <= printed
    assert "worker_program" not in done.stderr, "our own frames are nobody's business"


FORKS = """
import os, sys
def fork(after):
    if os.fork() == 0:
        after()
    else:
        os.wait()
"""


@pytest.mark.parametrize("after", ["sys.exit", "int", "lambda: 1 / 0"])
@pytest.mark.parametrize(
    "module", ["fork({})\ndef f(key): return key", "def setup(): fork({})\ndef f(key): return key"]
)
def test_a_child_made_before_the_first_call_answers_nothing(htcjob, beside, module, after):
    """At import or in setup; the worker goes on, and each entry has its own value."""
    htcjob.entries("a", "b", "c")
    done = beside("m:f", m=FORKS + module.format(after))
    assert done.returncode == 0, done.stderr
    assert [record["value"] for record in htcjob.records()] == ["a", "b", "c"]


def test_a_child_that_lives_on_holds_nothing_up(htcjob, beside):
    """A request longer than a pipe holds, after a worker that died and left a child: a new worker has it."""
    htcjob.entries("a", "b")
    htcjob.manifest(*(json.dumps({"key": key, "more": "é" * 30_000}, ensure_ascii=False) for key in "ab"))
    leaves = "import os, time\ndef f(key, more):\n if os.fork() == 0: time.sleep(1000)\n"
    done = beside("m:f", m=leaves + " if key == 'a': os._exit(1)\n return [key, len(more)]")
    assert done.returncode == 65, done.stderr
    assert [record.get("value") for record in htcjob.records()] == [None, ["b", 30_000]]


def test_a_request_is_not_waited_for_where_nobody_reads(htcjob, beside, tmp_path):
    """Longer than a pipe holds, for a process that never reads: the timeout ends it as any call."""
    deaf = tmp_path / "deaf"
    deaf.write_text(
        f"#!{sys.executable}\nimport json, os, sys, time\n"
        "os.write(int(sys.argv[3]), json.dumps({'number': 0, 'pid': 1, 'is_ready': True}).encode() + b'\\n')\n"
        "time.sleep(1000)"
    )
    deaf.chmod(0o755)
    htcjob.entries("a")
    htcjob.manifest(json.dumps({"key": "a", "more": "é" * 30_000}, ensure_ascii=False))
    done = beside("m:f", "--timeout", "1s", "--grace", "1s", "--python", str(deaf))
    assert done.returncode == 124, done.stderr
    assert htcjob.results() == {0: "timed_out"}


LIBRARY = [
    "re",
    "json",
    "enum",
    "signal",
    "resource",
    "inspect",
    "functools",
    "ast",
    "token",
    "socket",
    "logging",
]


@pytest.mark.parametrize(
    "f",
    [
        "def f(path): return theirs()",
        "async def f(path): return theirs()",
        "from functools import partial as p\nf = p(lambda n, path: theirs(), 1)"
        if False
        else "def f(path, /): return theirs()",
    ],
)
def test_modules_with_names_of_the_library_are_for_the_user(htcjob, beside, f):
    """We work without them, and the function gets them, before and after we needed ours."""
    htcjob.entries("a", "b")
    files = {name: f"MINE = {name!r}" for name in LIBRARY}
    theirs = f"def theirs(): return [__import__(name).MINE for name in {LIBRARY!r}]\n"
    for run, early in (("one", ""), ("two", "theirs()\n")):
        done = beside("m:f", "--run", run, m=theirs + early + f, **files)
        assert done.returncode == 0, done.stderr
        assert [record["value"] for record in htcjob.records(run)] == [LIBRARY, LIBRARY]


@pytest.mark.parametrize("module", ["json", "resource", "logging", "signal", "click"])
def test_htcjob_does_not_import_what_lies_where_it_is_started(htcjob, tmp_path, module):
    """As a module neither: `python -m htcjob` puts the working directory first."""
    (tmp_path / f"{module}.py").write_text("raise SystemExit('not this one')")
    command = [sys.executable, "-m", "htcjob", "run", "--", "true"]
    done = subprocess.run(
        command, env=htcjob.variables, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("is_safe", [False, True])
def test_a_module_is_found_beside_us_and_on_the_path(htcjob, beside, tmp_path, is_safe):
    """With a safe path too, where nothing beside us takes the place of anything else."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "lib_one.py").write_text("WHERE = 'lib'")
    (tmp_path / "lib" / "both.py").write_text("WHERE = 'lib'")
    htcjob.variables["PYTHONPATH"] = str(tmp_path / "lib")
    if is_safe:
        htcjob.variables["PYTHONSAFEPATH"] = "1"
    htcjob.entries("a")
    module = "import both, lib_one\ndef f(): return [lib_one.WHERE, both.WHERE]"
    done = beside("m:f", m=module, both="WHERE = 'beside'")
    assert done.returncode == 0, done.stderr
    safe = is_safe and sys.version_info >= (3, 11)
    assert htcjob.records()[0]["value"] == ["lib", "lib" if safe else "beside"]


def test_a_working_directory_that_is_gone_is_no_obstacle(htcjob, beside, tmp_path):
    """Nor is one that goes between two calls."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "m.py").write_text(
        "import os\ndef f(output_dir, key): os.chdir(output_dir); return key"
    )
    htcjob.variables["PYTHONPATH"] = str(tmp_path / "lib")
    htcjob.entries("a", "b")
    (tmp_path / "gone").mkdir()
    shell = ("sh", "-c", 'cd ../gone && rmdir ../gone && exec "$@"', "sh")
    done = beside("m:f", before=shell)
    assert done.returncode == 0, done.stderr
    assert [record["value"] for record in htcjob.records()] == ["a", "b"]


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("def f(input): yield input", "a generator"),
        ("async def f(input): yield input", "a generator"),
        ("def g(): yield\nf = __import__('functools').partial(g)", "a generator"),
        ("class C:\n  def __call__(self, input): yield\nf = C()", "a generator"),
        ("class Odd(BaseException): pass\nraise Odd('at import')", "import of m failed: Odd: at import"),
        ("async def setup(): raise ValueError('soon')\ndef f(): pass", "setup() failed: ValueError: soon"),
    ],
)
def test_what_cannot_be_called_is_refused_before_any_work(htcjob, beside, definition, said):
    """In one line, and no entry is failed for it."""
    htcjob.entries("a")
    done = beside("m:f", m=definition)
    assert done.returncode == 126, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert htcjob.records() == []
