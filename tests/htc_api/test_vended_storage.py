"""Vended storage: one fetch for all threads, renewed in time, and the old credentials while they are good."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from htcjob.environment.context import read_context
from htcjob.errors import (
    AbsentError,
    DeniedError,
    PermanentError,
    TokenError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.htc_api.renewal import SYSTEM_CLOCK
from htcjob.htc_api.vended_storage import VendedStorages
from htcjob.retry import RetryPolicy
from tests.support.clock import FakeClock
from tests.support.servers.htc_api import PROJECT, TASK, htc_api_fixture, planted  # noqa: F401

TASK_ROUTE = f"/htc/projects/{PROJECT}/tasks/{TASK}/storage"
REGIONAL = f"{TASK_ROUTE}/regional-storage"


@pytest.fixture
def clock():
    return FakeClock(time.time())


def vending(api, clock=SYSTEM_CLOCK, **variables):
    environ = {**api.environ(), **variables}
    return VendedStorages(
        read_context({name: value for name, value in environ.items() if value}), environ={}, clock=clock
    )


def session_token(credentials):
    return credentials.values["AWS_SESSION_TOKEN"].reveal()


class TestRoutes:
    def test_one_request_for_both(self, htc_api):
        """regional-storage gives project and task storage under one credential."""
        job = vending(htc_api)
        project, task = job.project(), job.task()
        assert project.url == f"s3://sim-aws_eu_west_1/projects/{PROJECT}/shared/"
        assert task.url == f"s3://sim-aws_eu_west_1/projects/{PROJECT}/tasks/{TASK}/"
        assert project.credentials is task.credentials
        assert project.region == "eu-west-1"
        project.credentials.current()
        assert htc_api.paths() == [REGIONAL]

    def test_the_jobs_region(self, htc_api):
        """With storage in two regions, that of the job's is used, and else the default one's."""
        htc_api.regions = ["AWS_EU_WEST_1", "AWS_US_EAST_2"]
        assert vending(htc_api, RESCALE_HTC_REGION="AWS_US_EAST_2").task().region == "us-east-2"
        assert vending(htc_api, RESCALE_HTC_REGION="").task().region == "eu-west-1"

    @pytest.mark.parametrize("missing", ["off", "denied"])
    def test_without_regional_storage(self, htc_api, missing):
        """404 or 403 there: each storage has a token of its own, for the job's region."""
        getattr(htc_api, missing).add("regional-storage")
        job = vending(htc_api)
        project, task = job.project(), job.task()
        assert project.credentials is not task.credentials
        assert htc_api.paths() == [
            REGIONAL,
            f"/htc/projects/{PROJECT}/storage/token/AWS_EU_WEST_1",
            f"{TASK_ROUTE}/token/AWS_EU_WEST_1",
        ]
        assert task.url.endswith(f"/tasks/{TASK}/")
        assert project.url.endswith("/shared/")

    @pytest.mark.parametrize("region", ["", "AWS_AP_SOUTH_1"])
    def test_without_storage_in_the_jobs_region(self, htc_api, region):
        """The token for the default region is taken."""
        htc_api.off.add("regional-storage")
        assert vending(htc_api, RESCALE_HTC_REGION=region).task().region == "eu-west-1"
        assert htc_api.paths()[-1] == f"{TASK_ROUTE}/token"

    def test_regional_storage_without_a_path(self, htc_api):
        """What lacks there is asked for by itself; the other is not."""
        htc_api.vend = lambda project, task, region: replace(
            planted(project, task, region), **({"project": None} if task else {})
        )
        job = vending(htc_api)
        project, task = job.project(), job.task()
        assert htc_api.paths() == [REGIONAL, f"/htc/projects/{PROJECT}/storage/token/AWS_EU_WEST_1"]
        assert project.credentials is not task.credentials

    def test_without_a_task(self, htc_api):
        """Project storage needs the project's id only."""
        assert vending(htc_api, RESCALE_HTC_TASK_ID="").project().url.endswith("/shared/")
        assert htc_api.paths() == [f"/htc/projects/{PROJECT}/storage/token/AWS_EU_WEST_1"]

    def test_no_path_anywhere(self, htc_api):
        """It is said, not guessed."""
        htc_api.vend = lambda *where: replace(planted(*where), task=None)
        with pytest.raises(PermanentError, match="no path of this storage"):
            vending(htc_api).task()

    def test_unknown_ids(self, htc_api):
        """A project that the API does not know is absent."""
        with pytest.raises(AbsentError, match="HTTP 404"):
            vending(htc_api, RESCALE_HTC_PROJECT_ID="other").project()

    def test_denied(self, htc_api):
        """A token that may not have storage is denied."""
        htc_api.denied.add("storage")
        with pytest.raises(DeniedError, match="job tokens may not"):
            vending(htc_api).task()


class TestRenewal:
    def test_one_fetch_for_32_threads(self, htc_api, clock):
        """Credentials that have ended are fetched once, and all threads get the same."""
        source = vending(htc_api, clock).task().credentials
        clock.move(3601)
        htc_api.clock_ahead_s = 3601
        with ThreadPoolExecutor(32) as pool:
            given = list(pool.map(lambda _: source.current(), range(64)))
        assert len({session_token(credentials) for credentials in given}) == 1
        assert len(htc_api.requests) == 2

    def test_ahead_of_the_end(self, htc_api, clock):
        """Two minutes before an hour is over."""
        source = vending(htc_api, clock).task().credentials
        first = source.current()
        clock.move(3470)
        assert source.current() is first
        clock.move(15)
        assert source.current() != first

    def test_refused_once(self, htc_api):
        """Refused credentials are replaced; when the new ones are refused too, no more are fetched."""
        source = vending(htc_api).task().credentials
        first = source.current()
        with ThreadPoolExecutor(32) as pool:
            assert all(pool.map(lambda _: source.refused(first), range(32)))
        second = source.current()
        assert session_token(second) != session_token(first)
        assert not source.refused(second)
        assert htc_api.paths() == [REGIONAL] * 2

    def test_lives_of_5_s(self, htc_api, clock):
        """A minute of requests costs fifteen fetches."""
        htc_api.vend = lambda *where: replace(planted(*where), expires_at=clock.time() + 5)
        htc_api.clock_ahead_s = 0.0
        source = vending(htc_api, clock).task().credentials
        for _ in range(600):
            source.current()
            clock.move(0.1)
            htc_api.clock_ahead_s = clock.monotonic()
            htc_api.vend = lambda *where: replace(planted(*where), expires_at=time.time() + 5)
        assert 14 <= len(htc_api.requests) <= 17

    def test_clock_skew(self, htc_api):
        """An API whose clock is two hours behind ours vends credentials that look expired; they are used."""
        htc_api.clock_ahead_s = -7200.0
        source = vending(htc_api).task().credentials
        for _ in range(5):
            assert source.current().expires_at == pytest.approx(time.time() + 3600, abs=30)
        assert len(htc_api.requests) == 1

    def test_an_end_that_is_not_said(self, htc_api, clock):
        """They are renewed after ten minutes, and not before."""
        htc_api.vend = lambda *where: replace(planted(*where), expires_at=None)
        source = vending(htc_api, clock).task().credentials
        first = source.current()
        assert first.expires_at is None
        clock.move(599)
        assert source.current() is first
        clock.move(2)
        assert source.current() != first


class TestFailure:
    def test_the_api_is_down_while_the_old_ones_are_good(self, htc_api, clock, caplog):
        """They are used until their end, with one warning; then the failure is transient."""
        source = vending(htc_api, clock).task().credentials
        first = source.current()
        clock.move(3500)
        htc_api.fail_next(1000, 503)
        with caplog.at_level(logging.WARNING, "htcjob"):
            for _ in range(90):
                assert source.current() is first
                clock.move(1)
        assert [r.getMessage() for r in caplog.records] == ["not_renewed"]
        assert len(htc_api.requests) <= 15  # pauses of 0.25, 0.5, 1, 2, 4, 8, 10, 10 … s at the least
        clock.move(30)
        with pytest.raises(TransientError, match="HTTP 503"):
            source.current()

    def test_retry_after(self, htc_api, clock):
        """An API that asks for 30 s is left alone for 30 s, whoever needs credentials."""
        source = vending(htc_api, clock).task().credentials
        clock.move(3601)
        htc_api.fail_next(1, 429, {"Retry-After": "30"})
        for _ in range(3):
            with pytest.raises(TransientError) as caught:
                source.current()
            assert caught.value.is_throttled
            assert caught.value.retry_after_s == pytest.approx(30.0 - (clock.monotonic() - 3601))
            clock.move(9.5)
        assert len(htc_api.requests) == 2
        clock.move(2)
        htc_api.clock_ahead_s = clock.monotonic()
        assert source.current()
        assert len(htc_api.requests) == 3

    def test_opening_is_retried_by_the_policy(self, htc_api, clock):
        """After the time that the API asked for."""
        htc_api.fail_next(1, 503, {"Retry-After": "7"})
        htc_api.fail_next(1, 500)
        job = vending(htc_api, clock)
        assert RetryPolicy(sleep=clock.sleep).call(job.task).url
        assert clock.slept[0] == pytest.approx(7.0, abs=0.1)
        assert len(htc_api.requests) == 3

    @pytest.mark.parametrize("status", [400, 401, 403, 404])
    def test_no_new_ones(self, htc_api, clock, status):
        """Whatever the API says in the middle of a job, it is about every object: unauthenticated."""
        source = vending(htc_api, clock).task().credentials
        clock.move(3601)
        htc_api.fail_next(10, status, only="storage")
        for _ in range(5):
            with pytest.raises(UnauthenticatedError, match=f"HTTP {status}") as caught:
                source.current()
        assert caught.value.url.endswith("regional-storage")
        assert htc_api.paths().count(REGIONAL) == (3 if status == 401 else 2)

    def test_the_token_ends_in_the_middle(self, htc_api, clock):
        """Then the message says what the job should have been started with."""
        job = vending(htc_api, clock, RESCALE_HTC_REFRESH_TOKEN="")
        source = job.task().credentials
        htc_api.bearer_tokens.clear()
        with pytest.raises(UnauthenticatedError, match="RESCALE_HTC_REFRESH_TOKEN"):
            source.refused(source.current())

    def test_the_token_has_ended_at_the_start(self, htc_api):
        """A TokenError, as for any bad token."""
        job = vending(htc_api, RESCALE_HTC_BEARER_TOKEN="planted-opaque-token", RESCALE_HTC_REFRESH_TOKEN="")
        with pytest.raises(TokenError, match="RESCALE_HTC_REFRESH_TOKEN"):
            job.task()

    def test_the_token_is_renewed_on_the_way(self, htc_api, clock):
        """Storage credentials are bought with a fresh bearer token when the old one is refused."""
        source = vending(htc_api, clock).task().credentials
        htc_api.bearer_tokens.clear()
        assert source.refused(source.current())
        assert htc_api.paths() == [REGIONAL, REGIONAL, "/auth/token", REGIONAL]


def test_no_secret_is_shown(htc_api, clock, caplog):
    """Planted values are in no log line, error, traceback or repr of all this."""
    import traceback

    texts = []
    job = vending(htc_api, clock)
    with caplog.at_level(logging.DEBUG):
        storage = job.task()
        texts += [
            repr(storage),
            repr(storage.credentials.current()),
            repr(storage.credentials.grant()),
            repr(job),
        ]
        clock.move(3500)
        for status in (503, 403, 401, 302, 400):
            vended = storage.credentials.grant().credentials.values.values()
            said = " ".join([*htc_api.bearer_tokens, *(secret.reveal() for secret in vended)])
            body = b'{"errorDescription":"%s"}' % said.encode()
            htc_api.fail_next(1, status, {"Location": f"https://x/?token={said}"}, body=body, only="storage")
            clock.move(25)
            for act in (
                storage.credentials.current,
                lambda: storage.credentials.refused(storage.credentials.current()),
            ):
                try:
                    texts.append(repr(act()))
                except Exception:
                    texts.append(traceback.format_exc())
    texts += [str(record.__dict__) for record in caplog.records]
    assert any("HTTP 403" in text for text in texts)
    secrets = ["planted", *htc_api.bearer_tokens, *(t.split(".")[1] for t in htc_api.bearer_tokens)]
    for text in texts:
        for secret in secrets:
            assert secret not in text
