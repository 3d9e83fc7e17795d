"""
Which files of an output directory are staged out, and which entry each output belongs to.

Files that a command left there are checked with care: links that lead outside, pipes, names that are no keys.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from htcjob.errors import BadKeyError, OutputError, TransientError, UsageError
from htcjob.ledger.layout import RESERVED_FOLDER, RESERVED_PREFIX
from htcjob.logs.events import event
from htcjob.storage.keys import check_key
from htcjob.storage.local.errors import Blame
from htcjob.storage.local.spelling import folded
from htcjob.transfer.globs import file_pattern

log = logging.getLogger(__name__)

SHOWN_NAMES = 3
"""Files that no pattern names: at most this many are listed in a message."""

_CURE = "remove it, or say with --output what to keep"


class OutputPatterns:
    """
    The globs of --output; may be used from any thread.

    They are relative to the output directory; `**` is any number of folders, and a slash at the end means all
    that is in a folder. `./` and `//` count as nothing and `/`. No glob at all means every file.

    Raises:
        UsageError: one of them can never match an output.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = {pattern: file_pattern(_parts(pattern)) for pattern in patterns}
        self._unmatched = set(self._patterns)
        """Those that no file has matched so far."""
        self._left_out: list[str] = []
        """The first files that nothing has matched."""

    def find(self, directory: str) -> list[str]:
        """
        Return the files below *directory* that are to be staged out, as sorted keys.

        Args:
            directory: Absolute, links resolved.

        Raises:
            OutputError: a file's name is no key, it is no regular file or a link that leads out of the
                directory, or a folder cannot be read: its files would be lost in silence.
            TransientError: the file system does not answer now.
        """
        try:
            keys = sorted(path for path in _files(directory) if self._names(path))
        except RecursionError:
            raise OutputError.of("…", "outputs lie too deep in folders") from None
        for key in keys:
            _check_output(directory, key)
        return keys

    def warn(self) -> None:
        """Warn of patterns that have matched nothing although there were files that nothing has matched."""
        if self._unmatched and self._left_out:
            event(
                log,
                logging.WARNING,
                "output_matched_nothing",
                patterns=[pattern for pattern in self._patterns if pattern in self._unmatched],
                left_out=self._left_out[:SHOWN_NAMES],
            )

    def _names(self, path: str) -> bool:
        if not self._patterns:
            return True
        is_named = False
        for pattern, compared in self._patterns.items():
            if (not is_named or pattern in self._unmatched) and compared.match(path):
                is_named = True
                self._unmatched.discard(pattern)
        if not is_named and len(self._left_out) < SHOWN_NAMES:
            self._left_out.append(path)
        return is_named


class Writers:
    """
    The entry of this job that each output belongs to; may be used from any thread.

    Args:
        known: Position of the entry by key, for outputs that earlier attempts have committed.
    """

    def __init__(self, known: Mapping[str, int]) -> None:
        self._positions = dict(known)
        self._lock = threading.Lock()

    def claim(self, keys: Sequence[str], position: int) -> None:
        """
        Note that the entry at *position* is about to put all of *keys*.

        Raises:
            OutputError: another entry has put one of them; then none is claimed.
        """
        with self._lock:
            for key in keys:
                other = self._positions.get(key, position)
                if other != position:
                    raise OutputError.of(
                        key,
                        f"the entry at position {other} wrote this output too; "
                        "name outputs after their entry, as with $HTCJOB_KEY or {key}",
                    )
            self._positions.update(dict.fromkeys(keys, position))

    def let_go(self, keys: Sequence[str]) -> None:
        """Forget the claim: the entry could not put all of *keys*, so it is not done."""
        with self._lock:
            for key in keys:
                del self._positions[key]


def _parts(pattern: str) -> list[str]:
    """Return the parts of a glob; an empty one at the end stands for everything in a folder."""
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise UsageError(f"--output {pattern}: it must lie below the output directory")
    try:
        check_key(pattern)
    except BadKeyError as error:
        raise UsageError(f"--output {error.key!r}: {error.reason}; no output can have such a name") from None
    *folders, name = pattern.split("/")
    parts = [part for part in folders if part not in ("", ".")]
    parts.append("" if name == "." else name)
    if folded(parts[0]) == RESERVED_FOLDER:
        raise UsageError(f"--output {pattern!r}: outputs must not begin with {RESERVED_PREFIX}")
    return parts


def _files(directory: str) -> Iterator[str]:
    """Yield the relative paths of the files below *directory*, folders not followed by link."""
    for folder, folders, names in os.walk(directory, onerror=_unreadable):
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), directory)
        for name in folders:  # a link is not followed; one that leads out must not look like no output
            path = os.path.join(folder, name)
            if os.path.islink(path):
                _check_inside(directory, os.path.relpath(path, directory))


def _unreadable(error: OSError) -> NoReturn:
    name = os.path.basename(error.filename or "")
    raise _failed(name, f"outputs cannot be listed: {error.strerror}", error) from error


def _failed(key: str, reason: str, error: OSError) -> OutputError | TransientError:
    """Return *error* as an error of the output; it is transient only if its file system may recover."""
    if isinstance(Blame("put", key, file=key).error(error), TransientError):
        return TransientError("put", key, reason)
    return OutputError.of(key, reason)


def _check_output(directory: str, key: str) -> None:
    try:
        check_key(key)
    except BadKeyError as error:
        raise OutputError.of(key, f"no object can have this name: {error.reason}") from None
    if folded(key).startswith(RESERVED_PREFIX):
        raise OutputError.of(key, f"outputs must not begin with {RESERVED_PREFIX}")
    _check_inside(directory, key)
    try:
        mode = os.stat(os.path.join(directory, key)).st_mode
    except OSError as error:
        is_dangling = error.errno == errno.ENOENT
        reason = "a symbolic link to nothing" if is_dangling else f"it cannot be read: {error.strerror}"
        raise _failed(key, reason, error) from error
    if not stat.S_ISREG(mode):
        raise OutputError.of(key, f"{_kind(mode)}, not a regular file: {_CURE}")


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a folder" if stat.S_ISDIR(mode) else "a device"


def _check_inside(directory: str, key: str) -> None:
    target = os.path.realpath(os.path.join(directory, key))
    if os.path.commonpath((directory, target)) != directory:
        raise OutputError.of(key, f"a symbolic link that leads out of the output directory: {_CURE}")
