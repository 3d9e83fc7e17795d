"""The Python way to work: the promises of `htcjob run --each`, kept for a loop in the user's own program."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import htcjob as package
from htcjob.errors import UsageError

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "count_words.py"

LOOP = """
import os, signal, sys, time
import htcjob

def said(word):
    print(word, flush=True)

def output(entry, text):
    with open(os.path.join(entry.output_dir, entry.key + ".out"), "w") as file:
        file.write(text)

job = htcjob.Job.from_env({options})
with job:
    for entry in job.entries():
{body}
    said("after the loop")
said("after the job")
"""

PAUSED = """
import collections, os, runpy, sys, time

class Counter(collections.Counter):
    def __init__(self, words):
        if words == ["pause"]:
            print("paused", flush=True)
            while not os.path.exists(sys.argv[2]):
                time.sleep(0.01)
        super().__init__(words)

collections.Counter = Counter
runpy.run_path(sys.argv[1])
"""
"""Runs a program that counts words, and waits at the text `pause` until a file is there."""


class Loop:
    """Runs a program with a loop in a process of its own; entries come in the manifest's order."""

    def __init__(self, htcjob):
        self.htcjob = htcjob
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, body: str, *, options: str = "", **variables: str) -> subprocess.Popen[str]:
        lines = "\n".join(" " * 8 + line for line in body.strip().splitlines())
        return self.start_program(LOOP.format(options=options, body=lines), **variables)

    def start_program(self, program: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
        # Fetched ahead by several threads, they come in any order.
        in_order = {"PYTHONPATH": str(REPOSITORY), "HTCJOB_PREFETCH": "0"}
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            env={**self.htcjob.variables, **in_order, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.htcjob.work,
        )
        self.processes.append(process)
        return process

    def __call__(self, body: str, *, options: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return finished(self.start(body, options=options, **variables))


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    try:
        out, err = process.communicate(timeout=120)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def loop(htcjob) -> Iterator[Loop]:
    loop = Loop(htcjob)
    yield loop
    for process in loop.processes:
        process.kill()
        finished(process)


# The example


@pytest.fixture
def texts(htcjob) -> list[str]:
    """Project storage with five texts; at the third one a `PAUSED` program waits."""
    names = [f"text-{n}" for n in range(5)]
    htcjob.entries(*names)
    for name in names:
        (htcjob.project / name).write_text("to be or not to be\n")
    (htcjob.project / names[2]).write_text("pause\n")
    return names


def words_of(htcjob, name: str) -> list:
    return json.loads((htcjob.task / f"{name}.json").read_text())


def test_the_example_counts_the_words_of_every_text(htcjob, texts):
    """Run as `docs/python.md` says: outputs, values and exit record are those of the whole chunk."""
    done = subprocess.run(
        [sys.executable, EXAMPLE], env=htcjob.variables, capture_output=True, text=True, cwd=htcjob.work
    )
    assert done.returncode == 0, done.stderr
    assert words_of(htcjob, texts[0]) == [["to", 2], ["be", 2], ["or", 1], ["not", 1]]
    assert [record["value"] for record in htcjob.records()] == [6, 6, 1, 6, 6]
    assert htcjob.exit_record()["termination_reason"] == "succeeded"
    assert htcjob.exit_record()["peak_memory_bytes"] > 0
    assert not list(htcjob.work.iterdir())


def test_the_example_goes_on_where_it_was_killed(htcjob, loop, texts, wait_until, tmp_path):
    """SIGKILL in the middle: what is in storage stays, the rest is done by the next attempt, nothing twice."""
    process = loop.start_program(PAUSED, EXAMPLE, tmp_path / "go", HTCJOB_ATTEMPT="1")
    assert process.stdout.readline() == "paused\n"
    wait_until(lambda: len(htcjob.records()) == 2)
    process.kill()
    assert finished(process).returncode == -signal.SIGKILL
    (tmp_path / "go").touch()
    done = finished(loop.start_program(PAUSED, EXAMPLE, tmp_path / "go", HTCJOB_ATTEMPT="2"))
    assert done.returncode == 0, done.stderr
    assert [record["attempt"] for record in htcjob.records()] == [1, 1, 2, 2, 2]
    assert set(htcjob.results().values()) == {"done"}
    assert len(htcjob.outputs()) == len(texts)


def test_the_example_finishes_its_text_when_it_is_preempted(htcjob, loop, texts, tmp_path):
    """SIGTERM in the middle: the text in hand is finished and committed, no other is begun, 143 is the end."""
    process = loop.start_program(PAUSED, EXAMPLE, tmp_path / "go")
    assert process.stdout.readline() == "paused\n"
    process.terminate()
    (tmp_path / "go").touch()
    stopped = finished(process)
    assert stopped.returncode == 143
    assert "stopped by SIGTERM with 2 of 5 entries left" in stopped.stderr
    assert htcjob.exit_record()["termination_reason"] == "preempted"
    assert htcjob.results() == {0: "done", 1: "done", 2: "done"}
    assert finished(loop.start_program(PAUSED, EXAMPLE, tmp_path / "go")).returncode == 0
    assert htcjob.results() == dict.fromkeys(range(5), "done")


def test_the_page_shows_the_example():
    """Word for word, below its docstring."""
    code = EXAMPLE.read_text().partition('"""\n\n')[2]
    assert f"```python\n{code}```" in (REPOSITORY / "docs" / "python.md").read_text()


# What the loop says


def test_an_entry_gives_what_its_line_says(htcjob, loop):
    """Key, line, parameters, position, input; an output may be named after an entry in a folder."""
    (htcjob.project / "folder").mkdir()
    (htcjob.project / "folder" / "a").write_text("content")
    htcjob.manifest('{"key": "folder/a", "size": 3}')
    done = loop(
        "said(repr((entry.key, entry.text, dict(entry.parameters), entry.position, open(entry.path).read())))\n"
        'output(entry, "result"); entry.commit({"n": (1, 2)})'
    )
    assert done.returncode == 0, done.stderr
    line = '{"key": "folder/a", "size": 3}'
    assert done.stdout.splitlines()[0] == repr(("folder/a", line, {"size": 3}, 0, "content"))
    assert htcjob.outputs() == {"folder/a.out": b"result"}
    assert htcjob.records()[0]["value"] == {"n": [1, 2]}


def test_failed_entries_are_recorded_and_the_others_go_on(htcjob, loop):
    """One bad entry: 65, with its reason; inside the budget: 0."""
    htcjob.entries("a", "b", "c")
    body = 'entry.fail("bad\\nluck") if entry.key == "a" else entry.commit()'
    done = loop(body)
    assert done.returncode == 65
    assert "1 of 3 entries failed; the first: a: bad luck" in done.stderr.splitlines()[-1]
    assert done.stdout == "after the loop\n"
    assert htcjob.results() == {0: "failed", 1: "done", 2: "done"}
    assert loop(body, options="max_failures=1").returncode == 0


def test_past_the_budget_the_loop_ends(htcjob, loop):
    """No further entry is handed out than the one that was ready."""
    htcjob.entries(*"abcdefgh")
    done = loop('said(entry.key); entry.fail("no")', options='max_failures="25%"')
    assert done.returncode == 65
    assert done.stdout.split("after")[0].split() == ["a", "b", "c"]


def test_an_entry_that_asks_for_it_is_tried_again(htcjob, loop):
    """`retry`: in the same attempt after the others, where that is allowed; else work is left."""
    htcjob.entries("a", "b")
    body = (
        'said(entry.key); entry.commit() if sys.stdin.closed else entry.retry("not yet"); sys.stdin.close()'
    )
    done = loop(body)
    assert done.returncode == 75
    assert htcjob.records()[0]["message"] == "not yet"
    again = loop(body, options="retry_entry=1")
    assert again.returncode == 0, again.stderr
    assert "entry_again" in again.stderr
    assert again.stdout.split("after")[0].split() == ["a", "a"]


def test_an_entry_of_which_nothing_is_said_is_not_done(htcjob, loop):
    """Forgotten is not finished: it is left, and the record says what to call."""
    htcjob.entries("a", "b")
    done = loop('output(entry, "x")\nif entry.key == "b": entry.commit()')
    assert done.returncode == 75
    assert htcjob.results() == {0: "retry", 1: "done"}
    assert "commit()" in htcjob.records()[0]["message"]
    assert htcjob.outputs() == {"b.out": b"x"}


@pytest.mark.parametrize("way_out", ["break", "sys.exit(0)", "sys.exit()"])
def test_leaving_the_loop_early_leaves_work(htcjob, loop, way_out):
    """However tidily it is left, the status is not 0 with work left; what was said counts."""
    htcjob.entries("a", "b", "c")
    done = loop(f"entry.commit()\n{way_out}")
    assert done.returncode == 75, done.stderr
    assert "2 of 3 entries left" in done.stderr
    assert htcjob.results() == {0: "done"}


def test_the_programs_own_exit_status_is_passed_on(htcjob, loop):
    """As of a command: with its words, where it left any."""
    htcjob.entries("a")
    assert loop("entry.commit(); sys.exit(3)").returncode == 3
    assert htcjob.exit_record()["termination_reason"] == "command_failed"
    assert htcjob.results() == {0: "done"}


def test_an_exception_leaves_its_entry_and_keeps_the_others(htcjob, loop):
    """It ends the program as ever; what was finished before is committed, the record tells the exception."""
    htcjob.entries("a", "b", "c")
    done = loop('output(entry, "x")\nif entry.key == "b": raise LookupError("bad luck")\nentry.commit()')
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "LookupError: bad luck"
    assert done.stdout == ""
    assert htcjob.results() == {0: "done"}
    assert htcjob.outputs() == {"a.out": b"x"}
    record = htcjob.exit_record()
    assert (record["termination_reason"], record["exit_status"]) == ("command_failed", 1)
    assert "LookupError: bad luck" in record["message"]
    assert not list(htcjob.work.iterdir())


@pytest.mark.parametrize("outputs", ['"*.out"', '["a.out", "b.*"]'])
def test_outputs_are_named_by_globs(htcjob, loop, outputs):
    """One or several; what they do not name stays behind."""
    htcjob.entries("a", "b")
    body = 'output(entry, "x")\nopen(os.path.join(entry.output_dir, "scratch"), "w").close()\nentry.commit()'
    assert loop(body, options=f"outputs={outputs}").returncode == 0
    assert htcjob.outputs() == {"a.out": b"x", "b.out": b"x"}


def test_a_second_word_is_refused(htcjob, loop):
    """And so is one about an entry of a former turn."""
    htcjob.entries("a")
    done = loop('entry.commit()\nentry.fail("no")')
    assert "UsageError: entry 'a' has been answered before" in done.stderr
    assert htcjob.results() == {0: "done"}


def test_a_value_that_json_does_not_have_is_refused(htcjob, loop):
    """Where it is given, so that the entry is not done."""
    htcjob.entries("a")
    done = loop("entry.commit(object())")
    assert done.returncode == 1
    assert "TypeError" in done.stderr
    assert htcjob.results() == {}


@pytest.mark.parametrize("in_child", ["sys.exit(0)", "continue", "1 / 0", "entry.commit(7)"])
def test_a_forked_child_has_no_entries(htcjob, loop, in_child):
    """Whatever it does, it ends; each entry is what its parent says of it."""
    htcjob.entries("a", "b")
    done = loop(
        f"if os.fork() == 0:\n    said('child')\n    {in_child}\nos.wait()\nsaid(entry.key)\nentry.commit(entry.key)"
    )
    assert done.returncode == 0, done.stderr
    assert [record["value"] for record in htcjob.records()] == ["a", "b"]
    assert [line for line in done.stdout.splitlines() if len(line) == 1] == ["a", "b"]
    assert done.stdout.count("child") == 2


def test_an_exit_of_256_is_no_success(htcjob, loop):
    """Although a process cannot end with more than 255."""
    htcjob.entries("a")
    assert loop("sys.exit(256)").returncode == 1
    assert htcjob.exit_record()["exit_status"] == 1


# Signals and time


def test_ctrl_c_is_what_it_is_everywhere(htcjob, loop):
    """KeyboardInterrupt in the body; what is done is kept, and the process dies of it as a shell expects."""
    htcjob.entries("a", "b", "c")
    process = loop.start('if entry.key == "b":\n    said("ready")\n    time.sleep(1000)\nentry.commit()')
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    done = finished(process)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert htcjob.results() == {0: "done"}
    record = htcjob.exit_record()
    assert (record["termination_reason"], record["exit_status"]) == ("preempted", 130)


@pytest.mark.parametrize(
    "hang", ["time.sleep(1000)", "import hashlib; hashlib.pbkdf2_hmac('sha512', b'', b'', 2**31 - 1)"]
)
def test_a_body_that_hangs_when_preempted_costs_its_entry_only(htcjob, loop, hang):
    """Also one that hangs where Python sees no signal: what is done is in storage, the record is, we end."""
    htcjob.entries("a", "b", "c")
    body = f'if entry.key == "b":\n    said("ready")\n    {hang}\nentry.commit()'
    process = loop.start(body, HTCJOB_GRACE="500ms")
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    done = finished(process)
    assert done.returncode == 143
    assert htcjob.results() == {0: "done"}
    assert htcjob.exit_record()["termination_reason"] == "preempted"
    assert "given_up" in done.stderr


def test_a_program_that_hangs_behind_its_loop_has_not_ended_well(htcjob, loop):
    """All is committed, and the record says so; the status is the signal's: the program did not finish."""
    htcjob.entries("a")
    program = LOOP.format(options="", body="        entry.commit()").replace(
        'said("after the loop")', 'said("ready"); time.sleep(1000)'
    )
    process = loop.start_program(program, HTCJOB_GRACE="500ms")
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert finished(process).returncode == 143
    assert htcjob.exit_record()["termination_reason"] == "succeeded"
    assert htcjob.results() == {0: "done"}


def test_at_the_deadline_the_attempt_ends(htcjob, loop):
    """75, whatever the body does, and SIGALRM is left to the program."""
    htcjob.entries("a", "b")
    done = loop(
        'said(signal.getsignal(signal.SIGALRM).name)\nif entry.key == "b":\n    time.sleep(1000)\nentry.commit()',
        HTCJOB_DEADLINE_IN="3s",
        HTCJOB_GRACE="500ms",
    )
    assert done.returncode == 75
    assert set(done.stdout.split()) <= {"SIG_DFL"}
    assert 1 not in htcjob.results()
    assert "at its deadline" in htcjob.exit_record()["message"]


def test_a_deadline_ends_with_its_job(htcjob, loop):
    """Nothing of it waits on in a program that goes on, or writes to what another file descriptor is by then."""
    htcjob.entries("a")
    program = """
import threading, htcjob
with htcjob.Job.from_env() as job:
    for entry in job.entries():
        timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
        entry.commit()
for timer in timers:
    timer.join(30)
print(len(timers) > 0, any(timer.is_alive() for timer in timers), job._signals.last_resort)
"""
    limits = {"HTCJOB_DEADLINE_IN": "3h", "HTCJOB_ENDS_AT": str(int(time.time()) + 3600)}
    done = finished(loop.start_program(program, **limits))
    assert done.stdout == "True False None\n", done.stderr
    done = loop("entry.commit()", HTCJOB_DEADLINE_IN="999999999d")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_handlers_of_the_program_are_called_and_set_back(htcjob, loop):
    """Who asked for SIGTERM before us is told too; afterwards the signals are the program's again."""
    htcjob.entries("a", "b")
    program = """
import os, signal, htcjob
def mine(signum, frame):
    print("mine", flush=True)
signal.signal(signal.SIGTERM, mine)
try:
    with htcjob.Job.from_env() as job:
        for entry in job.entries():
            os.kill(os.getpid(), signal.SIGTERM)
            entry.commit()
finally:
    print(signal.getsignal(signal.SIGTERM) is mine, job.ending.reason.value, flush=True)
"""
    done = finished(loop.start_program(program))
    assert done.returncode == 143
    assert done.stdout == "mine\nTrue preempted\n"


def test_an_event_loop_of_the_program_still_hears_of_its_signals(htcjob, loop):
    """It has one descriptor for all of them, which it shares with us; afterwards that is the loop's again."""
    htcjob.entries("a")
    program = """
import asyncio, os, signal, htcjob
async def main():
    came = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, came.set)
    with htcjob.Job.from_env() as job:
        for entry in job.entries():
            os.kill(os.getpid(), signal.SIGUSR2)
            await asyncio.wait_for(came.wait(), 30)
            entry.commit()
    came.clear()
    os.kill(os.getpid(), signal.SIGUSR2)
    await asyncio.wait_for(came.wait(), 30)
    print("heard twice", flush=True)
asyncio.run(main())
"""
    done = finished(loop.start_program(program))
    assert (done.returncode, done.stdout) == (0, "heard twice\n"), done.stderr


def test_a_childs_signals_are_not_ours(htcjob, loop):
    """A pool of forked processes ends its children with SIGTERM; that does not stop the attempt."""
    htcjob.entries("a", "b", "c")
    done = loop(
        "import multiprocessing\n"
        'with multiprocessing.get_context("fork").Pool(2) as pool:\n'
        "    assert pool.map(abs, [-1, -2]) == [1, 2]\n"
        "entry.commit()",
        PYTHONWARNINGS="ignore",
    )
    assert done.returncode == 0, done.stderr
    assert htcjob.results() == dict.fromkeys(range(3), "done")


def test_a_child_that_is_only_just_made_dies_of_sigterm(htcjob, loop):
    """As in a program without us; Python forgets a signal that arrives there while our handler is in place."""
    htcjob.entries("a")
    kill = "os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))"
    done = loop(
        "child = os.fork()\nif child == 0: os._exit(3)\nsaid(os.waitpid(child, 0)[1])\nentry.commit()",
        options=f"**({kill} or {{}})",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "15"


def test_the_programs_children_are_its_own(htcjob, loop):
    """Exit statuses of what it starts, in process groups of their own too, reach it."""
    htcjob.entries("a", "b")
    done = loop(
        "import subprocess\n"
        'said(subprocess.run(["sh", "-c", "exit 3"], start_new_session=True).returncode)\n'
        "entry.commit()"
    )
    assert done.stdout == "3\n3\nafter the loop\nafter the job\n", done.stderr


# What cannot work


@pytest.mark.parametrize(
    ("variables", "status", "words"),
    [
        ({"HTCJOB_MANIFEST": ""}, 78, "HTCJOB_MANIFEST"),
        ({"HTCJOB_MANIFEST": "absent.txt"}, 66, "absent.txt"),
        ({"HTCJOB_ARRAY_INDEX": "5"}, 78, "HTCJOB_ARRAY_SIZE"),
        ({"HTCJOB_TIMEOUT": "5s"}, 78, "HTCJOB_TIMEOUT"),
        ({"HTCJOB_PREFETCH": "many"}, 78, "HTCJOB_PREFETCH"),
    ],
)
def test_what_is_wrong_around_it_is_an_exit_status(htcjob, loop, variables, status, words):
    """One line, and nothing of the program runs that relies on the loop."""
    htcjob.entries("a")
    done = loop("entry.commit()", **variables)
    assert done.returncode == status
    assert words in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("htcjob: error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_mistake_in_the_call_is_a_usage_error(htcjob, loop):
    """64, as on the command line."""
    done = loop("entry.commit()", options='max_failures="x"')
    assert done.returncode == 64
    assert "--max-failures" in done.stderr


def test_inside_htcjob_run_it_is_refused(htcjob):
    """Both would work on the same entries."""
    htcjob.entries("a")
    done = htcjob.run("--each", "--", sys.executable, "-c", "import htcjob; htcjob.Job.from_env()")
    assert done.returncode == 65
    assert "htcjob.Job inside a command of htcjob run" in done.stderr


def test_as_the_command_of_a_plain_entrypoint_it_is_supervised(htcjob, loop):
    """An image's `htcjob run --` passes on the status, and signals."""
    htcjob.entries("a", "b")
    del htcjob.variables["HTCJOB_MANIFEST"]
    program = LOOP.format(options='manifest="list.txt"', body='        entry.fail("no")')
    done = htcjob.run("--", sys.executable, "-c", program)
    assert done.returncode == 65
    assert htcjob.results() == {0: "failed", 1: "failed"}


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_without_a_thread_it_is_tried_again(htcjob, loop, spare):
    """75, one line, and every signal is as it was."""
    htcjob.entries("a")
    program = f"""
import signal, threading, htcjob
start, begun = threading.Thread.start, []
def few(thread):
    begun.append(thread)
    if len(begun) > {spare}:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = few
before = signal.getsignal(signal.SIGTERM)
try:
    with htcjob.Job.from_env():
        print("never")
finally:
    print(signal.getsignal(signal.SIGTERM) is before, signal.set_wakeup_fd(-1))
"""
    done = finished(loop.start_program(program, HTCJOB_DEADLINE_IN="3h"))
    assert done.returncode == 75, done.stderr
    assert done.stdout == "True -1\n"
    assert done.stderr == "htcjob: error: no thread can be started now; run the same again\n"


def test_it_is_for_the_main_thread_and_for_once(htcjob, monkeypatch):
    """Signals arrive nowhere else; a job is one attempt."""
    htcjob.entries("a")
    for name, value in htcjob.variables.items():
        monkeypatch.setenv(name, value)
    job = package.Job.from_env()
    with pytest.raises(UsageError, match="outside the job"):
        next(job.entries())
    errors = []

    def enter() -> None:
        try:
            job.__enter__()
        except UsageError as error:
            errors.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert "main thread" in errors[0]
    before = signal.getsignal(signal.SIGTERM)
    with job:
        for entry in job.entries():
            entry.commit()
    assert job.ending.exit_status == 0
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(UsageError, match="one attempt"):
        job.__enter__()


# A good guest


def test_logging_is_the_programs(htcjob, loop):
    """Our lines are ours alone; with a handler of the program's on our logger there are none of ours."""
    htcjob.entries("a")
    program = """
import logging, os, htcjob
if "WITH_HANDLER" in os.environ:
    logging.getLogger("htcjob").addHandler(logging.NullHandler())
with htcjob.Job.from_env() as job:
    for entry in job.entries():
        entry.commit()
root = logging.getLogger()
print(root.handlers, root.level == logging.WARNING, logging.raiseExceptions)
"""
    done = finished(loop.start_program(program))
    assert done.stdout == "[] True True\n"
    assert "attempt_ended" in done.stderr
    assert finished(loop.start_program(program, WITH_HANDLER="1")).stderr == ""


def test_the_token_is_not_shown(htcjob, loop):
    """It is redacted in records too, should the program write it there."""
    htcjob.entries("a")
    token = "s3cr3t-" * 4
    done = loop(
        'entry.fail("token " + os.environ["RESCALE_HTC_REFRESH_TOKEN"])', RESCALE_HTC_REFRESH_TOKEN=token
    )
    assert done.returncode == 65
    assert token not in done.stderr + json.dumps(htcjob.records()) + htcjob.termination_log.read_text()


def test_import_alone_is_cheap_and_complete():
    """`import htcjob` brings nothing else of ours; the names are there all the same."""
    code = (
        "import sys, htcjob; print([m for m in sys.modules if m.startswith('htcjob.') or m == 'click'], "
        "htcjob.Job.__name__, htcjob.JobEntry.__name__, hasattr(htcjob, 'Jobs'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env=os.environ,
    )
    assert done.stdout == "[] Job JobEntry False\n"
