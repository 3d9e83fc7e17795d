"""
Stages files: inputs from their stores to a directory, outputs from a directory to task storage.

Which object lies where, and what may be an output, is decided here; `transfer.py` moves them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NoReturn

from htcjob.errors import BadKeyError, HtcjobError
from htcjob.ledger import Output
from htcjob.progress import Progress
from htcjob.storage.keys import check_key, local_path
from htcjob.storage.urls import split_object_url

if TYPE_CHECKING:
    from htcjob.manifest import Entry
    from htcjob.storage.contract import Store
    from htcjob.transfer import Transfers

RESERVED_PREFIX = ".htcjob/"
"""Keys of the ledger; no output may take one."""


@dataclass(slots=True)
class Staging:
    """The inputs and outputs of one attempt."""

    project: Store
    """Where keys of the manifest are."""
    task: Store
    """Where outputs go."""
    transfers: Transfers
    """What moves them."""
    open_store: Callable[[str, str], Store]
    """Opens the store of an entry that is a full URL, for the key in it; any thread may call it."""

    @property
    def staged_in(self) -> int:
        """Objects fetched so far."""
        return self.transfers.objects_got

    @property
    def staged_out(self) -> int:
        """Objects put so far."""
        return self.transfers.objects_put

    def stage_in(self, entry: Entry, directory: str) -> str:
        """
        Fetch the object of *entry* to its place below *directory*, and give the path.

        The place is the key with its folders; that of a URL lies below a folder `s3:`, `file:` and so on, a
        name that no key begins with. A path that is there already is another entry's with the same
        object: it is not fetched again.

        Raises:
            HtcjobError: it cannot be fetched; the message names the object and the reason.
        """
        store, key, place = self._locate(entry)
        path = local_path(directory, place)
        if not os.path.lexists(path):
            self.transfers.get(store, key, path)
        return path

    def size_of(self, entry: Entry) -> int:
        """
        Give the bytes of the object of *entry*, as storage tells them.

        Raises:
            HtcjobError: it is not there, or cannot be asked for.
        """
        store, key, _ = self._locate(entry)
        return self.transfers.call(lambda: store.head(key)).size_bytes

    def stage_out(self, directory: str, keys: Sequence[str]) -> list[Output]:
        """
        Put the files *keys* of *directory* (`find_outputs`) into task storage under the same names.

        Raises:
            StorageError: a file could not be put, for good or after the retries.
        """
        outputs = []
        with closing(self.transfers.each(lambda key: self._put(directory, key), keys)) as results:
            for result in results:
                if isinstance(result, HtcjobError):
                    raise result
                outputs.append(result)
        return outputs

    @contextmanager
    def shown(self, what: str, objects: int | None = None) -> Iterator[None]:
        """Show how far the transfers have come, until the context ends."""
        with Progress(what, objects=objects) as self.transfers.progress:
            try:
                yield
            finally:
                self.transfers.progress = None

    def _put(self, directory: str, key: str) -> Output:
        info = self.transfers.put(self.task, os.path.join(directory, key), key)
        return Output(key, info.size_bytes, (info.checksum or "").removeprefix("sha256:"))

    def _locate(self, entry: Entry) -> tuple[Store, str, str]:
        """Give the store and key of an entry's object, and its place in a directory."""
        if not entry.is_url:
            return self.project, entry.key, entry.key
        url, key = split_object_url(entry.key)
        scheme, _, rest = url.partition(":")
        store = self.open_store(url, key)
        return store, key, f"{scheme}:/{rest.strip('/')}/{key}"


def find_outputs(directory: str, patterns: Sequence[str]) -> list[str]:
    """
    Give the files below *directory* that are to be staged out, as sorted keys.

    Args:
        directory: Absolute, links resolved.
        patterns: Globs relative to *directory*, `**` for any depth. None at all means every file.

    Raises:
        BadKeyError: a file's name is no key, a symbolic link leads out of the directory, or a folder cannot
            be read: what is in it would be lost in silence.
    """
    try:
        keys = sorted(_files(directory, patterns))
    except RecursionError:
        raise BadKeyError("…", "outputs lie too deep in folders") from None
    for key in keys:
        _check_output(directory, key)
    return keys


def _files(directory: str, patterns: Sequence[str]) -> Iterator[str]:
    """Give the relative paths of the files below *directory* that match, folders not followed by link."""
    found = []
    for folder, folders, names in os.walk(directory, onerror=_unreadable):
        found += [os.path.relpath(os.path.join(folder, name), directory) for name in names]
        for name in folders:  # a link is not followed; one that leads out must not look like no output
            path = os.path.join(folder, name)
            if os.path.islink(path):
                _check_inside(directory, os.path.relpath(path, directory))
    compared = [pattern.split("/") for pattern in patterns]
    for path in found:
        if not patterns or any(_matches(path.split("/"), pattern) for pattern in compared):
            yield path


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """
    Tell whether a path matches a glob, both in parts.

    `*` and `?` stay within a part, `**` is any number of folders, and a name with a leading dot matches
    only where the pattern has that dot, as in a shell. (`glob` itself follows links, without end.)
    """
    if not pattern:
        return not path
    first, *rest = pattern
    if first == "**":
        passed = next((n for n, part in enumerate(path) if part.startswith(".")), len(path))
        return any(_matches(path[start:], rest) for start in range(passed + 1))
    if not path or (path[0].startswith(".") and not first.startswith(".")):
        return False
    return fnmatchcase(path[0], first) and _matches(path[1:], rest)


def _unreadable(error: OSError) -> NoReturn:
    raise BadKeyError(str(error.filename), f"outputs cannot be listed: {error.strerror}") from error


def _check_output(directory: str, key: str) -> None:
    check_key(key)
    if key.startswith(RESERVED_PREFIX):
        raise BadKeyError(key, f"outputs must not begin with {RESERVED_PREFIX}")
    _check_inside(directory, key)
    if not os.path.isfile(os.path.join(directory, key)):
        raise BadKeyError(key, "this output is not a regular file")


def _check_inside(directory: str, key: str) -> None:
    target = os.path.realpath(os.path.join(directory, key))
    if os.path.commonpath((directory, target)) != directory:
        raise BadKeyError(key, "this output is a symbolic link that leads out of the output directory")
