"""How object_store reaches the three clouds: endpoints, time limits, credentials."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

from obstore.exceptions import BaseError

from htcjob.errors import ConfigurationError
from htcjob.logs.redact import redact
from htcjob.storage.azure.account import parse_connection
from htcjob.storage.bounds import longest_s
from htcjob.storage.bucket import PART_BYTES
from htcjob.storage.fast.aws_profile import profile_of
from htcjob.storage.fast.way import way_to
from htcjob.storage.variables import check_url, is_true

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from obstore.store import ObjectStore, S3Store

    from htcjob.retry import RetryPolicy
    from htcjob.storage.access import Access, CloudCredentials, CredentialSource
    from htcjob.storage.answers import Answer

    Config = dict[str, Any]

CONNECT_TIMEOUT = timedelta(seconds=10)
READ_TIMEOUT = timedelta(seconds=60)
"""Without a byte for so long a connection is stalled."""
SEND_TIMEOUT = timedelta(minutes=15)
"""The same for long bodies: the time of reading also runs while a body is sent (measured, reqwest 0.13)."""


class AskingProvider:
    """Asks a source for credentials whenever object_store thinks that those it has are about to expire."""

    def __init__(self, source: CredentialSource) -> None:
        self._source = source
        self.failure: Exception | None = None
        """What the source raised last; object_store makes a text of it."""

    def __call__(self) -> Mapping[str, Any]:
        """Give them as obstore wants them."""
        try:
            credentials = self._source.current()
        except Exception as error:
            self.failure = error
            raise
        self.failure = None
        return _for_obstore(credentials, credentials.expires_at)


def config_of(scheme: str, container: str, access: Access) -> Config:
    """
    Give what object_store is told of a bucket or container.

    Raises:
        ConfigurationError: a variable that says how it is reached makes no sense.
    """
    return _CONFIGS[scheme](container, access)[1]


def endpoint_of(config: Mapping[str, Any]) -> str:
    """Give the server that a configuration names; empty: the cloud's own."""
    return next(filter(None, (config.get(name) for name in _ENDPOINTS)), "")


def has(environ: Mapping[str, str], *names: str) -> bool:
    """Tell whether all of the variables hold something."""
    return all(environ.get(name) for name in names)


_ENDPOINTS = ("aws_endpoint_url_s3", "base_url", "endpoint")


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
        self._make, self._config = _CONFIGS[scheme](container, access)
        self.is_plain = self._config.get("aws_endpoint_url_s3", "").startswith("http://")
        """Whether S3 is reached without TLS."""
        self._endpoint = endpoint_of(self._config)
        self.endpoint = redact(self._endpoint)
        """The server, where it is not the cloud's own; empty: it is."""
        self._options: Config = {
            "allow_http": self._endpoint.startswith("http://"),
            "connect_timeout": CONNECT_TIMEOUT,
            # Of a request in all, with its body; after the default of 30 s every long one would end
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
        """Tell whether the credentials are here already: no other server is asked for them."""
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
            text = redact(str(error).partition("\n")[0])
            raise ConfigurationError(f"{self._scheme}://: these settings cannot be used: {text}") from None

    def signed_url(self, store: ObjectStore, name: str) -> str:
        """Give the URL for a HEAD of an object of S3 by somebody else."""
        if self._config.get("skip_signature"):
            from urllib.parse import quote

            return f"{self._endpoint}/{self._config['bucket']}/{quote(name)}"
        import obstore

        return obstore.sign(cast("S3Store", store), "HEAD", name, timedelta(minutes=1))

    def redirection(self) -> Answer:
        """
        Give the redirection that the bucket answers with, of which object_store does not tell what it says.

        It is asked for once more, without credentials: that is answered alike.
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


# Static credentials are handed over from `Access.environ`. What else object_store knows, of containers and
# identities, it finds in the variables itself.


def _s3(bucket: str, access: Access) -> tuple[Callable[..., ObjectStore], Config]:
    from obstore.store import S3Store

    environ = access.environ
    # Its bulk delete says 200 to what it refuses, and is not known to every compatible server.
    config: Config = {"bucket": bucket, "disable_bulk_delete": True}
    region = access.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if region := region or profile_of(environ).get("region"):
        config["region"] = region
    if access.credentials is None and is_true(environ.get("AWS_SKIP_SIGNATURE")):
        config["skip_signature"] = True
    else:
        config["skip_signature"] = False  # whatever AWS_SKIP_SIGNATURE says
    endpoint = access.endpoint or _endpoint(environ, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    if endpoint:
        config["aws_endpoint_url_s3"] = endpoint  # its variable would come before `endpoint`
    # No certificate covers a dot in the name of a bucket.
    config["virtual_hosted_style_request"] = not endpoint and "." not in bucket
    if access.credentials is None:
        given = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if environ.get(name)]
        if len(given) == 1:
            raise ConfigurationError(f"{given[0]} is set without its other half: set both or none of the two")
    if access.credentials is None and has(environ, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        config["access_key_id"] = environ["AWS_ACCESS_KEY_ID"]
        config["secret_access_key"] = environ["AWS_SECRET_ACCESS_KEY"]
        if token := environ.get("AWS_SESSION_TOKEN"):
            config["session_token"] = token
    return S3Store, config


def _gs(bucket: str, access: Access) -> tuple[Callable[..., ObjectStore], Config]:
    from obstore.store import GCSStore

    config: Config = {"bucket": bucket}
    if endpoint := access.endpoint:
        config["base_url"] = endpoint
    elif emulator := access.environ.get("STORAGE_EMULATOR_HOST"):
        config["base_url"] = emulator if "://" in emulator else f"http://{emulator}"
        config["credential_provider"] = lambda: {"token": "", "expires_at": None}  # sends none
    if "base_url" in config:
        config["base_url"] = config["base_url"].rstrip("/")
    if path := access.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        config["application_credentials"] = path
    return GCSStore, config


def _az(container: str, access: Access) -> tuple[Callable[..., ObjectStore], Config]:
    from obstore.store import AzureStore

    environ = access.environ
    account, _, container = container.partition("/")
    config: Config = {"account_name": account, "container_name": container}
    said = parse_connection(environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    if said.get("accountname", account) != account:
        said = {}  # of another account
    endpoint = access.endpoint or _endpoint(environ, "AZURE_STORAGE_ENDPOINT") or said.get("blobendpoint")
    if not endpoint and "endpointsuffix" in said:
        protocol = said.get("defaultendpointsprotocol", "https")
        endpoint = f"{protocol}://{account}.blob.{said['endpointsuffix']}"
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    if access.credentials is None:
        own = environ if environ.get("AZURE_STORAGE_ACCOUNT_NAME", account) == account else {}
        key = own.get("AZURE_STORAGE_ACCOUNT_KEY") or own.get("AZURE_STORAGE_KEY") or said.get("accountkey")
        sas = own.get("AZURE_STORAGE_SAS_TOKEN") or said.get("sharedaccesssignature")
        if sas and (own.get("AZURE_STORAGE_SAS_TOKEN") or not key):
            config["sas_key"] = sas.lstrip("?")
        elif key:
            config["account_key"] = key
    return AzureStore, config


def _endpoint(environ: Mapping[str, str], *names: str) -> str | None:
    """Give the URL that one of the variables holds."""
    return next((environ[name] for name in names if name in environ), None)


def _ca_bundle(environ: Mapping[str, str]) -> bytes | None:
    """Give the certificates that the SDKs are told to trust; SSL_CERT_FILE is seen by rustls itself."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := environ.get(name):
            try:
                with open(path, "rb") as file:
                    return file.read()
            except OSError as error:
                raise ConfigurationError(f"{name} holds {path!r}: {error.strerror}") from None
    return None


_CONFIGS = {"s3": _s3, "gs": _gs, "az": _az}
