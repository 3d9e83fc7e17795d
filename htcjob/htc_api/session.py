"""The HTC API with this job's bearer token, which is renewed ahead of its end and when it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from htcjob.environment.tokens import read_token_file
from htcjob.errors import (
    ConfigurationError,
    DeniedError,
    PermanentError,
    TokenError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.htc_api.bearer_token import expiry_hint
from htcjob.htc_api.client import ApiAnswer, HtcApi, token_in
from htcjob.htc_api.renewal import SYSTEM_CLOCK, Renewed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from htcjob.environment.context import JobContext
    from htcjob.htc_api.renewal import Clock
    from htcjob.logs.redact import Secret

AHEAD_S = 300.0
"""How long before its end a bearer token is renewed …"""
AHEAD_SHARE = 0.1
"""… and at most this share of its life, of 6 hours on the platform."""

LONGEST_LIFE_S = 366 * 86400.0
"""Seconds; a longer life is taken for this one."""


class Session:
    """
    The API as this job may use it, from any thread.

    The bearer token is renewed from its file, where the platform has put another there, or else with the
    refresh token. Without both it is used until it is refused.

    Args:
        context: The job: API, tokens.
        environ: Where the proxies are, as for `HtcApi`.
        clock: For tests.
    """

    def __init__(
        self, context: JobContext, *, environ: Mapping[str, str] | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.clock = clock
        self._context = context
        self._api = HtcApi(context.api_url, environ=environ, clock=clock)
        self._token: Renewed[Secret] = Renewed(
            "bearer_token",
            self._fetch_token,
            ahead_s=AHEAD_S,
            ahead_share=AHEAD_SHARE,
            first=None if context.token is None else (context.token, self._end_of(context.token)),
            clock=clock,
        )

    def get(self, *route: str) -> ApiAnswer:
        """
        Return the answer to `GET route`, asked again with a new token when the first is refused.

        Raises:
            StorageError: as `HtcApi.get`.
            TokenError: the bearer token has ended and cannot be renewed.
        """
        token = self._token.current()
        try:
            return self._api.get(*route, scheme="Bearer", secret=token)
        except UnauthenticatedError:
            if not self._token.refused(token):
                raise
        return self._api.get(*route, scheme="Bearer", secret=self._token.current())

    def _fetch_token(self, old: Secret | None) -> tuple[Secret, float | None]:
        """Return another token than *old*, and its end."""
        if self._context.token_file is not None:
            try:
                token = read_token_file(self._context.token_file)
                if token != old:
                    return token, self._end_of(token)
            except ConfigurationError:
                pass  # gone, or just being written: it was good when the job started
        if self._context.refresh_token is None:
            raise TokenError(
                "the bearer token has ended, or ends soon, and nothing renews it: start the job with "
                "RESCALE_HTC_REFRESH_TOKEN, with a token that outlives it, "
                "or with HTCJOB_TOKEN_FILE, a file that the platform keeps fresh"
            )
        try:
            answer = self._api.get("auth", "token", scheme="Refresh", secret=self._context.refresh_token)
        except (UnauthenticatedError, DeniedError) as error:
            raise TokenError(
                "the bearer token cannot be renewed with RESCALE_HTC_REFRESH_TOKEN: "
                f"{error.reason} ({error.url})"
            ) from error
        return self._new_token(answer)

    def _new_token(self, answer: ApiAnswer) -> tuple[Secret, float | None]:
        token, life_s = token_in(answer), answer.body.get("expiresIn")
        if token is None:
            raise PermanentError("GET", answer.url, "the answer has no tokenValue")
        if not isinstance(life_s, (int, float)) or isinstance(life_s, bool):
            return token, self._end_of(token)
        if not life_s > 0:
            raise TransientError("GET", answer.url, "the new bearer token has ended already")
        return token, self.clock.time() + min(life_s, LONGEST_LIFE_S)

    def _end_of(self, token: Secret) -> float | None:
        """Return when a token ends; None where it does not say, or where nothing could renew it anyway."""
        context = self._context
        is_renewable = context.refresh_token is not None or context.token_file is not None
        return expiry_hint(token) if is_renewable else None
