"""The face tagger's image: jobs of the tutorial's size, in containers of the tutorial's size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from htcjob.ledger.reader import final_records
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access
from htcjob.storage.contract import Store
from htcjob.storage.urls import open_store
from htcjob.transfer.transfers import Transfers
from tests.support.servers.htc_api import running_htc_api

SMALL = ("--memory", "128m", "--memory-swap", "128m")
"""The tutorial's `maxMemory`; no swap beyond it."""

ONE_JOB = (
    "--env",
    "AWS_BATCH_JOB_ARRAY_INDEX=0",
    "--env",
    "BATCH_JOB_ARRAY_SIZE=1",
    "--env",
    "IMG_OBJKEY_LIST=list.txt",
)


class Job(NamedTuple):
    """A job's storage, and how a container gets at it."""

    options: list[str]
    """Of `docker run`."""
    project: Store
    task: Store
    secrets: list[str]
    """What must be in nothing that is written."""

    def results(self) -> dict[str, str]:
        with Transfers(RetryPolicy()) as transfers:
            return {
                record["entry"]: record["result"] for record in final_records(self.task, "default", transfers)
            }

    def outputs(self) -> dict[str, bytes]:
        keys = [info.key for info in self.task.list() if not info.key.startswith(".htcjob/")]
        return {key: self.task.read_range(key, 0) for key in keys}


@pytest.fixture
def local_job(htcjob, stores) -> Job:
    """Mounted folders."""
    return Job(stores, open_store(str(htcjob.project)), open_store(str(htcjob.task)), [])


@pytest.fixture
def cloud_job(rgw, tmp_path: Path) -> Iterator[Job]:
    """S3 storage that an HTC API vends for a token in a mounted file."""
    bucket = rgw.new_bucket()
    access = Access(environ=rgw.environ(), endpoint=rgw.endpoint)
    secrets: list[str] = []

    def vend(project: str, task: str | None, region: str):
        vended = rgw.vend(bucket)
        secrets.extend(vended.credentials[name] for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
        return vended

    with running_htc_api(vend) as api:
        variables = api.environ()
        variables.pop("RESCALE_HTC_REFRESH_TOKEN")
        token = tmp_path / "token"
        token.write_text(variables.pop("RESCALE_HTC_BEARER_TOKEN"))
        secrets.append(token.read_text())
        variables["HTCJOB_TOKEN_FILE"] = "/run/token"
        options = ["--network", "host", "--volume", f"{token}:/run/token:ro"]
        options += [option for name, value in variables.items() for option in ("--env", f"{name}={value}")]
        stores = (open_store(f"s3://{bucket}/{name}", access) for name in ("project", "task"))
        yield Job(options, *stores, secrets)


@pytest.fixture(params=["local", "S3"])
def job(request) -> Job:
    """Both kinds."""
    return request.getfixturevalue("local_job" if request.param == "local" else "cloud_job")


@pytest.fixture
def five(job, photos) -> dict[str, int]:
    """Five photos in project storage, with a manifest; faces by key."""
    chosen = dict(sorted(photos.items())[:50:10])
    for name, (path, _) in chosen.items():
        job.project.put(str(path), name)
    job.project.put_bytes("\n".join(chosen).encode(), "list.txt")
    return {name: faces for name, (_, faces) in chosen.items()}


def written_by(docker, container: str, image: str) -> str:
    """Give all that the engine tells about a container and its image, and all that it wrote."""
    inspected = docker("inspect", container, image).stdout
    history = docker("history", "--no-trunc", image).stdout
    return inspected + history + docker.logs(container)


def test_a_job_of_the_tutorials_size(docker, face_tagger_image, job, five):
    """Five photos in 128 MiB from a cold start, and no secret is to be seen anywhere."""
    with docker.started(*SMALL, *ONE_JOB, *job.options, face_tagger_image) as container:
        assert docker.wait(container) == 0, docker.logs(container)
        (state,) = json.loads(docker("inspect", "--format", "[{{json .State}}]", container).stdout)
        assert not state["OOMKilled"]
        everything = written_by(docker, container, face_tagger_image)
    assert job.results() == dict.fromkeys(five, "done")
    outputs = job.outputs()
    assert {
        key.removesuffix("_tagged.dat"): int(data.split()[1])
        for key, data in outputs.items()
        if key.endswith(".dat")
    } == {name: faces for name, faces in five.items() if faces}
    everything += "".join(data.decode(errors="replace") for data in outputs.values())
    for secret in job.secrets:
        assert secret not in everything


def test_one_photo_as_the_platforms_commands(docker, face_tagger_image, job, five):
    """The tutorial's way to try an image: a key of project storage, no array."""
    name = max(five, key=five.__getitem__)
    command = ("python", "-m", "reference_app.tutorial", name)
    options = (*SMALL, "--env", "HTC_INPUT_IMAGE=true", *job.options)
    done = docker.run(*options, face_tagger_image, *command)
    assert done.returncode == 0, done.stderr
    assert job.outputs()[f"{name}_tagged.dat"] == f"face_cnt\n{five[name]}".encode()
    # As `commands` that are htcjob itself, in place of the entrypoint.
    tagger = ("--", "python", "-m", "reference_app.face_tagger", "{input}")
    done = docker.run(
        *job.options, face_tagger_image, "htcjob", "run", "--run", "again", "--each", "--entry", name, *tagger
    )
    assert done.returncode == 0, done.stderr


def test_a_script_of_the_tutorial_runs_unchanged(docker, face_tagger_image, job, five):
    """It fetches and puts its files itself, with the platform's command."""
    name = max(five, key=five.__getitem__)
    script = f"htcctl -s download {name} && python3 -m reference_app.face_tagger {name} && htcctl upload {name}_tagged.dat"
    done = docker.run(*job.options, face_tagger_image, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert job.outputs() == {f"{name}_tagged.dat": f"face_cnt\n{five[name]}".encode()}


def test_the_same_bytes_as_without_a_container(
    docker, face_tagger_image, htcjob, local_job, photos, tmp_path: Path
):
    """The image's versions of everything find the same faces, and draw them alike."""
    name, (path, _) = max(photos.items(), key=lambda item: item[1][1])
    shutil.copy(path, htcjob.project / name)
    shutil.copy(path, tmp_path / name)
    htcjob.manifest(name)
    done = docker.run(*ONE_JOB, *local_job.options, face_tagger_image)
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-m", "reference_app.face_tagger", tmp_path / name], check=True)
    assert htcjob.outputs()[f"{name}_tagged.jpg"] == (tmp_path / f"{name}_tagged.jpg").read_bytes()
