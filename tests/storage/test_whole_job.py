"""Whole jobs over real object storage: real `htcjob run` processes, credentials vended by an HTC API."""

from __future__ import annotations

import json
import time

import pytest

from htcjob.ledger.reader import final_records
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access
from htcjob.storage.urls import open_store
from htcjob.transfer.transfers import Transfers
from tests.support.servers.htc_api import Vended, running_htc_api

LIFE_S = 5
"""Of vended credentials: the shortest that the server gives."""


class CloudJob:
    """Runs htcjob on a bucket, with nothing in its environment but what the platform injects."""

    def __init__(self, htcjob, rgw, api, bucket: str, secrets: list[str]) -> None:
        self.htcjob = htcjob
        self.api = api
        self.secrets = secrets
        self.stores = {
            name: open_store(f"s3://{bucket}/{name}", Access(environ=rgw.environ(), endpoint=rgw.endpoint))
            for name in ("project", "task")
        }
        for name in ("HTCJOB_PROJECT_STORE", "HTCJOB_TASK_STORE"):
            del htcjob.variables[name]
        htcjob.variables.update(api.environ(), HTCJOB_MANIFEST="list.txt")

    def entries(self, *names: str) -> None:
        for name in names:
            self.stores["project"].put_bytes(name.encode(), name)
        self.stores["project"].put_bytes("\n".join(names).encode(), "list.txt")

    def results(self) -> dict[str, str]:
        with Transfers(RetryPolicy()) as transfers:
            found = final_records(self.stores["task"], "default", transfers)
            return {record["entry"]: record["result"] for record in found}

    def outputs(self) -> dict[str, bytes]:
        task = self.stores["task"]
        return {
            info.key: task.read_range(info.key, 0)
            for info in task.list()
            if not info.key.startswith(".htcjob/")
        }

    def check_nothing_leaked(self, *texts: str) -> None:
        """Look for every secret that was ever vended or injected in all that was written."""
        written = "\n".join(texts) + self.htcjob.termination_log.read_text()
        task = self.stores["task"]
        for info in task.list():
            written += task.read_range(info.key, 0).decode(errors="replace")
        for secret in (*self.secrets, *self.api.bearer_tokens):
            assert secret not in written


@pytest.fixture(params=["fast", "sdk"])
def job(request, htcjob, rgw, monkeypatch):
    for name, value in rgw.environ().items():
        monkeypatch.setenv(name, value)
    bucket = rgw.new_bucket()
    secrets: list[str] = []

    def vend(project: str, task: str | None, region: str) -> Vended:
        vended = rgw.vend(bucket, seconds=LIFE_S)
        secrets.extend(vended.credentials[name] for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
        return vended

    with running_htc_api(vend) as api:
        htcjob.variables["HTCJOB_STORAGE_ENGINE"] = request.param
        yield CloudJob(htcjob, rgw, api, bucket, secrets)


COPY = ("sh", "-c", 'cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/$HTCJOB_KEY"')


def test_a_job_outlives_its_credentials(job):
    """Credentials of 5 s, work of more: everything is done, the API is asked now and then, nothing leaks."""
    names = [f"e {n}" for n in range(8)]
    job.entries(*names)
    slow = ("sh", "-c", f"sleep 1.2; {COPY[2]}")
    began = time.time()
    done = job.htcjob.run("--each", "--", *slow)
    took_s = time.time() - began
    assert done.returncode == 0, done.stderr
    assert job.outputs() == {name: name.encode() for name in names}
    assert job.results() == dict.fromkeys(names, "done")
    asked = [path for path in job.api.paths() if "/storage/" in path]
    assert 2 <= len(asked) <= 2 + took_s  # a storm would be one for each request
    job.check_nothing_leaked(done.stdout, done.stderr)


def test_a_chunk_in_one_command(job):
    """Stage-in and stage-out of a whole chunk, with folders and odd names."""
    names = ["a/b c", "a/d#e", "é", "+", "100%41"]
    job.entries(*names)
    script = (
        'while read -r f; do cp "$f" "$HTCJOB_OUTPUT_DIR/$(basename "$f").out"; done < "$HTCJOB_ENTRIES_FILE"'
    )
    done = job.htcjob.run("--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert job.outputs() == {f"{name.split('/')[-1]}.out": name.encode() for name in names}
    assert job.htcjob.exit_record()["staged_in"] == 5
    job.check_nothing_leaked(done.stdout, done.stderr)


def test_an_absent_input_is_a_failed_entry(job):
    """The one that is missing is named; the others are done."""
    job.entries("a", "b")
    job.stores["project"].delete("a")
    done = job.htcjob.run("--each", "--", *COPY)
    assert done.returncode == 65
    assert job.results() == {"a": "failed", "b": "done"}
    assert "/project/a" in done.stderr


def test_the_array_is_told_apart_by_its_tokens_scope(job):
    """An API that does not know the token ends the attempt with 77, before any work."""
    job.entries("a")
    job.api.bearer_tokens.clear()
    done = job.htcjob.run("--each", "--", *COPY, RESCALE_HTC_REFRESH_TOKEN="")
    assert done.returncode == 77, done.stderr
    assert len([line for line in done.stderr.splitlines() if "error:" in line]) == 1
    assert job.outputs() == {}


def test_an_api_that_is_down_is_tried_again_and_then_75(job):
    """A passing failure of the API costs a retry; a lasting one asks the platform for another attempt."""
    job.entries("a")
    job.api.fail_next(2, 503)
    done = job.htcjob.run("--each", "--", *COPY)
    assert done.returncode == 0, done.stderr
    assert "retry" in done.stderr


def test_commands_find_the_vended_storage(job):
    """`check`, `status` and `collect` need nothing but what is injected."""
    job.entries("a", "b")
    checked = job.htcjob("check")
    assert checked.returncode == 0, (checked.stdout, checked.stderr)
    assert job.htcjob.run("--each", "--", *COPY).returncode == 0
    status = json.loads(job.htcjob("status", "--json").stdout)
    assert (status["entries"], status["results"]["done"]) == (2, 2)
    assert len(job.htcjob("collect").stdout.splitlines()) == 2
