"""What the errors of Google Cloud Storage, and of the SDK on the way to it, mean."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

import requests
import urllib3
from google.api_core.exceptions import GoogleAPICallError
from google.auth import exceptions as auth
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from htcjob.errors import PermanentError, StorageError, TransientError, UnauthenticatedError
from htcjob.logs.redact import one_line
from htcjob.storage.answers import LONGEST_TEXT, Answer, retry_after

_NO_CREDENTIALS = (
    "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key, "
    "or give the machine a service account"
)


SDK_ERRORS = (
    GoogleAPICallError,
    InvalidResponse,
    DataCorruption,
    auth.GoogleAuthError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    ConnectionError,  # what the SDK raises for a body that is too short
)
"""All that leaves the SDK, and the sessions and connections below it."""


def meaning_of(operation: str, url: str, error: Exception, bucket: str) -> StorageError | None:
    """Translate an exception; None: it does not come from the SDK."""
    if answer := answer_of(error):
        if answer.status < 300:
            return PermanentError(operation, url, "the server does not know ranges")
        return answer.error(operation, url, f"bucket {bucket}")
    if isinstance(error, auth.DefaultCredentialsError):
        return UnauthenticatedError(operation, url, f"no credentials: {_NO_CREDENTIALS} ({_text(error)})")
    if isinstance(error, auth.TransportError):
        return TransientError(operation, url, _text(error))
    if isinstance(error, auth.GoogleAuthError):
        kind = TransientError if error.retryable else UnauthenticatedError
        return kind(operation, url, _text(error))
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        return PermanentError(operation, url, _text(error))
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = f"{_text(error)}: name the file of its authority in REQUESTS_CA_BUNDLE"
        return PermanentError(operation, url, hint)
    if isinstance(error, SDK_ERRORS):
        return TransientError(operation, url, _text(error))
    return None


def answer_of(error: Exception) -> Answer | None:
    """Return what the service said; None: it said nothing, or the exception is another one."""
    if not isinstance(error, (GoogleAPICallError, InvalidResponse)) or error.response is None:
        return None
    answer: requests.Response = error.response
    code, message = _said(answer)
    if answer.status_code == 404 and "bucket does not exist" in message:
        code = "NoSuchBucket"  # as the XML API says it
    wait_s = retry_after(answer.headers.get("Retry-After"))
    return Answer("gs", answer.status_code, code, message, retry_after_s=wait_s)


def _said(answer: requests.Response) -> tuple[str, str]:
    """Return reason and message of the JSON API, or code and message of the XML API, or nothing."""
    if answer.status_code < 300:
        return "", ""
    try:
        if answer.text.startswith("<"):
            root = ET.fromstring(answer.text.encode())  # noqa: S314 - the service's own
            return root.findtext("{*}Code") or "", root.findtext("{*}Message") or ""
        error: Any = json.loads(answer.text)["error"]
        return error["errors"][0]["reason"], error["message"]
    except (ValueError, ET.ParseError, LookupError, TypeError):
        return "", ""


def _text(error: Exception) -> str:
    return one_line(str(error), LONGEST_TEXT)
