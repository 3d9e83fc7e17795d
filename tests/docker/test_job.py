"""A program with `htcjob.Job` in a container of the base image, as its own entrypoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PYTHON = "/opt/htcjob/bin/python"
"""htcjob's own, as `docs/images.md` names it."""
ONE_JOB = ("--env", "HTCJOB_ARRAY_INDEX=0", "--env", "HTCJOB_ARRAY_SIZE=1")
STOPPED = """
import signal
import htcjob

with htcjob.Job.from_env(manifest="list.txt", prefetch=1) as job:
    for entry in job.entries():
        if entry.key == "b":
            print("waiting", flush=True)
            signal.pause()
        entry.commit()
"""
"""Finishes the entry that it has in hand when it is asked to stop."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The example's program, where any user can read it; its text may be replaced."""
    path = tmp_path / "program.py"
    path.write_bytes((REPOSITORY / "examples" / "count_words.py").read_bytes())
    path.chmod(0o644)
    return path


def test_the_example_runs_as_an_entrypoint(docker, base_image, htcjob, stores, program):
    """As PID 1, as any user, on a read-only root without a network; and `docs/images.md` says so."""
    htcjob.entries("a", "b", "c")
    options = ("--read-only", "--tmpfs", "/tmp", "--network", "none", "--user", "12345:54321")
    mount = ("--volume", f"{program}:/work/count_words.py:ro", "--entrypoint", PYTHON)
    done = docker.run(*options, *mount, *ONE_JOB, *stores, base_image, "/work/count_words.py")
    assert done.returncode == 0, done.stderr
    assert set(htcjob.outputs()) == {"a.json", "b.json", "c.json"}
    assert (
        f'ENTRYPOINT ["{PYTHON}", "/work/count_words.py"]' in (REPOSITORY / "docs" / "images.md").read_text()
    )


def test_docker_stop_in_a_loop(docker, base_image, htcjob, stores, program, wait_until):
    """The entry in hand is finished and committed, and the exit status is not 0."""
    htcjob.entries("a", "b", "c")
    program.write_text(STOPPED)
    mount = ("--volume", f"{program}:/work/program.py:ro", "--entrypoint", PYTHON)
    with docker.started(*mount, *ONE_JOB, *stores, base_image, "/work/program.py") as container:
        wait_until(lambda: "waiting" in docker.logs(container))
        docker("stop", "--time", "60", container)
        assert docker.wait(container) == 143, docker.logs(container)
    assert htcjob.results() == {0: "done", 1: "done"}
