"""
The SDK's client for S3: its credentials, its endpoint, its limits.

Without vended credentials the SDK's chain is asked at the first request. Where nothing is configured that
ends at the machine's metadata service, which is asked once and given 1 s per step
(AWS_METADATA_SERVICE_NUM_ATTEMPTS, AWS_METADATA_SERVICE_TIMEOUT), or not at all with
AWS_EC2_METADATA_DISABLED=true.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore import UNSIGNED, handlers
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, ReadOnlyCredentials
from botocore.exceptions import ConfigParseError, InvalidConfigError, NoCredentialsError, ProfileNotFound
from botocore.session import Session

from htcjob.errors import ConfigurationError
from htcjob.logs.redact import one_line
from htcjob.storage.variables import is_true

if TYPE_CHECKING:
    from htcjob.storage.access import Access, CredentialSource

READ_TIMEOUT_S = 60
"""A connection is stalled after this long without a byte."""
_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu")


class Connection:
    """The SDK's client, made when it is first needed; it may be used from any thread."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._client: Any = None

    def client(self) -> Any:
        """
        Return the client.

        Raises:
            NoCredentialsError: there are none; they are looked for again at the next call.
            ConfigurationError: the endpoint is no URL.
        """
        with self._lock:
            if self._client is None:
                try:
                    self._client = _connect(self._access)
                except (ProfileNotFound, ConfigParseError, InvalidConfigError) as error:
                    raise ConfigurationError(f"s3: {one_line(str(error))}") from None
        return self._client


class _Vended(Credentials):  # type: ignore[misc] # botocore has no types
    """The source's credentials at the moment of each signature; the SDK's own renewal has no part in it."""

    def __init__(self, source: CredentialSource) -> None:
        super().__init__("", "", method="htcjob")
        self._source = source

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        credentials = self._source.current()
        if credentials.provider != "AWS":
            raise ConfigurationError(
                f"s3: the credentials vended are for {credentials.provider}, not for AWS"
            )
        values = credentials.values
        token = values.get("AWS_SESSION_TOKEN")
        return ReadOnlyCredentials(
            values["AWS_ACCESS_KEY_ID"].reveal(),
            values["AWS_SECRET_ACCESS_KEY"].reveal(),
            token.reveal() if token is not None else None,
        )


class _VendedProvider(CredentialProvider):  # type: ignore[misc] # botocore has no types
    METHOD = "htcjob"

    def __init__(self, source: CredentialSource) -> None:
        super().__init__()
        self._source = source

    def load(self) -> Credentials:
        return _Vended(self._source)


def _connect(access: Access) -> Any:
    session = Session()
    if access.credentials is not None:
        resolver = CredentialResolver(providers=[_VendedProvider(access.credentials)])
        session.register_component("credential_provider", resolver)
    is_unsigned = access.credentials is None and is_true(access.environ.get("AWS_SKIP_SIGNATURE"))
    if not is_unsigned and session.get_credentials() is None:
        raise NoCredentialsError
    # Of the two variables botocore reads the second only.
    region = access.region or access.environ.get("AWS_REGION") or session.get_config_variable("region")
    # Without an endpoint from us the SDK reads these variables itself, and its configuration file.
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    expected = access.endpoint or next(filter(None, map(access.environ.get, names)), None)

    def create(*, is_own: bool) -> Any:
        config = _config(is_aws=is_own)
        if is_unsigned:
            config = config.merge(Config(signature_version=UNSIGNED))
        return session.create_client(
            "s3", region_name=region, endpoint_url=access.endpoint or None, config=config
        )

    try:
        is_own = expected is None or is_aws(expected)
        client = create(is_own=is_own)
        if is_aws(client.meta.endpoint_url) != is_own:
            client = create(is_own=not is_own)
    except ValueError as error:
        raise ConfigurationError(f"s3: {error}") from None
    # A round trip more for every put, which saves nothing: our bodies are short, or parts.
    client.meta.events.unregister("before-call.s3", handlers.add_expect_header)
    if not is_aws(client.meta.endpoint_url):
        # Regions are Amazon's; a request sent to one that another server names would go to Amazon, or without
        # end to that server again.
        client.meta.events.register_last("before-parameter-build.s3", _stay)
    return client


def _stay(context: dict[str, Any], **_others: object) -> None:
    """Let botocore follow no redirection."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _config(*, is_aws: bool) -> Config:
    # Checksums that the SDK appends to the body are refused, or stored as data, by other servers:
    # https://github.com/boto/boto3/issues/4392
    checksums = "when_supported" if is_aws else "when_required"
    return Config(
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        retries={"mode": "standard", "total_max_attempts": 1},  # `retry.py` owns that
        max_pool_connections=64,
        connect_timeout=10,
        read_timeout=READ_TIMEOUT_S,
        tcp_keepalive=True,
    )


def is_aws(endpoint: str) -> bool:
    """Whether *endpoint* is Amazon's own."""
    return (urlsplit(endpoint).hostname or "").endswith(_AWS_DOMAINS)
