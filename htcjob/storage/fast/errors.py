"""
What the exceptions of obstore mean: they are texts, with the fields of object_store's errors in them.

Headers are not among those, so a `Retry-After` is not known here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from obstore.exceptions import NotSupportedError
from obstore.exceptions import UnauthenticatedError as RefusedError

from htcjob.errors import AbsentError, PermanentError, TransientError, UnauthenticatedError
from htcjob.storage.answers import Answer, Meaning
from htcjob.storage.fast.way import NOWHERE

if TYPE_CHECKING:
    from htcjob.errors import StorageError

# Names of objects and bodies of answers are one escaped line each in the second half of the text, so a line
# that begins like this is a field of the error, whatever they hold.
_HALVES = "\n\nDebug source:\n"
_STATUS = re.compile(r"^ +inner: (?:Status|Response) \{\n +status: (\d{3}),\n +body: (.*(?:\n +\".*)?)", re.M)
_ELEMENT = re.compile(r"<(Code|Message|Region)>([^<]*)</")
_KIND = re.compile(r"^ +kind: (Connect|Request|Timeout|Interrupted|Decode|Unknown),$", re.M)
_CAUSE = re.compile(r"^ +(?:message|error): \"([^\"\\]{1,200})\",$", re.M)
_METADATA_SERVER = re.compile(
    r"^ +https?://(?:169\.254\.\d+\.\d+|metadata\.google\.internal|metadata)[:/]", re.M
)
_OUTSIDE = re.compile(r"^ +source: StartTooLarge \{$", re.M)  # Azure's offset is compared by object_store
_BARE_REDIRECT = re.compile(r"^ +inner: BareRedirect,$", re.M)
_REFUSED_REDIRECT = re.compile(
    r"^ +kind: Redirect,$|^ +source: BadScheme,$|URL scheme is not allowed|^ +" + re.escape(NOWHERE) + ",$",
    re.M,
)
_NO_LENGTH = re.compile(r"^ +source: MissingContentLength,$", re.M)
_NOT_THE_RANGE = re.compile(
    r"^ +source: (?:RangeNotSupported|NotPartial|NoContentRange|ParseContentRange|UnexpectedRange)\b", re.M
)
_CERTIFICATE = re.compile(r"InvalidCertificate\(\n +(\w+)|invalid peer certificate: (\w+)")

_KINDS = {
    "Connect": "cannot connect",
    "Timeout": "timed out",
    "Request": "the connection was closed before the answer",
    "Interrupted": "the connection broke off",
}
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


class ObstoreFailure:
    """The facts in one exception."""

    def __init__(self, error: Exception, scheme: str) -> None:
        self._error = error
        self._scheme = scheme
        self._fields = str(error).rpartition(_HALVES)[2]
        found = _STATUS.search(self._fields)
        self.answer: Answer | None = None
        """The server's refusal; None: there was no answer, or none that makes sense."""
        if found:
            said = {name.lower(): text for name, text in _ELEMENT.findall(found[2])}
            message = said.pop("message", "").replace('\\"', '"').replace("\\'", "'")
            self.answer = Answer(scheme, int(found[1]), message=message, **said)
        elif _REFUSED_REDIRECT.search(self._fields):
            self.answer = Answer(scheme, 302)

    @property
    def is_bare_redirect(self) -> bool:
        """Whether the answer was a redirection to nowhere, of which object_store tells nothing else."""
        return _BARE_REDIRECT.search(self._fields) is not None

    def meaning(self, operation: str, url: str, container: str, endpoint: str = "") -> StorageError:
        """
        Return what it means to a store.

        Args:
            operation: The verb.
            url: The object.
            container: Name of the bucket or container, as it stands in a sentence.
            endpoint: Where it is reached; empty: at the cloud's own server.
        """
        if _METADATA_SERVER.search(self._fields):
            return UnauthenticatedError(operation, url, no_credentials(self._scheme))
        if self.answer is not None:
            return self.answer.error(operation, url, container)
        return self._without_answer(operation, url, endpoint)

    def _without_answer(self, operation: str, url: str, endpoint: str) -> StorageError:
        if isinstance(self._error, FileNotFoundError):
            return AbsentError(operation, url, Meaning.ABSENT.value)
        if isinstance(self._error, RefusedError):
            return UnauthenticatedError(operation, url, no_credentials(self._scheme))
        if _NO_LENGTH.search(self._fields):
            return PermanentError(operation, url, "an answer without Content-Length")
        if _NOT_THE_RANGE.search(self._fields):
            return PermanentError(operation, url, "the server does not know ranges")
        if isinstance(self._error, (NotSupportedError, NotImplementedError)):
            return PermanentError(operation, url, "not supported by object_store")
        if _OUTSIDE.search(self._fields):
            return PermanentError(operation, url, Meaning.OUTSIDE.value)
        if found := _CERTIFICATE.search(self._fields):
            reason = f"the server's certificate is not trusted ({found[1] or found[2]})"
            return PermanentError(operation, url, f"{reason}: does SSL_CERT_FILE name its authority?")
        kind = _KIND.search(self._fields)
        reason = _KINDS.get(kind[1] if kind else "", "the answer makes no sense")
        reason += f" ({endpoint or _OWN_SERVERS[self._scheme]})"
        if cause := _CAUSE.search(self._fields):
            reason = f"{reason}: {cause[1]}"
        return TransientError(operation, url, reason)


def no_credentials(scheme: str) -> str:
    """Return the message for the case that there are none: which variables to set."""
    return f"no credentials: {_WHAT_TO_SET[scheme]}, or give the machine a role"
