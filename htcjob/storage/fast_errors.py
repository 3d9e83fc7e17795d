"""
What the exceptions of obstore mean: they are texts, with the fields of object_store's errors in them.

Headers are not among those, so a `Retry-After` is not known here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError, NotSupportedError
from obstore.exceptions import UnauthenticatedError as RefusedError

from htcjob.errors import (
    AbsentError,
    DeniedError,
    PermanentError,
    TransientError,
    UnauthenticatedError,
)

if TYPE_CHECKING:
    from htcjob.errors import StorageError

# Names of objects and bodies of answers are one escaped line each in the second half of the text, so a line
# that begins like this is a field of the error, whatever they hold.
_HALVES = "\n\nDebug source:\n"
_STATUS = re.compile(r"^ +inner: (?:Status|Response) \{\n +status: (\d{3}),\n +body: (.*(?:\n +\".*)?)", re.M)
_CODE = re.compile(r"<Code>(\w+)</Code>")
_KIND = re.compile(r"^ +kind: (Connect|Request|Timeout|Interrupted|Decode|Unknown),$", re.M)
_CAUSE = re.compile(r"^ +(?:message|error): \"([^\"\\]{1,200})\",$", re.M)
_METADATA_SERVER = re.compile(
    r"^ +https?://(?:169\.254\.\d+\.\d+|metadata\.google\.internal|metadata)[:/]", re.M
)
_OUTSIDE = re.compile(r"^ +source: StartTooLarge \{$", re.M)  # Azure's offset is compared by object_store
_BARE_REDIRECT = re.compile(r"^ +inner: BareRedirect,$", re.M)
_CERTIFICATE = re.compile(r"InvalidCertificate\(\n +(\w+)|invalid peer certificate: (\w+)")

_KINDS = {
    "Connect": "cannot connect",
    "Timeout": "timed out",
    "Request": "the connection was closed before the answer",
    "Interrupted": "the connection broke off",
}

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
# https://docs.cloud.google.com/storage/docs/xml-api/reference-status
# https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
_NOT_AUTHENTICATED = frozenset(
    {
        *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"),
        *("SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidSecurity", "AuthenticationRequired"),
        *("AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"),
    }
)
_THROTTLED = frozenset(
    {"SlowDown", "ServerBusy", "TooManyRequests", "RequestLimitExceeded", "Throttling", "ThrottlingException"}
)
_DAMAGED = frozenset(
    {
        # What arrived there is not what was sent.
        *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "Md5Mismatch", "Crc64Mismatch"),
        *("RequestTimeout", "InternalError", "OperationTimedOut"),
    }
)
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ResourceNotFound"})
_ELSEWHERE = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
)


_WHAT_TO_SET = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
    "az": "set AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_KEY",
}
_OWN_SERVERS = {
    "s3": "at Amazon: AWS_ENDPOINT_URL_S3 names another server",
    "gs": "at Google",
    "az": "at Azure: AZURE_STORAGE_ENDPOINT names another server",
}


class Failure:
    """The facts in one exception."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        text = str(error)
        self._fields = text.rpartition(_HALVES)[2]
        found = _STATUS.search(self._fields)
        self.status = int(found[1]) if found else None
        """HTTP's; None: there was no answer, or none that makes sense."""
        code = _CODE.search(found[2]) if found else None
        self.code = code[1] if code else None
        """The store's own, for example `SlowDown`."""

    @staticmethod
    def is_of_obstore(error: Exception) -> bool:
        """Tell whether obstore raised it: its own classes, and system errors that have no number."""
        return isinstance(error, BaseError) or (isinstance(error, OSError) and error.errno is None)

    def meaning(self, scheme: str, operation: str, url: str, endpoint: str = "") -> StorageError:
        """Give what it means to a store, which is reached at *endpoint* (empty: the cloud's own)."""
        status, code = self.status, self.code
        if _METADATA_SERVER.search(self._fields):
            reason = f"no credentials: {_WHAT_TO_SET[scheme]}, or give the machine a role"
            return UnauthenticatedError(operation, url, reason)
        if status is None:
            return self._without_answer(operation, url, scheme, endpoint)
        answer = f"{status} {code}" if code else f"{status}"
        if code in _THROTTLED or status in (429, 503):
            return TransientError(operation, url, f"throttled ({answer})", is_throttled=True)
        if status >= 500 or status in (200, 408) or code in _DAMAGED:
            return TransientError(operation, url, f"the server failed ({answer})")
        if status == 401 or code in _NOT_AUTHENTICATED:
            return UnauthenticatedError(operation, url, f"the credentials are refused ({answer})")
        if code in _ELSEWHERE or status in (301, 307, 308):
            return PermanentError(operation, url, f"the bucket is in another region ({answer})")
        if status == 403:
            reason = f"access denied ({answer})"
            if scheme == "s3" and operation in ("get", "read_range", "head"):
                reason = "access denied, or absent and the token may not list the bucket"
            return DeniedError(operation, url, reason)
        if status == 404:
            is_bucket = code in _NO_BUCKET or operation in ("list", "put", "put_bytes")
            container = "container" if scheme == "az" else "bucket"
            return AbsentError(operation, url, f"no such {container if is_bucket else 'object'}")
        if status == 412:
            return TransientError(operation, url, "the object was replaced meanwhile")
        if status == 409:
            return TransientError(operation, url, f"another request was in the way ({answer})")
        if status == 416:
            return PermanentError(operation, url, "it has no bytes there")
        return PermanentError(operation, url, f"refused ({answer})")

    def _without_answer(self, operation: str, url: str, scheme: str, endpoint: str) -> StorageError:
        if isinstance(self._error, FileNotFoundError):
            return AbsentError(operation, url, "no such object")
        if isinstance(self._error, RefusedError):
            return UnauthenticatedError(operation, url, f"no credentials: {_WHAT_TO_SET[scheme]}")
        if isinstance(self._error, (NotSupportedError, NotImplementedError)):
            return PermanentError(operation, url, "not supported by object_store")
        if _OUTSIDE.search(self._fields):
            return PermanentError(operation, url, "it has no bytes there")
        if _BARE_REDIRECT.search(self._fields):
            return PermanentError(operation, url, "the bucket is in another region: is AWS_REGION right?")
        if found := _CERTIFICATE.search(self._fields):
            reason = f"the server's certificate is not trusted ({found[1] or found[2]})"
            return PermanentError(operation, url, f"{reason}: does SSL_CERT_FILE name its authority?")
        kind = _KIND.search(self._fields)
        reason = _KINDS.get(kind[1] if kind else "", "the answer makes no sense")
        reason += f" ({endpoint or _OWN_SERVERS[scheme]})"
        if cause := _CAUSE.search(self._fields):
            reason = f"{reason}: {cause[1]}"
        return TransientError(operation, url, reason)
