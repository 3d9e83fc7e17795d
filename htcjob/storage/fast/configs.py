"""The configuration of object_store for a bucket: its place and its credentials, from the variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from htcjob.errors import ConfigurationError
from htcjob.storage.azure.account import parse_connection
from htcjob.storage.fast.aws_profile import profile_of
from htcjob.storage.variables import is_true

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from obstore.store import ObjectStore

    from htcjob.storage.access import Access

    Config = dict[str, Any]

_ENDPOINTS = ("aws_endpoint_url_s3", "base_url", "endpoint")


def config_of(scheme: str, container: str, access: Access) -> tuple[Callable[..., ObjectStore], Config]:
    """
    Return the class of a bucket or container's clients, and what object_store is told of it.

    Raises:
        ConfigurationError: a variable that says how it is reached makes no sense.
    """
    return _CONFIGS[scheme](container, access)


def endpoint_of(config: Mapping[str, Any]) -> str:
    """Return the server that a configuration names; empty: the cloud's own."""
    return next(filter(None, (config.get(name) for name in _ENDPOINTS)), "")


def has(environ: Mapping[str, str], *names: str) -> bool:
    """Whether all of the variables hold something."""
    return all(environ.get(name) for name in names)


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
    """Return the URL that one of the variables holds."""
    return next((environ[name] for name in names if name in environ), None)


_CONFIGS = {"s3": _s3, "gs": _gs, "az": _az}
