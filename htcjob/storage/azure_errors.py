"""What the errors of Azure Blob Storage and of its SDK mean, without the URLs that show a SAS."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from azure.core.exceptions import AzureError, ClientAuthenticationError
from requests import RequestException
from urllib3.exceptions import HTTPError

from htcjob.errors import (
    AbsentError,
    DeniedError,
    PermanentError,
    StorageError,
    TransientError,
    UnauthenticatedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.core.rest import HttpResponse

T = TypeVar("T")

_NOT_AUTHENTICATED = frozenset(
    {"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"}
)


class Failure(Exception):  # noqa: N818 - `meaning` says what error it is
    """What an exception of the SDK says, without its text and its causes: they show the SAS in the URL."""

    def __init__(
        self,
        status: int,
        code: str,
        reason: str,
        *,
        retry_after_s: float | None = None,
        is_sas_over: bool = False,
    ) -> None:
        super().__init__(status, code, reason)
        self.status = status
        """Of the answer; 0: there was none, or a broken one."""
        self.code = code
        """Azure's own, for example `BlobNotFound`; empty: it gave none."""
        self.reason = reason
        """In words, where there is no answer."""
        self.retry_after_s = retry_after_s
        """Seconds that Azure asks us to wait."""
        self.is_sas_over = is_sas_over
        """The SAS of the request says itself that its time is over; Azurite then calls it denied."""


def meaning(operation: str, url: str, failure: Failure, container: str, host: str) -> StorageError:
    """
    Give what a failure means.

    Codes: learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes and
    …/blob-service-error-codes

    Args:
        operation: Verb of the store.
        url: The object.
        failure: What happened.
        container: `account/container`.
        host: With which we talk.
    """
    status, code = failure.status, failure.code
    said = f"HTTP {status} {code}".rstrip() if status else f"{host}: {failure.reason}"
    if code in ("ContainerNotFound", "ContainerBeingDeleted"):
        account, _, name = container.partition("/")
        return AbsentError(operation, url, f"there is no container {name} in account {account}")
    if status == 404:
        return AbsentError(operation, url, "no such object")
    if status == 401 or code in _NOT_AUTHENTICATED or (status == 403 and failure.is_sas_over):
        return UnauthenticatedError(operation, url, f"credentials expired or refused ({said})")
    if status == 403 or code == "PublicAccessNotPermitted":
        return DeniedError(operation, url, f"access denied ({said})")
    if code == "ConditionNotMet":
        return TransientError(operation, url, "replaced meanwhile by another version")
    if code == "InvalidBlobType":
        reason = f"an append or page blob has this name; only block blobs are written ({said})"
        return PermanentError(operation, url, reason)
    if code == "InvalidBlobOrBlock":
        reason = f"another program's unfinished upload has this name, for a week at most ({said})"
        return PermanentError(operation, url, reason)
    if not status or status in (408, 429) or status >= 500 or code == "Md5Mismatch":
        is_throttled = status in (429, 503)
        return TransientError(
            operation, url, said, retry_after_s=failure.retry_after_s, is_throttled=is_throttled
        )
    return PermanentError(operation, url, said)


def without_url(request: Callable[[], T]) -> T:
    """Make a request; its failure is raised without the SDK's exception, also not as the cause."""
    try:
        return request()
    except (AzureError, RequestException, HTTPError) as error:
        failure = _failure_of(error)
    raise failure


def _failure_of(error: Exception) -> Failure:
    response: Any = getattr(error, "response", None)
    if response is not None:
        return failure_of_answer(response)
    # Signing with a key that is none, or no token from the identity.
    status = 401 if isinstance(error, ClientAuthenticationError) else 0
    return Failure(status, "", _innermost(error))


def failure_of_answer(response: HttpResponse) -> Failure:
    """Give what is wrong with an answer."""
    if response.status_code < 400:
        return Failure(0, "", "the answer cannot be understood")
    seconds = response.headers.get("Retry-After", "")
    retry_after_s = float(seconds) if seconds.isdecimal() else None
    return Failure(
        response.status_code,
        response.headers.get("x-ms-error-code", ""),
        "",
        retry_after_s=retry_after_s,
        is_sas_over=_is_sas_over(response.request.url),
    )


def _is_sas_over(url: str) -> bool:
    (end,) = parse_qs(urlsplit(url).query).get("se", [""])[:1]
    try:
        moment = datetime.fromisoformat(end.replace("Z", "+00:00"))
    except ValueError:
        return False
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp() <= time.time()


def _innermost(error: BaseException) -> str:
    """Give the first cause of a failed connection, in the system's words or by its class."""
    while cause := getattr(error, "inner_exception", None) or error.__cause__ or error.__context__:
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"the connection failed ({type(error).__name__})"
