"""
Every exception that htcjob raises on purpose.

HtcjobError
├── UsageError                     the command line asks for something that makes no sense
├── ConfigurationError             the injected environment, or a value in it, is wrong
│   └── RunMismatchError           the task already holds the run of another manifest or command
├── TokenError                     the bearer token is malformed, expired, or not signed by the platform
├── CommandNotStartedError         the command is not found (127) or not executable (126)
├── ShortageError                  this machine has no process or memory left for now; try again
├── EngineError                    the container engine of this machine cannot be used
├── FailureReportError             the command's list of failed entries cannot be understood
├── BadKeyError (ValueError)       an object key that must not be used: `..`, absolute, NUL, too long
└── StorageError                   a storage operation failed; which one, on what, and why
    ├── AbsentError (FileNotFoundError)    the object is not there
    ├── DeniedError (PermissionError)      the credentials are good, the operation is not allowed
    ├── UnauthenticatedError               the credentials are expired or refused
    ├── TransientError                     worth repeating unchanged: throttled, 5xx, reset, truncated
    │   └── DisorderError                  a listing is not in order; begun again, it is sorted
    └── PermanentError                     not worth repeating: disk full, read-only, bad range
        └── OutputError                    an output that no store can take: a pipe, a link that leads outside

Exceptions carry facts; `outcome/` decides what they mean for the attempt's exit status.
"""

from __future__ import annotations

import errno


class HtcjobError(Exception):
    """Base of all. `str()` is one line that a person can act on, and never holds a secret."""


class UsageError(HtcjobError):
    """The command line asks for something that makes no sense."""


class ConfigurationError(HtcjobError):
    """The injected environment is wrong; the message names the variable and what was expected."""


class RunMismatchError(ConfigurationError):
    """The task storage holds the run of another manifest or command under the same name."""


class TokenError(HtcjobError):
    """The bearer token is malformed, expired, or not signed by the configured platform."""


class CommandNotStartedError(HtcjobError):
    """The command is not found or not executable."""

    def __init__(self, exit_status: int, reason: str) -> None:
        super().__init__(reason)
        self.exit_status = exit_status
        """127 or 126, as in a shell."""


class ShortageError(HtcjobError):
    """This machine has no process, memory or file descriptor left for now; trying again may help."""


class UnusableIndexError(ConfigurationError):
    """The index of a manifest is damaged, or of another version of it; the message says what is wrong."""


class EngineError(HtcjobError):
    """The container engine of this machine cannot be used: absent, not running, failing."""


class FailureReportError(HtcjobError):
    """The command's list of failed entries cannot be understood, so none of its work is committed."""


class BadKeyError(HtcjobError, ValueError):
    """An object key that must not be used."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"key {key!r}: {reason}")
        self.key = key
        self.reason = reason


class StorageError(HtcjobError):
    """A storage operation failed."""

    def __init__(self, operation: str, url: str, reason: str) -> None:
        super().__init__(operation, url, reason)
        self.operation = operation
        """The verb of the store, for example `get`."""
        self.url = url
        """The object, without query or user information."""
        self.reason = reason
        """The cause, as a person would say it."""

    def __str__(self) -> str:
        return f"{self.operation} {self.url}: {self.reason}"


class AbsentError(StorageError, FileNotFoundError):
    """The object is not there."""

    def __init__(self, operation: str, url: str, reason: str) -> None:
        super().__init__(operation, url, reason)
        self.errno = errno.ENOENT  # OSError took *operation* for it


class DeniedError(StorageError, PermissionError):
    """The credentials are good, but do not allow this."""

    def __init__(self, operation: str, url: str, reason: str) -> None:
        super().__init__(operation, url, reason)
        self.errno = errno.EACCES


class UnauthenticatedError(StorageError):
    """The credentials are expired or refused; new ones may help."""


class TransientError(StorageError):
    """Worth repeating unchanged: throttled, 5xx, timeout, connection reset, truncated body."""

    def __init__(
        self,
        operation: str,
        url: str,
        reason: str,
        *,
        retry_after_s: float | None = None,
        is_throttled: bool = False,
        is_replaced: bool = False,
    ) -> None:
        super().__init__(operation, url, reason)
        self.retry_after_s = retry_after_s
        """Seconds that the server asked us to wait, if it did."""
        self.is_throttled = is_throttled
        """The server has too much to do (503 SlowDown, 429): all transfers must slow down."""
        self.is_replaced = is_replaced
        """The object is another one than a moment ago: a part of the old one cannot be had any more."""

    def again(self, *, retry_after_s: float | None) -> TransientError:
        """
        Return this failure as an exception of its own: each thread that raises it adds its traceback.

        Args:
            retry_after_s: How long to wait now, in seconds; None: nobody asks for a wait.
        """
        return TransientError(
            self.operation,
            self.url,
            self.reason,
            retry_after_s=retry_after_s,
            is_throttled=self.is_throttled,
            is_replaced=self.is_replaced,
        )


class DisorderError(TransientError):
    """
    A listing turned out not to be in the order of its keys after some of them were in use already.

    Kept apart because it must begin again, not go on: keys that belong before those may still be missing.
    """

    def __init__(self, operation: str, url: str, before: str, key: str) -> None:
        super().__init__(
            operation, url, f"storage lists in another order than by key: {before!r}, then {key!r}"
        )


class PermanentError(StorageError):
    """Not worth repeating: a name too long, a range past the end, a checksum never right."""


class OutputError(PermanentError):
    """An output that no store can take: no regular file, a link that leads outside, a name that is no key."""

    @classmethod
    def of(cls, key: str, reason: str) -> OutputError:
        """Return the error of the output *key*, which may hold characters that no line can have."""
        return cls("output", key if key.isprintable() else repr(key), reason)


class UnwritableError(PermanentError):
    """
    The disk or share takes nothing more: full, quota used up, read-only.

    Kept apart because it is not about one object: the next one would meet the same.
    """
