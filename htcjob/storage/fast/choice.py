"""Whether the fast lane can serve a bucket, or needs the cloud's own SDK for it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from htcjob.logs.redact import redact
from htcjob.storage.azure.account import parse_connection
from htcjob.storage.fast.aws_profile import paths_of, profile_of
from htcjob.storage.fast.configs import config_of, endpoint_of, has
from htcjob.storage.ordering import is_express
from htcjob.storage.variables import is_true

if TYPE_CHECKING:
    from collections.abc import Mapping

    from htcjob.storage.access import Access


def why_not(scheme: str, container: str, access: Access) -> str:
    """
    Return what the cloud's SDK is needed for, as a clause; empty: nothing.

    object_store knows the credentials that variables hold or point to, and those of containers and instances.
    It reads none of AWS's shared files, and of Google's only those of service accounts and of users. It
    follows redirections, to any server, with all headers but `Authorization` and the whole URL in `Referer`:
    what a stranger must not see goes there only where no stranger's server is asked.
    """
    environ = access.environ
    if scheme == "s3" and is_express(container):
        return "for a directory bucket (S3 Express)"
    if scheme == "s3" and (reason := _why_not_s3_files(environ, access)):
        return reason
    if access.credentials is None and not _CAN_SIGN_IN[scheme](environ, container):
        return "with credentials that only the cloud's SDK finds (a profile or a file, or none are set)"
    endpoint = endpoint_of(config_of(scheme, container, access)[1])
    if endpoint and not _is_own(endpoint) and _has_travelling_credentials(scheme, access):
        return f"with temporary credentials at a server of one's own ({redact(endpoint)})"
    return ""


def _why_not_s3_files(environ: Mapping[str, str], access: Access) -> str:
    endpoints, regions = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), ("AWS_REGION", "AWS_DEFAULT_REGION")
    used = regions if access.credentials is not None else (*regions, "AWS_SESSION_TOKEN")
    empty = [name for name in used if environ.get(name) == ""]
    if empty:  # object_store would take it for a value
        return f"with {empty[0]} set to nothing"
    if is_true(environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")) and any(map(environ.get, endpoints)):
        return "with AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"
    others = [
        name for name in profile_of(environ) if name not in _KNOWN_SETTINGS and not name.startswith("cli_")
    ]
    if access.endpoint:
        others = [name for name in others if name not in ("endpoint_url", "services")]
    return f"with {others[0]} in a profile of ~/.aws" if others else ""


_KNOWN_SETTINGS = {
    *("region", "output", "aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
}
"""Settings of a profile that we read, or that only matter where the SDK is asked anyway."""


def _can_sign_in_s3(environ: Mapping[str, str], _bucket: str) -> bool:
    """
    Go through boto3's chain, in its order.

    https://docs.aws.amazon.com/boto3/latest/guide/credentials.html
    """
    if is_true(environ.get("AWS_SKIP_SIGNATURE")) or has(
        environ, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
    ):
        return True
    if has(environ, "AWS_PROFILE") or has(environ, "AWS_DEFAULT_PROFILE"):
        return False
    if has(environ, "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"):
        return True
    if any(map(os.path.exists, paths_of(environ))):
        return False
    if has(environ, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        return True
    if has(environ, "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return has(environ, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    return environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true"


def _can_sign_in_az(environ: Mapping[str, str], container: str) -> bool:
    """Whether the variables are of this account: object_store takes keys and signatures of any."""
    said = parse_connection(environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    named = (environ.get("AZURE_STORAGE_ACCOUNT_NAME"), environ.get("AZURE_STORAGE_ACCOUNT"))
    return {*named, said.get("accountname")} <= {None, "", container.partition("/")[0]}


def _has_travelling_credentials(scheme: str, access: Access) -> bool:
    """Whether credentials would follow a redirection: all but those in the header `Authorization` do."""
    environ = access.environ
    if scheme == "gs":
        return False
    if access.credentials is not None:
        return True
    if scheme == "az":
        said = parse_connection(environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
        return bool(environ.get("AZURE_STORAGE_SAS_TOKEN") or said.get("sharedaccesssignature"))
    if is_true(environ.get("AWS_SKIP_SIGNATURE")):
        return False
    is_of_a_key = has(environ, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return not is_of_a_key or has(environ, "AWS_SESSION_TOKEN")


def _is_own(endpoint: str) -> bool:
    """Whether a server is one of the clouds' own, behind its certificate."""
    scheme, _, rest = endpoint.partition("://")
    host = rest.partition("/")[0].partition(":")[0]
    return scheme == "https" and host.endswith(tuple(f".{domain}" for domain in _OWN_DOMAINS))


_OWN_DOMAINS = (
    *("amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "googleapis.com"),
    *("core.windows.net", "core.chinacloudapi.cn", "core.usgovcloudapi.net"),
)


def _can_sign_in_gs(environ: Mapping[str, str], _bucket: str) -> bool:
    """https://docs.cloud.google.com/docs/authentication/application-default-credentials."""
    if has(environ, "STORAGE_EMULATOR_HOST") or is_true(environ.get("GOOGLE_SKIP_SIGNATURE")):
        return True
    path = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if not path:
        home = environ.get("HOME", "")
        path = os.path.join(home, ".config", "gcloud", "application_default_credentials.json")
        if not os.path.exists(path):
            return True  # of the instance
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)["type"] in ("service_account", "authorized_user")
    except (OSError, ValueError, KeyError, TypeError):
        return False  # the SDK says what is wrong with it


_CAN_SIGN_IN = {"s3": _can_sign_in_s3, "gs": _can_sign_in_gs, "az": _can_sign_in_az}
