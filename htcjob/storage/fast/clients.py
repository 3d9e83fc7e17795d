"""How object_store reaches the three clouds: endpoints, time limits, credentials."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

from obstore.exceptions import BaseError

from htcjob.errors import ConfigurationError
from htcjob.logs.redact import one_line, redact
from htcjob.storage.bounds import longest_s
from htcjob.storage.bucket import PART_BYTES
from htcjob.storage.fast.configs import config_of, endpoint_of
from htcjob.storage.fast.way import way_to
from htcjob.storage.variables import check_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore.store import ObjectStore, S3Store

    from htcjob.retry import RetryPolicy
    from htcjob.storage.access import Access, CloudCredentials, CredentialSource
    from htcjob.storage.answers import Answer

    Config = dict[str, Any]

CONNECT_TIMEOUT = timedelta(seconds=10)
READ_TIMEOUT = timedelta(seconds=60)
"""A connection is stalled after this long without a byte."""
SEND_TIMEOUT = timedelta(minutes=15)
"""The same for long bodies: the time of reading also runs while a body is sent (measured, reqwest 0.13)."""


class AskingProvider:
    """Asks a source for credentials whenever object_store thinks that those it has are about to expire."""

    def __init__(self, source: CredentialSource) -> None:
        self._source = source
        self.failure: Exception | None = None
        """The last exception of the source, of which object_store keeps the text only."""

    def __call__(self) -> Mapping[str, Any]:
        """Return them as obstore wants them."""
        try:
            credentials = self._source.current()
        except Exception as error:
            self.failure = error
            raise
        self.failure = None
        return _for_obstore(credentials, credentials.expires_at)


class Clients:
    """
    Makes the object_store clients of one bucket or container.

    Raises:
        ConfigurationError: a variable that says how it is reached makes no sense.
    """

    def __init__(self, scheme: str, container: str, access: Access) -> None:
        if access.endpoint:
            check_url("the endpoint that was vended", access.endpoint)
        self._scheme = scheme
        self._make, self._config = config_of(scheme, container, access)
        self.is_plain = self._config.get("aws_endpoint_url_s3", "").startswith("http://")
        """Whether S3 is reached without TLS."""
        self._endpoint = endpoint_of(self._config)
        self.endpoint = redact(self._endpoint)
        """The server, where it is not the cloud's own; empty: it is."""
        self._options: Config = {
            "allow_http": self._endpoint.startswith("http://"),
            "connect_timeout": CONNECT_TIMEOUT,
            # For a request as a whole, with its body; after the default of 30 s every long one would end
            # (arrow-rs-object-store issue 386).
            "timeout": timedelta(seconds=longest_s(PART_BYTES)),
        }
        if scheme == "gs":
            # Else what is stored compressed comes without it, and without a length.
            # https://docs.cloud.google.com/storage/docs/transcoding
            self._options["default_headers"] = {"accept-encoding": "gzip"}
        self._options |= way_to(scheme, self._endpoint, access.environ) if self._is_signed(access) else {}
        if bundle := _ca_bundle(access.environ):
            self._options["root_certificate"] = bundle

    def _is_signed(self, access: Access) -> bool:
        """Whether the credentials are here already: no other server is asked for them."""
        if self._config.get("skip_signature"):
            return True
        names = {"access_key_id", "credential_provider", "sas_key", "account_key"}
        return access.credentials is not None or not names.isdisjoint(self._config)

    def open(
        self,
        read_timeout: timedelta,
        credentials: CloudCredentials | None,
        *,
        provider: AskingProvider | None = None,
        retry: RetryPolicy | None = None,
    ) -> ObjectStore:
        """
        Make a client, which takes some 5 ms.

        Args:
            read_timeout: How long a connection may be silent.
            credentials: Those to use; None: object_store finds its own.
            provider: Asked for them again when they expire.
            retry: Of its requests; None: none is made twice.
        """
        config = dict(self._config)
        if credentials is not None:
            if account := credentials.values.get("GCP_APPLICATION_CREDENTIALS"):
                config.pop("credential_provider", None)
                config["service_account_key"] = account.reveal()
            else:
                config["credential_provider"] = provider or (lambda: _for_obstore(credentials, None))
        options = {**self._options, "read_timeout": read_timeout}
        try:
            return self._make(client_options=options, retry_config=_retry_config(retry), **config)
        except BaseError as error:
            text = one_line(str(error).partition("\n")[0])
            raise ConfigurationError(f"{self._scheme}://: these settings cannot be used: {text}") from None

    def signed_url(self, store: ObjectStore, name: str) -> str:
        """Return a URL with which anybody can make a HEAD request for an object of S3."""
        if self._config.get("skip_signature"):
            from urllib.parse import quote

            return f"{self._endpoint}/{self._config['bucket']}/{quote(name)}"
        import obstore

        return obstore.sign(cast("S3Store", store), "HEAD", name, timedelta(minutes=1))

    def redirection(self) -> Answer:
        """
        Return the redirection that the bucket answers with, whose text object_store does not tell.

        The bucket is asked once more, without credentials: it answers the same.
        """
        from htcjob.storage.fast.asking import ask_without_credentials

        config = self._config
        own = {
            "s3": f"https://s3.{config.get('region', 'us-east-1')}.amazonaws.com",
            "gs": "https://storage.googleapis.com",
            "az": f"https://{config.get('account_name')}.blob.core.windows.net",
        }
        endpoint = self._endpoint or own[self._scheme]
        bucket = config.get("bucket") or config.get("container_name")
        return ask_without_credentials(self._scheme, f"{endpoint}/{bucket}")


class CurrentClients:
    """
    The clients in use: with the credentials of the moment, opened when they are first asked for.

    Args:
        clients: Makes them.
        access: Has the credentials, and the retries of uploads.
    """

    def __init__(self, clients: Clients, access: Access) -> None:
        self._clients = clients
        self._source = access.credentials
        self._retry = access.retry
        self._lock = threading.Lock()
        self._credentials: CloudCredentials | None = None
        self._open: dict[timedelta, ObjectStore] = {}
        self._uploader: tuple[ObjectStore, AskingProvider | None] | None = None

    def client(self, *, is_sending: bool = False) -> ObjectStore:
        """Return the client that does not retry and has the credentials of this moment."""
        read_timeout = SEND_TIMEOUT if is_sending else READ_TIMEOUT
        source = self._source
        credentials = None if source is None else source.current()
        if credentials is self._credentials:
            client = self._open.get(read_timeout)
            if client is not None:
                return client
        with self._lock:
            if credentials != self._credentials:
                self._open.clear()
            self._credentials = credentials
            client = self._open.get(read_timeout)
            if client is None:
                client = self._open[read_timeout] = self._clients.open(read_timeout, credentials)
        return client

    def uploader(self) -> tuple[ObjectStore, AskingProvider | None]:
        """Return the client that retries, and asks for credentials again while an upload lasts."""
        source = self._source
        credentials = None if source is None else source.current()
        with self._lock:
            if self._uploader is None:
                provider = None if source is None else AskingProvider(source)
                retry = self._retry
                client = self._clients.open(SEND_TIMEOUT, credentials, provider=provider, retry=retry)
                self._uploader = client, provider
            return self._uploader

    def forget_uploader(self) -> None:
        """Let the next upload begin with new credentials; the other clients are compared at every request."""
        with self._lock:
            self._uploader = None


def _retry_config(retry: RetryPolicy | None) -> Config:
    if retry is None:
        return {"max_retries": 0}
    return {
        "max_retries": retry.retries,
        "retry_timeout": timedelta(seconds=retry.total_s),
        "backoff": {
            "init_backoff": timedelta(seconds=retry.first_wait_s),
            "max_backoff": timedelta(seconds=retry.longest_wait_s),
        },
    }


def _for_obstore(credentials: CloudCredentials, expires_at: float | None) -> Mapping[str, Any]:
    given = {name: secret.reveal() for name, secret in credentials.values.items()}
    # obstore takes no other zone than this very object.
    until = None if expires_at is None else datetime.fromtimestamp(expires_at, timezone.utc)
    if credentials.provider == "AWS":
        return {
            "access_key_id": given["AWS_ACCESS_KEY_ID"],
            "secret_access_key": given["AWS_SECRET_ACCESS_KEY"],
            "token": given.get("AWS_SESSION_TOKEN"),
            "expires_at": until,
        }
    if credentials.provider == "GCP":
        return {"token": given["GCP_ACCESS_TOKEN"], "expires_at": until}
    return {"sas_token": given["AZURE_STORAGE_SAS_TOKEN"], "expires_at": until}


def _ca_bundle(environ: Mapping[str, str]) -> bytes | None:
    """Return the certificates that the SDKs are told to trust; SSL_CERT_FILE is seen by rustls itself."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := environ.get(name):
            try:
                with open(path, "rb") as file:
                    return file.read()
            except OSError as error:
                raise ConfigurationError(f"{name} holds {path!r}: {error.strerror}") from None
    return None
