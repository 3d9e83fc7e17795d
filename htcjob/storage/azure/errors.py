"""What the errors of Azure Blob Storage and of its SDK mean, without the URLs that show a SAS."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from azure.core.exceptions import AzureError, ClientAuthenticationError
from requests import RequestException
from urllib3.exceptions import HTTPError

from htcjob.errors import DeniedError, PermanentError, StorageError, TransientError, UnauthenticatedError
from htcjob.storage.answers import Answer, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.core.rest import HttpResponse

T = TypeVar("T")

_ELEMENT = re.compile(r"<(Code|Message)>([^<]*)</")


class AzureFailure(Exception):  # noqa: N818 - `meaning` says what error it is
    """The facts in an exception of the SDK, without its text and its causes: they show the SAS in the URL."""

    def __init__(self, answer: Answer | None, reason: str = "", *, is_sas_over: bool = False) -> None:
        super().__init__(answer, reason)
        self.answer = answer
        """Azure's refusal; None: there was no answer, or a broken one."""
        self.reason = reason
        """In words, where there is no answer."""
        self.is_sas_over = is_sas_over
        """Whether the SAS of the request states an end that has passed; Azurite then calls it denied."""


class LostLengthError(AzureFailure):
    """Something on the way took the range or the length from the answer: it will the next time, too."""


def meaning(operation: str, url: str, failure: AzureFailure, container: str, host: str) -> StorageError:
    """
    Return what a failure means.

    Args:
        operation: Verb of the store.
        url: The object.
        failure: What happened.
        container: `account/container`.
        host: The server that was asked.
    """
    if isinstance(failure, LostLengthError):
        return PermanentError(operation, url, failure.reason)
    answer = failure.answer
    if answer is None:
        return TransientError(operation, url, f"{host}: {failure.reason}")
    account, _, name = container.partition("/")
    error = answer.error(operation, url, f"container {name} in account {account}")
    if isinstance(error, DeniedError) and failure.is_sas_over:
        return UnauthenticatedError(operation, url, error.reason)
    return error


def without_url(request: Callable[[], T]) -> T:
    """Make a request; its failure is raised without the SDK's exception, also not as the cause."""
    try:
        return request()
    except (AzureError, RequestException, HTTPError) as error:
        failure = _failure_of(error)
    except (AttributeError, TypeError) as error:  # of the SDK, over a page that is not Azure's
        cause = error.__context__
        while cause is not None and not isinstance(cause, AzureError):
            cause = cause.__context__
        if cause is None:
            raise
        failure = _failure_of(cause)
    raise failure


def _failure_of(error: Exception) -> AzureFailure:
    response: Any = getattr(error, "response", None)
    if response is not None:
        return failure_of_answer(response)
    # Signing with a key that is none, or no token from the identity.
    answer = Answer("az", 401) if isinstance(error, ClientAuthenticationError) else None
    return AzureFailure(answer, _innermost(error))


def failure_of_answer(response: HttpResponse) -> AzureFailure:
    """Return what is wrong with an answer."""
    if response.status_code < 300:
        return AzureFailure(None, "the answer cannot be understood")
    body = ""
    with suppress(Exception):  # the stream may not have been read
        body = response.text()
    said = dict(_ELEMENT.findall(body))
    answer = Answer(
        "az",
        response.status_code,
        response.headers.get("x-ms-error-code", "") or said.get("Code", ""),
        said.get("Message", "").partition("\n")[0],  # then follow the request's number and the time
        retry_after_s=retry_after(response.headers.get("Retry-After")),
    )
    return AzureFailure(answer, is_sas_over=_is_sas_over(response.request.url))


def _is_sas_over(url: str) -> bool:
    (end,) = parse_qs(urlsplit(url).query).get("se", [""])[:1]
    try:
        moment = datetime.fromisoformat(end.replace("Z", "+00:00"))
    except ValueError:
        return False
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp() <= time.time()


def _innermost(error: BaseException) -> str:
    """Return the first cause of a failed connection, in the system's words or by its class."""
    while cause := getattr(error, "inner_exception", None) or error.__cause__ or error.__context__:
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"the connection failed ({type(error).__name__})"
