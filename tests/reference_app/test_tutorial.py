"""The tutorial's variables become the right htcjob command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from reference_app.console import CommandError
from reference_app.tutorial import fate, is_on, translate

Run = Callable[..., "subprocess.CompletedProcess[str]"]

TAGGER = [sys.executable, "-m", "reference_app.face_tagger"]
ON = ("1", "true", "True", "YES", "on", " on ")
OFF = ("0", "false", "FALSE", "no", "off", "", " ")


@pytest.fixture
def fake_htcjob(tmp_path: Path) -> Path:
    """A folder with an `htcjob` that prints its arguments, one per line, and ends with 7."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "htcjob").write_text('#!/bin/sh\nprintf "%s\\n" htcjob "$@"\nexit 7\n')
    (folder / "htcjob").chmod(0o755)
    return folder


@pytest.fixture
def job(run: Run, fake_htcjob: Path, environment: dict[str, str]) -> Run:
    """The tutorial's job, with the fake htcjob first on PATH."""

    def run_job(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{fake_htcjob}:{environment['PATH']}"
        return run("tutorial", *arguments, **{"PATH": path, **variables})

    return run_job


# -- switches


@pytest.mark.parametrize(
    ("value", "expected"), [*((value, True) for value in ON), *((value, False) for value in OFF)]
)
def test_a_switch_means_what_it_says(value: str, expected: bool) -> None:
    """`false` and `0` are off, unlike in the original, where any value means on."""
    assert is_on({"SHOW_ENV": value}, "SHOW_ENV") is expected


def test_an_absent_switch_is_off() -> None:
    """A variable that is not set is off."""
    assert not is_on({}, "SHOW_ENV")


@pytest.mark.parametrize("name", ["HTC_INPUT_IMAGE", "SIMULATE_FAILURES", "SHOW_ENV"])
def test_any_other_value_is_an_error_that_names_the_variable(job: Run, name: str) -> None:
    """A switch that is neither on nor off ends the job with 78, before any work."""
    done = job(IMG_OBJKEY_LIST="list", **{name: "maybe"})
    assert done.returncode == 78
    assert done.stderr == f"tutorial: error: {name} is 'maybe': expected true or false\n"
    assert done.stdout == ""


# -- translation


@pytest.mark.parametrize(
    ("key", "environment", "argv"),
    [
        (
            "photos/0001.jpg",
            {"HTC_INPUT_IMAGE": "true"},
            ["htcjob", "run", "--each", "--entry", "photos/0001.jpg", "--", *TAGGER, "{input}"],
        ),
        (
            "-rf.jpg",
            {"HTC_INPUT_IMAGE": "true", "IMG_OBJKEY_LIST": "list"},
            ["htcjob", "run", "--each", "--entry", "-rf.jpg", "--", *TAGGER, "{input}"],
        ),
        (
            None,
            {"IMG_OBJKEY_LIST": "list", "AWS_BATCH_JOB_ARRAY_INDEX": "3"},
            ["htcjob", "run", "--", *TAGGER],
        ),
        (
            None,
            {"IMG_OBJKEY_LIST": "list", "HTC_INPUT_IMAGE": "false"},
            ["htcjob", "run", "--", *TAGGER],
        ),
        (None, {"HTCJOB_MANIFEST": "list"}, ["htcjob", "run", "--", *TAGGER]),
        (None, {"HTCJOB_ENTRIES_FILE": "entries", "IMG_OBJKEY_LIST": "list"}, TAGGER),
        ("photo.jpg", {}, [*TAGGER, "--", "photo.jpg"]),
        ("photo.jpg", {"IMG_OBJKEY_LIST": "list"}, [*TAGGER, "--", "photo.jpg"]),
    ],
)
def test_the_variables_become_one_command(
    key: str | None, environment: dict[str, str], argv: list[str]
) -> None:
    """Each way to start the tutorial's job is exactly this command."""
    assert translate(key, environment) == argv


def test_no_work_is_an_error() -> None:
    """Without a key and a list there is nothing to do, and with HTC_INPUT_IMAGE a key must be given."""
    with pytest.raises(CommandError, match="IMG_OBJKEY_LIST is not set") as caught:
        translate(None, {"IMG_OBJKEY_LIST": ""})
    assert caught.value.status == 78
    with pytest.raises(click.UsageError, match="give the KEY"):
        translate(None, {"HTC_INPUT_IMAGE": "1", "IMG_OBJKEY_LIST": "list"})


def test_htcjob_replaces_the_job(job: Run) -> None:
    """htcjob on PATH gets the translated arguments, and its status is that of the job."""
    done = job(IMG_OBJKEY_LIST="list", AWS_BATCH_JOB_ARRAY_INDEX="0", BATCH_JOB_ARRAY_SIZE="2")
    assert done.stdout.splitlines() == ["htcjob", "run", "--", *TAGGER]
    assert done.returncode == 7
    done = job("-a b.jpg", HTC_INPUT_IMAGE="yes")
    assert done.stdout.splitlines() == [
        "htcjob", "run", "--each", "--entry", "-a b.jpg", "--", *TAGGER, "{input}",
    ]  # fmt: skip


def test_htcjob_beside_the_interpreter_is_found(fake_htcjob: Path, run: Run) -> None:
    """In a virtual environment that is not on PATH, its own htcjob runs; without one it is 127."""
    (fake_htcjob / "python").symlink_to(sys.executable)
    program = (
        f"import sys; sys.executable = {str(fake_htcjob / 'python')!r}\n"
        "from reference_app import console, tutorial\n"
        "console.run(tutorial.tutorial)"
    )
    environment = {"PATH": "/nowhere", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[2])
    environment["IMG_OBJKEY_LIST"] = "list"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[:3] == ["htcjob", "run", "--"]
    (fake_htcjob / "htcjob").unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert done.stderr == "tutorial: error: htcjob is not on PATH: pip install . in the clone\n"


def test_a_local_file_is_tagged(photo: Path, job: Run) -> None:
    """A KEY without HTC_INPUT_IMAGE is a file here, and needs no htcjob."""
    done = job("photo.jpg")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("photo.jpg: 2 faces")
    assert (photo.parent / "photo.jpg_tagged.dat").exists()


def test_inside_htcjob_the_staged_chunk_is_tagged(photo: Path, job: Run) -> None:
    """When htcjob runs the tutorial's job itself, the entries file is tagged; no second htcjob."""
    (photo.parent / "entries").write_text(f"{photo}\n")
    done = job(HTCJOB_ENTRIES_FILE="entries", HTCJOB_OUTPUT_DIR="out", IMG_OBJKEY_LIST="list")
    assert done.returncode == 0, done.stderr
    assert (photo.parent / "out" / "photo.jpg_tagged.dat").read_bytes() == b"face_cnt\n2"


# -- SIMULATE_FAILURES


def test_of_nine_jobs_one_raises_and_two_hang() -> None:
    """The rates are 1/9 and 2/9 in every attempt, the first job works, and a second attempt works."""
    for attempt in (1, 2, 3):
        fates = Counter(fate(array_index=index, attempt=attempt) for index in range(900))
        assert fates == {"work": 600, "raise": 100, "hang": 200}
    assert fate(array_index=0, attempt=1) == "work"
    for index in range(900):
        if fate(array_index=index, attempt=1) != "work":
            assert fate(array_index=index, attempt=2) == "work"


def test_the_fate_depends_on_index_and_attempt_only(job: Run, tmp_path: Path) -> None:
    """Job 4 fails with 1, its second attempt and its neighbour work; switched off, it works."""
    job_4 = {"IMG_OBJKEY_LIST": "list", "AWS_BATCH_JOB_ARRAY_INDEX": "4"}
    on = {**job_4, "SIMULATE_FAILURES": "true"}
    for _ in range(2):
        done = job(**on, HTCJOB_MESSAGE_FILE=str(tmp_path / "message"))
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr == (
            "tutorial: error: simulated failure of array index 4, attempt 1 (SIMULATE_FAILURES is on)\n"
        )
    assert "simulated failure" in (tmp_path / "message").read_text()
    assert job(**on, AWS_BATCH_JOB_ATTEMPT="2").returncode == 7
    assert job(**on, HTCJOB_ARRAY_INDEX="3").returncode == 7
    assert job(**{**on, "SIMULATE_FAILURES": "false"}).returncode == 7
    assert job(**{**on, "AWS_BATCH_JOB_ARRAY_INDEX": ""}).returncode == 7


def test_a_bad_index_is_named(job: Run) -> None:
    """An index that is no number gives 78 with its variable."""
    done = job(SIMULATE_FAILURES="1", AWS_BATCH_JOB_ARRAY_INDEX="-1", IMG_OBJKEY_LIST="list")
    assert done.returncode == 78
    assert "AWS_BATCH_JOB_ARRAY_INDEX is '-1': expected a number" in done.stderr


def test_a_simulated_hang_dies_on_sigterm(environment: dict[str, str]) -> None:
    """A hanging job lasts until SIGTERM and then ends with 143 by itself, as PID 1 must."""
    variables = {
        "SIMULATE_FAILURES": "on",
        "AWS_BATCH_JOB_ARRAY_INDEX": "7",
        "IMG_OBJKEY_LIST": "list",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "reference_app.tutorial"],
        env={**environment, **variables}, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "simulated hang of array index 7" in process.stderr.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM


# -- SHOW_ENV


def test_the_environment_is_shown_without_secrets(job: Run) -> None:
    """SHOW_ENV prints the variables, sorted, before the work; the bearer token is not among them."""
    done = job(
        SHOW_ENV="true",
        IMG_OBJKEY_LIST="list",
        RESCALE_HTC_BEARER_TOKEN="opensesame",
        ZZ_COPY="Authorization opensesame",
    )
    shown, _, work = done.stdout.partition("htcjob\n")
    assert work.startswith("run\n")
    assert "opensesame" not in done.stdout + done.stderr
    assert shown.splitlines() == sorted(shown.splitlines())
    assert "IMG_OBJKEY_LIST=list\n" in shown
    assert "RESCALE_HTC_BEARER_TOKEN=<redacted>\n" in shown
    assert "ZZ_COPY=<redacted>\n" in shown


def test_the_environment_is_not_shown_by_itself(job: Run) -> None:
    """Without SHOW_ENV, or with false, no variable is printed."""
    assert "IMG_OBJKEY_LIST" not in job(IMG_OBJKEY_LIST="list").stdout
    assert "IMG_OBJKEY_LIST" not in job(IMG_OBJKEY_LIST="list", SHOW_ENV="false").stdout
