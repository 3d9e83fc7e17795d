"""
The directories of an attempt: its own, and in it those of each run of the command, which are used again.

A folder may have become a link by the time we look again: no path in them is trusted.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from htcjob.errors import StorageError, TransientError, UnwritableError
from htcjob.logs.events import event
from htcjob.machine.temporary import clear_away
from htcjob.storage.keys import real_path
from htcjob.trouble import in_words, is_passing, let_go

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

SYSTEM_TEMPORARY = "/tmp"  # noqa: S108 - only the parent of a fresh directory with a random name


@dataclass(frozen=True, slots=True)
class WorkDirectory:
    """The directories of one run of the command."""

    root: str

    @classmethod
    def make(cls, root: str) -> WorkDirectory:
        """Make the directories below *root*, and *root* itself."""
        directory = cls(root)
        for path in (root, directory.inputs, directory.outputs):
            with in_work_directory(path):
                os.mkdir(path, 0o700)
        return directory

    @property
    def inputs(self) -> str:
        """Directory of the inputs."""
        return os.path.join(self.root, "work")

    @property
    def outputs(self) -> str:
        """Directory in which the command leaves results."""
        return os.path.join(self.root, "output")

    @property
    def entries_file(self) -> str:
        """File that lists the inputs of a chunk."""
        return os.path.join(self.root, "entries")

    @property
    def failures_file(self) -> str:
        """File in which the command of a chunk reports entries that failed."""
        return os.path.join(self.root, "failures")

    @property
    def message_file(self) -> str:
        """File in which the command says why it failed."""
        return os.path.join(self.root, "message")

    def clear(self, input_path: str, folder: FolderStatus) -> bool:
        """
        Remove *input_path*, and return whether nothing else was left here and all is as it was made.

        No link that the command put in place of a folder is followed.

        Args:
            input_path: The input, or empty.
            folder: The status of each of the directories when it was made.
        """
        above, name = os.path.split(input_path)
        try:
            with (
                _open_folder(self.root) as root,
                _open_folder("work", root) as inputs,
                _open_folder("output", root) as outputs,
            ):
                if name and above == self.inputs:
                    os.unlink(name, dir_fd=inputs)
                folders = (root, inputs, outputs)
                contents = [sorted(os.listdir(descriptor)) for descriptor in folders]
                kinds = {FolderStatus.of(descriptor) for descriptor in folders}
        except OSError:
            return False
        return contents == [["output", "work"], [], []] and kinds == {folder}

    def variables(self) -> dict[str, str]:
        """Return the variables that tell the command of these paths."""
        return {
            "HTCJOB_WORK_DIR": self.inputs,
            "HTCJOB_OUTPUT_DIR": self.outputs,
            "HTCJOB_MESSAGE_FILE": self.message_file,
        }


class FolderStatus(NamedTuple):
    """The properties of a directory that a command can change, besides its content."""

    mode: int
    owner: int
    group: int

    @classmethod
    def of(cls, folder: str | int) -> FolderStatus:
        """Return the status of a path or descriptor."""
        status = os.stat(folder)
        return cls(status.st_mode, status.st_uid, status.st_gid)


class WorkDirectories:
    """
    Lends work directories to entries, and takes them back. May be used from any thread.

    One that is empty again becomes the next one, under another name: making and removing three folders can
    take a disk longer than a short command takes. No name is ever lent twice. So a directory is its
    borrower's alone until it is given back, nothing happens when it is given back again, and a process that
    was told of an earlier one cannot find its way into a later one.

    Args:
        scratch: The directory that they are in.
    """

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._lock = threading.Lock()
        """Guards all below."""
        self._names = count()
        self._free: list[tuple[str, FolderStatus]] = []
        """Empty directories: root and first status."""
        self._lent: dict[str, FolderStatus] = {}
        """The first status of those in use, by their root."""

    def lend(self) -> WorkDirectory:
        """
        Return a directory that is empty.

        Raises:
            UnwritableError: none can be made.
            TransientError: none can be made now.
        """
        with self._lock:
            root = os.path.join(self._scratch, str(next(self._names)))
            free, status = self._free.pop() if self._free else ("", None)
        directory = WorkDirectory(root)
        if status is None or not _renamed(free, root):
            try:
                directory = WorkDirectory.make(root)
                with in_work_directory(root):
                    status = FolderStatus.of(root)
            except StorageError:
                remove_tree(root)  # a part of it may be there
                raise
        with self._lock:
            self._lent[root] = status
        return directory

    def take_back(self, directory: WorkDirectory, input_path: str = "", *, is_vacated: bool = True) -> None:
        """
        Remove *directory* with whatever is in it, unless it was given back before.

        Args:
            directory: One that was lent.
            input_path: The input in it, or empty.
            is_vacated: No process that was told of it is alive.
        """
        with self._lock:
            status = self._lent.pop(directory.root, None)
        if status is None:
            return
        if is_vacated and directory.clear(input_path, status):
            with self._lock:
                self._free.append((directory.root, status))
        else:
            remove_tree(directory.root)


def _renamed(old: str, new: str) -> bool:
    """Rename, and return whether that was possible: a cleaner may have removed an empty folder."""
    try:
        os.rename(old, new)
    except OSError:
        return False
    return True


@contextmanager
def _open_folder(path: str, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield descriptor
    finally:
        let_go(descriptor)


def remove_tree(path: str) -> None:
    """Remove a directory of ours, whatever the command left in it; warn if that is impossible."""
    try:
        clear_away(path)
        if os.path.isdir(path) and not os.path.islink(path):  # folders that the command made read-only
            for folder, _, _ in os.walk(path):
                with suppress(OSError):
                    os.chmod(folder, 0o700)
            clear_away(path)
    except RecursionError:  # a thousand folders in each other are too many for older Pythons
        with suppress(OSError):
            os.waitpid(os.posix_spawnp("rm", ["rm", "-rf", "--", path], {}), 0)
    if os.path.lexists(path):
        event(log, logging.WARNING, "work_directory_kept", path=path)


@contextmanager
def in_work_directory(path: str) -> Iterator[None]:
    """Turn an OSError in our own directory into `UnwritableError`, or `TransientError` where it may pass."""
    try:
        yield
    except OSError as error:
        if is_passing(error):
            raise TransientError("work directory", path, in_words(error)) from error
        raise UnwritableError("work directory", path, f"{error.strerror}; see --work-dir") from error


class ScratchDirectory:
    """
    The attempt's own directory: made when it is asked for, and removed when the context ends.

    Args:
        parent: The directory that it is made in; None: the system's temporary directory.
    """

    def __init__(self, parent: str | None) -> None:
        self._parent = parent or SYSTEM_TEMPORARY
        self._path: str | None = None

    def __enter__(self) -> ScratchDirectory:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._path is not None:
            remove_tree(self._path)

    def make(self) -> str:
        """
        Make it, and return its path with links resolved.

        Raises:
            TransientError: it cannot be made now.
            UnwritableError: it cannot be made there.
        """
        base = real_path(self._parent)
        path = os.path.join(base, f"htcjob-{os.urandom(6).hex()}")
        try:
            with suppress(FileExistsError):  # the next call tells what is there instead
                os.makedirs(base, exist_ok=True)
            os.mkdir(path, 0o700)
        except OSError as error:
            if is_passing(error):
                raise TransientError("work directory", path, in_words(error)) from error
            raise UnwritableError(
                "work directory", path, f"{error.strerror}; choose another place with --work-dir"
            ) from error
        self._path = path
        return path
