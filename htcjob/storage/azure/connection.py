"""How a container of Azure is reached: the SDK's client, its connections, and what opens the account."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import requests
from azure.core.credentials import AzureSasCredential
from azure.core.pipeline import Pipeline
from azure.core.pipeline.policies import AzureSasCredentialPolicy, BearerTokenCredentialPolicy
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest, HttpResponse
from azure.storage.blob import ContainerClient
from requests.adapters import HTTPAdapter

from htcjob.errors import StorageError, UnauthenticatedError
from htcjob.storage.azure.account import AzureAccount, find_account
from htcjob.storage.azure.errors import AzureFailure, meaning, without_url
from htcjob.storage.bucket import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from htcjob.storage.access import Access, CloudCredentials

T = TypeVar("T")

CONNECTIONS = 64
"""Connections that are kept open; the SDK keeps 10 (Azure/azure-sdk-for-python#38054)."""
MOST_BLOCKS = 50_000
"""Blocks that one blob may have: learn.microsoft.com/azure/storage/blobs/scalability-targets"""

_CONNECT_S, _READ_S = 10, 60
_BLOCK_BYTES = 1 << 18
_STORAGE_SCOPE = "https://storage.azure.com/.default"

# Without a handler anywhere, Python would print the SDK's warnings about every broken connection.
logging.getLogger("azure").addHandler(logging.NullHandler())


class Connection:
    """
    The SDK's client of one container, and requests with the credentials of the moment. For any thread.

    Args:
        container: `account/container`.
        access: How it is reached.

    Raises:
        UnauthenticatedError: there are no credentials for this account.
        ConfigurationError: a variable of Azure cannot be understood.
    """

    def __init__(self, container: str, access: Access) -> None:
        account_name, _, name = container.partition("/")
        account = find_account(account_name, access)
        self.url = f"az://{container}"
        """URL of the container, for messages."""
        self._path = container
        self._source = access.credentials
        self._lock = threading.Lock()
        self._sas = AzureSasCredential(account.sas.reveal() if account.sas else "")
        self._container_url = f"{account.endpoint}/{quote(name)}"
        self._host = urlsplit(account.endpoint).netloc
        transport = _transport()
        self.client = ContainerClient(
            account.endpoint,
            name,
            credential=self._credential_of(account, account_name),
            transport=transport,
            retry_total=0,
            permit_redirects=False,
            max_single_put_size=MOST_BLOCKS * PART_BYTES,  # `AzureBucket.upload` cuts, not the SDK
        )
        """The client of the SDK."""
        # The SDK reads the whole answer into memory, makes up to three requests when it is cut short, with
        # pauses of a second, and two for an empty blob. So whole blobs and ranges are asked for one layer
        # below it, with its own connections and credentials.
        self._pipeline: Pipeline[HttpRequest, HttpResponse] = Pipeline(
            transport, [_policy_of(self.client.credential)]
        )

    def get(self, name: str, headers: Mapping[str, str]) -> HttpResponse:
        """Ask for a blob, whose quoted name is *name*; return the answer, whatever its status, unread."""
        request = HttpRequest("GET", f"{self._container_url}/{name}", headers=dict(headers))
        return self.do(lambda: self._pipeline.run(request, stream=True).http_response)

    def do(self, request: Callable[[], T]) -> T:
        """Make a request with the present credentials."""
        self._renew()
        return without_url(request)

    def do_part(self, url: str, request: Callable[[], T]) -> T:
        """Make a request of an upload; once more when its credentials are refused. Failures are ours."""
        is_renewed = False
        while True:
            used = self._renew()
            try:
                return without_url(request)
            except AzureFailure as failure:
                error = self.meaning("put", url, failure)
            source = self._source
            is_refused = isinstance(error, UnauthenticatedError) and not is_renewed
            if not (is_refused and source and used and source.refused(used)):
                raise error
            is_renewed = True

    def meaning(self, operation: str, url: str, failure: AzureFailure) -> StorageError:
        """Return what a failure means."""
        return meaning(operation, url, failure, self._path, self._host)

    def _credential_of(self, account: AzureAccount, name: str) -> Any:
        """Return what the SDK is given: the SAS, the key, or the identity of the machine."""
        if self._source is not None or account.sas is not None:
            return self._sas
        if account.key is not None:
            return {"account_name": name, "account_key": account.key.reveal()}
        return _identity(account, self.url)

    def _renew(self) -> CloudCredentials | None:
        """Take over the vended credentials, and return them."""
        source = self._source
        if source is None:
            return None
        with self._lock:
            credentials = source.current()
            secret = credentials.values.get("AZURE_STORAGE_SAS_TOKEN")
            if secret is None:
                reason = f"the credentials vended for it are not Azure's but for {credentials.provider}"
                raise UnauthenticatedError("open", self.url, reason)
            sas = secret.reveal().lstrip("?")
            if sas != self._sas.signature:
                self._sas.update(sas)
        return credentials


def _transport() -> RequestsTransport:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
    return RequestsTransport(
        session=session,
        connection_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        connection_data_block_size=_BLOCK_BYTES,
    )


def _identity(account: AzureAccount, url: str) -> Any:
    """Return the identity of the machine or the pod, which is sent through TLS only."""
    if account.endpoint.startswith("https://"):
        with suppress(ImportError):
            return import_module("azure.identity").DefaultAzureCredential()  # optional
    raise UnauthenticatedError("open", url, account.reason)


def _policy_of(credential: Any) -> Any:
    if isinstance(credential, AzureSasCredential):
        return AzureSasCredentialPolicy(credential)
    if hasattr(credential, "get_token"):
        return BearerTokenCredentialPolicy(credential, _STORAGE_SCOPE)
    return credential  # the SDK's policy that signs with the account's key
