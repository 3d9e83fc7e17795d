"""
Moves files: inputs from their stores to a directory, outputs from a directory to task storage.

Every transfer goes through the retry policy; several run side by side; all errors are gathered.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NoReturn, TypeVar

from htcjob.errors import BadKeyError, HtcjobError, StorageError, TransientError
from htcjob.ledger import Output
from htcjob.storage.keys import check_key, local_path
from htcjob.storage.urls import open_store, split_object_url

if TYPE_CHECKING:
    from htcjob.manifest import Entry
    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import ObjectInfo, Store

T = TypeVar("T")
R = TypeVar("R")

TRANSFERS = 8
"""Files moved side by side; enough to hide the latency of a store near by."""

RESERVED_PREFIX = ".htcjob/"
"""Keys of the ledger; no output may take one."""


@dataclass(slots=True)
class Staging:
    """The transfers of one attempt."""

    project: Store
    """Where keys of the manifest are."""
    task: Store
    """Where outputs go."""
    retry: RetryPolicy
    staged_in: int = 0
    """Objects fetched so far."""
    staged_out: int = 0
    """Objects put so far."""
    _stores: dict[str, Store] = field(default_factory=dict)
    """Stores of entries that are full URLs, by URL."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

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
            self.retry.call(lambda: store.get(key, path))
            with self._lock:
                self.staged_in += 1
        return path

    def stage_out(self, directory: str, keys: Sequence[str]) -> list[Output]:
        """
        Put the files *keys* of *directory* (`find_outputs`) into task storage under the same names.

        Raises:
            StorageError: a file could not be put, for good or after the retries.
        """
        outputs = []
        for result in each_in_parallel(lambda key: self._put(directory, key), keys):
            if isinstance(result, HtcjobError):
                raise result
            outputs.append(result)
        return outputs

    def _put(self, directory: str, key: str) -> Output:
        digest, info = self.retry.call(lambda: self._put_unchanged(os.path.join(directory, key), key))
        with self._lock:
            self.staged_out += 1
        return Output(key, info.size_bytes, digest)

    def _put_unchanged(self, path: str, key: str) -> tuple[str, ObjectInfo]:
        """Put a file, and give its digest; of a file that changed meanwhile it would not be true."""
        try:
            before = os.stat(path)
            digest = _sha256(path)
            info = self.task.put(path, key)
            after = os.stat(path)
        except StorageError:
            raise
        except OSError as error:
            raise BadKeyError(key, f"this output cannot be read: {error.strerror}") from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise TransientError("put", self.task.url_of(key), "the output was written to while it was put")
        return digest, info

    def _locate(self, entry: Entry) -> tuple[Store, str, str]:
        """Give the store and key of an entry's object, and its place in a directory."""
        if not entry.is_url:
            return self.project, entry.key, entry.key
        url, key = split_object_url(entry.key)
        scheme, _, rest = url.partition(":")
        with self._lock:
            store = self._stores.get(url)
            if store is None:
                store = self._stores[url] = open_store(url)
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


def each_in_parallel(act: Callable[[T], R], things: Sequence[T]) -> Iterator[R | HtcjobError]:
    """Give what *act* returns for each of *things*, in their order, or the `HtcjobError` it raised."""

    def outcome(thing: T) -> R | HtcjobError:
        try:
            return act(thing)
        except HtcjobError as error:
            return error

    if len(things) < 2:  # no thread for the common case of one file
        yield from map(outcome, things)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(TRANSFERS, len(things))) as pool:
        try:
            results: Iterable[R | HtcjobError] = pool.map(outcome, things)
        except RuntimeError:  # this machine gives no more threads: one by one, then
            results = map(outcome, things)
        yield from results


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


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1024 * 1024):
            digest.update(block)
    return digest.hexdigest()
