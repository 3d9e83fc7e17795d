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

from htcjob.errors import (
    AbsentError,
    DeniedError,
    PermanentError,
    StorageError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.redact import redact

# Reasons of the JSON API: https://cloud.google.com/storage/docs/json_api/v1/status-codes
# Codes of the XML API: https://cloud.google.com/storage/docs/xml-api/reference-status
_THROTTLED = {"rateLimitExceeded", "userRateLimitExceeded", "SlowDown"}
_CORRUPTED = {"BadDigest", "CrcMismatch"}
_NO_CREDENTIALS = (
    "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key, "
    "or give the machine a service account"
)
_LONGEST_TEXT = 300


class SourceChangedError(Exception):
    """The file that is sent became shorter."""


SDK_ERRORS = (
    GoogleAPICallError,
    InvalidResponse,
    DataCorruption,
    auth.GoogleAuthError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    ConnectionError,  # the SDK's word for a body that is too short
    SourceChangedError,
)
"""All that leaves the SDK, and the sessions and connections below it."""


def meaning_of(operation: str, url: str, error: Exception, bucket: str) -> StorageError | None:
    """Translate an exception; None: it does not come from the SDK."""
    if isinstance(error, (GoogleAPICallError, InvalidResponse)) and error.response is not None:
        return _meaning_of_answer(operation, url, error.response, bucket)
    if isinstance(error, auth.DefaultCredentialsError):
        return UnauthenticatedError(operation, url, f"no credentials: {_NO_CREDENTIALS} ({_one_line(error)})")
    if isinstance(error, auth.TransportError):
        return TransientError(operation, url, _one_line(error))
    if isinstance(error, auth.GoogleAuthError):
        kind = TransientError if error.retryable else UnauthenticatedError
        return kind(operation, url, _one_line(error))
    if isinstance(error, SourceChangedError):
        return TransientError(operation, url, "the file changed while it was read")
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        return PermanentError(operation, url, _one_line(error))
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = f"{_one_line(error)}: name the file of its authority in REQUESTS_CA_BUNDLE"
        return PermanentError(operation, url, hint)
    if isinstance(error, SDK_ERRORS):
        return TransientError(operation, url, _one_line(error))
    return None


def _meaning_of_answer(operation: str, url: str, answer: requests.Response, bucket: str) -> StorageError:
    status = answer.status_code
    code, message = _said(answer)
    reason = _one_line(f"{status} {code}: {message}" if code else f"{status} {message or answer.reason}")
    if code == "NoSuchUpload":  # given up by somebody else: the whole put may be repeated
        return TransientError(operation, url, reason)
    if status == 404:
        is_bucket = code == "NoSuchBucket" or "bucket does not exist" in message
        text = f"there is no bucket {bucket}" if is_bucket else "there is no such object"
        return AbsentError(operation, url, text)
    if status == 401:
        return UnauthenticatedError(operation, url, reason)
    if status in (429, 503) or code in _THROTTLED:
        wait_s = _seconds(answer.headers.get("Retry-After"))
        return TransientError(operation, url, reason, retry_after_s=wait_s, is_throttled=True)
    if status == 403:
        return DeniedError(operation, url, reason)
    if status == 412:
        return TransientError(operation, url, "the object was replaced meanwhile")
    is_corrupted = status == 400 and (code in _CORRUPTED or "doesn't match calculated" in message)
    if status in (408, 410) or is_corrupted or (status >= 500 and status != 501):
        return TransientError(operation, url, reason)
    if status < 300:
        return PermanentError(operation, url, f"the server does not know ranges (status {status})")
    return PermanentError(operation, url, reason)


def _said(answer: requests.Response) -> tuple[str, str]:
    """Give reason and message of the JSON API, or code and message of the XML API, or nothing."""
    if answer.status_code < 400:
        return "", ""
    try:
        if answer.text.startswith("<"):
            root = ET.fromstring(answer.text.encode())  # noqa: S314 - the service's own
            return root.findtext("{*}Code") or "", root.findtext("{*}Message") or ""
        error: Any = json.loads(answer.text)["error"]
        return error["errors"][0]["reason"], error["message"]
    except (ValueError, ET.ParseError, LookupError, TypeError):
        return "", ""


def _one_line(error: Any) -> str:
    return redact(" ".join(str(error).split()))[:_LONGEST_TEXT]


def _seconds(retry_after: str | None) -> float | None:
    # A date is possible too; Google sends none.
    return float(retry_after) if retry_after is not None and retry_after.isdigit() else None
