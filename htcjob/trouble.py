"""
Errors of the machine, and whether to try again: one table, for every side of an attempt.

| trouble    | with an object of storage | the work directory | the start of a command | a token file | else |
|------------|---------------------------|--------------------|------------------------|--------------|------|
| passing    | tried again, then 75      | 75                 | tried again, then 75   | 75           | 75   |
| unwritable | 74                        | 74                 | 126                    | 78           | 74   |
| denied     | 77                        | 74                 | 126                    | 78           | 74   |
| absent     | 66                        | 74                 | 127                    | 78           | 74   |
| permanent  | 74                        | 74                 | 126                    | 78           | 74   |
| wrong call | 74                        | 74                 | 126                    | 78           | 70   |

An entry that meets passing trouble is left, or `retry`; it is never `failed`.
"""

from __future__ import annotations

import errno
import os
import stat
from enum import Enum
from types import ModuleType


class Trouble(Enum):
    """The kinds of errors of the machine."""

    PASSING = "passing"
    """A moment: the machine was short of something, or a server did not answer. No verdict for good."""
    UNWRITABLE = "unwritable"
    """The whole disk or share: it is full or read-only."""
    DENIED = "denied"
    """Permission."""
    ABSENT = "absent"
    """A name that is not there."""
    PERMANENT = "permanent"
    """This one thing: a name too long, a kind of file that cannot be."""
    WRONG_CALL = "wrong call"
    """How the machine was asked, which is nobody's fault but ours."""


_ERRNOS = {
    Trouble.PASSING: (
        # This machine was short of something for a moment.
        *("EAGAIN", "EBUSY", "EINTR", "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "ETXTBSY"),
        # A disk or a network file system lost its other side for a while, or the file under an open handle.
        *("EIO", "ESTALE", "ETIMEDOUT", "ETIME", "EREMOTEIO", "ENOTCONN", "ENOLCK"),
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN"),
        *("ENETUNREACH", "ENETRESET", "ESHUTDOWN", "ECOMM", "ENOLINK"),
        # Somebody else has waited for our child: how it ended is not known.
        "ECHILD",
    ),
    Trouble.UNWRITABLE: ("ENOSPC", "EDQUOT", "EROFS"),
    Trouble.DENIED: ("EACCES", "EPERM"),
    Trouble.ABSENT: ("ENOENT", "ENOTDIR"),
    Trouble.WRONG_CALL: ("EBADF", "EFAULT", "EINVAL", "ENOTSOCK", "ENOTTY", "ESPIPE", "ESRCH", "EDOM"),
}
_TROUBLES = {
    getattr(errno, name): trouble
    for trouble, names in _ERRNOS.items()
    for name in names
    if hasattr(errno, name)  # some are Linux's alone
}

_NO_THREAD = "can't start new thread"
"""Python's words for it, in a RuntimeError."""


def of_errno(code: int | None) -> Trouble:
    """Return the kind of the errno *code*."""
    return _TROUBLES.get(code or 0, Trouble.PERMANENT)


def of_error(error: BaseException) -> Trouble | None:
    """
    Return the kind of *error*, where the machine is behind it; None: it is a fault of the program.

    The machine is behind an import that fails: the file is there, or this program would not have started.
    """
    if isinstance(error, (MemoryError, ImportError)):
        return Trouble.PASSING
    if isinstance(error, RuntimeError):
        return Trouble.PASSING if str(error) == _NO_THREAD else None
    if isinstance(error, AttributeError):
        return Trouble.PASSING if _is_hollow(getattr(error, "obj", None)) else None
    if not isinstance(error, OSError) or error.errno is None:
        return None
    trouble = of_errno(error.errno)
    return None if trouble is Trouble.WRONG_CALL else trouble


def is_passing(error: BaseException) -> bool:
    """Whether *error* may be gone at the next try."""
    return of_error(error) is Trouble.PASSING


def _is_hollow(found: object) -> bool:
    """Whether *found* is a package whose own file could not be looked at when it was imported."""
    is_package = isinstance(found, ModuleType) and hasattr(found, "__path__")
    return is_package and getattr(found, "__file__", None) is None


def in_words(error: BaseException) -> str:
    """Return *error* on one line, as a person would say it."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        where = f"{os.fsdecode(name) if isinstance(name, bytes) else name}: " if name is not None else ""
        return f"{where}{error.strerror}"
    if str(error) == _NO_THREAD:
        return "no thread can be started now"
    return " ".join(str(error).split()) or type(error).__name__


def look(path: str) -> os.stat_result | None:
    """
    Return the status of the file at *path*; None: there is none, or none that we may see.

    `os.path.exists`, `isfile` and `isdir` would also answer no when the machine cannot tell.

    Raises:
        OSError: passing trouble.
    """
    try:
        return os.stat(path)
    except ValueError:  # a NUL
        return None
    except OSError as error:
        if is_passing(error):
            raise
        return None


def is_folder(path: str) -> bool:
    """
    Whether a folder is at *path*, itself or by a link.

    Raises:
        OSError: passing trouble.
    """
    status = look(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def open_at_once(path: str, flags: int) -> int:
    """
    Open a file for `open`, whose *opener* this is, without waiting for the other side of a named pipe.

    A pipe that nobody writes is empty then, and to write one that nobody reads is an OSError.
    """
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def read_at_once(path: str, most_bytes: int) -> bytes:
    """
    Return the first *most_bytes* of a file, or all of a shorter one; nobody waits for a named pipe's writer.

    Raises:
        OSError: it cannot be read.
        ValueError: *path* holds a NUL.
    """
    with open(path, "rb", opener=open_at_once) as file:
        return file.read(most_bytes) or b""


def let_go(descriptor: int) -> None:
    """Close a descriptor that no data depend on, whatever error the kernel reports."""
    os.closerange(descriptor, descriptor + 1)
