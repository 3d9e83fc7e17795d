"""The job's bearer token: renewed in time, renewed when refused, and a clear end when it cannot be."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from htcjob.environment.context import read_context
from htcjob.errors import DeniedError, PermanentError, TokenError, TransientError, UnauthenticatedError
from htcjob.htc_api.bearer_token import expiry_hint
from htcjob.htc_api.renewal import SYSTEM_CLOCK
from htcjob.htc_api.session import Session
from htcjob.logs.redact import Secret
from tests.support.clock import FakeClock
from tests.support.servers.htc_api import PROJECT, htc_api_fixture  # noqa: F401

ROUTE = ("htc", "projects", PROJECT, "storage", "token")
REFRESH = "/auth/token"


def session(api, clock=SYSTEM_CLOCK, **variables):
    environ = {**api.environ(), **variables}
    context = read_context({name: value for name, value in environ.items() if value})
    return Session(context, environ={}, clock=clock)


def counts(api):
    """Return how many refreshes and other requests there were."""
    refreshes = api.paths().count(REFRESH)
    return refreshes, len(api.paths()) - refreshes


def test_a_good_token_is_used(htc_api):
    """No renewal is made for it."""
    job = session(htc_api)
    for _ in range(3):
        job.get(*ROUTE)
    assert counts(htc_api) == (0, 3)


def test_renewed_ahead_of_its_end(htc_api):
    """A token that ends soon is renewed before a request is made with it."""
    clock = FakeClock(time.time())
    job = session(htc_api, clock, RESCALE_HTC_BEARER_TOKEN=htc_api.new_token(life_s=3000))
    clock.move(2690)
    job.get(*ROUTE)
    assert counts(htc_api) == (0, 1)
    clock.move(20)
    job.get(*ROUTE)
    assert htc_api.paths()[1] == REFRESH
    assert counts(htc_api) == (1, 2)


def test_renewed_when_refused(htc_api):
    """A 401 is answered with one renewal and one more request."""
    job = session(htc_api, RESCALE_HTC_BEARER_TOKEN="opaque-and-unknown-0123456789")
    assert job.get(*ROUTE).body
    assert [r.status for r in htc_api.requests] == [401, 200, 200]
    job.get(*ROUTE)
    assert counts(htc_api) == (1, 3)


def test_one_renewal_for_32_threads(htc_api):
    """However many requests are refused at once."""
    job = session(htc_api, RESCALE_HTC_BEARER_TOKEN="opaque-and-unknown-0123456789")
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: job.get(*ROUTE), range(32)))
    assert len(answers) == 32
    assert htc_api.paths().count(REFRESH) == 1


def test_refused_again(htc_api):
    """A new token that is refused as well is the end: one renewal, two requests."""
    job = session(htc_api)
    htc_api.fail_next(2, 401, only="storage")
    with pytest.raises(UnauthenticatedError, match="HTTP 401"):
        job.get(*ROUTE)
    assert counts(htc_api) == (1, 2)


def test_only_a_refresh_token(htc_api):
    """It is enough."""
    assert session(htc_api, RESCALE_HTC_BEARER_TOKEN="").get(*ROUTE).body
    assert counts(htc_api) == (1, 1)


def test_short_lived_tokens_are_no_storm(htc_api):
    """Tokens of half a second: each is used for nine tenths of its life, not for one request."""
    htc_api.token_life_s = 0.5
    job = session(htc_api, RESCALE_HTC_BEARER_TOKEN="")
    started = time.monotonic()
    for _ in range(100):
        job.get(*ROUTE)
    refreshes, _ = counts(htc_api)
    assert refreshes <= (time.monotonic() - started) / 0.45 + 2


class TestWithoutRefreshToken:
    def test_refused(self, htc_api):
        """The message says what to start the job with."""
        job = session(
            htc_api, RESCALE_HTC_BEARER_TOKEN="opaque-and-unknown-0123456789", RESCALE_HTC_REFRESH_TOKEN=""
        )
        with pytest.raises(TokenError, match=r"RESCALE_HTC_REFRESH_TOKEN.*HTCJOB_TOKEN_FILE"):
            job.get(*ROUTE)
        assert counts(htc_api) == (0, 1)

    def test_ended(self, htc_api):
        """So does that for a token whose own end is past."""
        token = htc_api.new_token(life_s=-100)
        job = session(htc_api, RESCALE_HTC_BEARER_TOKEN=token, RESCALE_HTC_REFRESH_TOKEN="")
        with pytest.raises(TokenError, match="has ended"):
            job.get(*ROUTE)

    def test_it_serves_until_it_is_refused(self, htc_api, caplog):
        """Near its end, too, and past it where our clock is wrong; nothing is said before."""
        clock = FakeClock(time.time())
        job = session(htc_api, clock, RESCALE_HTC_REFRESH_TOKEN="")
        clock.move(1e6)
        with caplog.at_level(logging.WARNING, "htcjob"):
            assert job.get(*ROUTE).body
        assert caplog.records == []


class TestRefresh:
    def test_refused(self, htc_api):
        """A refresh token that the API does not know is a TokenError that names the variable."""
        job = session(htc_api, RESCALE_HTC_BEARER_TOKEN="", RESCALE_HTC_REFRESH_TOKEN="planted-unknown-token")
        with pytest.raises(TokenError, match="RESCALE_HTC_REFRESH_TOKEN: HTTP 401") as caught:
            job.get(*ROUTE)
        assert "planted" not in str(caught.value)

    def test_unavailable(self, htc_api):
        """An API that cannot renew it now is transient, Retry-After included."""
        htc_api.fail_next(1, 429, {"Retry-After": "11"}, only="auth")
        job = session(htc_api, RESCALE_HTC_BEARER_TOKEN="")
        with pytest.raises(TransientError) as caught:
            job.get(*ROUTE)
        assert caught.value.retry_after_s == pytest.approx(11, abs=1)
        assert caught.value.is_throttled

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (b"{}", PermanentError),
            (b'{"tokenValue":7}', PermanentError),
            (b'{"tokenValue":""}', PermanentError),
            (b'{"tokenValue":"a\\r\\nHost: x"}', PermanentError),
            (b'{"tokenValue":"\xc3\xa9"}', PermanentError),
            (b'{"tokenValue":"planted-new-token","expiresIn":0}', TransientError),
            (b'{"tokenValue":"planted-new-token","expiresIn":-5}', TransientError),
            (b'{"tokenValue":"planted-new-token","expiresIn":NaN}', TransientError),
        ],
    )
    def test_garbage(self, htc_api, body, kind):
        """An answer without a token that fits into a header is refused."""
        htc_api.fail_next(1, 200, body=body, only="auth")
        with pytest.raises(kind):
            session(htc_api, RESCALE_HTC_BEARER_TOKEN="").get(*ROUTE)
        assert counts(htc_api) == (1, 0)

    @pytest.mark.parametrize("life", [b'"soon"', b"null", b"true"])
    def test_a_life_that_is_no_number(self, htc_api, life):
        """The token is good all the same, until it is refused."""
        token = htc_api.new_token().encode()
        htc_api.fail_next(1, 200, body=b'{"tokenValue":"%s","expiresIn":%s}' % (token, life), only="auth")
        assert session(htc_api, RESCALE_HTC_BEARER_TOKEN="").get(*ROUTE).body

    def test_denied_is_no_reason_to_renew(self, htc_api):
        """403 is about the request, not about the token."""
        htc_api.denied = {"storage"}
        with pytest.raises(DeniedError):
            session(htc_api).get(*ROUTE)
        assert counts(htc_api) == (0, 1)


class TestTokenFile:
    def test_it_is_read_again(self, htc_api, tmp_path):
        """When the old token is refused, the one that the platform has put there since is used."""
        path = tmp_path / "token"
        path.write_text("opaque-and-unknown-0123456789\n")
        job = session(htc_api, HTCJOB_TOKEN_FILE=str(path))
        path.write_text(htc_api.new_token() + "\n")
        assert job.get(*ROUTE).body
        assert counts(htc_api) == (0, 2)

    @pytest.mark.parametrize("held", ["opaque-and-unknown-0123456789", "", None])
    def test_without_another_token_in_it(self, htc_api, tmp_path, held):
        """The same one, an empty file or none at all: the refresh token serves."""
        path = tmp_path / "token"
        path.write_text("opaque-and-unknown-0123456789")
        job = session(htc_api, HTCJOB_TOKEN_FILE=str(path))
        path.unlink() if held is None else path.write_text(held)
        assert job.get(*ROUTE).body
        assert counts(htc_api) == (1, 2)

    def test_the_platform_is_late(self, htc_api, tmp_path, caplog):
        """Near its end the old token serves, with one warning, until another is in the file."""
        path = tmp_path / "token"
        path.write_text(htc_api.new_token(life_s=1000))
        clock = FakeClock(time.time())
        job = session(htc_api, clock, HTCJOB_TOKEN_FILE=str(path), RESCALE_HTC_REFRESH_TOKEN="")
        clock.move(950)
        with caplog.at_level(logging.WARNING, "htcjob"):
            for _ in range(5):
                assert job.get(*ROUTE).body
        assert [r.getMessage() for r in caplog.records] == ["not_renewed"]
        new = htc_api.new_token()
        path.write_text(new)
        clock.move(1)
        job.get(*ROUTE)
        assert htc_api.requests[-1].authorization == f"Bearer {new}"

    def test_the_path_is_in_the_context(self, tmp_path):
        """So that it can be read again."""
        path = tmp_path / "token"
        path.write_text("opaque-and-unknown-0123456789")
        assert read_context({"HTCJOB_TOKEN_FILE": str(path)}).token_file == str(path)
        assert read_context({"RESCALE_HTC_BEARER_TOKEN": "opaque-0123456789"}).token_file is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a.b",
        "a.b.c",
        "..",
        "a.W10.c",
        "a.e30.c",
        "a.eyJleHAiOiJ4In0.c",
        "a.eyJleHAiOjFlOTl9.c",
        "a.é.c",
    ],
)
def test_no_expiry_hint(text):
    """A token that does not say its end in a way we know gives none, and no error."""
    assert expiry_hint(Secret(text)) is None


def test_expiry_hint(htc_api):
    """The `exp` of a JWT is read without checking anything."""
    token = htc_api.new_token(life_s=100)
    assert expiry_hint(Secret(token)) == htc_api.bearer_tokens[token]
