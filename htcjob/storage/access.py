"""How the stores of the clouds are reached: engine, region, endpoint, credentials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from htcjob.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from htcjob.logs.redact import Secret


@dataclass(frozen=True, slots=True)
class CloudCredentials:
    """Temporary credentials for storage, as the HTC API vends them."""

    provider: Literal["AWS", "GCP", "AZURE"]
    """The cloud that they are for."""
    values: Mapping[str, Secret]
    """By the API's names. AWS: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN. GCP: one of
    GCP_ACCESS_TOKEN and GCP_APPLICATION_CREDENTIALS (a service account's JSON text). AZURE:
    AZURE_STORAGE_SAS_TOKEN, without a leading `?`."""
    expires_at: float | None
    """Seconds since the epoch; None: unknown."""


class CredentialSource(Protocol):
    """A source of storage credentials; may be asked from any thread."""

    def current(self) -> CloudCredentials:
        """
        Return credentials that are valid for a while, fetched or renewed when that is needed.

        However many threads ask at once, one of them fetches.

        Raises:
            TransientError: they cannot be had now; operation and URL are the API's.
            UnauthenticatedError: they cannot be had any more, for this and for every other request.
        """

    def refused(self, credentials: CloudCredentials) -> bool:
        """
        Note that a store did not accept *credentials*, although they looked valid.

        Return True when others are to be had: the next `current()` returns those. Raises as `current` does.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the stores of the clouds are reached. Stores opened with one `Access` share their connections."""

    environ: Mapping[str, str] = field(repr=False)
    """The variables that the SDKs read, as far as htcjob must know what they hold."""
    engine: str = "auto"
    """`fast` (obstore), `sdk` (botocore, google-cloud-storage, azure-storage-blob), or `auto`: fast where
    that is installed and can."""
    credentials: CredentialSource | None = None
    """None: the chain of the SDK (variables, files, instance role)."""
    region: str | None = None
    """The cloud's own name of the region, `eu-west-1`; None: the SDK finds out."""
    endpoint: str | None = None
    """URL of a compatible server; None: variables may name one, else the cloud's own."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """For the parts of large objects: each is tried again by itself, so a file of any size arrives."""
    buckets: dict[tuple[str, str], object] = field(default_factory=dict, repr=False, compare=False)
    """Buckets that are open already, by scheme and container (`engines.py`)."""
