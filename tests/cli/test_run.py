"""`htcjob run` as a process: one attempt, its ending, its records, its exit record."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.support.processes import is_pending
from tests.support.servers.quirky_s3 import quirky_s3

COPY = ("--each", "--", "sh", "-c", 'cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/$HTCJOB_ENTRY.out"')


# --- a plain entrypoint ---


@pytest.fixture
def bare(htcjob):
    """Nothing configured at all."""
    for name in list(htcjob.variables):
        if name.startswith("HTCJOB_"):
            del htcjob.variables[name]
    return htcjob


@pytest.mark.parametrize("status", [0, 1, 7, 75, 255])
def test_a_plain_entrypoint_passes_the_status_on(bare, status):
    """No store, no token, no array variables are needed, and success is silent."""
    done = bare.run("--", "sh", "-c", f"echo out; exit {status}")
    assert (done.returncode, done.stdout) == (status, "out\n")
    assert done.stderr == ("" if status == 0 else f"htcjob: error: command ended with exit status {status}\n")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["no-such"], 127, "not found: no-such"),
        (["/"], 126, "not executable: /"),
        (["sh", "-c", "kill -9 $$"], 137, "SIGKILL"),
    ],
)
def test_a_plain_entrypoint_speaks_the_shells_language(bare, command, status, said):
    """126, 127, 128+n."""
    done = bare.run("--", *command)
    assert done.returncode == status
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_plain_entrypoint_times_out(bare):
    """124, whatever the command does then."""
    done = bare.run("--timeout", "300ms", "--", "sh", "-c", "trap 'exit 0' TERM; sleep 100 & wait")
    assert done.returncode == 124
    assert "timed out" in done.stderr


def test_a_plain_entrypoint_with_a_task_store_writes_the_exit_record(bare, tmp_path):
    """There and nowhere else."""
    done = bare.run(
        "--", "sh", "-c", "exit 3", HTCJOB_TASK_STORE=str(bare.task), AWS_BATCH_JOB_ARRAY_INDEX="4"
    )
    assert done.returncode == 3
    record = json.loads((bare.task / ".htcjob/default/attempts/4-1.json").read_text())
    assert record["termination_reason"] == "command_failed"
    assert record["command_exit_status"] == 3


def test_the_command_knows_the_array_but_not_the_token(bare):
    """Ours are set whatever the platform's are called; credentials are gone."""
    done = bare.run(
        "--",
        "env",
        BATCH_TASK_INDEX="3",
        BATCH_TASK_COUNT="8",
        BATCH_TASK_RETRY_ATTEMPT="1",
        RESCALE_HTC_BEARER_TOKEN="planted-token-value",
        AWS_SECRET_ACCESS_KEY="planted-secret-value",
    )
    assert {"HTCJOB_ARRAY_INDEX=3", "HTCJOB_ARRAY_SIZE=8", "HTCJOB_ATTEMPT=2"} <= set(
        done.stdout.splitlines()
    )
    assert "planted" not in done.stdout + done.stderr
    done = bare.run("--pass-credentials", "--", "env", RESCALE_HTC_BEARER_TOKEN="planted-token-value")
    assert "planted-token-value" in done.stdout


def test_htcjob_run_as_the_command_takes_the_entrypoints_place(bare):
    """The image's entrypoint is `htcjob run --`; a command that is htcjob itself is not nested."""
    done = bare.run("--", "htcjob", "run", "--", "sh", "-c", "ps -o ppid= -p $$; exit 5")
    assert done.returncode == 5
    with bare.start("run", "--", "htcjob", "run", "--", "sh", "-c", "echo $PPID; sleep 0.2") as process:
        assert int(process.communicate()[0]) == process.pid


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "said"),
    [
        ([], {}, 64, "COMMAND"),
        (["sh", "-c", "true"], {}, 64, "-c"),
        (["--timeout", "soon", "--", "true"], {}, 64, "soon"),
        (["--max-failures", "101%", "--", "true"], {}, 64, "101%"),
        (["--", "true"], {"HTCJOB_TIMEOUT": "soon"}, 78, "HTCJOB_TIMEOUT"),
        (["--", "true"], {"HTCJOB_EACH": "perhaps"}, 78, "HTCJOB_EACH"),
        (["--", "true"], {"HTCJOB_ARRAY_INDEX": "abc"}, 78, "HTCJOB_ARRAY_INDEX"),
        (["--", "true"], {"HTCJOB_ARRAY_INDEX": "12", "HTCJOB_ARRAY_SIZE": "10"}, 78, "HTCJOB_ARRAY_SIZE"),
        (["--", "true"], {"BATCH_TASK_INDEX": "1", "JOB_COMPLETION_INDEX": "2"}, 78, "BATCH_TASK_INDEX"),
        (["--each", "--", "true"], {}, 78, "manifest"),
    ],
)
def test_mistakes_are_one_line_with_the_cause(bare, arguments, variables, status, said):
    """64 for the command line, 78 for what was injected; no traceback."""
    done = bare.run(*arguments, **variables)
    assert done.returncode == status
    line = done.stderr.splitlines()[-1]
    assert line.startswith("htcjob: error: ")
    assert said in line
    assert "Traceback" not in done.stderr


def test_an_index_without_a_size_is_refused_where_there_is_a_manifest(htcjob):
    """Kubernetes injects no size: working on everything in every job would be a disaster."""
    htcjob.entries("a")
    done = htcjob.run(*COPY, JOB_COMPLETION_INDEX="3")
    assert done.returncode == 78
    assert "HTCJOB_ARRAY_SIZE" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "status"),
    [
        ("HTCJOB_MANIFEST", "absent.txt", 66),
        ("HTCJOB_PROJECT_STORE", "", 78),
        ("HTCJOB_TASK_STORE", "", 78),
        ("HTCJOB_PROJECT_STORE", "/no/such/dir", 66),
        ("HTCJOB_TASK_STORE", "ftp://host/x", 78),
        ("HTCJOB_RUN", "a/b", 78),
    ],
)
def test_what_is_missing_is_said_before_any_work(htcjob, variable, value, status):
    """The message names it, nothing is run, and the termination log says so too."""
    htcjob.entries("a")
    done = htcjob.run(*COPY, **{variable: value})
    assert done.returncode == status
    assert len(done.stderr.splitlines()[-1]) < 300
    assert htcjob.outputs() == {}
    assert htcjob.exit_record()["exit_status"] == status


# --- once per entry ---


def test_each_entry_is_worked_on_and_committed(htcjob):
    """Outputs under their names, one record each, an exit record, nothing left behind."""
    htcjob.entries("a.jpg", "b.jpg", "c.jpg")
    done = htcjob.run(*COPY)
    assert done.returncode == 0, done.stderr
    assert htcjob.outputs() == {f"{n}.jpg.out": f"{n}.jpg".encode() for n in "abc"}
    assert htcjob.results() == {0: "done", 1: "done", 2: "done"}
    first = htcjob.records()[0]
    assert first["entry"] == "a.jpg"
    assert first["outputs"][0]["key"] == "a.jpg.out"
    record = htcjob.exit_record()
    assert (record["termination_reason"], record["chunk"], record["staged_in"], record["staged_out"]) == (
        "succeeded",
        [0, 3],
        3,
        3,
    )
    assert json.loads((htcjob.task / ".htcjob/default/attempts/0-1.json").read_text()) == record
    assert list(htcjob.work.iterdir()) == []


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_an_array_of_any_size_does_each_entry_once(htcjob, size):
    """Every index takes its own chunk; empty chunks end with 0."""
    htcjob.entries("a", "b", "c")
    for index in range(size):
        done = htcjob.run(*COPY, HTCJOB_ARRAY_INDEX=str(index), HTCJOB_ARRAY_SIZE=str(size))
        assert done.returncode == 0
        if index >= 3:
            assert htcjob.exit_record()["termination_reason"] == "empty_chunk"
    assert [record["position"] for record in htcjob.records()] == [0, 1, 2]


def test_one_bad_entry_does_not_stop_the_others(htcjob):
    """Absent, escaping, broken lines and failing commands are failed entries with a reason; the rest is done."""
    htcjob.entries("good.txt")
    htcjob.manifest(
        b"\xef\xbb\xbfgood.txt\r",
        "",
        "# a comment",
        "absent.txt",
        "../../etc/passwd",
        "/etc/passwd",
        b"nul\0.txt",
        b"\xff.txt",
        "ünï cödé.txt",
        '{"key": "good.txt", "who": "json"}',
    )
    (htcjob.project / "ünï cödé.txt").write_text("u")
    script = 'test "$1" != "-" && cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/$2-$3"'
    done = htcjob.run("--each", "--", "sh", "-c", script, "sh", "{stem}", "{stem}", "{who}")
    assert done.returncode == 65
    records = htcjob.records()
    assert [record["result"] for record in records] == ["done"] + ["failed"] * 5 + ["done"] * 2
    said = [record.get("message", "") for record in records]
    assert "absent.txt" in said[1]
    assert "line 5" in said[2]
    assert "'..'" in said[2]
    assert "absolute" in said[3]
    assert "NUL" in said[4]
    assert "UTF-8" in said[5]
    assert "5 of 8 entries failed" in done.stderr
    assert set(htcjob.outputs()) == {"good-{who}", "ünï cödé-{who}", "good-json"}


def test_a_failure_budget_allows_failures_and_ends_the_attempt_when_it_is_spent(htcjob):
    """Inside: exit 0. Past it: 65, and no further entry is tried."""
    htcjob.entries("a", "b", "c", "d")
    command = ("--", "sh", "-c", 'case "$HTCJOB_ENTRY" in a|b) exit 1;; esac')
    assert htcjob.run("--each", "--max-failures", "2", "--run", "one", *command).returncode == 0
    assert htcjob.exit_record()["entries"]["failed"] == 2
    assert htcjob.run("--each", "--max-failures", "50%", "--run", "two", *command).returncode == 0
    done = htcjob.run("--each", "--workers", "1", "--max-failures", "1", "--run", "three", *command)
    assert done.returncode == 65
    assert htcjob.exit_record()["entries"]["left"] == 2
    assert "--max-failures 1" in done.stderr


def test_an_entry_that_takes_too_long_is_timed_out_and_the_next_begins(htcjob):
    """124 when nothing but timeouts went wrong."""
    htcjob.entries("fast", "slow", "fast2")
    script = 'case "$HTCJOB_ENTRY" in slow) sleep 100;; esac; echo "$HTCJOB_DEADLINE" > "$HTCJOB_OUTPUT_DIR/$HTCJOB_ENTRY"'
    done = htcjob.run("--each", "--timeout", "1s", "--", "sh", "-c", script)
    assert done.returncode == 124
    assert [record["result"] for record in htcjob.records()] == ["done", "timed_out", "done"]
    assert htcjob.outputs()["fast"].endswith(b"Z\n")


def test_an_entry_that_asks_to_be_tried_again_makes_the_attempt_ask(htcjob):
    """75 is the one status that means it."""
    htcjob.entries("a", "b")
    done = htcjob.run("--each", "--", "sh", "-c", '[ "$HTCJOB_ENTRY" = a ] || exit 75')
    assert done.returncode == 75
    assert [record["result"] for record in htcjob.records()] == ["done", "retry"]


def test_the_command_can_say_why(htcjob):
    """What it writes to $HTCJOB_MESSAGE_FILE is in the record and the log."""
    htcjob.entries("a")
    script = 'printf "photo is\\nupside down" > "$HTCJOB_MESSAGE_FILE"; exit 1'
    done = htcjob.run("--each", "--", "sh", "-c", script)
    assert htcjob.records()[0]["message"] == "photo is upside down"
    assert "photo is upside down" in done.stderr


def test_running_again_does_nothing_twice_and_tries_what_failed(htcjob):
    """Only what is not done is worked on, with another array size too."""
    htcjob.entries("a", "b", "c")
    script = 'echo x >> "$COUNT/$HTCJOB_ENTRY"; [ "$HTCJOB_ENTRY" != b ] || [ -e "$COUNT/ok" ]'
    command = ("--each", "--", "sh", "-c", script)
    count = htcjob.project.parent / "count"
    count.mkdir()
    assert htcjob.run(*command, COUNT=str(count)).returncode == 65
    (count / "ok").touch()
    for index in "01":
        done = htcjob.run(*command, COUNT=str(count), HTCJOB_ARRAY_INDEX=index, HTCJOB_ARRAY_SIZE="2")
        assert done.returncode == 0
    assert {path.name: path.read_text().count("x") for path in count.iterdir()} == {
        "a": 1,
        "b": 2,
        "c": 1,
        "ok": 0,
    }


def test_another_manifest_or_command_in_the_same_run_is_refused(htcjob):
    """78, and --run gives it a name of its own."""
    htcjob.entries("a")
    assert htcjob.run("--each", "--", "true").returncode == 0
    done = htcjob.run("--each", "--", "cat", "{input}")
    assert done.returncode == 78
    assert "--run" in done.stderr
    assert htcjob.run("--each", "--run", "second", "--", "cat", "{input}").returncode == 0


def test_two_entries_that_write_the_same_output_are_not_both_done(htcjob):
    """The second would overwrite the first in silence."""
    htcjob.entries("x/photo.jpg", "y/photo.jpg")
    script = 'cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/photo.out"'
    done = htcjob.run("--workers", "1", "--each", "--", "sh", "-c", script)
    assert done.returncode == 65
    assert htcjob.outputs() == {"photo.out": b"x/photo.jpg"}
    assert "position 0 wrote this output too" in htcjob.records()[1]["message"]


def test_only_the_globs_are_staged_out(htcjob):
    """--output names what counts, several of them in a variable one per line."""
    htcjob.entries("a")
    script = 'cd "$HTCJOB_OUTPUT_DIR"; mkdir d; touch a.dat a.tmp d/b.dat'
    done = htcjob.run("--each", "--", "sh", "-c", script, HTCJOB_OUTPUT="*.dat\nd/*")
    assert done.returncode == 0
    assert set(htcjob.outputs()) == {"a.dat", "d/b.dat"}


def test_an_output_that_is_a_link_to_a_secret_is_not_staged_out(htcjob, tmp_path):
    """The entry fails with the reason."""
    (tmp_path / "secret").write_text("s3cret")
    htcjob.entries("a")
    done = htcjob.run("--each", "--", "ln", "-s", str(tmp_path / "secret"), "{output_dir}/x")
    assert done.returncode == 65
    assert htcjob.outputs() == {}
    assert "link" in htcjob.records()[0]["message"]


def test_an_entry_of_the_command_line_replaces_the_manifest(htcjob):
    """The one photo that failed at 3 a.m., tried by hand, without touching the run."""
    htcjob.entries("a", "b")
    assert htcjob.run(*COPY).returncode == 0
    done = htcjob.run("--entry", "b", "--each", "--", "cat", "{input}")
    assert (done.returncode, done.stdout) == (0, "b")
    done = htcjob.run("--workers", "1", "--each", "--", "cat", "{input}", HTCJOB_ENTRIES="a\nb")
    assert (done.returncode, sorted(done.stdout)) == (0, ["a", "b"])


def test_full_urls_are_fetched_from_where_they_are(htcjob, tmp_path):
    """An entry need not be in project storage."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "x y.txt").write_text("far")
    htcjob.manifest(f"file://{tmp_path}/far/x%20y.txt")
    done = htcjob.run("--each", "--", "cat", "{input}")
    assert (done.returncode, done.stdout) == (0, "far")


# --- once for the chunk ---


def test_the_chunks_inputs_are_listed_in_a_file(htcjob):
    """One local path per line; a JSON line keeps its members and gets its path."""
    htcjob.entries("d/a.txt", "b.txt")
    htcjob.manifest("d/a.txt", '{"key": "b.txt", "scale": 2}', "absent.txt")
    script = (
        'cat "$HTCJOB_ENTRIES_FILE"; cat "$HTCJOB_WORK_DIR/d/a.txt"; echo r > "$HTCJOB_OUTPUT_DIR/result"'
    )
    done = htcjob.run("--max-failures", "1", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert first.endswith("/d/a.txt")
    assert json.loads(second)["scale"] == 2
    assert json.loads(second)["input"].endswith("/b.txt")
    assert htcjob.outputs() == {"result": b"r\n"}
    assert [record["result"] for record in htcjob.records()] == ["done", "done", "failed"]
    assert htcjob.records()[0]["outputs"][0]["key"] == "result"
    assert htcjob.records()[1]["outputs_at"] == 0


@pytest.mark.parametrize(("script", "status"), [("exit 9", 9), ("exit 75", 75), ("kill -SEGV $$", 139)])
def test_a_chunk_whose_command_fails_is_not_committed(htcjob, script, status):
    """Its status is passed on, its half results stay out of storage."""
    htcjob.entries("a", "b")
    done = htcjob.run("--", "sh", "-c", f'echo half > "$HTCJOB_OUTPUT_DIR/r"; {script}')
    assert done.returncode == status
    assert htcjob.records() == []
    assert htcjob.outputs() == {}
    assert htcjob.exit_record()["command_exit_status"] == status


def test_a_done_chunk_is_not_run_again(htcjob):
    """The second attempt starts no command."""
    htcjob.entries("a", "b")
    assert htcjob.run("--", "sh", "-c", "echo ran").stdout == "ran\n"
    done = htcjob.run("--", "sh", "-c", "echo ran")
    assert (done.returncode, done.stdout) == (0, "")


# --- being stopped ---


def test_sigterm_lets_the_entry_in_hand_finish_and_leaves_the_rest(htcjob, wait_until, tmp_path):
    """What is finished is committed, no new entry is begun, and the status is 143: never 0 with work left."""
    htcjob.entries("a", "b", "c")
    ready, go = tmp_path / "ready", tmp_path / "go"
    script = (
        f'echo > {ready}; until [ -e {go} ]; do sleep 0.01; done; echo > "$HTCJOB_OUTPUT_DIR/$HTCJOB_ENTRY"'
    )
    with htcjob.start("run", "--workers", "1", "--each", "--", "sh", "-c", script) as process:
        wait_until(ready.exists)
        process.terminate()
        wait_until(lambda: not is_pending(process.pid, signal.SIGTERM))
        go.touch()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert htcjob.results() == {0: "done"}
    assert htcjob.exit_record()["termination_reason"] == "preempted"
    assert "2 of 3 entries left" in err
    assert list(htcjob.work.iterdir()) == []


def test_sigterm_to_a_chunk_whose_command_then_exits_0_is_still_preemption(htcjob, wait_until, tmp_path):
    """Ending tidily is not having finished."""
    htcjob.entries("a")
    ready = tmp_path / "ready"
    script = f"trap 'exit 0' TERM; echo > {ready}; while :; do sleep 0.01; done"
    with htcjob.start("run", "--", "sh", "-c", script) as process:
        wait_until(ready.exists)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert htcjob.records() == []


def test_ctrl_c_is_130(htcjob, wait_until, tmp_path):
    """A person's interrupt is not a bug and not a success."""
    htcjob.entries("a", "b")
    ready = tmp_path / "ready"
    with htcjob.start("run", "--each", "--", "sh", "-c", f"echo > {ready}; sleep 100") as process:
        wait_until(ready.exists)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert htcjob.records() == []


# --- when storage is in trouble ---


def test_a_task_storage_that_cannot_be_written_is_74_or_77_and_never_0(htcjob, tmp_path):
    """The exit record still reaches the termination log."""
    htcjob.entries("a")
    (tmp_path / "file").write_text("not a directory")
    done = htcjob.run(*COPY, HTCJOB_TASK_STORE=str(tmp_path / "file" / "task"))
    assert done.returncode in (74, 77), done.stderr
    assert htcjob.exit_record()["exit_status"] == done.returncode
    assert "task" in done.stderr


def test_a_work_directory_that_cannot_be_made_is_74(htcjob, tmp_path):
    """And the message says with which option to choose another."""
    htcjob.entries("a")
    (tmp_path / "file").write_text("")
    done = htcjob.run("--work-dir", str(tmp_path / "file"), *COPY)
    assert done.returncode == 74
    assert "--work-dir" in done.stderr


def test_a_bug_is_70_with_a_traceback_and_a_request_to_report_it(htcjob):
    """Our own faults do not look like the user's."""
    htcjob.entries("a")
    plugin = htcjob.project.parent / "sitecustomize.py"
    plugin.write_text(
        "import htcjob.manifest.chunk\ndef broken(**_): raise ZeroDivisionError('boom')\nhtcjob.manifest.chunk.chunk_bounds = broken\n"
    )
    done = htcjob.run(*COPY, PYTHONPATH=str(plugin.parent))
    assert done.returncode == 70
    assert "ZeroDivisionError: boom" in done.stderr
    assert "report" in done.stderr.splitlines()[-1]
    assert htcjob.exit_record()["termination_reason"] == "internal_error"


# --- logs ---


def test_a_normal_run_says_about_eight_lines(htcjob):
    """A thousand jobs multiply every line; per-entry lines are for debugging."""
    htcjob.entries(*(f"e{n}" for n in range(20)))
    lines = htcjob.run(*COPY).stderr.splitlines()
    assert 2 <= len(lines) <= 8
    assert all(" htcjob INFO " in line for line in lines)
    debug = htcjob.run(
        "--run", "again", "--log-level", "debug", "--log-format", "json", *COPY
    ).stderr.splitlines()
    assert sum(json.loads(line)["event"] == "entry_done" for line in debug) == 20


def test_an_array_without_a_tmpdir_uses_tmp(htcjob):
    """$TMPDIR unset is the usual case in a container."""
    htcjob.entries("a")
    del htcjob.variables["TMPDIR"]
    done = htcjob.run("--each", "--", "sh", "-c", 'echo "$HTCJOB_WORK_DIR"')
    assert done.stdout.startswith("/tmp/htcjob-")
    assert not os.path.exists(os.path.dirname(done.stdout.strip()))


def test_a_chunks_command_can_say_which_entries_failed(htcjob):
    """Those are failed with the reason, the others are committed, and the attempt ends with 65."""
    htcjob.entries("a", "b", "c")
    script = (
        'echo "{\\"input\\": \\"$HTCJOB_WORK_DIR/b\\", \\"message\\": \\"upside down\\"}" > "$HTCJOB_FAILURES_FILE";'
        'echo r > "$HTCJOB_OUTPUT_DIR/r"'
    )
    done = htcjob.run("--", "sh", "-c", script)
    assert done.returncode == 65
    assert htcjob.results() == {0: "done", 1: "failed", 2: "done"}
    assert htcjob.records()[1]["message"] == "upside down"
    assert htcjob.outputs() == {"r": b"r\n"}


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", "{}", '{"input": "/elsewhere"}', '{"input": 3}', '{"input": []}']
)
def test_a_list_of_failures_that_makes_no_sense_commits_nothing(htcjob, line):
    """To guess would be to commit an entry that failed."""
    htcjob.entries("a")
    done = htcjob.run("--", "sh", "-c", f"""echo '{line}' > "$HTCJOB_FAILURES_FILE" """)
    assert done.returncode == 65
    assert "HTCJOB_FAILURES_FILE" in done.stderr
    assert htcjob.records() == []


# --- commands that do odd things to their directories ---


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('rm -rf "$HTCJOB_OUTPUT_DIR"', "cannot be listed"),
        ('rm -rf "$HTCJOB_OUTPUT_DIR"; ln -s /etc "$HTCJOB_OUTPUT_DIR"', "link"),
        ('mkfifo "$HTCJOB_OUTPUT_DIR/pipe"', "regular"),
        ('ln -s /proc/self/environ "$HTCJOB_OUTPUT_DIR/x"', "link"),
        (
            'mkdir -p "$HTCJOB_OUTPUT_DIR/.htcjob/default/done"; touch "$HTCJOB_OUTPUT_DIR/.htcjob/default/done/x"',
            ".htcjob/",
        ),
        ('touch "$HTCJOB_OUTPUT_DIR/$(printf "a\\nb")"', "line break"),
    ],
)
def test_outputs_that_cannot_be_told_fail_their_entry(htcjob, script, said):
    """Nothing is lost in silence: not a done entry without results, and not the end of the others."""
    htcjob.entries("odd", "good")
    done = htcjob.run("--each", "--", "sh", "-c", f'[ "$HTCJOB_ENTRY" = good ] || {{ {script}; }}')
    assert done.returncode == 65, done.stderr
    assert htcjob.results() == {0: "failed", 1: "done"}
    assert said in htcjob.records()[0]["message"]


NO_OUTPUTS = {
    "a named pipe": ('mkfifo "$d/x"', "output x: a named pipe"),
    "a socket": (
        'cd "$d"; "$PYTHON" -c "import socket; socket.socket(socket.AF_UNIX).bind(\'x\')"',
        "output x: a socket",
    ),
    "a device": ('mknod "$d/x" c 1 3 2> /dev/null || ln -s /dev/null "$d/x"', "output x: a "),
    "a link that leads outside": ('ln -s /etc/hostname "$d/x"', "output x: a symbolic link that leads out"),
    "a folder that leads outside": ('ln -s /etc "$d/x"', "output x: a symbolic link that leads out"),
    "a link to nothing": ('ln -s nothing "$d/x"', "output x: a symbolic link to nothing"),
    "a link to itself": ('ln -s x "$d/x"', "output x: "),
    "a name of two lines": ('touch "$d/$(printf "x\\ny")"', "output 'x\\ny': "),
    "a name that is no text": ('touch "$d/$(printf "x\\377")"', "output 'x\\udcff': "),
    "a name of the ledger": ('mkdir "$d/.htcjob"; touch "$d/.htcjob/x"', "output .htcjob/x: "),
    "no folder any more": ('rm -r "$d"', "outputs cannot be listed"),
    "a name that the store reserves": ('touch "$d/.htcjob-tmp-x"', "output .htcjob-tmp-x: "),
    "a name that the store has for a folder": ('touch "$d/taken"', "/taken: "),
}
"""What a command can leave that no store can take, and what is said of it."""


@pytest.mark.parametrize("what", NO_OUTPUTS)
def test_an_output_that_cannot_be_staged_is_no_fault_of_the_configuration(htcjob, what):
    """74 and one line with its name where it is a chunk's; where it is an entry's, that entry fails, and no other."""
    htcjob.entries("odd", "good")
    script, said = NO_OUTPUTS[what]
    (htcjob.task / "taken").mkdir()
    (htcjob.task / "taken" / "x").touch()
    make = f'd="$HTCJOB_OUTPUT_DIR"; [ "$HTCJOB_KEY" = good ] || {{ {script}; }}'
    variables = {"PYTHON": sys.executable}
    done = htcjob.run("--run", "each", "--each", "--", "sh", "-c", make, **variables)
    assert done.returncode == 65, done.stderr
    assert [record["result"] for record in htcjob.records("each")] == ["failed", "done"]
    assert said in htcjob.records("each")[0]["message"]
    done = htcjob.run("--log-level", "error", "--run", "chunk", "--", "sh", "-c", make, **variables)
    assert done.returncode == 74, done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("htcjob: error: ")
    assert done.stderr.count("\n") == 1
    assert htcjob.records("chunk") == []
    assert htcjob.exit_record()["termination_reason"] == "staging_failed"


@pytest.mark.parametrize("way", [("--each", "--"), ("--",)])
def test_patterns_that_keep_nothing_are_told(htcjob, way):
    """One line says what they were and what there was; a folder and `./` mean what they mean elsewhere."""
    htcjob.entries("a", "b")
    script = 'cd "$HTCJOB_OUTPUT_DIR"; mkdir -p res; touch "res/${HTCJOB_KEY:-all}.txt" x.log$HTCJOB_KEY'
    done = htcjob.run("--run", "none", "--output", "*.txt", "--output", "out/", *way, "sh", "-c", script)
    assert done.returncode == 0
    assert done.stderr.count("output_matched_nothing") == 1
    assert re.search(r'output_matched_nothing patterns=\["\*.txt","out/"\] left_out=\[.*"res/', done.stderr)
    assert htcjob.outputs() == {}
    for pattern in ("./res/*.txt", "res/", "res//", "**/*.txt"):
        done = htcjob.run("--run", f"r{len(pattern)}", "--output", pattern, *way, "sh", "-c", script)
        assert done.returncode == 0
        assert "output_matched_nothing" not in done.stderr
        assert set(htcjob.outputs()) == ({"res/a.txt", "res/b.txt"} if "--each" in way else {"res/all.txt"})
        shutil.rmtree(htcjob.task / "res")
    done = htcjob.run("--output", "", *way, "true")
    assert done.returncode == 64
    assert "--output" in done.stderr


def test_an_output_whose_name_cannot_be_stored_fails_its_entry_only(htcjob):
    """A directory cannot hold `x` and `x/y`; the third entry is done all the same."""
    htcjob.entries("a", "b", "c")
    script = 'cd "$HTCJOB_OUTPUT_DIR"; case $HTCJOB_ENTRY in a) touch x;; b) mkdir x; touch x/y;; c) touch z;; esac'
    done = htcjob.run("--workers", "1", "--each", "--", "sh", "-c", script)
    assert done.returncode == 65
    assert htcjob.results() == {0: "done", 1: "failed", 2: "done"}


@pytest.mark.parametrize(
    "script",
    [
        'mkfifo "$HTCJOB_MESSAGE_FILE"',
        'ln -s /proc/self/environ "$HTCJOB_MESSAGE_FILE"',
        'mkdir "$HTCJOB_MESSAGE_FILE"',
    ],
)
def test_a_message_file_that_is_no_file_is_not_read(htcjob, script):
    """It neither blocks nor leaks; the entry has the ordinary reason."""
    htcjob.entries("a")
    htcjob.run("--each", "--", "sh", "-c", f"{script}; exit 3")
    assert htcjob.records()[0]["message"] == "exit status 3"


def test_folders_that_the_command_made_read_only_are_removed(htcjob):
    """Nothing of an entry is left in the work directory."""
    htcjob.entries("a")
    done = htcjob.run(
        "--each", "--", "sh", "-c", 'cd "$HTCJOB_WORK_DIR"; mkdir -p d/e; touch d/e/f; chmod -R a-w d'
    )
    assert done.returncode == 0
    assert list(htcjob.work.iterdir()) == []


def test_a_full_work_directory_is_74_and_what_was_done_is_kept(htcjob, small_disk):
    """One line names the disk; no entry is failed for it."""
    htcjob.entries("small", "big", "small2")
    (htcjob.project / "big").write_bytes(b"x" * 2_000_000)
    done = htcjob.run("--work-dir", str(small_disk), *COPY)
    assert done.returncode == 74, done.stderr
    assert "No space left" in done.stderr
    assert htcjob.results()[0] == "done"
    assert 1 not in htcjob.results()
    assert list(small_disk.iterdir()) == []


def test_a_full_task_storage_is_74_and_never_a_record_without_outputs(htcjob, small_disk):
    """The exit record cannot be written there; the termination log has it."""
    htcjob.entries("small", "big")
    (htcjob.project / "big").write_bytes(b"x" * 2_000_000)
    htcjob.task = small_disk / "task"
    done = htcjob.run("--workers", "1", *COPY, HTCJOB_TASK_STORE=str(htcjob.task))
    assert done.returncode == 74, done.stderr
    assert htcjob.results() == {0: "done"}
    assert set(htcjob.outputs()) == {"small.out"}
    assert htcjob.exit_record()["termination_reason"] == "staging_failed"


# --- odd surroundings ---


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_change_nothing(htcjob, closed):
    """No file of ours takes the place of standard output or error."""
    htcjob.entries("a")
    arguments = 'run --each -- sh -c \'cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/a.out"; echo talk; echo talk >&2; true\''
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m htcjob {arguments} {closed}"],
        env=htcjob.variables,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert htcjob.outputs() == {"a.out": b"a"}


def test_standard_output_that_is_full_is_said_in_one_line(htcjob):
    """`htcjob chunk > /dev/full` has not shown the entries, so it is no success."""
    htcjob.manifest(*(f"e{n}" for n in range(5000)))
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m htcjob chunk > /dev/full"],
        env=htcjob.variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 74
    assert done.stderr == "htcjob: error: standard output: No space left on device\n"


# --- what newcomers get wrong ---


def test_a_collision_of_outputs_is_seen_by_later_attempts_too(htcjob):
    """Trying again does not turn a clash into success."""
    htcjob.entries("a", "b", "c")
    script = 'cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/result"'
    command = ("--workers", "1", "--each", "--", "sh", "-c", script)
    for _ in range(3):
        assert htcjob.run(*command).returncode == 65
        assert htcjob.outputs() == {"result": b"a"}
    assert [record["result"] for record in htcjob.records()].count("done") == 1


def test_the_same_directory_for_project_and_task_is_refused(htcjob):
    """An output could replace an input."""
    htcjob.entries("a")
    done = htcjob.run(*COPY, HTCJOB_TASK_STORE=f"{htcjob.project}/")
    assert done.returncode == 78
    assert (htcjob.project / "a").read_text() == "a"


@pytest.mark.parametrize(("program", "status"), [("no-such", 127), ("./no-such", 127), ("/", 126)])
@pytest.mark.parametrize("way", [("--each",), ()])
def test_a_command_that_cannot_start_ends_the_attempt_before_any_work(htcjob, program, status, way):
    """126 and 127, no entry is failed for it, and the corrected command may use the same run."""
    htcjob.entries("a", "b")
    done = htcjob.run(*way, "--", program)
    assert done.returncode == status
    assert htcjob.records() == []
    assert htcjob.run(*way, "--", "true").returncode == 0


def test_a_script_without_a_first_line_ends_the_attempt_too(htcjob, tmp_path):
    """It is found and executable, and the kernel still refuses it."""
    (tmp_path / "script").write_text("echo hello\n")
    (tmp_path / "script").chmod(0o755)
    htcjob.entries("a", "b")
    done = htcjob.run("--each", "--", str(tmp_path / "script"))
    assert done.returncode == 126
    assert "#!" in done.stderr
    assert htcjob.records() == []


def test_the_last_line_names_the_first_failure(htcjob):
    """At 3 a.m., with --log-level error, one line is all there is."""
    htcjob.entries("a", "b")
    done = htcjob.run("--log-level", "error", "--each", "--", "sh", "-c", 'test "$HTCJOB_KEY" = a || exit 9')
    assert done.stderr == "htcjob: error: 1 of 2 entries failed; the first: b: exit status 9\n"


def test_the_message_of_a_chunks_command_is_in_the_ending(htcjob):
    """The command knows best why it failed."""
    htcjob.entries("a")
    done = htcjob.run("--", "sh", "-c", 'echo no licence > "$HTCJOB_MESSAGE_FILE"; exit 9')
    assert done.stderr.endswith("htcjob: error: command ended with exit status 9: no licence\n")


def test_placeholders_without_each_are_refused(htcjob):
    """`run -- cat {input}` is a forgotten --each."""
    htcjob.entries("a")
    done = htcjob.run("--", "cat", "{input}")
    assert done.returncode == 64
    assert "--each" in done.stderr


def test_a_word_that_looks_like_a_placeholder_is_warned_of_once(htcjob):
    """A typo is seen, and awk's {print} still works."""
    htcjob.entries("a", "b")
    done = htcjob.run("--each", "--", "echo", "{Input}", "{input}")
    assert done.returncode == 0
    assert done.stderr.count("placeholder_not_filled word={Input}") == 1


@pytest.mark.parametrize(
    "arguments", [["run", "--each", "python3", "-c", "1"], ["simulate", "--manifest", "x"]]
)
def test_a_forgotten_double_dash_is_hinted_at(bare, arguments):
    """The unknown option is most often the command's."""
    done = bare(*arguments)
    assert done.returncode == 64
    assert "--" in done.stderr.splitlines()[-1].partition("No such option")[2]


def test_htcjob_alone_shows_its_help(bare):
    """The first thing anybody types; -h works too."""
    done = bare()
    assert done.returncode == 64
    assert done.stderr.startswith("Usage: htcjob")
    assert "simulate" in done.stderr
    assert bare("run", "-h").returncode == bare("-h").returncode == 0


def test_the_folder_of_an_entry_is_there_in_the_output_directory(htcjob):
    """An output may be named after its entry, folder and all."""
    htcjob.entries("x/y/a", "b")
    done = htcjob.run("--each", "--", "sh", "-c", 'cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/$HTCJOB_KEY.out"')
    assert done.returncode == 0, done.stderr
    assert set(htcjob.outputs()) == {"x/y/a.out", "b.out"}


def test_a_manifest_of_find_is_understood(htcjob):
    """`find .` writes ./ before every name, and a person before the manifest's."""
    htcjob.entries("x/a")
    htcjob.manifest("./x/a")
    done = htcjob.run("--manifest", "./list.txt", "--each", "--", "cat", "{input}")
    assert (done.returncode, done.stdout) == (0, "x/a")


# --- what an attack found ---


@pytest.mark.parametrize("way", ["2>/dev/full", "2>&1 | true"])
def test_trouble_with_standard_error_does_not_change_the_status(htcjob, way):
    """75 stays 75 when nobody can read why."""
    htcjob.entries("a")
    for arguments in ("run --", "run --each --"):
        script = f"({sys.executable} -m htcjob {arguments} sh -c 'sleep 0.2; exit 75'; echo $? > {htcjob.work}/rc) {way}"
        subprocess.run(["bash", "-c", script], env=htcjob.variables, check=True)
        assert (htcjob.work / "rc").read_text() == "75\n"


def test_bytes_that_are_not_utf8_do_not_lose_the_records(htcjob):
    """In the environment and in the command."""
    htcjob.entries("a")
    variables = {key.encode(): value.encode() for key, value in htcjob.variables.items()}
    done = subprocess.run(
        [sys.executable.encode(), b"-m", b"htcjob", b"run", b"--each", b"--", b"true", b"\xff"],
        env={**variables, b"RESCALE_JOB_ID": b"\xff"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert htcjob.exit_record()["termination_reason"] == "succeeded"
    assert htcjob.results() == {0: "done"}


def test_a_pipe_as_termination_log_does_not_block(bare, tmp_path):
    """Nobody reads it, so there is a warning and the status."""
    os.mkfifo(tmp_path / "pipe")
    done = bare.run("--", "sh", "-c", "exit 4", HTCJOB_TERMINATION_LOG=str(tmp_path / "pipe"))
    assert done.returncode == 4
    assert "termination_log_not_written" in done.stderr


def test_options_that_a_nested_htcjob_would_lose_are_refused(bare):
    """`htcjob run --timeout 1s -- htcjob run …` must not forget the timeout in silence."""
    assert bare.run("--timeout", "1s", "--", "htcjob", "run", "--", "true").returncode == 64


def test_an_output_glob_below_the_directory_only(htcjob):
    """--output ../x is a mistake, said before any work."""
    htcjob.entries("a")
    assert htcjob.run("--output", "../x", *COPY).returncode == 64


def test_a_deep_tree_of_outputs_is_no_bug(htcjob):
    """Fifteen hundred folders in each other: the entry fails or is done, and nothing is left behind."""
    htcjob.entries("a", "b")
    code = "import os\nos.chdir(os.environ['HTCJOB_OUTPUT_DIR'])\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')"
    done = htcjob.run("--each", "--", "sh", "-c", f'[ "$HTCJOB_KEY" = b ] || {sys.executable} -c "{code}"')
    assert done.returncode in (0, 65), done.stderr
    assert htcjob.results()[1] == "done"
    assert list(htcjob.work.iterdir()) == []


@pytest.mark.parametrize("way", ["chunk", "each"])
def test_a_bucket_may_hold_objects_named_like_folders_of_each_other(htcjob, tmp_path, way):
    """Every entry gets its own input: by the entries file, or in a place of its own."""
    keys = ["a", "a/b", "c", "a/b/c", "apart"]
    manifest = tmp_path / "list.txt"
    manifest.write_text("".join(f"{key}\n" for key in keys))
    with quirky_s3() as s3:
        s3.objects |= {f"/bucket/in/{key}": f"this is {key}".encode() for key in keys}
        variables = {
            "AWS_ENDPOINT_URL_S3": s3.url,
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "HTCJOB_PROJECT_STORE": "s3://bucket/in",
            "HTCJOB_MANIFEST": f"file://{manifest}",
        }
        said = 'for f in $(cat "$HTCJOB_ENTRIES_FILE"); do case $f in "$HTCJOB_WORK_DIR"/*) cat "$f"; echo;; esac; done'
        if way == "each":
            said = 'echo "$(cat "$HTCJOB_INPUT")"'
        done = htcjob.run(*(["--each"] if way == "each" else []), "--", "sh", "-c", said, **variables)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (sorted(lines) if way == "each" else lines) == [
        f"this is {key}" for key in (sorted(keys) if way == "each" else keys)
    ]
    assert htcjob.results() == dict.fromkeys(range(len(keys)), "done")
