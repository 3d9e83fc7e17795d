"""Whatever system call fails, a store's answer is true and nothing half remains."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from htcjob import errors
from htcjob.storage.local.errors import Blame
from htcjob.storage.local.files import TEMP_PREFIX
from htcjob.storage.local.store import LocalStore
from tests.storage.contract import failing, files_below

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "file:///store/key"
CALLS = (
    *("open", "close", "read", "write", "pread", "lseek", "copy_file_range", "sendfile", "fsync"),
    *("stat", "lstat", "fstat", "fstatvfs", "mkdir", "replace", "link", "unlink", "scandir"),
)
"""Every function of `os` that a store may use."""


@pytest.mark.parametrize(
    ("code", "read_object", "write_object", "read_file", "write_file"),
    [
        ("ENOENT", errors.AbsentError, errors.TransientError, errors.PermanentError, errors.TransientError),
        ("ENOTDIR", errors.AbsentError, errors.PermanentError, errors.PermanentError, errors.PermanentError),
        ("EISDIR", errors.AbsentError, errors.PermanentError, errors.PermanentError, errors.PermanentError),
        (
            "ENAMETOOLONG",
            errors.AbsentError,
            errors.PermanentError,
            errors.PermanentError,
            errors.PermanentError,
        ),
        (
            "EEXIST",
            errors.PermanentError,
            errors.PermanentError,
            errors.PermanentError,
            errors.PermanentError,
        ),
        ("ELOOP", errors.PermanentError, errors.PermanentError, errors.PermanentError, errors.PermanentError),
        ("EACCES", errors.DeniedError, errors.DeniedError, errors.PermanentError, errors.PermanentError),
        ("EPERM", errors.DeniedError, errors.DeniedError, errors.PermanentError, errors.PermanentError),
        *(
            (code, errors.PermanentError, errors.PermanentError, errors.PermanentError, errors.PermanentError)
            for code in ("EFBIG", "EINVAL", "ENXIO")
        ),
        *(
            (
                code,
                errors.UnwritableError,
                errors.UnwritableError,
                errors.UnwritableError,
                errors.UnwritableError,
            )
            for code in ("ENOSPC", "EDQUOT", "EROFS")
        ),
        *(
            (code, errors.TransientError, errors.TransientError, errors.TransientError, errors.TransientError)
            for code in ("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EMFILE", "ENOMEM", "EBUSY", "EAGAIN")
        ),
    ],
)
def test_what_an_errno_means(
    code: str,
    read_object: type[errors.StorageError],
    write_object: type[errors.StorageError],
    read_file: type[errors.StorageError],
    write_file: type[errors.StorageError],
) -> None:
    """An errno means to each side of a transfer what this table says; the message names the side."""
    error = OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
    for operation, file, expected in (
        ("get", None, read_object),
        ("head", None, read_object),
        ("put", None, write_object),
        ("put_bytes", None, write_object),
        ("put", "/work/file", read_file),
        ("get", "/work/file", write_file),
    ):
        made = Blame(operation, URL, file=file).error(error)
        assert type(made) is expected
        assert str(made).startswith(f"{operation} {URL}: {file or ''}")
        assert "\n" not in str(made)


def test_only_os_errors_are_translated() -> None:
    """An error that is a StorageError already, or none of the file system, passes as it is."""
    for error in (
        errors.AbsentError("head", "other", "x"),
        errors.DeniedError("head", "other", "x"),
        ValueError("x"),
    ):
        with pytest.raises(type(error)) as raised, Blame("get", URL):
            raise error
        assert raised.value is error


def test_paths_that_would_break_a_line() -> None:
    """A message is one line that can be printed, whatever bytes are in the name of a file."""
    blame = Blame("put", URL, file=os.fsdecode(b"/a\nb\xff"))
    assert str(blame.changed()) == f"put {URL}: '/a\\nb\\udcff' changed while it was read"


def test_errors_are_the_built_in_kind() -> None:
    """Absent and denied objects are what `except FileNotFoundError` and `errno` say they are."""
    assert errors.AbsentError("get", URL, "x").errno == errno.ENOENT
    assert errors.DeniedError("get", URL, "x").errno == errno.EACCES


NOTHING: tuple[dict[str, bytes], set[str]] = ({}, set())
CHANGES: dict[str, tuple[dict[str, bytes], set[str]]] = {
    "get": ({"work/x/out": b"old"}, set()),
    "read_range": NOTHING,
    "head": NOTHING,
    "list": NOTHING,
    "put": ({"store/d/a": b"new"}, set()),
    "put_bytes": ({"store/d/a": b"new"}, set()),
    "if_absent": ({"store/x/new": b"new"}, set()),
    "delete": ({}, {"store/d/a"}),
}
"""What each verb does in a `Case`: files with new content, and files removed."""
ANSWERS = {"read_range": b"old", "list": ["d/a", "e/b"], "put_bytes": True, "if_absent": True, "delete": None}
"""What it answers."""


class Case:
    """A store with two objects, and a work folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "work").mkdir(parents=True)
        (folder / "work" / "in").write_bytes(b"new")
        self._store = LocalStore(str(folder / "store"))
        self._store.put_bytes(b"old", "d/a")
        self._store.put_bytes(b"old", "e/b")

    def action(self, verb: str) -> Callable[[], object]:
        store = self._store
        actions: dict[str, Callable[[], object]] = {
            "get": lambda: store.get("d/a", str(self.folder / "work" / "x" / "out")),
            "read_range": lambda: store.read_range("d/a", 0),
            "head": lambda: store.head("d/a"),
            "list": lambda: [info.key for info in store.list()],
            "put": lambda: store.put(str(self.folder / "work" / "in"), "d/a"),
            "put_bytes": lambda: store.put_bytes(b"new", "d/a"),
            "if_absent": lambda: store.put_bytes(b"new", "x/new", if_absent=True),
            "delete": lambda: store.delete("d/a"),
        }
        return actions[verb]


class FailingCalls:
    """Counts the calls of `os` functions while armed, and lets one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_armed = False
        self.made: list[str] = []
        self.fails = -1
        for name in CALLS:
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if not self.is_armed:
                return real(*arguments, **options)
            self.made.append(name)
            if len(self.made) - 1 == self.fails:
                if name == "close":
                    real(*arguments)
                raise OSError(errno.EIO, "planned")
            return real(*arguments, **options)

        return call

    def run(self, action: Callable[[], object], fails: int) -> object:
        """Run *action* with its call number *fails* failing; give its answer, or the error that left it."""
        self.made, self.fails, self.is_armed = [], fails, True
        try:
            return action()
        except errors.StorageError as error:
            return error
        finally:
            self.is_armed = False


@pytest.mark.parametrize("kernel_copies", [True, False])
@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("verb", CHANGES)
def test_any_call_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, has_links: bool, kernel_copies: bool
) -> None:
    """
    Whichever system call fails, only a StorageError leaves the store, and it is the truth.

    An error means that nothing changed; none means that the whole change was made.
    """
    if not has_links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    if not kernel_copies:
        monkeypatch.setattr("htcjob.storage.local.files._KERNEL_COPIES", ())
    calls = FailingCalls(monkeypatch)
    for fails in range(200):
        case = Case(tmp_path / f"{fails}")
        before = files_below(case.folder)
        answer = calls.run(case.action(verb), fails)
        if len(calls.made) <= fails:
            break
        after = files_below(case.folder)
        is_unremoved = calls.made[fails] == "unlink"
        changed = {
            name: content
            for name, content in after.items()
            if before.get(name) != content
            and isinstance(content, bytes)
            and not (is_unremoved and TEMP_PREFIX in name)
        }
        removed = before.keys() - after.keys()
        if isinstance(answer, Exception):
            assert isinstance(answer, errors.TransientError), calls.made
            assert (changed, removed) == NOTHING, calls.made
        else:
            assert (changed, removed) == CHANGES[verb], calls.made
            assert answer == ANSWERS.get(verb, answer), calls.made
    assert fails > 1
    assert not isinstance(answer, Exception)


@pytest.mark.parametrize("verb", ["get", "put", "put_bytes", "if_absent"])
def test_file_system_that_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """A file that is shorter than what was written to it does not get its name."""
    case = Case(tmp_path)
    before = files_below(tmp_path)
    monkeypatch.setattr("htcjob.storage.local.files._KERNEL_COPIES", ())
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda target, data: real_write(target, data[:-1]) + 1)
    with pytest.raises(errors.TransientError, match="has 2 bytes after 3 were written"):
        case.action(verb)()
    after = files_below(tmp_path)
    assert {name: after[name] for name in after if isinstance(after[name], bytes)} == {
        name: before[name] for name in before if isinstance(before[name], bytes)
    }


def test_every_call_is_counted() -> None:
    """The store uses no function of `os` that the test above does not let fail."""
    import re

    import htcjob.storage.keys
    import htcjob.storage.local.files
    import htcjob.storage.local.listing
    import htcjob.storage.local.store

    harmless = {"fsencode", "fsdecode", "urandom", "makedirs", "stat_result"}  # makedirs calls mkdir
    harmless |= {"strerror"}  # asks no file system
    harmless |= {"pwrite"}  # of the clouds' stores: test_cloud.py
    local = htcjob.storage.local
    for module in (local.files, local.listing, local.store, htcjob.storage.keys):
        source = Path(str(module.__file__)).read_text()
        assert set(re.findall(r"\bos\.([a-z_]+)\(", source)) - harmless <= set(CALLS)


def test_what_does_not_fit_takes_no_room(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has room for others keeps it: a file that cannot fit is refused before its first byte."""
    source = small_disk.parent / "source"
    source.write_bytes(b"x" * 1_000_000)
    writes = []
    for name in ("write", "copy_file_range", "sendfile"):
        monkeypatch.setattr(os, name, lambda *_: writes.append(1))
    with pytest.raises(errors.UnwritableError, match="No space left"):
        LocalStore(str(source.parent)).get("source", str(small_disk / "copy"))
    assert writes == []
    assert list(small_disk.iterdir()) == []
