"""`htcjob simulate`: real attempts, the platform's variables, its retries, and nothing left behind."""

import json
import subprocess
from pathlib import Path

import click
import pytest

from htcjob.cli.options import MEMORY
from tests.support.interrupt import press_ctrl_c
from tests.support.processes import pids_with


def simulate(htcjob, *arguments: str, size: int = 3, options: tuple[str, ...] = ()):
    return htcjob(
        *("simulate", "--array-size", str(size), "--json", *options),
        *("--project-store", str(htcjob.project), "--task-store", str(htcjob.task)),
        *("--", *arguments),
    )


def each(script: str, *arguments: str) -> tuple[str, ...]:
    return (*arguments, "--manifest", "list.txt", "--each", "--", "sh", "-c", script)


@pytest.fixture(autouse=True)
def _no_stores_from_outside(htcjob):
    for name in ("HTCJOB_PROJECT_STORE", "HTCJOB_TASK_STORE", "HTCJOB_TERMINATION_LOG"):
        del htcjob.variables[name]


def test_an_array_does_every_entry(htcjob):
    """Counts, exit status, and no file of the simulation left in the temporary directory."""
    htcjob.entries("a", "b", "c", "d", "e")
    done = simulate(htcjob, *each('cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/$HTCJOB_ENTRY.out"'))
    summary = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (summary["jobs"], summary["succeeded"], summary["entries_done"]) == (3, 3, 5)
    assert len(summary["slowest_entries"]) == 5
    assert set(htcjob.outputs()) == {f"{n}.out" for n in "abcde"}
    assert list(htcjob.work.iterdir()) == []
    again = json.loads(
        simulate(htcjob, *each('cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/$HTCJOB_ENTRY.out"')).stdout
    )
    assert (again["entries_done"], again["entries_done_before"]) == (0, 5)


def test_the_attempts_get_what_the_platform_injects(htcjob):
    """Rescale's variables, a signed token that verifies, and none of another platform around us."""
    script = "env | grep -E 'RESCALE|AWS_BATCH|BATCH_|SHARED|SLURM' | sort | cut -d= -f1"
    done = htcjob(
        *("simulate", "--array-size", "2", "--only", "1"),
        *("--project-store", str(htcjob.project), "--task-store", str(htcjob.task)),
        *("--", "--pass-credentials", "--", "sh", "-c", script),
        SLURM_ARRAY_TASK_ID="7",
        SLURM_ARRAY_TASK_COUNT="9",
        HTCJOB_ARRAY_SIZE="9",
    )
    assert done.returncode == 0, done.stderr
    names = set(done.stdout.splitlines())
    assert {
        "AWS_BATCH_JOB_ARRAY_INDEX",
        "AWS_BATCH_JOB_ATTEMPT",
        "BATCH_JOB_ARRAY_SIZE",
        "PROJECT_SHARED_FOLDER",
        "RESCALE_HTC_BEARER_TOKEN",
        "RESCALE_HTC_PROJECT_ID",
        "RESCALE_HTC_REGION",
        "RESCALE_HTC_TASK_ID",
        "RESCALE_JOB_ID",
        "TASK_SHARED_FOLDER",
    } <= names
    assert not any(name.startswith("SLURM") for name in names)


def test_only_tries_one_job_and_ends_with_its_status(htcjob):
    """`--only 2 --array-size 3` is the tutorial's "try one job first": output shown, status passed on."""
    htcjob.entries("a", "b", "c")
    done = simulate(htcjob, *each('echo "out of $HTCJOB_ENTRY"; exit 4'), options=("--only", "2"))
    assert "out of c" in done.stdout
    assert done.returncode == 65
    assert htcjob.results() == {2: "failed"}


def test_an_attempt_that_asks_for_it_is_tried_again(htcjob):
    """75 is retried, as often as the platform allows, and what is done is not done again."""
    htcjob.entries("a", "b")
    script = (
        'echo >> "$COUNT-$HTCJOB_ENTRY"; [ "$HTCJOB_ENTRY" = a ] || [ "$HTCJOB_ATTEMPT" -ge 3 ] || exit 75'
    )
    htcjob.variables["COUNT"] = str(htcjob.project.parent / "count")
    done = simulate(htcjob, *each(script), size=1)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["retried"], summary["entries_done"]) == (0, 2, 2)
    assert (htcjob.project.parent / "count-a").read_text().count("\n") == 1
    assert (htcjob.project.parent / "count-b").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("script", "status", "attempts"),
    [("exit 75", 75, 3), ("exit 9", 9, 1), ("kill -9 $PPID; sleep 9", 137, 3)],
)
def test_retries_are_bounded_and_only_for_statuses_that_ask(htcjob, script, status, attempts):
    """The command's 9 is final; 75 and 137 are tried twice more."""
    htcjob.entries("a")
    done = simulate(htcjob, "--manifest", "list.txt", "--", "sh", "-c", script, size=1)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["retried"]) == (status, attempts - 1)
    assert summary["failed"] == 1
    assert done.stderr.count("index 0 attempt") == attempts


def test_the_platforms_timeout_is_not_retried(htcjob):
    """As on AWS Batch: SIGTERM, and no further attempt."""
    htcjob.entries("a")
    done = simulate(htcjob, "--grace", "1s", *each("sleep 100"), size=1, options=("--timeout", "1s"))
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["retried"]) == (143, 0)


def test_preempted_arrays_complete_in_the_end(htcjob):
    """With every attempt at risk, retries finish the work and nothing is done twice."""
    htcjob.entries(*"abcdefgh")
    script = 'sleep 0.2; echo >> "$COUNT-$HTCJOB_ENTRY"; cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/"'
    htcjob.variables["COUNT"] = str(htcjob.project.parent / "count")
    for _ in range(5):
        done = simulate(htcjob, *each(script), size=2, options=("--preempt", "60%", "--retries", "10"))
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    assert set(htcjob.outputs()) == set("abcdefgh")
    assert sorted(record["position"] for record in htcjob.records() if record["result"] == "done") == list(
        range(8)
    )


def test_logs_are_kept_when_something_failed_and_named(htcjob):
    """The log of the failed index is where the message says."""
    htcjob.entries("a", "b")
    done = simulate(htcjob, *each('echo "about $HTCJOB_ENTRY" >&2; [ "$HTCJOB_ENTRY" = a ]'), size=2)
    assert done.returncode == 65
    (line,) = [
        line for line in done.stderr.splitlines() if line.startswith("index 1 attempt 1: entries_failed")
    ]
    with open(line.partition("log: ")[2]) as log:
        assert "about b" in log.read()


def test_logs_are_kept_where_one_asks(htcjob, tmp_path):
    """--logs DIR keeps them all."""
    htcjob.entries("a")
    done = simulate(htcjob, *each("echo hello"), size=1, options=("--logs", str(tmp_path / "logs")))
    assert done.returncode == 0
    assert "hello" in (tmp_path / "logs" / "0-1.log").read_text()


@pytest.mark.parametrize(
    "options",
    [("--only", "3"), ("--preempt", "many"), ("--retries", "11"), ("--parallel", "0"), ("--timeout", "x")],
)
def test_mistakes_are_usage_errors(htcjob, options):
    """64, before anything runs."""
    htcjob.entries("a")
    assert simulate(htcjob, *each("true"), options=options).returncode == 64


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("128m", 128 << 20),
        ("2G", 2 << 30),
        ("1 k", None),
        ("64MiB", 64 << 20),
        ("4096", 4096),
        ("-1m", None),
        ("", None),
    ],
)
def test_memory_is_counted_as_container_engines_do(text, size_bytes):
    """`128m` of a job definition is 128 MiB."""
    if size_bytes is None:
        with pytest.raises(click.BadParameter, match="is not a memory limit"):
            MEMORY.convert(text, None, None)
    else:
        assert MEMORY.convert(text, None, None) == size_bytes


def test_a_project_store_that_is_not_there_is_said_at_once(htcjob):
    """Not once per job."""
    htcjob.project.rmdir()
    done = simulate(htcjob, *each("true"))
    assert done.returncode == 64
    assert "--project-store" in done.stderr


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_leaves_no_process_behind(htcjob, wait_until, tmp_path, interrupts):
    """Attempts and their commands end, also those that ignore it and are killed by the second Ctrl-C."""
    htcjob.entries("a", "b")
    marker = tmp_path / "marker"
    ignore = "trap '' INT TERM;" if interrupts == 2 else ""
    script = f"{ignore} echo >> {marker}; while :; do sleep 0.05; done"
    process = htcjob.start(
        *("simulate", "--array-size", "2", "--parallel", "2"),
        *("--project-store", str(htcjob.project), "--task-store", str(htcjob.task)),
        *("--", "--grace", "60s", *each(script)),
        MARK=str(tmp_path),
    )
    with process:
        wait_until(lambda: marker.exists() and marker.read_text().count("\n") == 2)
        press_ctrl_c(process, interrupts)
    assert process.returncode == 130
    wait_until(lambda: not pids_with(f"MARK={tmp_path}"))


def test_a_killed_attempt_takes_its_command_with_it(htcjob, wait_until, tmp_path):
    """As a container does: no orphan goes on working while the next attempt does the same."""
    htcjob.entries("a")
    script = f'echo $$ >> {tmp_path}/pids; [ "$HTCJOB_ATTEMPT" -ge 2 ] || {{ kill -9 $PPID; sleep 1000; }}'
    htcjob.variables["MARK"] = str(tmp_path)
    done = simulate(htcjob, *each(script), size=1)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "pids").read_text().split()) == 2
    assert pids_with(f"MARK={tmp_path}") == []


def test_people_get_a_table(htcjob):
    """Without --json."""
    htcjob.entries("a", "b")
    done = htcjob(
        *(
            "simulate",
            "--array-size",
            "2",
            "--project-store",
            str(htcjob.project),
            "--task-store",
            str(htcjob.task),
        ),
        *("--", *each("sleep 0.01")),
    )
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:3])
    assert rows == {"jobs": "2", "succeeded": "2", "failed": "0"}
    assert "entries/s" in done.stdout


def test_outputs_that_overwrite_each_other_across_jobs_are_no_success(htcjob):
    """Each job alone cannot see it; the simulation does."""
    htcjob.entries("a", "b", "c")
    done = simulate(htcjob, *each('cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/result"'))
    assert done.returncode == 65
    assert json.loads(done.stdout)["collisions"] == [{"key": "result", "positions": [0, 1, 2]}]
    assert "output result was written by the entries at positions 0, 1, 2" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("run", "--", "true"), ("htcjob", "run", "--", "true"), ("--frob", "--", "true"), ("--each",)],
)
def test_what_run_would_refuse_is_refused_before_any_job(htcjob, arguments):
    """Once, and not once a job."""
    done = simulate(htcjob, *arguments)
    assert done.returncode == 64
    assert len([line for line in done.stderr.splitlines() if line.startswith("htcjob: error")]) == 1
    assert "index" not in done.stderr


def test_a_job_without_exit_record_is_named_with_its_cause(htcjob):
    """The line that it ended with, not its exit status twice."""
    done = simulate(htcjob, "--log-level", "error", "--", "htcjob", "run", "--", "true")
    assert done.returncode == 64
    assert "index 0 attempt 1: exit status 64: COMMAND is itself htcjob run" in done.stderr


def test_the_example_never_removes_a_persons_files(tmp_path):
    """A directory that it did not make, photos inside it, photos that are not there: refused, nothing removed."""
    script = Path(__file__).parents[2] / "examples" / "face-tagger-array.sh"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jpg").write_bytes(b"precious")
    for arguments in (["mine", "mine"], ["mine/nothing", "new"], ["mine", "mine/demo"], ["", "mine"]):
        done = subprocess.run([script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 64, arguments
        assert done.stderr.startswith("face-tagger-array: error: ")
        assert (tmp_path / "mine" / "a.jpg").read_bytes() == b"precious"


def test_a_record_of_an_earlier_simulation_is_not_believed(htcjob, tmp_path):
    """The same --logs directory twice: a killed attempt has no record of its own."""
    htcjob.entries("a")
    logs = ("--logs", str(tmp_path / "logs"), "--retries", "0")
    assert simulate(htcjob, *each("true"), size=1, options=logs).returncode == 0
    done = simulate(htcjob, "--run", "again", *each("kill -9 $PPID; sleep 1000"), size=1, options=logs)
    assert done.returncode == 137
    assert "succeeded" not in done.stderr


@pytest.mark.parametrize("record", ["hello", '{"entries": 3, "run": []}', "[" * 10_000])
def test_what_a_command_writes_in_place_of_a_record_is_not_believed(htcjob, record):
    """A program may leave its last words there, as on Kubernetes, and take htcjob with it."""
    script = f"echo '{record}' > $HTCJOB_TERMINATION_LOG; kill -9 $PPID; sleep 100"
    done = simulate(htcjob, "--", "sh", "-c", script, options=("--retries", "0"), size=1)
    assert done.returncode == 137, done.stderr
    assert json.loads(done.stdout)["failed_by_reason"] == {"exit status 137": 1}


def test_a_fault_of_the_simulator_leaves_no_attempt_running(htcjob, tmp_path):
    """Its log directory vanishes under it: the attempts that run are ended with it."""
    htcjob.entries("a", "b", "c")
    htcjob.variables["MARK"] = str(tmp_path)
    logs = tmp_path / "logs"
    script = f"case $HTCJOB_KEY in a) rm -rf {logs}; exit 75;; *) sleep 1000;; esac"
    done = htcjob(
        *("simulate", "--array-size", "3", "--parallel", "3", "--logs", str(logs)),
        *("--project-store", str(htcjob.project), "--task-store", str(htcjob.task), "--", *each(script)),
    )
    assert done.returncode not in (0, 65)
    assert pids_with(f"MARK={tmp_path}") == []
