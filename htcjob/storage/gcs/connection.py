"""
How Google Cloud Storage is reached: the SDK's client, its session, and the token in each request.

Without vended credentials Google's chain is asked at the first request, not before. Where nothing is
configured it ends at the machine's metadata server: asked once per process, three times, for 3 s each at most
(GCE_METADATA_TIMEOUT, GCE_METADATA_DETECT_RETRIES), and not at all with NO_GCE_CHECK=true.
"""

# mypy: allow-untyped-calls
# (google-auth says that it has types, and has few.)

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import google.auth
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud import storage
from google.cloud.storage.exceptions import InvalidResponse
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter

from htcjob.storage.variables import is_true

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

    from htcjob.logs.redact import Secret
    from htcjob.storage.access import Access, CredentialSource

TIMEOUT_S = (10, 60)
"""To connect, and between two pieces of an answer."""

_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
_CONNECTIONS = 64


class Connection:
    """The SDK's client and its session, made when they are first needed."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._made: tuple[Any, AuthorizedSession] | GoogleAuthError | None = None

    @property
    def client(self) -> Any:
        """The client; a GoogleAuthError when there are no credentials, which are looked for only once."""
        return self._get()[0]

    @property
    def session(self) -> Any:
        """The client's session, which adds the credentials to each request."""
        return self._get()[1]

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        stream: bool = False,
        expected: int = 200,
    ) -> requests.Response:
        """Make a request to the XML API; an answer whose status is not *expected* is an InvalidResponse."""
        answer: requests.Response = self.session.request(
            method,
            f"{self.client.api_endpoint}/{path}",
            data=data,
            headers=headers,
            timeout=TIMEOUT_S,
            stream=stream,
        )
        if answer.status_code != expected:
            with answer:
                if answer.status_code >= 300:
                    answer.content  # noqa: B018 - read and kept, for `errors.py`
            raise InvalidResponse(answer)
        return answer

    def _get(self) -> tuple[Any, AuthorizedSession]:
        with self._lock:
            if self._made is None:
                try:
                    self._made = _connect(self._access)
                except GoogleAuthError as error:
                    self._made = error
            if isinstance(self._made, GoogleAuthError):
                raise self._made
            return self._made


class _Vended(Credentials):
    """
    The credentials of the source at the moment of each request.

    The SDK's own renewal has no part in it: it refuses tokens with less than 3 min 45 s to live.
    """

    def __init__(self, source: CredentialSource) -> None:
        super().__init__()
        self._source = source
        self._lock = threading.Lock()
        self._account: tuple[Secret, Any] | None = None

    def before_request(self, request: Any, method: str, url: str, headers: dict[str, str]) -> None:
        """Add the token to *headers*."""
        values = self._source.current().values
        if token := values.get("GCP_ACCESS_TOKEN"):
            self.apply(headers, token.reveal())
        elif key := values.get("GCP_APPLICATION_CREDENTIALS"):
            with self._lock:  # one thread fetches a token for all
                self._of_account(key).before_request(request, method, url, headers)
        else:
            raise GoogleAuthError("what was vended has neither access token nor service account")

    def refresh(self, request: Any) -> None:
        """Nothing: `before_request` never asks for it."""

    def _of_account(self, key: Secret) -> Any:
        if self._account is None or self._account[0] != key:
            try:
                account = service_account.Credentials.from_service_account_info(
                    json.loads(key.reveal()), scopes=_SCOPES
                )
            except (ValueError, TypeError, AttributeError) as error:
                # From None: the error may quote the key.
                raise GoogleAuthError(
                    f"the service account's JSON is malformed ({type(error).__name__})"
                ) from None
            self._account = key, account
        return self._account[1]


class _Session(AuthorizedSession):
    """Follows no redirection: credentials, and what is believed, are the endpoint's alone."""

    def request(self, *arguments: Any, **options: Any) -> Any:
        """Make a request."""
        return super().request(*arguments, **{**options, "allow_redirects": False})


def _connect(access: Access) -> tuple[Any, AuthorizedSession]:
    emulator = access.environ.get("STORAGE_EMULATOR_HOST")
    endpoint = (access.endpoint or emulator or "").rstrip("/")
    if access.credentials is not None:
        session = _Session(_Vended(access.credentials), refresh_status_codes=())
    elif emulator or is_true(access.environ.get("GOOGLE_SKIP_SIGNATURE")):
        session = _Session(AnonymousCredentials(), refresh_status_codes=())
    else:
        session = _Session(google.auth.default(_SCOPES, request=Request())[0])
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=_CONNECTIONS, max_retries=0)
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)
    client = storage.Client(
        project=None,  # needed for buckets only
        credentials=session.credentials,
        client_options={"api_endpoint": endpoint} if endpoint else None,
        _http=session,
    )
    # The SDK (3.17) reads each bucket's own metadata unasked, for traces that nobody records.
    client._bucket_metadata_cache = None  # noqa: SLF001
    return client, session
