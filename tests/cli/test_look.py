"""`htcjob chunk`, `check` and `env`: looking without working."""

import json
import subprocess
import sys

import pytest

TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwbGFudGVkLXRva2VuIn0.planted-signature"


def test_chunk_lists_the_entries_of_an_index(htcjob):
    """Position and entry, a bad line with its reason; silence on standard error."""
    htcjob.manifest("a.jpg", "../b", "c.jpg")
    done = htcjob("chunk", "--array-size", "2", "--array-index", "0")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "0\ta.jpg"
    assert lines[1].startswith("1\t../b\t# manifest line 2: ")
    assert json.loads(htcjob("chunk", "--json", HTCJOB_ARRAY_INDEX="1", HTCJOB_ARRAY_SIZE="2").stdout) == {
        "array_index": 1,
        "array_size": 2,
        "manifest_entries": 3,
        "chunk": [2, 3],
        "entries": ["c.jpg"],
    }


def test_chunk_answers_what_if_without_a_manifest(htcjob):
    """Pure arithmetic for an imagined number of entries."""
    assert (
        htcjob("chunk", "--entries", "5001", "--array-size", "1000", "--array-index", "0").stdout == "0 6\n"
    )
    assert htcjob("chunk", "--entries", "0", "--array-size", "3", "--array-index", "2").stdout == "0 0\n"
    assert htcjob("chunk", "--entries", "5", "--array-size", "3", "--array-index", "3").returncode == 78


def test_a_reader_that_leaves_early_is_no_error(htcjob):
    """`htcjob chunk | head -1` ends quietly, as if by SIGPIPE."""
    htcjob.manifest(*(f"entry-{n:06d}" for n in range(50_000)))
    command = f"{sys.executable} -m htcjob chunk; echo status=$? >&2"
    with subprocess.Popen(
        ["bash", "-c", f"({command}) | head -1"], env=htcjob.variables, stdout=-1, stderr=-1, text=True
    ) as shell:
        out, err = shell.communicate(timeout=60)
    assert out == "0\tentry-000000\n"
    assert err == "status=141\n"


def test_check_says_what_is_there(htcjob):
    """Every step ok, exit 0, nothing left in task storage."""
    htcjob.entries("a", "b")
    done = htcjob("check", HTCJOB_ARRAY_INDEX="1", HTCJOB_ARRAY_SIZE="2")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 4
    assert "2 entries, of which 1 for this job, from position 1" in done.stdout
    assert [path for path in htcjob.task.rglob("*") if path.is_file()] == []


def test_check_notes_a_variable_that_is_probably_mistyped(htcjob):
    """A job definition with HTCJOB_TIMEOUTT has no timeout: said here, with the name that is read."""
    htcjob.entries("a")
    done = htcjob("check", HTCJOB_TIMEOUTT="9s", HTCJOB_MANIFST="list", HTCJOB_OF_SOMEBODY_ELSE="1")
    assert (done.returncode, done.stderr) == (0, "")
    notes = [line.split(maxsplit=2)[2] for line in done.stdout.splitlines() if line.startswith("note")]
    assert notes == [
        "HTCJOB_MANIFST is not read: did you mean HTCJOB_MANIFEST?",
        "HTCJOB_TIMEOUTT is not read: did you mean HTCJOB_TIMEOUT?",
    ]


@pytest.mark.parametrize(
    ("variables", "status", "step"),
    [
        ({"HTCJOB_MANIFEST": "absent"}, 66, "manifest"),
        ({"HTCJOB_TASK_STORE": ""}, 78, "task storage"),
        ({"HTCJOB_ARRAY_INDEX": "x"}, 78, "environment"),
        ({"RESCALE_HTC_BEARER_TOKEN": "broken"}, 77, "token"),
    ],
)
def test_check_names_what_is_missing_with_the_status_that_run_would_have(htcjob, variables, status, step):
    """The first problem decides; the other steps are still looked at."""
    htcjob.entries("a")
    done = htcjob("check", "--json", **variables)
    assert done.returncode == status
    steps = {found["step"]: found["ok"] for found in json.loads(done.stdout)}
    assert [name for name, is_ok in steps.items() if not is_ok] == [step]
    assert htcjob.run("--each", "--", "true", **variables).returncode == status


def test_env_shows_what_was_injected_and_no_secret(htcjob):
    """Variables, and what we make of them."""
    variables = {"RESCALE_HTC_BEARER_TOKEN": TOKEN, "BATCH_TASK_INDEX": "3", "BATCH_TASK_COUNT": "4"}
    for arguments in (("env",), ("env", "--json")):
        done = htcjob(*arguments, **variables)
        assert done.returncode == 0
        assert "google-batch" in done.stdout
        assert "planted" not in done.stdout + done.stderr
        assert "<redacted>" in done.stdout
    assert json.loads(done.stdout)["context"]["array_index"] == 3


def test_env_shows_the_variables_even_when_they_make_no_sense(htcjob):
    """That is when one looks; then comes the problem, and the status is 78."""
    done = htcjob("env", BATCH_TASK_INDEX="x", BATCH_TASK_COUNT="4")
    assert done.returncode == 78
    assert "BATCH_TASK_INDEX=x" in done.stdout
    assert "BATCH_TASK_INDEX" in done.stderr
    found = json.loads(htcjob("env", "--json", BATCH_TASK_INDEX="x").stdout)
    assert found["variables"]["BATCH_TASK_INDEX"] == "x"
    assert "BATCH_TASK_INDEX" in found["problem"]


def test_help_shows_variables_examples_and_the_exit_table(htcjob):
    """Each command's help has what a person needs at 3 a.m."""
    for command in ("run", "chunk", "check", "env", "simulate"):
        shown = htcjob(command, "--help").stdout
        assert "Example:" in shown, command
        assert "Exit status:" in shown, command
        assert "75 " in shown, command
    shown = htcjob("run", "--help").stdout
    for variable in ("HTCJOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX", "HTCJOB_TIMEOUT", "IMG_OBJKEY_LIST"):
        assert variable in shown
    assert htcjob("--help").returncode == 0
    assert htcjob("--version").stdout.startswith("htcjob ")


def test_an_unknown_command_is_a_usage_error(htcjob):
    """64, not click's 2."""
    assert htcjob("frobnicate").returncode == 64
    assert htcjob("chunk", "--frob").returncode == 64
