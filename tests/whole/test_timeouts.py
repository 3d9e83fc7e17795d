"""Deadline of the attempt, and the straggler rule."""

import re
import socket
import subprocess
import sys
import time

import pytest


def test_a_straggler_is_timed_out(htcjob):
    """The others took milliseconds, this one would take for ever."""
    names = [f"e{n:02d}" for n in range(14)]
    htcjob.entries(*names)
    script = '[ "$HTCJOB_ENTRY" != e12 ] || sleep 1000'
    done = htcjob.run("--each", "--workers", "1", "--timeout", "3x", "--", "sh", "-c", script)
    assert done.returncode == 124, done.stderr
    assert htcjob.results() == {n: "timed_out" if n == 12 else "done" for n in range(14)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--timeout", "3x"), "--each"),
        (("--each", "--timeout", "0.5x"), "1x"),
        (("--deadline", "30s"), "--grace"),
    ],
)
def test_limits_that_make_no_sense_are_refused(htcjob, arguments, said):
    """Before any work."""
    htcjob.entries("a")
    done = htcjob.run(*arguments, "--", "true")
    assert done.returncode == 64
    assert said in done.stderr


def test_at_its_deadline_the_attempt_stops_itself_with_75(htcjob):
    """What is finished is committed, the entry in hand is stopped, and the rest is left for the next attempt."""
    htcjob.entries("a", "b", "c")
    script = (
        'echo "$HTCJOB_DEADLINE" > "$HTCJOB_OUTPUT_DIR/$HTCJOB_ENTRY"; [ "$HTCJOB_ENTRY" = a ] || sleep 1000'
    )
    options = ("--workers", "1", "--grace", "1s", "--each")
    done = htcjob.run(*options, "--", "sh", "-c", script, HTCJOB_DEADLINE_IN="4s")
    assert done.returncode == 75, done.stderr
    assert "deadline" in done.stderr.splitlines()[-1]
    assert htcjob.results() == {0: "done"}
    assert re.fullmatch(rb"\S+Z\n", htcjob.outputs()["a"])
    assert htcjob.exit_record()["termination_reason"] == "work_left"
    assert list(htcjob.work.iterdir()) == []


def test_an_entry_that_finishes_in_the_grace_period_is_kept(htcjob, wait_until):
    """The deadline is for us, the command in hand has most of the grace."""
    htcjob.entries("a", "b")
    script = 'echo "$$" > "$0"; until [ -e "$1" ]; do sleep 0.01; done'
    begun, go = htcjob.project.parent / "begun", htcjob.project.parent / "go"
    command = ("--workers", "1", "--deadline", "31s", "--grace", "30s", "--each")
    with htcjob.start("run", *command, "--", "sh", "-c", script, str(begun), str(go)) as process:
        wait_until(begun.exists)
        # Nothing outside tells that the deadline has come: it is 1 s after a start that lies before `begun`.
        time.sleep(1.2)
        go.touch()
        process.communicate(timeout=60)
    assert process.returncode == 75
    assert htcjob.results() == {0: "done"}


@pytest.mark.parametrize(("way", "status"), [((), 75), (("plain",), 124)])
def test_a_command_is_stopped_at_the_deadline(htcjob, way, status):
    """A chunk's may be tried again; a plain entrypoint has run out of time. Ending tidily changes nothing."""
    if not way:
        htcjob.entries("a")
    script = "trap 'exit 0' TERM; sleep 1000 & wait"
    done = htcjob.run("--deadline", "2s", "--grace", "1s", "--", "sh", "-c", script)
    assert done.returncode == status
    assert htcjob.records() == []


def test_a_deadline_that_is_not_reached_changes_nothing(htcjob):
    """Nor does an alarm that somebody else sends."""
    htcjob.entries("a")
    done = htcjob.run("--deadline", "10m", "--each", "--", "sh", "-c", "trap '' ALRM; kill -ALRM $PPID")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variable", ["SLURM_JOB_END_TIME", "HTCJOB_ENDS_AT"])
def test_the_platforms_own_limit_is_a_deadline(htcjob, variable):
    """The attempt stops itself a grace period before it; the command is told, as of any deadline."""
    htcjob.entries("a", "b")
    script = (
        'echo "$HTCJOB_DEADLINE" > "$HTCJOB_OUTPUT_DIR/$HTCJOB_ENTRY"; [ "$HTCJOB_ENTRY" = a ] || sleep 1000'
    )
    # The deadline of three hours is later, and so it does not count.
    options = ("--workers", "1", "--deadline", "3h", "--grace", "1s", "--each")
    ends_at = str(int(time.time()) + 7)
    done = htcjob.run(*options, "--", "sh", "-c", script, "sh", **{variable: ends_at})
    assert done.returncode == 75, done.stderr
    assert "deadline" in done.stderr.splitlines()[-1]
    assert htcjob.results() == {0: "done"}


def test_an_earlier_deadline_wins_over_the_platforms_limit(htcjob):
    """The platform's is an hour away."""
    ends_at = str(int(time.time()) + 3600)
    done = htcjob.run("--deadline", "2s", "--grace", "1s", "--", "sleep", "1000", SLURM_JOB_END_TIME=ends_at)
    assert done.returncode == 124, done.stderr


def test_a_limit_that_is_over_already_does_not_count(htcjob):
    """It is another job's, inherited; that is said, once."""
    done = htcjob.run("--", "true", SLURM_JOB_END_TIME="1000000000")
    assert done.returncode == 0, done.stderr
    assert "platform_limit_ignored ended_at=2001-09-09T01:46:40.000Z" in done.stderr


def test_with_less_than_the_grace_period_left_nothing_is_begun(htcjob):
    """The platform would end it in the middle; another attempt does it."""
    htcjob.entries("a")
    ends_at = str(int(time.time()) + 3600)
    done = htcjob.run("--grace", "2h", "--each", "--", "true", SLURM_JOB_END_TIME=ends_at)
    assert done.returncode == 75, done.stderr
    assert htcjob.results() == {}


@pytest.fixture
def silent_storage(htcjob):
    """Task storage that takes every connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        htcjob.variables.update(
            AWS_ACCESS_KEY_ID="k",
            AWS_SECRET_ACCESS_KEY="s",
            AWS_REGION="us-east-1",
            AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{server.getsockname()[1]}",
            HTCJOB_TASK_STORE="s3://bucket/task",
        )
        yield server


def test_the_deadline_holds_for_a_storage_that_says_nothing(htcjob, silent_storage):
    """The library would wait for minutes; the platform would not. It is a deadline, and no preemption."""
    htcjob.variables |= {"HTCJOB_PROJECT_STORE": "s3://bucket/project", "HTCJOB_MANIFEST": "list.txt"}
    done = htcjob.run("--deadline", "3s", "--grace", "1s", "--each", "--", "true")
    assert done.returncode == 75, done.stderr
    assert "given_up" in done.stderr
    assert "stopped at its deadline" in done.stderr
    assert htcjob.exit_record()["termination_reason"] == "work_left"


def test_a_deadline_in_a_million_years_is_none(htcjob):
    """No timer of a kernel holds so many seconds."""
    done = htcjob.run("--deadline", "999999999d", "--", "true")
    assert done.returncode == 0, done.stderr


OWN_STATUS = 'trap "exit 9" TERM; touch "$0"; sleep 1000 & wait'


@pytest.mark.parametrize(("way", "engine"), [("signal", "fast"), ("signal", "sdk"), ("deadline", "fast")])
def test_a_silent_store_does_not_hold_a_plain_command_that_is_stopped(
    htcjob, silent_storage, wait_until, tmp_path, way, engine
):
    """Its record is a copy; the command's own status is kept, and the termination log written."""
    begun = tmp_path / "begun"
    options = ("--grace", "1s", *(("--deadline", "4s") if way == "deadline" else ()))
    command = ("--", "sh", "-c", OWN_STATUS, str(begun))
    with htcjob.start("run", *options, *command, HTCJOB_STORAGE_ENGINE=engine) as process:
        wait_until(begun.exists)
        if way == "signal":
            process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == (9 if way == "signal" else 124), err
    assert re.search(r"exit_record_not_written cause=.*no answer within \d\.\d s", err)
    assert htcjob.exit_record()["command_exit_status"] == 9


PATIENT = """
import sys
from htcjob.attempt import exit_record, plain
from htcjob.cli.main import main
exit_record.RECORD_S = plain.RECORD_S = 0.5
main(sys.argv[1:])
"""


@pytest.mark.parametrize("status", [0, 5])
def test_a_silent_store_does_not_hold_a_plain_command_that_has_ended(htcjob, silent_storage, status):
    """Nobody has asked it to stop; its status is the attempt's all the same."""
    done = subprocess.run(
        [sys.executable, "-c", PATIENT, "run", "--", "sh", "-c", f"exit {status}"],
        env=htcjob.variables, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "exit_record_not_written" in done.stderr
    assert htcjob.exit_record()["exit_status"] == status


TRACER = """
import ctypes, os, sys, time
pid = int(sys.argv[1])
seize = 0x4206
print(ctypes.CDLL(None).ptrace(seize, pid, 0, 0), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("way", ["plain", "chunk"])
def test_a_zombie_that_another_process_holds_is_not_waited_for(htcjob, wait_until, tmp_path, way):
    """A debugger that does not let go: the kernel does not say that the command has ended, and never will."""
    if way == "chunk":
        htcjob.entries("a")
    begun = tmp_path / "begun"
    with htcjob.start(
        "run", "--grace", "1s", "--", "sh", "-c", 'echo $$ > "$0"; exec sleep 1000', str(begun)
    ) as process:
        wait_until(lambda: begun.exists() and begun.read_text())
        argv = [sys.executable, "-c", TRACER, begun.read_text().strip()]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as tracer:
            try:
                if tracer.stdout.readline() != "0\n":
                    pytest.skip("processes may not be traced here")
                process.terminate()
                _, err = process.communicate(timeout=60)
            finally:
                tracer.kill()
    assert process.returncode == 143, err
    assert "given_up" in err
    assert htcjob.exit_record()["exit_status"] == 143
