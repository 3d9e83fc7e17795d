"""What the errors of S3, and of the SDK on the way to it, mean."""

from __future__ import annotations

from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from htcjob.errors import PermanentError, StorageError, TransientError, UnauthenticatedError
from htcjob.logs.redact import one_line
from htcjob.storage.answers import LONGEST_TEXT, Answer, retry_after

_NO_CREDENTIALS = (
    "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), "
    "or give the machine a role"
)
_BAD_CREDENTIALS = (
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.RefreshWithMFAUnsupportedError,
    sdk.SSOError,
    sdk.TokenRetrievalError,
    sdk.NoAuthTokenError,
)
_ON_THE_WAY = (
    sdk.HTTPClientError,  # with those of connections, timeouts and bodies that break off
    sdk.IncompleteReadError,
    sdk.FlexibleChecksumError,
    sdk.MetadataRetrievalError,
    ResponseParserError,
    HTTPError,  # of an error's body that breaks off
)
_OF_MACHINES = ("iam-role", "container-role")
"""Providers that ask a service on the machine, which a thousand jobs at once may overtax."""


class RangeIgnoredError(Exception):
    """The server does not know ranges."""


class NoLengthError(Exception):
    """The server does not say how long its answer is, so that one cut short would look whole."""


def code_of(error: sdk.ClientError) -> str:
    """Return the error code of S3, or the HTTP status where there was none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def meaning_of(operation: str, url: str, error: Exception, bucket: str) -> StorageError | None:
    """Translate an exception; None: it does not come from the SDK."""
    if isinstance(error, sdk.ClientError):
        return answer_of(error).error(operation, url, f"bucket {bucket}")
    if isinstance(error, RecursionError):
        # botocore follows a redirection by asking where the bucket is, and the answer to that the same way.
        return PermanentError(operation, url, "redirected without end: is the endpoint right, http or https?")
    if isinstance(error, sdk.HTTPClientError) and isinstance(error.kwargs.get("error"), TypeError):
        # urllib3 prepares the next request for a 303, and stumbles over botocore's headers, before it sees
        # that it is to follow none.
        return Answer("s3", 303).error(operation, url, f"bucket {bucket}")
    if isinstance(error, RangeIgnoredError):
        return PermanentError(operation, url, "the server does not know ranges")
    if isinstance(error, NoLengthError):
        return PermanentError(operation, url, "an answer without Content-Length")
    if isinstance(error, sdk.NoCredentialsError):
        return UnauthenticatedError(operation, url, _NO_CREDENTIALS)
    if isinstance(error, sdk.CredentialRetrievalError) and error.kwargs.get("provider") in _OF_MACHINES:
        return TransientError(operation, url, _text(error))
    if isinstance(error, _BAD_CREDENTIALS):
        return UnauthenticatedError(operation, url, _text(error))
    if isinstance(error, sdk.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = f"{_text(error)}: name the file of its authority in AWS_CA_BUNDLE"
        return PermanentError(operation, url, hint)
    if isinstance(error, (sdk.ConnectionError, *_ON_THE_WAY)):
        return TransientError(operation, url, _text(error))
    if isinstance(error, sdk.BotoCoreError):
        return PermanentError(operation, url, _text(error))
    return None


def answer_of(error: sdk.ClientError) -> Answer:
    """Return what the server said; botocore takes the status for the code where there was none."""
    said = error.response.get("Error", {})
    answer = error.response.get("ResponseMetadata", {})
    headers = answer.get("HTTPHeaders", {})
    code = code_of(error)
    return Answer(
        "s3",
        answer.get("HTTPStatusCode", 0),
        "" if code.isdecimal() else code,
        said.get("Message") or "",
        said.get("Region") or headers.get("x-amz-bucket-region") or "",
        retry_after(headers.get("retry-after")),
    )


def _text(error: Exception) -> str:
    return one_line(str(error), LONGEST_TEXT)
