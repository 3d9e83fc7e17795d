"""
What a refusal of storage means: one table of codes for both engines and every kind of server.

One module, because most of it is that table, which says nothing without the meanings above it.

The codes are the vendors' own. Where one is not in the table its HTTP status decides, so compatible servers
(MinIO, Ceph, R2, B2, Wasabi) need no table of their own; what they add to S3's codes stands among those.

* S3: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList, keys that encrypt:
  https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html, roles that the SDK assumes:
  https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html
* Google, codes of the XML API and reasons of the JSON API:
  https://docs.cloud.google.com/storage/docs/xml-api/reference-status and
  https://docs.cloud.google.com/storage/docs/json_api/v1/status-codes
* Azure: https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes and
  https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from htcjob.errors import (
    AbsentError,
    DeniedError,
    PermanentError,
    TransientError,
    UnauthenticatedError,
    UnwritableError,
)
from htcjob.logs.redact import one_line

if TYPE_CHECKING:
    from htcjob.errors import StorageError

LONGEST_TEXT = 300
"""Characters that are shown of what a server or an SDK says."""


class Meaning(Enum):
    """The meaning of a refusal, and the words for it."""

    ABSENT = "there is no such object"
    NO_BUCKET = "there is no {container}"
    DENIED = "access denied"
    NO_ACCOUNT = "the account is closed, suspended or not signed up"
    EXPIRED = "the credentials are expired"
    REFUSED = "the credentials are refused"
    CLOCK = "this machine's clock and the server's differ"
    """A machine that has just started may say so, which passes; it tells nothing about the credentials."""
    THROTTLED = "throttled"
    FAILED = "the server failed"
    DAMAGED = "what arrived there is not what was sent"
    CONFLICT = "another request was in the way"
    REPLACED = "the object was replaced meanwhile"
    NO_KEY = "the key that encrypts it cannot be used"
    ARCHIVED = "the object is in an archive: restore it first"
    FULL = "the storage is full, or a quota is used up"
    TOO_LARGE = "too large"
    ELSEWHERE = "{container} is in another region or endpoint"
    REDIRECTED = "redirected elsewhere, where nothing is sent: is the endpoint right, http or https?"
    UNSUPPORTED = "the server does not support this"
    OUTSIDE = "it has no bytes there"
    OTHER_BLOB = "an append or page blob has this name; only block blobs are written"
    UNFINISHED = "another program's unfinished upload has this name, for a week at most"
    INVALID = "refused"

    @property
    def error(self) -> type[StorageError]:
        """Class of the error."""
        return _CLASSES.get(self, PermanentError)


_CLASSES: dict[Meaning, type[StorageError]] = {
    **dict.fromkeys((Meaning.ABSENT, Meaning.NO_BUCKET), AbsentError),
    **dict.fromkeys((Meaning.DENIED, Meaning.NO_ACCOUNT), DeniedError),
    **dict.fromkeys((Meaning.EXPIRED, Meaning.REFUSED), UnauthenticatedError),
    Meaning.CLOCK: TransientError,
    Meaning.THROTTLED: TransientError,
    Meaning.FAILED: TransientError,
    Meaning.DAMAGED: TransientError,
    Meaning.CONFLICT: TransientError,
    Meaning.REPLACED: TransientError,
    Meaning.FULL: UnwritableError,
}
"""Classes of the errors; all other meanings are permanent."""

S3 = {
    Meaning.ABSENT: "404:NoSuchKey 404:NoSuchVersion",
    Meaning.NO_BUCKET: "404:NoSuchBucket 404:NoSuchAccessPoint",
    Meaning.DENIED: """
        403:AccessDenied 403:AllAccessDisabled 403:AccessForbidden 403:InvalidPayer
        403:CrossLocationLoggingProhibited 403:UnauthorizedAccess 403:AccessDeniedException
        400:KMS.AccessDeniedException 403:KMSAccessDeniedException 403:KMSAccessDenied""",
    Meaning.NO_ACCOUNT: "403:NotSignedUp 403:AccountProblem 403:UserSuspended 400:OptInRequired",
    Meaning.EXPIRED: "400:ExpiredToken 400:ExpiredTokenException 400:TokenRefreshRequired 400:RequestExpired",
    Meaning.REFUSED: """
        403:InvalidAccessKeyId 403:SignatureDoesNotMatch 400:InvalidToken 403:InvalidSecurity
        403:InvalidTokenId 403:InvalidClientTokenId 400:InvalidIdentityToken 400:UnrecognizedClientException
        400:IncompleteSignature 403:MissingAuthenticationToken 401:Unauthorized
        400:CredentialsNotSupported 400:MissingSecurityHeader 400:MissingSecurityElement""",
    Meaning.CLOCK: "403:RequestTimeTooSkewed 403:RequestTimeSkewed",
    Meaning.THROTTLED: """
        503:SlowDown 503:SlowDownRead 503:SlowDownWrite 503:ServiceUnavailable 503:Busy 503:ServerBusy
        400:Throttling 400:ThrottlingException 400:ThrottledException 400:RequestThrottledException
        503:RequestThrottled 503:RequestLimitExceeded 509:BandwidthLimitExceeded 429:TooManyRequests
        429:TooManyRequestsException 400:LimitExceededException 503:EC2ThrottledException
        400:PriorRequestNotComplete 400:TransactionInProgressException 409:TransactionInProgress
        400:ProvisionedThroughputExceededException 400:KMS.ThrottlingException 400:KMS.LimitExceededException
        503:QpsLimitExceeded 503:TotalQpsLimitExceeded""",
    Meaning.FAILED: """
        500:InternalError 500:InternalFailure 500:InternalServerError 400:RequestTimeout
        400:RequestTimeoutException 500:KMS.InternalException 500:KMS.KMSInternalException
        500:KMS.KeyUnavailableException 503:KMS.DependencyTimeoutException 400:IDPCommunicationError
        307:TemporaryRedirect 503:XMinioServerNotInitialized 499:ClientDisconnected""",
    Meaning.DAMAGED: """
        400:BadDigest 400:InvalidDigest 400:IncompleteBody 400:XAmzContentSHA256Mismatch
        400:XAmzContentChecksumMismatch""",
    Meaning.CONFLICT: "409:OperationAborted 409:ConditionalRequestConflict 404:NoSuchUpload",
    Meaning.REPLACED: "412:PreconditionFailed",
    Meaning.NO_KEY: """
        400:KMS.DisabledException 400:KMS.NotFoundException 400:KMS.KMSInvalidStateException
        400:KMS.InvalidStateException 400:KMS.InvalidKeyUsageException 400:KMS.OptInRequired
        501:KMSNotConfigured""",
    Meaning.ARCHIVED: """
        403:InvalidObjectState 403:ObjectNotInActiveTierError 409:RestoreAlreadyInProgress""",
    Meaning.FULL: """
        403:QuotaExceeded 400:XMinioAdminBucketQuotaExceeded 507:XMinioStorageFull
        507:InsufficientStorage 507:InsufficientCapacity 402:ServiceQuotaExceededException""",
    Meaning.TOO_LARGE: """
        400:EntityTooLarge 400:MaxMessageLengthExceeded 400:KeyTooLongError 400:MetadataTooLarge""",
    Meaning.ELSEWHERE: """
        301:PermanentRedirect 400:AuthorizationHeaderMalformed 400:IllegalLocationConstraintException
        400:InvalidLocationConstraint 400:InvalidRegion""",
    Meaning.UNSUPPORTED: """
        501:NotImplemented 405:MethodNotAllowed 400:UnsupportedOperation 411:MissingContentLength""",
    Meaning.OUTSIDE: "416:InvalidRange",
    Meaning.INVALID: """
        400:InvalidArgument 400:InvalidRequest 400:InvalidBucketName 400:EntityTooSmall 400:InvalidPart
        400:InvalidPartOrder 400:InvalidURI 400:MalformedXML 409:InvalidBucketState
        400:InvalidStorageClass""",
}
"""Codes of S3 by what they mean, each behind the status that it usually comes with."""

GOOGLE = {
    Meaning.ABSENT: "404:notFound",
    Meaning.DENIED: """
        403:forbidden 403:insufficientPermissions 403:countryBlocked 403:sslRequired
        403:usageLimits.accessNotConfigured 403:UserProjectAccessDenied 403:userProjectAccessDenied
        403:objectUnderActiveHold 403:retentionPolicyNotMet 412:orgPolicyConstraintFailed""",
    Meaning.NO_ACCOUNT: "403:accountDisabled 403:UserProjectAccountProblem 403:userProjectAccountProblem",
    Meaning.EXPIRED: "401:lockedDomainExpired",
    Meaning.REFUSED: """
        401:authError 401:AuthenticationRequired 401:AuthenticationRequiredRequesterPays
        401:authenticationRequiredRequesterPays""",
    Meaning.THROTTLED: """
        429:rateLimitExceeded 429:userRateLimitExceeded 429:usageLimits.rateLimitExceeded
        403:dailyLimitExceeded""",
    Meaning.FAILED: """
        500:internalError 503:backendError 504:gatewayTimeout 410:gone 410:uploadBrokenConnection
        307:temporaryRedirect""",
    Meaning.DAMAGED: "400:CrcMismatch",
    Meaning.CONFLICT: "409:conflict",
    Meaning.REPLACED: "412:conditionNotMet",
    Meaning.NO_KEY: """
        400:cloudKmsBadKey 400:cloudKmsDisabledKey 400:cloudKmsDecryptionKeyNotFound
        400:cloudKmsEncryptionKeyNotFound 400:cloudKmsKeyLocationNotAllowed
        400:customerEncryptionKeyIsIncorrect 400:resourceIsEncryptedWithCustomerEncryptionKey
        400:CustomerEncryptionKeyIsIncorrect 400:ResourceIsEncryptedWithCustomerEncryptionKey""",
    Meaning.FULL: "403:quotaExceeded",
    Meaning.TOO_LARGE: "413:uploadTooLarge",
    Meaning.UNSUPPORTED: "405:methodNotAllowed",
    Meaning.OUTSIDE: "416:requestedRangeNotSatisfiable",
    Meaning.INVALID: """
        400:invalid 400:badRequest 400:invalidArgument 400:userProjectMissing 400:UserProjectMissing""",
}
"""Google's reasons, and those of its codes that S3 does not have; the others mean what they mean there."""

AZURE = {
    Meaning.ABSENT: "404:BlobNotFound 404:PathNotFound",
    Meaning.NO_BUCKET: """
        404:ContainerNotFound 409:ContainerBeingDeleted 409:ContainerDisabled 404:FilesystemNotFound
        404:ResourceNotFound""",
    Meaning.DENIED: """
        403:AuthorizationFailure 403:AuthorizationPermissionMismatch 403:AuthorizationServiceMismatch
        403:AuthorizationProtocolMismatch 403:AuthorizationSourceIPMismatch
        403:AuthorizationResourceTypeMismatch 403:InsufficientAccountPermissions
        409:PublicAccessNotPermitted 403:UnauthorizedBlobOverwrite 403:KeyBasedAuthenticationNotPermitted
        403:KeyVaultAccessTokenCannotBeAcquired""",
    Meaning.NO_ACCOUNT: "403:AccountIsDisabled 409:AccountBeingCreated",
    Meaning.REFUSED: "403:AuthenticationFailed 400:InvalidAuthenticationInfo 401:NoAuthenticationInformation",
    Meaning.THROTTLED: "503:ServerBusy 429:TooManyRequests 409:SnapshotOperationRateExceeded",
    Meaning.FAILED: "500:InternalError 500:OperationTimedOut",
    Meaning.DAMAGED: "400:Md5Mismatch 400:Crc64Mismatch 400:InvalidMd5",
    Meaning.CONFLICT: """
        409:LeaseAlreadyPresent 409:PendingCopyOperation 409:BlobAlreadyExists
        409:SystemInUse""",
    Meaning.REPLACED: "412:ConditionNotMet 412:TargetConditionNotMet",
    Meaning.NO_KEY: """
        403:KeyVaultEncryptionKeyNotFound 403:KeyVaultVaultNotFound
        409:BlobUsesCustomerSpecifiedEncryption""",
    Meaning.ARCHIVED: "409:BlobArchived 409:BlobBeingRehydrated",
    Meaning.FULL: "507:InsufficientStorage 409:BlockCountExceedsLimit",
    Meaning.TOO_LARGE: "413:RequestBodyTooLarge 400:MetadataTooLarge 409:ContentLengthLargerThanTierLimit",
    Meaning.UNSUPPORTED: """
        405:UnsupportedHttpVerb 400:UnsupportedHeader 409:FeatureVersionMismatch 400:UnsupportedQueryParameter
        501:NotImplemented 411:MissingContentLengthHeader""",
    Meaning.OUTSIDE: "416:InvalidRange",
    Meaning.OTHER_BLOB: "409:InvalidBlobType",
    Meaning.UNFINISHED: "400:InvalidBlobOrBlock",
    Meaning.INVALID: """
        400:InvalidHeaderValue 400:InvalidInput 400:OutOfRangeInput 400:InvalidResourceName
        400:InvalidUri 400:InvalidBlockId 400:InvalidBlockList 400:MissingRequiredHeader
        412:LeaseIdMissing 409:SnapshotsPresent 409:BlobImmutableDueToPolicy""",
}
"""Azure's codes."""

_STATUSES = {
    **dict.fromkeys((301, 302, 303, 305, 307, 308), Meaning.REDIRECTED),
    **dict.fromkeys((401, 407), Meaning.REFUSED),
    **dict.fromkeys((402, 403, 451), Meaning.DENIED),
    404: Meaning.ABSENT,
    **dict.fromkeys((405, 411, 501, 505), Meaning.UNSUPPORTED),
    **dict.fromkeys((408, 410, 421, 425, 499), Meaning.FAILED),
    **dict.fromkeys((409, 423), Meaning.CONFLICT),
    412: Meaning.REPLACED,
    **dict.fromkeys((413, 414, 431), Meaning.TOO_LARGE),
    416: Meaning.OUTSIDE,
    **dict.fromkeys((429, 503, 509, 529), Meaning.THROTTLED),
    507: Meaning.FULL,
}
"""For answers whose code says nothing; other statuses below 500 are refusals, and those above failures."""


def _by_code(*tables: dict[Meaning, str]) -> dict[str, tuple[int, Meaning]]:
    rows = ((word, meaning) for table in tables for meaning, words in table.items() for word in words.split())
    return {word[4:]: (int(word[:3]), meaning) for word, meaning in rows}


_CODES = {"s3": _by_code(S3), "gs": _by_code(S3, GOOGLE), "az": _by_code(AZURE)}


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's refusal, as far as the engine knows what it said."""

    scheme: str
    """The cloud that the codes are of: `s3`, `gs` or `az`."""
    status: int
    """HTTP's. Below 300: a failure that was told in the body of a success."""
    code: str = ""
    """The store's own word, for example `SlowDown`; empty: it gave none."""
    message: str = ""
    """The store's sentence."""
    region: str = ""
    """Region of the bucket, when the server says that it is elsewhere."""
    retry_after_s: float | None = None
    """Seconds that the server asks us to wait."""

    def meaning(self, operation: str) -> Meaning:
        """Return what it means to that verb of a store."""
        usual_status, meaning = _CODES[self.scheme].get(self.code, (0, None))
        if meaning is None and self.code.startswith("KMS") and self.status == 400:
            meaning = Meaning.NO_KEY
        is_trouble = self.status >= 500 or self.status < 300
        if is_trouble and usual_status < 500 and meaning and meaning.error is not TransientError:
            meaning = None  # a server in trouble says what it otherwise says of the request
        if meaning is None:
            otherwise = Meaning.INVALID if 300 <= self.status < 500 else Meaning.FAILED
            meaning = _STATUSES.get(self.status, otherwise)
        is_of_container = meaning is Meaning.ABSENT and operation in ("list", "put", "put_bytes")
        return Meaning.NO_BUCKET if is_of_container else meaning

    @property
    def is_mute(self) -> bool:
        """
        Whether a refusal came without the code that would say what it means.

        The answer to a HEAD has no body that could hold one. A server that has too much to do is not asked.
        """
        is_clear = self.status in (404, 408, 412, 429) or (
            self.status >= 500 and self.status not in (501, 507)
        )
        return not self.code and self.status >= 300 and not is_clear

    def error(self, operation: str, url: str, container: str) -> StorageError:
        """
        Return the error for a verb of a store.

        Args:
            operation: The verb.
            url: The object.
            container: Name of the bucket or container, as it stands in a sentence.
        """
        meaning = self.meaning(operation)
        words = meaning.value.format(container=container)
        if meaning is Meaning.ELSEWHERE and self.region:
            words = f"{container} is in the region {self.region}: set AWS_REGION"
        if meaning is Meaning.DENIED and self.scheme == "s3" and operation in ("get", "read_range", "head"):
            words += ", or absent and the token may not list the bucket"
        said = " ".join(filter(None, (str(self.status or ""), self.code)))
        if self.message and meaning not in (Meaning.ABSENT, Meaning.NO_BUCKET):
            said += f": {self.message}"
        reason = f"{words} ({one_line(said, LONGEST_TEXT)})"
        if meaning.error is TransientError:
            return TransientError(
                operation,
                url,
                reason,
                retry_after_s=self.retry_after_s,
                is_throttled=meaning is Meaning.THROTTLED,
                is_replaced=meaning is Meaning.REPLACED,
            )
        return meaning.error(operation, url, reason)


def retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header; a date, which no cloud sends, is not understood."""
    return float(header) if header is not None and header.isdecimal() else None
