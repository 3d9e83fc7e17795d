"""
Storage that the HTC API vends to the job: where it is, and credentials that are renewed.

One request gives both storages of a job (`regional-storage`); where the API has none of these for it, each
has a request of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from htcjob.errors import (
    AbsentError,
    DeniedError,
    HtcjobError,
    PermanentError,
    StorageError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.htc_api.renewal import SYSTEM_CLOCK, Renewed
from htcjob.htc_api.session import Session
from htcjob.htc_api.storage_answers import Grant, grant_of_regions, grant_of_token

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from htcjob.environment.context import JobContext
    from htcjob.htc_api.client import ApiAnswer
    from htcjob.htc_api.renewal import Clock
    from htcjob.storage.access import CloudCredentials

AHEAD_S = 120.0
"""How long before their end storage credentials are renewed …"""
AHEAD_SHARE = 0.2
"""… and at most this share of their life: those of 5 s are fetched every 4 s."""
UNKNOWN_LIFE_S = 600.0
"""When credentials that do not say their end are renewed: AWS vends none for less than 900 s
(docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html), and the schema of `regional-storage` has
no `expiration`."""


class VendedCredentials:
    """
    Storage credentials from one route of the API: a `CredentialSource` that all threads share.

    Args:
        fetch: Asks the API.
        clock: For tests.
    """

    def __init__(self, fetch: Callable[[], Grant], *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._fetch = fetch
        self._grant: Grant | None = None
        self._renewed: Renewed[CloudCredentials] = Renewed(
            "storage_credentials",
            self._fetch_credentials,
            ahead_s=AHEAD_S,
            ahead_share=AHEAD_SHARE,
            unknown_life_s=UNKNOWN_LIFE_S,
            clock=clock,
        )

    def grant(self) -> Grant:
        """
        Return what the API has granted last, asking it the first time.

        Raises:
            StorageError: as `HtcApi.get`.
            TokenError: the bearer token has ended and cannot be renewed.
        """
        while self._grant is None:
            self._renewed.current()
        return self._grant

    def current(self) -> CloudCredentials:
        """
        Return credentials that are valid for a while, fetched or renewed when that is needed.

        Raises:
            TransientError: the API cannot be asked now.
            UnauthenticatedError: it gives none. Its reason (denied, absent, the bearer token has ended) is
                not about the object that they are wanted for, but about every one.
        """
        try:
            return self._renewed.current()
        except HtcjobError as error:
            raise _about_every_object(error) from error

    def refused(self, credentials: CloudCredentials) -> bool:
        """
        Note that a store did not accept *credentials*; return True when there are others now.

        Others are fetched here, once for all threads. Credentials that are refused soon after such a fetch
        are kept: their age was not the cause.

        Raises:
            StorageError: as `current`.
        """
        try:
            return self._renewed.refused(credentials)
        except HtcjobError as error:
            raise _about_every_object(error) from error

    def _fetch_credentials(self, _: CloudCredentials | None) -> tuple[CloudCredentials, float | None]:
        grant = self._grant = self._fetch()
        return grant.credentials, grant.credentials.expires_at


def _about_every_object(error: HtcjobError) -> HtcjobError:
    """Return what a failure to get credentials means for the object that they are wanted for."""
    if isinstance(error, TransientError):
        return error.again(retry_after_s=error.retry_after_s)
    if isinstance(error, StorageError):
        return UnauthenticatedError(
            error.operation, error.url, f"no storage credentials to be had: {error.reason}"
        )
    return UnauthenticatedError("renew", "storage credentials", str(error))


@dataclass(frozen=True, slots=True)
class VendedStorage:
    """Project or task storage, as the API vends it."""

    url: str
    """As `open_store` takes it, ending in `/`."""
    region: str | None
    """The cloud's own name, where the store must be told."""
    endpoint: str | None
    """A compatible server; None: the cloud's own."""
    credentials: VendedCredentials
    """Credentials for this storage; one object for project and task storage where it serves both."""


class VendedStorages:
    """
    The storages that the API vends to one job.

    Args:
        context: The job. Project storage needs a token and the project's id, task storage the task's id too.
        environ: Where the proxies are, as for `HtcApi`.
        clock: For tests.
    """

    def __init__(
        self, context: JobContext, *, environ: Mapping[str, str] | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._session = Session(context, environ=environ, clock=clock)
        self._clock = clock
        self._region = context.region
        self._project = ("htc", "projects", context.project_id or "")
        self._task = (*self._project, "tasks", context.task_id) if context.task_id else None
        self._regional = (
            VendedCredentials(self._fetch_regional, clock=clock) if self._task is not None else None
        )

    def project(self) -> VendedStorage:
        """
        Return project storage.

        Raises:
            StorageError: as `HtcApi.get`.
            TokenError: the bearer token has ended and cannot be renewed.
        """
        return self._storage(self._project, lambda grant: grant.project_url)

    def task(self) -> VendedStorage:
        """
        Return task storage.

        Raises:
            StorageError: as `HtcApi.get`.
            TokenError: the bearer token has ended and cannot be renewed.
        """
        return self._storage(self._task or self._project, lambda grant: grant.task_url)

    def _storage(self, route: tuple[str, ...], url_in: Callable[[Grant], str | None]) -> VendedStorage:
        if self._regional is not None:
            try:
                grant = self._regional.grant()
            except (AbsentError, DeniedError):
                self._regional = None  # an older API, or a token that may not
            else:
                if url := url_in(grant):
                    return VendedStorage(url, grant.region, grant.endpoint, self._regional)
        own = VendedCredentials(lambda: self._fetch_own(route), clock=self._clock)
        grant = own.grant()
        if url := url_in(grant):
            return VendedStorage(url, grant.region, grant.endpoint, own)
        raise PermanentError("GET", "/".join(route), "the answer has no path of this storage")

    def _fetch_regional(self) -> Grant:
        answer = self._session.get(*(self._task or ()), "storage", "regional-storage")
        return grant_of_regions(answer, self._region, now=self._clock.time())

    def _fetch_own(self, route: tuple[str, ...]) -> Grant:
        return grant_of_token(self._token_answer((*route, "storage", "token")), now=self._clock.time())

    def _token_answer(self, route: tuple[str, ...]) -> ApiAnswer:
        """Return the token for the job's region, or for the default one where the job's has no storage."""
        if self._region is not None:
            try:
                return self._session.get(*route, self._region)
            except AbsentError:
                pass
        return self._session.get(*route)
