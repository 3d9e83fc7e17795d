"""What a file system's errors mean to a store, and what they are about: the object or a local file."""

from __future__ import annotations

import errno
import os
import stat

from htcjob.errors import (
    AbsentError,
    DeniedError,
    PermanentError,
    StorageError,
    TransientError,
    UnwritableError,
)
from htcjob.storage.local.spelling import SPELLED_OTHERWISE
from htcjob.trouble import Trouble, of_errno

_ONE_OR_THE_OTHER = "in a directory, keys 'a' and 'a/b' cannot both exist"


class Blame:
    """
    Whose failure an OSError is: inside `with blame:` it becomes a StorageError about that side.

    An object can be absent or denied. A local file that stands in the way of a transfer is neither: that
    is transient or permanent, and the message names the file.

    Args:
        operation: Verb of the store.
        url: The object.
        file: The local file at fault; None: the object itself.
        root: Directory that holds the whole store, when it is one; named when it does not exist.
    """

    def __init__(self, operation: str, url: str, *, file: str | None = None, root: str | None = None) -> None:
        self._operation = operation
        self._url = url
        self._file = None if file is None else _on_one_line(file)
        self._root = root
        self._is_written = operation.startswith("put") == (file is None)

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        # AbsentError and DeniedError are OSErrors as well; they already say what they have to say.
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise self.error(error) from error

    def error(self, error: OSError) -> StorageError:
        """Translate *error*; what an errno means is decided in `trouble.py`."""
        code, text = error.errno, error.strerror or str(error)
        reason = text if self._file is None else f"{self._file}: {text}"
        # Folders were made a moment ago: something removed them, or the temporary file. (A rename over
        # NFS can also say so after its success, when the answer to the first call was lost.)
        is_gone = self._is_written and code == errno.ENOENT
        trouble = of_errno(code)
        if trouble is Trouble.PASSING or is_gone:
            return TransientError(self._operation, self._url, reason)
        if trouble is Trouble.UNWRITABLE:
            return UnwritableError(self._operation, self._url, reason)
        if self._file is not None:
            return PermanentError(self._operation, self._url, reason)
        if trouble is Trouble.DENIED:
            return DeniedError(self._operation, self._url, reason)
        if self._is_written:
            if code in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
                reason = f"{text}: {_ONE_OR_THE_OTHER}"
        elif code in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
            return AbsentError(self._operation, self._url, self._absent_reason())
        return PermanentError(self._operation, self._url, reason)

    def _absent_reason(self) -> str:
        if self._root is not None and not os.path.isdir(self._root):
            return f"there is no directory {_on_one_line(self._root)}"
        return f"no such object{self._hint()}"

    def _hint(self) -> str:
        """Return what to write where the key is the path of an object from outside of the store."""
        if self._root is None:
            return ""
        parts = self._url.removeprefix("file://").removeprefix(self._root).strip("/").split("/")
        for n in range(1, len(parts)):
            inside = "/".join(parts[n:])
            if self._root.endswith("/" + "/".join(parts[:n])) and os.path.lexists(f"{self._root}/{inside}"):
                return f"; keys begin inside of the store: write {_on_one_line(inside)}"
        return ""

    def check_regular(self, status: os.stat_result) -> None:
        """Refuse folders, FIFOs, sockets and devices: opening one can wait for ever, or act."""
        mode = status.st_mode
        if stat.S_ISREG(mode):
            return
        what = "a folder" if stat.S_ISDIR(mode) else "a special file"
        if self._file is not None:
            raise PermanentError(self._operation, self._url, f"{self._file} is {what}")
        reason = f"{what} has this name"
        if not self._is_written:
            raise self.absent(reason)
        if stat.S_ISDIR(mode):
            reason = f"{reason}: {_ONE_OR_THE_OTHER}"
        raise PermanentError(self._operation, self._url, reason)

    def changed(self) -> TransientError:
        """Return the error for a file that was not the same at the end as at the beginning."""
        what = self._file or "the object"
        return TransientError(self._operation, self._url, f"{what} changed while it was read")

    def absent(self, reason: str) -> AbsentError:
        """Return the error for an object that is not there, although something else is."""
        return AbsentError(self._operation, self._url, f"no such object; {reason}")

    def busy(self) -> TransientError:
        """Return the error for a name that another writer is taking just now."""
        return TransientError(self._operation, self._url, "another writer is taking this name just now")

    def spelled_otherwise(self) -> PermanentError:
        """Return the error for a file that would replace one of another name."""
        return PermanentError(
            self._operation, self._url, f"{self._file or 'the object'}: {SPELLED_OTHERWISE} is there"
        )

    def incomplete(self, size_bytes: int, expected_bytes: int) -> TransientError:
        """Return the error for a file that is not as long as what was written to it."""
        what = self._file or "the object"
        reason = f"{what} has {size_bytes} bytes after {expected_bytes} were written"
        return TransientError(self._operation, self._url, reason)


def _on_one_line(path: str) -> str:
    """Return *path* as it is, or quoted where it would break a line or an encoding."""
    return path if path.isprintable() else repr(path)
