"""Where a storage account of Azure is and what opens it, as the variables of Azure's own tools say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from htcjob.errors import ConfigurationError
from htcjob.logs.redact import Secret

if TYPE_CHECKING:
    from htcjob.storage.access import Access

_WHAT_TO_SET = (
    "set AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_CONNECTION_STRING, "
    "or install azure-identity for a managed identity"
)


@dataclass(frozen=True, slots=True)
class AzureAccount:
    """Where one account is and what opens it, as the variables say."""

    endpoint: str
    """URL of its blob service, without a slash at the end."""
    sas: Secret | None
    """A SAS token, without a leading `?`."""
    key: Secret | None
    """The account's key, in base64; not set together with *sas*."""
    reason: str
    """The message for the case that neither is set and nothing else opens the account."""


def find_account(account: str, access: Access) -> AzureAccount:
    """
    Find what opens *account*; key, SAS and endpoint of another account are not used.

    The first of AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_KEY or AZURE_STORAGE_ACCOUNT_KEY, and
    AZURE_STORAGE_CONNECTION_STRING. The first two belong to AZURE_STORAGE_ACCOUNT(_NAME) where that is set.

    Raises:
        ConfigurationError: the connection string cannot be understood.
    """
    environ = access.environ
    connection = parse_connection(environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    its_account = connection.get("accountname") or account
    named = environ.get("AZURE_STORAGE_ACCOUNT_NAME") or environ.get("AZURE_STORAGE_ACCOUNT") or account
    if its_account != account:
        connection = {}
    own = environ if named == account else {}
    endpoint = access.endpoint or own.get("AZURE_STORAGE_ENDPOINT") or connection.get("blobendpoint")
    if not endpoint:
        protocol = connection.get("defaultendpointsprotocol") or "https"
        suffix = connection.get("endpointsuffix") or "core.windows.net"
        endpoint = f"{protocol}://{account}.blob.{suffix}"
    sas = own.get("AZURE_STORAGE_SAS_TOKEN")
    key = own.get("AZURE_STORAGE_KEY") or own.get("AZURE_STORAGE_ACCOUNT_KEY")
    if not sas and not key:
        sas, key = connection.get("sharedaccesssignature"), connection.get("accountkey")
    others = " and ".join(sorted({its_account, named} - {account}))
    aside = f" (the variables are those of {others})" if others else ""
    return AzureAccount(
        endpoint.rstrip("/"),
        sas=Secret(sas.lstrip("?")) if sas else None,
        key=Secret(key) if key and not sas else None,
        reason=f"no credentials for account {account}{aside}: {_WHAT_TO_SET}",
    )


def parse_connection(text: str) -> dict[str, str]:
    """
    Return the parts of a connection string, by their lower-case names.

    Raises:
        ConfigurationError: it is none.
    """
    # https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string
    parts = [part.partition("=") for part in text.split(";") if part.strip()]
    if not all(name and equals for name, equals, _ in parts):
        raise ConfigurationError(
            "AZURE_STORAGE_CONNECTION_STRING: expected NAME=VALUE;NAME=VALUE;… as the portal shows it"
        )
    return {name.strip().lower(): value.strip() for name, _, value in parts}
