"""Every command that takes a URL reaches it with the vended credentials, where it is inside vended storage."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, NamedTuple

import pytest

from htcjob.storage.access import Access
from htcjob.storage.urls import open_store
from tests.conftest import Htcjob
from tests.support.servers.htc_api import running_htc_api

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers.htc_api import HtcApiServer

NOT_THE_OWNER = {"AWS_ACCESS_KEY_ID": "own-key-id", "AWS_SECRET_ACCESS_KEY": "own-secret-key"}
"""The SDK's own credentials, with which nothing is to be had."""


class Vended(NamedTuple):
    """A bucket whose `project/` and `task/` the API vends."""

    api: HtcApiServer
    url: str
    environ: dict[str, str]
    """The server's, with the credentials of the owner."""


@pytest.fixture(scope="module")
def vended(rgw) -> Iterator[Vended]:
    """Three inputs and lists of them, by key and by URL, one server and one API for all commands."""
    bucket = rgw.new_bucket()
    url = f"s3://{bucket}"
    owner = open_store(url, Access(environ=rgw.environ(), endpoint=rgw.endpoint))
    for name in ("a", "b", "c"):
        owner.put_bytes(name.encode(), f"project/photos/{name}")
    owner.put_bytes(b"photos/a\nphotos/b\nphotos/c\n", "project/list.txt")
    owner.put_bytes(f"{url}/project/photos/a\n{url}/project/photos/b\n".encode(), "project/urls.txt")
    with running_htc_api(lambda *_: rgw.vend(bucket)) as api:
        yield Vended(api, url, rgw.environ())


def inside(htcjob: Htcjob, vended: Vended) -> Htcjob:
    """Leave nothing in its environment but what the platform injects, and useless credentials."""
    for name in ("HTCJOB_PROJECT_STORE", "HTCJOB_TASK_STORE"):
        del htcjob.variables[name]
    htcjob.variables |= {**vended.environ, **NOT_THE_OWNER, **vended.api.environ()}
    return htcjob


@pytest.fixture
def job(htcjob, vended):
    return inside(htcjob, vended)


@pytest.fixture(scope="module")
def run(vended, tmp_path_factory) -> str:
    """The name of a run with one entry done, one failed and one left, its manifest given by URL; it is only read."""
    name = f"run-{uuid.uuid4().hex}"
    case = 'case "$HTCJOB_KEY" in photos/a) exit 0;; photos/b) exit 65;; *) exit 75;; esac'
    done = inside(Htcjob(tmp_path_factory.mktemp("run")), vended).run(
        *("--manifest", f"{vended.url}/project/list.txt", "--run", name, "--each", "--", "sh", "-c", case)
    )
    assert done.returncode == 65, done.stderr
    return name


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("run --manifest {project}list.txt --run list --each -- true", ""),
        ("run --manifest {project}urls.txt --run urls --each -- true", ""),
        ("run --entry {project}photos/a --run one --each -- true", ""),
        ("chunk --manifest {project}list.txt --array-size 3 --array-index 1", "1\tphotos/b\n"),
        ("check --manifest {project}list.txt", "3 entries"),
        ("manifest build {project}photos/ -o {project}built.txt", "3 entries"),
        ("manifest build {folder} -o {task}all.txt", "entries"),
        ("manifest index {project}list.txt", "3 entries"),
        ("manifest check {project}list.txt --exists", "3 entries, nothing wrong"),
        ("manifest check {project}urls.txt --exists", "2 entries, nothing wrong"),
        ("manifest split {project}list.txt --array-size 2", "1\t1\t"),
        ("storage ls {project}photos/", "photos/b"),
        ("storage ls -r {project}", "photos/b"),
        ("storage ls {project}ph*/b", "photos/b"),
        ("storage cat {project}photos/b", "b"),
        ("storage get {project}photos/b -d {here}", "1 copied"),
        ("storage put pyproject.toml {task}put/", "1 copied"),
        ("storage cp {project}photos/b {task}copies/", "1 copied"),
        ("storage cp {project}photos/b {here}/b", "1 copied"),
        ("storage cp pyproject.toml {task}copies/p", "1 copied"),
        ("storage rm {task}nothing-there/* -r", ""),
    ],
)
def test_inside_vended_storage(job, vended, tmp_path, arguments, printed):
    """The credentials are the vended ones: the SDK's own are refused by this server."""
    words = {
        "project": f"{vended.url}/project/",
        "folder": f"{vended.url}/project",  # the root as a folder, without its last slash
        "task": f"{vended.url}/task/",
        "here": tmp_path,
    }
    done = job(*arguments.format(**words).split())
    assert "enied" not in done.stderr
    assert done.returncode == (66 if "nothing-there" in arguments else 0), (done.stdout, done.stderr)
    assert printed in done.stdout


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("status", "pending"),
        ("failed", "photos/b"),
        ("failed --manifest left", "photos/c\n"),
        ("failed --manifest failed", "photos/b\n"),
        ("collect", '"entry":'),
    ],
)
@pytest.mark.parametrize("task_store", [None, "task/", "task"])
def test_a_run_inside_vended_storage(job, vended, run, arguments, printed, task_store):
    """Task storage by its URL, or as the API vends it; the run's manifest was named by URL."""
    named = () if task_store is None else ("--task-store", f"{vended.url}/{task_store}")
    done = job(*arguments.split(), "--run", run, *named)
    assert (done.returncode, done.stderr) == (0, "")
    assert printed in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "storage ls {other}/",
        "storage cat {other}/list.txt",
        "chunk --manifest {other}/list.txt --array-size 1 --array-index 0",
        "manifest check {other}/list.txt",
        "run --manifest {other}/list.txt --run outside --each -- true",
    ],
)
def test_outside_of_vended_storage(job, vended, rgw, arguments):
    """Another bucket gets the SDK's own credentials; the vended ones are of no use there."""
    other = rgw.new_bucket()
    store = open_store(f"s3://{other}", Access(environ=rgw.environ(), endpoint=rgw.endpoint))
    store.put_bytes(b"photos/a\n", "list.txt")
    words = arguments.format(other=f"s3://{other}").split()
    done = job(*words, **vended.environ)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert job(*words).returncode == 77


def test_a_simulation_uses_nothing_that_was_injected(job, vended):
    """It is a platform of its own: attempts, and what is read after them, reach named stores as `run` does."""
    asked = len(vended.api.requests)
    stores = ("--project-store", f"{vended.url}/project", "--task-store", f"{vended.url}/task/simulated")
    words = ("simulate", "--array-size", "1", "--json", *stores, "--", "--entry", "photos/a", "--each", "--")
    done = job(*words, "true", **vended.environ)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert json.loads(done.stdout)["slowest_entries"][0]["entry"] == "photos/a"
    assert len(vended.api.requests) == asked
