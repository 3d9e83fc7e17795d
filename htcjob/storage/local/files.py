"""
Local files that are read as they are, and appear whole or not at all.

One module, because how a new file gets its bytes, and then its name, are steps of one promise.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from htcjob.storage.local.spelling import ANYWHERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from htcjob.storage.local.errors import Blame

TEMP_PREFIX = ".htcjob-tmp-"
"""Start of the names of incomplete files; no object may have such a name."""
RESERVED = (TEMP_PREFIX, ".nfs0", ".fuse_hidden")
"""Starts of names that are no objects: ours, and what NFS and FUSE call a deleted file that is still open."""

_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EBADF})
"""Errors of fsync(2) of a folder on file systems that have nothing to do for it."""

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
"""Errors of link(2) on FAT, on Azure Files and on many FUSE file systems."""

_NO_SUCH_RENAME = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
"""Errors of renameat2(2) where no rename spares an existing file, as on many FUSE file systems."""

_PIECE_BYTES = 1 << 26
"""Most that one system call copies, so that signals are seen between two of them."""
_BUFFER_BYTES = 1 << 20
_SMALL_BYTES = 1 << 16
"""A file of no more is written without a look at the disk."""


@contextmanager
def open_regular(
    path: str, blame: Blame, *, follow_link: bool = False
) -> Iterator[tuple[int, os.stat_result]]:
    """Open *path* for reading and yield the descriptor and its status; only a regular file is opened."""
    with blame:
        blame.check_regular(os.stat(path, follow_symlinks=follow_link))
        # Should something else take the name just now, O_NONBLOCK keeps a FIFO from blocking.
        flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_link else os.O_NOFOLLOW)
        descriptor = os.open(path, flags)
    try:
        with blame:
            status = os.fstat(descriptor)
        blame.check_regular(status)
        yield descriptor, status
    finally:
        with suppress(OSError):  # nothing was written
            os.close(descriptor)


def read_all(descriptor: int, before: os.stat_result, blame: Blame) -> bytes:
    """Return the content of a regular file that had the status *before* when it was opened."""
    data = read_range(descriptor, 0, before.st_size, blame)
    with blame:
        after = os.fstat(descriptor)
    if _has_changed(before, after):
        raise blame.changed()
    return data


def read_range(descriptor: int, start: int, stop: int, blame: Blame) -> bytes:
    """Return the bytes from *start* up to, not including, *stop*; a TransientError if they are gone."""
    pieces = []
    while start < stop:
        with blame:
            data = os.pread(descriptor, stop - start, start)
        if not data:
            raise blame.changed()
        pieces.append(data)
        start += len(data)
    return b"".join(pieces)


def _has_changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


class NewFile:
    """
    A file under a temporary name beside *path*; it takes that name when complete, or disappears.

    Missing folders are made. A kill leaves the temporary file, never a part of it under the name *path*.
    """

    def __init__(self, path: str, blame: Blame) -> None:
        self._path = path
        self._blame = blame
        folder = os.path.dirname(path)
        self.temp = os.path.join(folder, TEMP_PREFIX + os.urandom(6).hex())
        """Its path until it has its name; empty from then on."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        with blame:
            try:
                self._descriptor = os.open(self.temp, flags, 0o666)
            except FileNotFoundError:
                os.makedirs(folder, exist_ok=True)
                self._descriptor = os.open(self.temp, flags, 0o666)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *error: object) -> None:
        # Whatever fails here, the file has its name already or the error is on its way.
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
        if self.temp:
            with suppress(OSError):
                os.unlink(self.temp)

    def need_room(self, size_bytes: int) -> None:
        """
        Refuse a file that does not fit on the disk, before it takes what others need there.

        A command at work beside this would fail for a full disk that is not its own doing.
        """
        if size_bytes <= _SMALL_BYTES:
            return
        try:
            disk = os.fstatvfs(self._descriptor)
        except OSError:
            return  # writing will tell
        # Some FUSE file systems say nothing of their size.
        if disk.f_blocks and size_bytes > disk.f_bavail * disk.f_frsize:
            with self._blame:
                raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*."""
        with self._blame:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def feed(self, consume: Callable[[bytes], None], start: int, stop: int) -> None:
        """Pass the bytes from *start* to *stop*, which are written already, to *consume*."""
        while start < stop:
            with self._blame:
                data = os.pread(self._descriptor, min(stop - start, _BUFFER_BYTES), start)
            if not data:
                raise self._blame.changed()
            consume(data)
            start += len(data)

    def write_at(self, data: bytes | memoryview, offset: int) -> None:
        """Write *data* at *offset*, from any thread; other places are left alone."""
        with self._blame:
            rest = memoryview(data)
            while rest:
                n = os.pwrite(self._descriptor, rest, offset)
                rest, offset = rest[n:], offset + n

    def copy_from(self, source: int, before: os.stat_result, reading: Blame) -> None:
        """
        Append the file *source* from its beginning to its end, inside the kernel where that is possible.

        Args:
            source: Descriptor of a regular file.
            before: Its status when it was opened.
            reading: Whose failure it is when *source* cannot be read.

        Raises:
            TransientError: it became shorter or longer, or was written to, meanwhile.
        """
        left = before.st_size
        self.need_room(left)
        for kernel_copy in _KERNEL_COPIES:
            try:
                while left and (n := kernel_copy(source, self._descriptor, min(left, _PIECE_BYTES))):
                    left -= n
            except OSError:
                pass  # not between these file systems, or real trouble: the plain way finds out
        if left:
            with self._blame:
                os.lseek(self._descriptor, before.st_size - left, os.SEEK_SET)
            with reading:
                os.lseek(source, before.st_size - left, os.SEEK_SET)
        while left:
            with reading:
                data = os.read(source, min(left, _BUFFER_BYTES))
            if not data:
                raise reading.changed()
            self.write(data)
            left -= len(data)
        with reading:
            after = os.fstat(source)
        if _has_changed(before, after):
            raise reading.changed()

    def take_name(self) -> None:
        """Take the name, complete; readers see whatever file had it before, or all of this one."""
        with self._blame:
            os.replace(self.temp, self._path)
        self.temp = ""

    def take_name_of_copy(self) -> None:
        """
        Take the name, outside of a store, unless it is another file's in another spelling.

        Raises:
            PermanentError: it is; that file is left alone.
        """
        folder, name = os.path.split(self._path)
        with self._blame:
            is_told_apart = ANYWHERE.tells_apart(*os.path.split(self.temp))
        if is_told_apart:
            self.take_name()
            return
        from htcjob.storage.local.claims import claim

        with claim(self._path, self._blame, self.temp):
            with self._blame:
                is_exact = ANYWHERE.is_exact(name, below=folder)
            if not is_exact:
                raise self._blame.spelled_otherwise()
            self.take_name()

    def take_free_name(self) -> bool | None:
        """
        Take the name of a complete file if nothing has it.

        Among any number of racing processes exactly one gets True. None: this file system has no hard
        links, so that nothing was done.
        """
        with self._blame:
            try:
                os.link(self.temp, self._path)
            except FileExistsError:
                return self._has_name()
            except OSError as error:
                if error.errno in _NO_HARD_LINKS:
                    return None
                raise
            return True

    def take_name_unless_taken(self) -> bool:
        """
        Take the name that was free a moment ago; False: something has it now.

        Where the file system renames without replacing (FAT, exFAT and SMB in Linux), that is one step, and
        holds for all machines; elsewhere the moment remains, and only a claim on the name covers it.
        """
        with self._blame:
            try:
                _rename_without_replacing(self.temp, self._path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_SUCH_RENAME:
                    raise
                os.replace(self.temp, self._path)
        self.temp = ""
        return True

    def complete(self, size_bytes: int, *, durable: bool = False) -> os.stat_result:
        """
        Close the file, to which nothing is added any more, and return its status.

        Args:
            size_bytes: Length it must have.
            durable: Its data are on disk before it takes its name: a power cut leaves no half file either.
        """
        descriptor, self._descriptor = self._descriptor, -1
        with self._blame:
            try:
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)  # NFS tells of a full disk or quota here at the latest
            # Not before: until then an NFS client gives a time of change of its own making.
            status = os.lstat(self.temp)
        if status.st_size != size_bytes:
            raise self._blame.incomplete(status.st_size, size_bytes)
        return status

    def _has_name(self) -> bool:
        """
        Whether the name is ours although link(2) said that it exists.

        NFS repeats a call whose answer was lost, and the repetition finds the first one's work: open(2),
        under O_EXCL.
        """
        try:
            return os.path.samestat(os.lstat(self.temp), os.lstat(self._path))
        except FileNotFoundError:
            return False


def _rename_without_replacing(source: str, target: str) -> None:
    """Rename with RENAME_NOREPLACE: https://man7.org/linux/man-pages/man2/rename.2.html."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # not Linux, or an old C library
        raise OSError(errno.ENOSYS, "no renameat2") from None
    current_directory, no_replace = -100, 1
    paths = (current_directory, os.fsencode(source), current_directory, os.fsencode(target))
    if renameat2(*paths, no_replace):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def sync_folder(path: str) -> None:
    """Write the names in the folder *path* to disk; one that is gone has none that could be lost."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # or it is only for looking up names
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


_KERNEL_COPIES: tuple[Callable[[int, int, int], int], ...] = ()
if sys.platform == "linux":
    _KERNEL_COPIES = (
        # Shares blocks on btrfs and XFS, lets an NFS server copy; not across file systems.
        lambda source, target, n: os.copy_file_range(source, target, n),
        lambda source, target, n: os.sendfile(target, source, None, n),
    )
