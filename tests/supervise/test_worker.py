"""`htcjob run --call`: a warm Python process; whatever a function does costs its own entry only."""

import json
import re
import signal
import subprocess
import sys
from collections import Counter

import pytest

from tests.conftest import some_of
from tests.support.processes import commands_with, is_pending

MODULE = '''
import os, signal, subprocess, sys, time

calls = 0

def setup():
    print("setup", os.getpid(), flush=True)

def copy(input, output_dir, key):
    """Do as the entry's name says; else copy."""
    global calls
    calls += 1
    word = key.split("-")[0]
    if word == "raise":
        raise ValueError("bad  photo\\nupside down")
    if word == "exit":
        sys.exit(int(key.split("-")[1]))
    if word == "exitwords":
        sys.exit("no licence")
    if word == "vanish":
        os._exit(int(key.split("-")[1]))
    if word == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "hang":
        subprocess.Popen(["sleep", "1234567"])
        time.sleep(1000)
    if word == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    if word == "odd":
        return object()
    if word == "nan":
        return float("nan")
    if word == "long":
        return "x" * 100_000
    with open(input) as source, open(os.path.join(output_dir, key), "w") as target:
        target.write(source.read())
    print("did", key)
    return {"calls": calls, "pid": os.getpid()}
'''


@pytest.fixture
def module(htcjob, tmp_path):
    """A module of the user's, on PYTHONPATH."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mine.py").write_text(MODULE)
    htcjob.variables["PYTHONPATH"] = str(tmp_path / "lib")
    return tmp_path / "lib" / "mine.py"


def alive(htcjob, pattern: str) -> bool:
    """Whether there is such a command among those that *htcjob* has started, and these in their turn."""
    return any(re.search(pattern, command) for command in commands_with(f"HOME={htcjob.variables['HOME']}"))


def test_a_worker_imports_once_and_is_fed_entries(htcjob, module):
    """One process for all entries of a worker; values are in the records, prints on standard output."""
    names = [f"e{n}" for n in range(8)]
    htcjob.entries(*names)
    done = htcjob.run("--workers", "1", "--call", "mine:copy")
    assert done.returncode == 0, done.stderr
    assert htcjob.outputs() == {name: name.encode() for name in names}
    values = [record["value"] for record in htcjob.records()]
    assert sorted(value["calls"] for value in values) == list(range(1, 9))
    assert done.stdout.splitlines() == [f"setup {values[0]['pid']}", *(f"did {name}" for name in names)]
    assert {value["pid"] for value in values} == {values[0]["pid"]}
    assert all(record["peak_memory_bytes"] > 0 for record in htcjob.records())


def test_each_worker_is_a_process_with_its_number(htcjob, module):
    """Two that wait for each other."""
    module.write_text(
        "import os, time\n"
        "def meet(input, params):\n"
        "    open(params['at'] + '/' + os.environ['HTCJOB_WORKER'], 'w')\n"
        "    while len(os.listdir(params['at'])) < 2: time.sleep(0.01)\n"
    )
    htcjob.entries("a", "b")
    at = htcjob.project.parent / "at"
    at.mkdir()
    htcjob.manifest(*(json.dumps({"key": key, "at": str(at)}) for key in "ab"))
    done = htcjob.run("--workers", "2", "--timeout", "60s", "--call", "mine:meet")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in at.iterdir()} == {"0", "1"}


@pytest.mark.parametrize("workers", ["1", "3"])
def test_what_goes_wrong_costs_the_entry_in_hand_only(htcjob, module, workers):
    """Exceptions, exits, crashes, hangs and useless values: each has its result, all others are done."""
    expected = {
        "raise-1": ("failed", "ValueError: bad photo upside down"),
        "exit-3": ("failed", "exit status 3"),
        "exit-75": ("retry", "asked to be tried again (exit status 75)"),
        "exit-0": ("done", ""),
        "exitwords-1": ("failed", "no licence"),
        "vanish-0": ("failed", "the worker ended in the middle of it"),
        "vanish-4": ("failed", "exit status 4"),
        "segv-1": ("failed", "killed by SIGSEGV"),
        "hang-1": ("timed_out", ""),
        "deaf-1": ("timed_out", ""),
        "odd-1": ("failed", "what mine:copy returned cannot be recorded: JSON has nothing for object"),
        "nan-1": (
            "failed",
            "what mine:copy returned cannot be recorded: Out of range float values are not JSON compliant",
        ),
        "long-1": (
            "failed",
            "what mine:copy returned cannot be recorded: it has 100002 characters as JSON, "
            "more than 65536: write it to a file",
        ),
    }
    names = [name for bad in expected for name in (bad, f"good-{bad}")]
    htcjob.entries(*names)
    limits = ("--timeout", "1s", "--grace", "500ms")
    done = htcjob.run("--workers", workers, *limits, "--call", "mine:copy")
    assert done.returncode == 65, done.stderr
    found = {record["entry"]: record for record in htcjob.records()}
    assert len(htcjob.records()) == len(names)
    for name in names:
        result, message = expected.get(name, ("done", ""))
        assert found[name]["result"] == result, name
        if message:
            assert found[name]["message"].startswith(message), name
    assert set(htcjob.outputs()) == {name for name in names if name.startswith("good")}
    assert "worker_program" not in done.stderr, "our own frames are nobody's business"
    assert "mine.py" in done.stderr
    assert not alive(htcjob, "sleep 1234567$")
    assert not alive(htcjob, f"worker_program/program.py.*{module.stem}:copy")


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("def other(): pass", 127, "no function copy"),
        ("import nosuchmodule", 126, "nosuchmodule"),
        ("1 / 0", 126, "ZeroDivisionError"),
        (
            "def copy(input): pass\ndef setup(): raise OSError('no GPU')",
            126,
            "setup() failed: OSError: no GPU",
        ),
        ("import os\nos.kill(os.getpid(), 9)", 126, "SIGKILL before it was ready"),
        ("def copy(input): pass\nimport sys\nsys.exit(3)", 126, "exit status 3 before it was ready"),
    ],
)
@pytest.mark.parametrize("n", [1, 5])
def test_a_function_that_cannot_be_called_ends_the_attempt(htcjob, module, text, status, said, n):
    """126 and 127 as for a command; no entry is failed for it."""
    module.write_text(text)
    htcjob.entries(*(f"e{n}" for n in range(n)))
    done = htcjob.run("--workers", "2", "--call", "mine:copy")
    assert done.returncode == status, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert htcjob.records() == []


def test_a_module_that_is_not_there_is_127(htcjob):
    """And so is an interpreter."""
    htcjob.entries("a")
    done = htcjob.run("--call", "no.such.module:f")
    assert (done.returncode, "no module 'no'" in done.stderr) == (127, True)
    assert htcjob.run("--run", "b", "--python", "no-such-python", "--call", "m:f").returncode == 127


def test_a_worker_that_cannot_be_replaced_leaves_work(htcjob, module):
    """It could be started once, so another attempt may be luckier: 75, and what is done is kept."""
    flag = htcjob.project.parent / "flag"
    module.write_text(
        MODULE.replace(
            'print("setup", os.getpid(), flush=True)',
            f"if os.path.exists({str(flag)!r}): raise OSError('gone')\n    open({str(flag)!r}, 'w')",
        )
    )
    htcjob.entries("a", "segv-1", "b")
    done = htcjob.run("--workers", "1", "--call", "mine:copy")
    assert done.returncode == 75, done.stderr
    assert "again" in done.stderr.splitlines()[-1]
    assert [record["result"] for record in htcjob.records()] == ["done", "failed"]


@pytest.mark.parametrize(
    ("definition", "value"),
    [
        ("def f(input): return [input]", ["PATH"]),
        ("def f(image): return [image]", ["PATH"]),
        ("def f(image, scale=1): return [image, scale]", ["PATH", 2]),
        ("def f(image, *, other=5): return other", 5),
        ("def f(key, entry): return [key, entry[0]]", ["d/a", "{"]),
        ("def f(params): return params", {"scale": 2}),
        ("def f(image, **more): return [image, more]", ["PATH", {"scale": 2}]),
        ("def f(): return 7", 7),
        ("from functools import partial\ndef g(x, image): return [x, image]\nf = partial(g, 3)", [3, "PATH"]),
        ("class C:\n  def m(self, image): return [image]\nf = C().m", ["PATH"]),
        (
            "from functools import wraps\ndef w(g):\n  @wraps(g)\n  def h(*a, **k): return g(*a, **k)\n  return h\n@w\ndef f(image): return [image]",
            ["PATH"],
        ),
        ("def f(image, /): return [image]", ["PATH"]),
        ("def f(image, key, other=3, scale=1, /): return [image, key, other, scale]", ["PATH", "d/a", 3, 2]),
        ("def f(image, scale, /, **more): return [image, scale, more]", ["PATH", 2, {}]),
        ("def f(*any): return any", ["PATH"]),
        ("def f(*any, key): return [*any, key]", ["PATH", "d/a"]),
        ("def f(*any, **more): return [*any, more]", ["PATH", {"scale": 2}]),
        ("def f(*, other=5, image): return [image, other]", ["PATH", 5]),
        (
            "from functools import partial\ndef g(x, image): return [x, image]\nf = partial(g, x=3)",
            [3, "PATH"],
        ),
        ("class C:\n  def __call__(self, image, /): return [image]\nf = C()", ["PATH"]),
        ("class C:\n  @classmethod\n  def m(cls, *any): return any\nf = C.m", ["PATH"]),
        ("class f(str): pass", "PATH"),
        ("import operator\nf = operator.itemgetter(slice(None))", "PATH"),
        ("from os.path import basename as f", "a"),
        ("async def f(image, /): return [image]", ["PATH"]),
    ],
)
def test_parameters_are_filled_in_by_name(htcjob, module, definition, value):
    """The five words, members of the JSON line, and the first one of any other name."""
    module.write_text(definition)
    htcjob.entries("d/a")
    htcjob.manifest('{"key": "d/a", "scale": 2}')
    done = htcjob.run("--call", "mine:f")
    assert done.returncode == 0, done.stderr
    found = json.dumps(htcjob.records()[0]["value"])
    assert json.loads(re.sub(r'"/[^"]*/d/a"', '"PATH"', found)) == value


def test_a_missing_parameter_fails_the_entry(htcjob, module):
    """As Python says it."""
    module.write_text("def f(image, scale): return scale")
    htcjob.entries("a", "b")
    htcjob.manifest('{"key": "a", "scale": 2}', "b")
    assert htcjob.run("--call", "mine:f").returncode == 65
    assert htcjob.results() == {0: "done", 1: "failed"}
    assert "missing 1 required positional argument: 'scale'" in htcjob.records()[1]["message"]


def test_a_worker_has_no_credentials_unless_they_are_passed(htcjob, module):
    """As with a command."""
    module.write_text("import os\ndef f(): return sorted(n for n in os.environ if 'SECRET' in n)")
    htcjob.entries("a")
    htcjob.variables["AWS_SECRET_ACCESS_KEY"] = "planted"
    htcjob.run("--call", "mine:f")
    htcjob.run("--run", "two", "--pass-credentials", "--call", "mine:f")
    assert htcjob.records()[0]["value"] == []
    assert htcjob.records("two")[0]["value"] == ["AWS_SECRET_ACCESS_KEY"]


@pytest.mark.parametrize(
    "arguments", [("--call", "m:f", "--", "true"), (), ("--call", "nonsense"), ("--call", "a b:c")]
)
def test_a_command_or_a_function(htcjob, arguments):
    """One of them, and a name that can be one."""
    htcjob.entries("a")
    assert htcjob.run(*arguments).returncode == 64


def test_sigterm_lets_the_call_in_hand_finish(htcjob, module, wait_until, tmp_path):
    """What is finished is committed, the rest is left, and no process stays."""
    module.write_text(
        "import os, time\n"
        "def slow(input, output_dir, key):\n"
        "    open(os.environ['READY'], 'w')\n"
        "    while not os.path.exists(os.environ['GO']): time.sleep(0.01)\n"
        "    open(output_dir + '/' + key, 'w')\n"
    )
    htcjob.entries("a", "b", "c")
    ready, go = tmp_path / "ready", tmp_path / "go"
    command = ("run", "--workers", "1", "--call", "mine:slow")
    with htcjob.start(*command, READY=str(ready), GO=str(go)) as process:
        wait_until(ready.exists)
        process.terminate()
        wait_until(lambda: not is_pending(process.pid, signal.SIGTERM))
        go.touch()
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert htcjob.results() == {0: "done"}
    assert not alive(htcjob, "mine:slow")


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_call_that_never_ends_is_ended_with_us(htcjob, module, wait_until, tmp_path, signum, status):
    """Ctrl-C at once, SIGTERM after the grace, SIGKILL with us: no process is left, and no record."""
    module.write_text(
        "import os, subprocess, time\n"
        "def slow(input):\n"
        "    subprocess.Popen(['sleep', '1001'])\n"
        "    open(os.environ['READY'], 'w')\n"
        "    time.sleep(1000)\n"
    )
    htcjob.entries("a", "b", "c")
    ready = tmp_path / "ready"
    command = ("run", "--workers", "2", "--grace", "1s", "--call", "mine:slow")
    with htcjob.start(*command, READY=str(ready)) as process:
        wait_until(ready.exists)
        assert alive(htcjob, "mine:slow")
        assert alive(htcjob, "sleep 1001")
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in err
    assert htcjob.records() == []
    wait_until(lambda: not alive(htcjob, "mine:slow") and not alive(htcjob, "sleep 1001"))


FEW_DESCRIPTORS = """
import os, resource, sys
from htcjob.errors import ShortageError
from htcjob.supervise.signals import Signals
from htcjob.supervise.worker import Worker

def descriptors():
    return set(os.listdir("/proc/self/fd"))

with Signals() as signals:
    for spare in range(16):
        worker = Worker("os.path:getsize", python=sys.executable, environment=os.environ, number=0,
            signals=signals, grace_s=5)
        before = descriptors()
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, most))
        try:
            worker.start()
            said = "started"
        except ShortageError as error:
            said = str(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
        worker.hang_up()
        worker.close()
        assert descriptors() == before and not signals.children.running, spare
        print(said)
"""


def test_without_file_descriptors_it_is_no_bug():
    """However many are missing: it is said in words, none is lost, and no process is left."""
    argv = [sys.executable, "-c", FEW_DESCRIPTORS]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert said[0] == "worker cannot be started now: Too many open files"
    assert said[-1] == "started"
    assert set(said) == {said[0], said[-1]}


def test_the_worker_imports_almost_nothing(htcjob, module):
    """Besides `json`: what it costs comes on top of what the function imports, for every worker."""
    module.write_text("import sys\ndef f(): return sorted(sys.modules)")
    htcjob.entries("a")
    assert htcjob.run("--call", "mine:f").returncode == 0
    bare = subprocess.run(
        [sys.executable, "-c", "import sys, json; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {name for name in htcjob.records()[0]["value"] if not name.startswith("htcjob_warm")}
    more = found - set(bare.stdout.split())
    assert more <= {"mine", "resource", "__future__", "errno"}, more  # which is part of the interpreter


def test_photos_are_tagged_by_the_reference_app(htcjob, photos):
    """Its function knows nothing of htcjob, and finds the faces that it finds as a program."""
    pytest.importorskip("cv2")
    chosen = some_of(photos, 12)
    for name, (path, _) in chosen.items():
        (htcjob.project / name).write_bytes(path.read_bytes())
    htcjob.manifest(*chosen)
    done = htcjob.run("--call", "reference_app.face_tagger:tag_entry")
    assert done.returncode == 0, done.stderr
    assert {record["entry"]: record["value"]["faces"] for record in htcjob.records()} == {
        name: faces for name, (_, faces) in chosen.items()
    }
    assert Counter(key.rpartition("_tagged")[0] for key in htcjob.outputs()) == {
        name: 2 for name, (_, faces) in chosen.items() if faces
    }
