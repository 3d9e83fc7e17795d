"""Which store a job gets, with which credentials, and what it is told when there is none."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from htcjob import job_stores
from htcjob.environment.context import read_context
from htcjob.errors import ConfigurationError, DeniedError, TokenError, TransientError
from htcjob.job_stores import JobStores, open_job_stores
from htcjob.retry import RetryPolicy
from htcjob.storage import urls
from tests.support.clock import FakeClock
from tests.support.servers.htc_api import PROJECT, TASK, htc_api_fixture  # noqa: F401

BUCKET = "s3://sim-aws_eu_west_1/"
SHARED = f"{BUCKET}projects/{PROJECT}/shared/"
OF_TASK = f"{BUCKET}projects/{PROJECT}/tasks/{TASK}/"


class OpenedStore:
    """What would be opened: no SDK is needed for these tests."""

    def __init__(self, url, access):
        self.url = url if url.endswith("/") else f"{url}/"
        self.access = access


@pytest.fixture
def opened(monkeypatch):
    """Note what is opened in a cloud instead of opening it."""
    stores = []

    def open_store(url, access=None):
        if access is None:
            return urls.open_store(url)
        stores.append(OpenedStore(url, access))
        return stores[-1]

    monkeypatch.setattr(job_stores, "open_store", open_store)
    return stores


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def retry(clock):
    return RetryPolicy(sleep=clock.sleep)


def context(api=None, **variables):
    environ = {**(api.environ() if api else {}), **variables}
    return read_context({name: value for name, value in environ.items() if value})


def test_it_is_the_one_door():
    """No other module opens a store by its URL, with credentials and retries of its own choice."""
    package = Path(job_stores.__file__).parent
    opening = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "htcjob.storage.urls"
        if "open_store" in {name.name for name in node.names}
    }
    assert opening == {"job_stores.py"}


class TestExplicit:
    def test_local(self, tmp_path, htc_api, retry):
        """Directories that are named are used, and the API is not asked, whatever is injected."""
        stores = open_job_stores(
            context(htc_api, HTCJOB_PROJECT_STORE=f"{tmp_path}/p", HTCJOB_TASK_STORE=f"{tmp_path}/t"), retry
        )
        assert stores.project.url.endswith("/p/")
        assert stores.task.url.endswith("/t/")
        assert htc_api.requests == []

    def test_in_a_cloud(self, htc_api, retry, opened):
        """URLs that are named are reached with the SDK's own credentials."""
        stores = open_job_stores(
            context(htc_api, HTCJOB_PROJECT_STORE="s3://mine/p", HTCJOB_TASK_STORE="gs://mine/t"), retry
        )
        assert stores.project.access.credentials is None
        assert stores.project.access.retry is retry
        assert stores.task.access is stores.project.access
        assert htc_api.requests == []

    def test_one_of_them(self, htc_api, retry, opened, tmp_path):
        """The other one is vended."""
        stores = open_job_stores(context(htc_api, HTCJOB_PROJECT_STORE=str(tmp_path)), retry)
        assert stores.task.url == OF_TASK
        assert stores.task.access.credentials is not None
        assert len(htc_api.requests) == 1

    def test_nothing_heavy_is_imported(self, tmp_path):
        """For local stores neither the API's client nor the clouds' rooms."""
        code = (
            "import sys\nfrom htcjob.environment.context import read_context\nfrom htcjob.retry import RetryPolicy\n"
            "from htcjob.job_stores import open_job_stores\n"
            "stores = open_job_stores(read_context({'HTCJOB_PROJECT_STORE': sys.argv[1] + '/p', "
            "'HTCJOB_TASK_STORE': 'memory:t'}), RetryPolicy())\nstores.open('memory:x', 'k')\n"
            "heavy = ('http', 'ssl', 'htcjob.htc_api.client', 'htcjob.htc_api.vended_storage', 'htcjob.htc_api.bearer_token', 'htcjob.storage.cloud')\n"
            "print([name for name in heavy if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        )
        assert done.stdout == "[]\n"


class TestVended:
    def test_both(self, htc_api, retry, opened):
        """One request, one access with the vended region, endpoint and credentials, and the job's retries."""
        stores = open_job_stores(context(htc_api), retry)
        assert (stores.project.url, stores.task.url) == (SHARED, OF_TASK)
        access = stores.project.access
        assert access is stores.task.access
        assert (access.region, access.endpoint) == ("eu-west-1", None)
        assert access.retry is retry
        assert access.credentials.current().provider == "AWS"
        assert len(htc_api.requests) == 1

    def test_each_by_itself(self, htc_api, retry, opened):
        """Two credentials, two accesses."""
        htc_api.off.add("regional-storage")
        stores = open_job_stores(context(htc_api), retry)
        assert stores.project.access is not stores.task.access
        assert stores.project.access.credentials is not stores.task.access.credentials

    def test_an_outage_at_the_start(self, htc_api, retry, opened, clock):
        """It is retried by the policy, after the time the API asked for."""
        htc_api.fail_next(1, 503, {"Retry-After": "3"})
        # The pause is by the real clock, which the fake sleep does not move: each further try is told the rest.
        with pytest.raises(TransientError):
            open_job_stores(context(htc_api), RetryPolicy(retries=2, sleep=clock.sleep))
        assert clock.slept[0] >= 2.9
        assert len(htc_api.requests) == 1

    def test_unknown_ids(self, htc_api, retry):
        """A configuration error that names the ids and the URL's variable."""
        with pytest.raises(ConfigurationError, match=r"project nowhere and task .*HTCJOB_API_URL right\?"):
            open_job_stores(context(htc_api, RESCALE_HTC_PROJECT_ID="nowhere"), retry)

    def test_denied(self, htc_api, retry):
        """As the API says it."""
        htc_api.denied.add("storage")
        with pytest.raises(DeniedError):
            open_job_stores(context(htc_api), retry)

    def test_a_token_that_has_ended(self, htc_api, retry):
        """A TokenError."""
        with pytest.raises(TokenError):
            open_job_stores(
                context(htc_api, RESCALE_HTC_BEARER_TOKEN="opaque-0123456789", RESCALE_HTC_REFRESH_TOKEN=""),
                retry,
            )


class TestUnknown:
    @pytest.mark.parametrize(
        ("without", "named"),
        [
            (
                ["RESCALE_HTC_BEARER_TOKEN", "RESCALE_HTC_REFRESH_TOKEN"],
                r"\(or RESCALE_HTC_BEARER_TOKEN, for which",
            ),
            (["RESCALE_HTC_PROJECT_ID"], r"\(or RESCALE_HTC_PROJECT_ID, for"),
            (["RESCALE_HTC_TASK_ID"], r"\(or RESCALE_HTC_TASK_ID, for"),
            (["RESCALE_HTC_PROJECT_ID", "RESCALE_HTC_TASK_ID"], "PROJECT_ID and RESCALE_HTC_TASK_ID, for"),
        ],
    )
    def test_what_is_missing_is_named(self, htc_api, retry, without, named):
        """The message has both ways out, and of the second one just what lacks."""
        where = context(htc_api, **dict.fromkeys(without, ""))
        with pytest.raises(ConfigurationError, match=named) as caught:
            open_job_stores(where, retry)
        assert "no project storage is known: set --project-store or HTCJOB_PROJECT_STORE" in str(caught.value)
        assert htc_api.requests == []

    def test_task_storage(self, tmp_path, retry):
        """Likewise."""
        with pytest.raises(ConfigurationError, match="no task storage is known: set --task-store"):
            open_job_stores(context(HTCJOB_PROJECT_STORE=str(tmp_path)), retry)

    def test_both_are_one(self, tmp_path, retry):
        """An output could replace an input."""
        with pytest.raises(ConfigurationError, match="are the same"):
            open_job_stores(
                context(HTCJOB_PROJECT_STORE=str(tmp_path), HTCJOB_TASK_STORE=f"{tmp_path}/"), retry
            )


class TestAlone:
    def test_project(self, htc_api, retry, opened, tmp_path):
        """Named, vended (without a task's id, too), or unknown."""
        assert JobStores(context(HTCJOB_PROJECT_STORE=str(tmp_path)), retry).project.url.endswith("/")
        assert JobStores(context(htc_api, RESCALE_HTC_TASK_ID=""), retry).project.url == SHARED
        with pytest.raises(ConfigurationError, match="no project storage is known"):
            _ = JobStores(context(htc_api, RESCALE_HTC_PROJECT_ID=""), retry).project

    def test_task(self, htc_api, retry, opened, tmp_path):
        """Named, vended or unknown; the API is asked when the store is wanted, and not before."""
        named = JobStores(context(HTCJOB_TASK_STORE=str(tmp_path)), retry)
        assert named.has_task
        assert named.task is named.task
        vended = JobStores(context(htc_api), retry)
        assert vended.has_task
        assert htc_api.requests == []
        assert vended.task.url == OF_TASK
        unknown = JobStores(context(), retry)
        assert not unknown.has_task
        with pytest.raises(ConfigurationError, match="no task storage is known"):
            _ = unknown.task

    def test_of_the_environment(self, tmp_path, retry, monkeypatch):
        """Without a context the environment is read, and only when a store of the job is wanted."""
        monkeypatch.setenv("HTCJOB_ARRAY_INDEX", "no number")
        stores = JobStores(None, retry)
        assert stores.open(str(tmp_path)).url == f"file://{tmp_path}/"
        monkeypatch.setenv("HTCJOB_ARRAY_INDEX", "0")
        monkeypatch.setenv("HTCJOB_TASK_STORE", str(tmp_path))
        assert stores.task.url == f"file://{tmp_path}/"


class TestFullUrls:
    @pytest.fixture
    def stores(self, htc_api, retry, opened):
        return open_job_stores(context(htc_api), retry)

    @pytest.mark.parametrize(
        ("url", "is_vended"),
        [
            (f"{SHARED}a/b", True),
            (f"{OF_TASK}a", True),
            (f"S3:{OF_TASK[3:]}a", True),
            (f"{BUCKET}projects/{PROJECT}/shared", False),
            (f"{BUCKET}projects/{PROJECT}/shared2/a", False),
            (f"{BUCKET}projects/other/shared/a", False),
            ("s3://other/a", False),
            ("s3://sim-aws_eu_west_1x/projects/a", False),
            ("gs://sim-aws_eu_west_1/projects/a", False),
        ],
    )
    def test_vended_credentials_stay_inside(self, stores, url, is_vended):
        """What is outside of the vended storage is reached with the SDK's own, also in the same bucket."""
        store_url, key = urls.split_object_url(url)
        store = stores.open(store_url, key)
        assert store.url == store_url
        assert (store.access.credentials is not None) == is_vended
        assert is_vended == (store.access is stores.project.access)

    def test_opened_once(self, stores, opened):
        """A store is opened once for each kind of credentials, whatever the key."""
        before = len(opened)
        for key in ("a", "b"):
            stores.open(BUCKET, f"projects/{PROJECT}/shared/{key}")
            stores.open(BUCKET, f"elsewhere/{key}")
        assert len(opened) == before + 2

    def test_local(self, stores, tmp_path):
        """A file's URL needs no access."""
        url, key = urls.split_object_url(f"file://{tmp_path}/a")
        assert stores.open(url, key) is stores.open(url, "other")

    def test_the_longest_place_counts(self, htc_api, retry, opened):
        """Task storage inside of project storage has its own credentials, where those are two."""
        import dataclasses

        from tests.support.servers.htc_api import planted

        htc_api.off.add("regional-storage")
        htc_api.vend = lambda project, task, region: dataclasses.replace(
            planted(project, task, region),
            project="s3://bucket/p/",
            task="s3://bucket/p/tasks/t/" if task else None,
        )
        stores = open_job_stores(context(htc_api), retry)
        assert stores.open("s3://bucket/", "p/tasks/t/a").access is stores.task.access
        assert stores.open("s3://bucket/", "p/a").access is stores.project.access
        assert stores.open("s3://bucket/p/").access is stores.project.access


class TestFullUrlsAlone:
    """A command that is given a URL, and needs neither project nor task storage."""

    @pytest.mark.parametrize(
        ("without", "url", "is_vended"),
        [
            ("", f"{SHARED}a", True),
            ("", f"{OF_TASK}a", True),
            ("", "s3://other/a", False),
            ("RESCALE_HTC_TASK_ID", f"{SHARED}a", True),
            ("RESCALE_HTC_PROJECT_ID", f"{SHARED}a", False),
        ],
    )
    def test_the_api_is_asked_once(self, htc_api, retry, opened, without, url, is_vended):
        """With one request, if it can be asked at all, and the vended credentials stay inside."""
        stores = JobStores(context(htc_api, **({without: ""} if without else {})), retry)
        for _ in range(2):
            store = stores.open(*urls.split_object_url(url))
            assert (store.access.credentials is not None) == is_vended
            assert store.access.retry is retry
        assert len(htc_api.requests) == (0 if without == "RESCALE_HTC_PROJECT_ID" else 1)

    def test_what_is_named_is_not_vended(self, htc_api, retry, opened):
        """Where both storages are named the API is not asked, as by `htcjob run`."""
        where = context(htc_api, HTCJOB_PROJECT_STORE="s3://mine/p", HTCJOB_TASK_STORE="s3://mine/t")
        assert JobStores(where, retry).open(SHARED, "a").access.credentials is None
        assert htc_api.requests == []

    def test_local(self, htc_api, retry, tmp_path):
        """The API is not asked about a file's URL."""
        assert JobStores(context(htc_api), retry).open(f"file://{tmp_path}").url == f"file://{tmp_path}/"
        assert htc_api.requests == []

    @pytest.mark.parametrize("trouble", ["denied", "unknown ids", "a token that has ended", "no context"])
    def test_an_api_that_gives_nothing(self, htc_api, retry, opened, caplog, monkeypatch, trouble):
        """A URL that may lie elsewhere is opened all the same; one warning says why nothing was vended."""
        variables = {}
        if trouble == "denied":
            htc_api.denied.add("storage")
        elif trouble == "unknown ids":
            variables["RESCALE_HTC_PROJECT_ID"] = "nowhere"
        elif trouble == "a token that has ended":
            variables |= {"RESCALE_HTC_BEARER_TOKEN": "opaque-0123456789", "RESCALE_HTC_REFRESH_TOKEN": ""}
        else:
            monkeypatch.setenv("HTCJOB_ARRAY_INDEX", "no number")
        stores = JobStores(None if trouble == "no context" else context(htc_api, **variables), retry)
        for _ in range(2):
            assert stores.open("s3://other/", "a").access.credentials is None
        told = [r.getMessage() for r in caplog.records if r.name == "htcjob.job_stores"]
        assert told == ["no_vended_storage"] * (2 if trouble in ("denied", "unknown ids") else 1)

    @pytest.mark.parametrize("refused", ["project", "task"])
    def test_one_storage_is_refused_and_the_other_is_vended(self, htc_api, retry, opened, caplog, refused):
        """A token may be good for one of them alone."""
        htc_api.denied.add("regional-storage")
        vended = {"project": SHARED, "task": OF_TASK}
        route = {"project": f"/projects/{PROJECT}/storage/token", "task": f"/tasks/{TASK}/storage/token"}
        htc_api.fail_next(99, 403, only=route[refused])
        stores = JobStores(context(htc_api), retry)
        for name, url in vended.items():
            store = stores.open(*urls.split_object_url(f"{url}a"))
            assert (store.access.credentials is None) == (name == refused)
        assert [r.getMessage() for r in caplog.records if r.name == "htcjob.job_stores"] == [
            "no_vended_storage"
        ]

    def test_an_api_that_is_out_of_order_is_waited_for_once(self, htc_api, opened, caplog):
        """Not a second time for the other storage."""
        htc_api.fail_next(99, 503)
        waits = []
        stores = JobStores(context(htc_api), RetryPolicy(retries=3, sleep=waits.append))
        assert stores.open("s3://other/", "a").access.credentials is None
        assert len(waits) == 3
        assert [r.getMessage() for r in caplog.records if r.name == "htcjob.job_stores"] == [
            "no_vended_storage"
        ]
