"""What the errors of S3, and of the SDK on the way to it, mean."""

from __future__ import annotations

from typing import Any

from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError

from htcjob.errors import (
    AbsentError,
    DeniedError,
    PermanentError,
    StorageError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.redact import redact

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList, and for the roles that
# the SDK assumes https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html. The answer to a HEAD
# has no body, so no code but the status, and this is 400 for an expired token.
_ABSENT = {"NoSuchKey", "NoSuchVersion", "404"}
_UNAUTHENTICATED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
    "400",
    "401",
}
_THROTTLED = {
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
}
_TRANSIENT = {
    "BadDigest",  # what arrived there is not what was sent
    "ConditionalRequestConflict",
    "IDPCommunicationError",
    "IncompleteBody",
    "NoSuchUpload",  # aborted by somebody else: the whole put may be repeated
    "OperationAborted",
    "RequestTimeout",
    "RequestTimeTooSkewed",  # a clock that is being set, shortly after the machine's start
    "TemporaryRedirect",
    "XAmzContentSHA256Mismatch",
    "307",
}
_ELSEWHERE = {
    "301",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
}
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
)
_OF_MACHINES = ("iam-role", "container-role")
"""Providers that ask a service on the machine, which a thousand jobs at once may overtax."""
_LONGEST_TEXT = 300


class RangeIgnoredError(Exception):
    """The server does not know ranges."""


def code_of(error: sdk.ClientError) -> str:
    """Give the error code of S3, or the HTTP status where there was none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def meaning_of(operation: str, url: str, error: Exception, bucket: str) -> StorageError | None:
    """Translate an exception; None: it does not come from the SDK."""
    if isinstance(error, sdk.ClientError):
        return _meaning_of_answer(operation, url, error, bucket)
    if isinstance(error, RecursionError):
        # botocore follows a redirection by asking where the bucket is, and the answer to that the same way.
        return PermanentError(operation, url, "redirected without end: is the endpoint right, http or https?")
    if isinstance(error, RangeIgnoredError):
        return PermanentError(operation, url, "the server does not know ranges")
    if isinstance(error, sdk.NoCredentialsError):
        return UnauthenticatedError(operation, url, _NO_CREDENTIALS)
    if isinstance(error, sdk.CredentialRetrievalError) and error.kwargs.get("provider") in _OF_MACHINES:
        return TransientError(operation, url, _one_line(error))
    if isinstance(error, _BAD_CREDENTIALS):
        return UnauthenticatedError(operation, url, _one_line(error))
    if isinstance(error, sdk.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = f"{_one_line(error)}: name the file of its authority in AWS_CA_BUNDLE"
        return PermanentError(operation, url, hint)
    if isinstance(error, (sdk.ConnectionError, *_ON_THE_WAY)):
        return TransientError(operation, url, _one_line(error))
    if isinstance(error, sdk.BotoCoreError):
        return PermanentError(operation, url, _one_line(error))
    return None


def _meaning_of_answer(operation: str, url: str, error: sdk.ClientError, bucket: str) -> StorageError:
    code = code_of(error)
    answer = error.response.get("ResponseMetadata", {})
    status, headers = answer.get("HTTPStatusCode", 0), answer.get("HTTPHeaders", {})
    reason = _one_line(f"{code}: {error.response.get('Error', {}).get('Message') or 'no message'}")
    if code == "NoSuchBucket":
        return AbsentError(operation, url, f"there is no bucket {bucket}")
    if code in _ABSENT:
        return AbsentError(operation, url, "there is no such object")
    if code in _UNAUTHENTICATED:
        return UnauthenticatedError(operation, url, reason)
    if code in _ELSEWHERE:
        region = error.response["Error"].get("Region") or headers.get("x-amz-bucket-region")
        where = f"is in the region {region}: set AWS_REGION" if region else "is in another region or endpoint"
        return PermanentError(operation, url, f"bucket {bucket} {where} ({reason})")
    if code in _THROTTLED or status in (429, 503):
        wait_s = _seconds(headers.get("retry-after"))
        return TransientError(operation, url, reason, retry_after_s=wait_s, is_throttled=True)
    if code in ("PreconditionFailed", "412"):
        return TransientError(operation, url, "the object was replaced meanwhile")
    if code in _TRANSIENT or status == 408 or (status >= 500 and status != 501):
        return TransientError(operation, url, reason)
    if status in (401, 403) and code != "InvalidObjectState":  # that one is in an archive
        if error.operation_name in ("GetObject", "HeadObject"):
            reason = "access denied, or absent and the token may not list the bucket"
        return DeniedError(operation, url, reason)
    return PermanentError(operation, url, reason)


def _one_line(error: Any) -> str:
    return redact(" ".join(str(error).split()))[:_LONGEST_TEXT]


def _seconds(retry_after: str | None) -> float | None:
    # A date is possible too; S3 sends none.
    return float(retry_after) if retry_after is not None and retry_after.isdigit() else None
