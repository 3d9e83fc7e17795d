"""`htcjob check`: what is there and what is missing, without working."""

import json

import pytest


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
