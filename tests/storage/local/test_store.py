"""The directory store keeps the contract, on every kind of file system and in bad company."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from htcjob import errors
from htcjob.storage.local.files import TEMP_PREFIX
from htcjob.storage.local.store import LocalStore
from tests.storage.contract import REFUSED_KEYS, StoreContract, failing, files_below, keys_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESERVED_KEYS = (
    f"a/{TEMP_PREFIX}0",
    f"{TEMP_PREFIX}0/a",
    ".nfs00000000000000010000000a",
    ".fuse_hidden000001a4",
)


class TestLocalStore(StoreContract):
    examples = 100
    refused_keys = (*REFUSED_KEYS, *RESERVED_KEYS, "a//b", "a/", "a/./b", "./a", ".", "a/.")
    folder_like_keys = ()

    @pytest.fixture
    def new_store(self, tmp_path: Path) -> Callable[[], LocalStore]:
        numbers = count()
        return lambda: LocalStore(str(tmp_path / "stores" / f"{next(numbers)}"))


class TestWithoutHardLinks(TestLocalStore):
    """As on FAT, on Azure Files, on many FUSE file systems."""

    @pytest.fixture(autouse=True)
    def no_hard_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))


class TestWithoutKernelCopies(TestLocalStore):
    """As on other systems than Linux, and between file systems that refuse them."""

    @pytest.fixture(autouse=True)
    def no_kernel_copies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "copy_file_range", failing(errno.EXDEV), raising=False)
        monkeypatch.setattr(os, "sendfile", failing(errno.EINVAL), raising=False)


def verbs(store: LocalStore, work: Path) -> dict[str, Callable[[str], object]]:
    """Return every verb as a function of a key; `work / "in"` is what is put."""
    (work / "in").write_bytes(b"new")
    return {
        "get": lambda key: store.get(key, str(work / "out")),
        "read_range": lambda key: store.read_range(key, 0),
        "head": store.head,
        "put": lambda key: store.put(str(work / "in"), key),
        "put_bytes": lambda key: store.put_bytes(b"new", key),
        "if_absent": lambda key: store.put_bytes(b"new", key, if_absent=True),
        "delete": store.delete,
    }


READS = ("get", "read_range", "head")
WRITES = ("put", "put_bytes", "if_absent")


class TestDirectory:
    def test_not_made_before_the_first_put(self, store: LocalStore, root: Path, work: Path) -> None:
        """Reading from a directory that does not exist names it, and makes nothing."""
        does = verbs(store, work)
        for verb in READS:
            with pytest.raises(errors.AbsentError, match=f"there is no directory {root}"):
                does[verb]("a/b")
        with pytest.raises(errors.AbsentError, match=f"there is no directory {root}"):
            list(store.list("a/"))
        store.delete("a/b")
        assert not root.exists()
        assert not (work / "out").exists()
        does["put"]("a/b")
        assert files_below(root) == {"a": "drwxr-xr-x", "a/b": b"new"}

    def test_that_is_a_file(self, store: LocalStore, root: Path, work: Path) -> None:
        """A file in the place of the store's directory is named by reads and refused by writes."""
        root.write_bytes(b"file")
        does = verbs(store, work)
        for verb in READS:
            with pytest.raises(errors.AbsentError, match=f"there is no directory {root}"):
                does[verb]("a")
        with pytest.raises(errors.AbsentError, match=f"there is no directory {root}"):
            list(store.list())
        for verb in WRITES:
            with pytest.raises(errors.PermanentError, match="Not a directory"):
                does[verb]("a")
        assert root.read_bytes() == b"file"

    def test_relative_and_linked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store is where its directory was when it was opened, links on the way to it resolved."""
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        monkeypatch.chdir(tmp_path)
        store = LocalStore("link/store")
        monkeypatch.chdir("/")
        store.put_bytes(b"x", "a")
        assert store.url == f"file://{tmp_path}/real/store/"
        assert (tmp_path / "real" / "store" / "a").read_bytes() == b"x"

    @pytest.mark.parametrize("directory", ["", "a\0b"])
    def test_no_path(self, directory: str) -> None:
        """What cannot be a path is a configuration error."""
        with pytest.raises(errors.ConfigurationError, match="not a path"):
            LocalStore(directory)

    def test_root_of_the_file_system(self) -> None:
        """The directory `/` is a store like another."""
        store = LocalStore("/")
        assert store.url == "file:///"
        assert store.url_of("a") == "file:///a"
        assert store.head(os.path.realpath(__file__)[1:]).size_bytes == Path(__file__).stat().st_size

    def test_names_that_are_not_utf8_in_this_locale(self) -> None:
        """Where Python would write names in another encoding than listings read, the store says the cure."""
        code = "import sys; from htcjob.storage.local.store import LocalStore; LocalStore('x')"
        environment = {
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "LC_ALL": "C",
            "PATH": os.environ["PATH"],
        }
        ended = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert "ConfigurationError: file names are not UTF-8 in this locale: set PYTHONUTF8=1" in ended.stderr

    def test_import_is_cheap(self) -> None:
        """Importing the store loads nothing slow: every job of an array pays it."""
        code = (
            "import sys, logging, htcjob.storage.contract; before = set(sys.modules)\n"
            "import htcjob.storage.local.store; print(*sorted(set(sys.modules) - before))"
        )
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        cheap = {"_datetime", "datetime", "errno", "math", "time", "_strptime"}
        assert {name for name in shown.stdout.split() if not name.startswith("htcjob.")} <= cheap


class TestKeysAndFiles:
    @pytest.mark.parametrize("verb", WRITES)
    def test_a_key_below_an_object(self, store: LocalStore, root: Path, work: Path, verb: str) -> None:
        """Keys `a` and `a/b` cannot both exist, whichever comes first; the message says so."""
        does = verbs(store, work)
        store.put_bytes(b"old", "file")
        store.put_bytes(b"old", "folder/x/y")
        before = files_below(root)
        for key in ("file/b", "file/b/c", "folder", "folder/x"):
            with pytest.raises(errors.PermanentError, match="'a' and 'a/b' cannot both exist"):
                does[verb](key)
        assert files_below(root) == before

    @pytest.mark.parametrize("verb", READS)
    def test_folders_are_no_objects(self, store: LocalStore, root: Path, work: Path, verb: str) -> None:
        """A key that names a folder, or something below a file, is absent."""
        store.put_bytes(b"", "folder/file")
        for key in ("folder", "folder/file/b"):
            with pytest.raises(errors.AbsentError, match="no such object"):
                verbs(store, work)[verb](key)
            store.delete(key)
        assert files_below(root) == {"folder": "drwxr-xr-x", "folder/file": b""}

    @pytest.mark.parametrize("key", ["n" * 300, "a/" + "n" * 300, "n" * 300 + "/a"])
    def test_a_part_too_long(self, store: LocalStore, work: Path, key: str) -> None:
        """A key with a part of more than 255 bytes cannot be put, and the message says why; it is absent."""
        store.put_bytes(b"", "a/z")
        does = verbs(store, work)
        for verb in WRITES:
            with pytest.raises(errors.PermanentError, match="File name too long"):
                does[verb](key)
        for verb in READS:
            with pytest.raises(errors.AbsentError, match="no such object"):
                does[verb](key)
        store.delete(key)
        assert keys_in(store) == ["a/z"]

    def test_links_at_every_level(self, store: LocalStore, root: Path, work: Path, tmp_path: Path) -> None:
        """A symbolic link anywhere in a key's path is refused by every verb; nothing beyond is reached."""
        outside = tmp_path / "outside"
        (outside / "d").mkdir(parents=True)
        (outside / "secret").write_bytes(b"secret")
        (outside / "d" / "secret").write_bytes(b"secret")
        store.put_bytes(b"kept", "a/b/kept")
        for folder in (root, root / "a", root / "a" / "b"):
            (folder / "to-folder").symlink_to(outside)
            (folder / "to-file").symlink_to(outside / "secret")
            (folder / "to-nothing").symlink_to(outside / "nothing")
            (folder / "to-itself").symlink_to("to-itself")
            (folder / "to-inside").symlink_to(root / "a")
            (folder / "up").symlink_to("..")
        does = verbs(store, work)
        before = files_below(tmp_path)
        for above in ("", "a/", "a/b/"):
            for name in (
                *("to-folder/secret", "to-folder/d/secret", "to-folder/new", "to-folder", "to-file"),
                *("to-file/x", "to-nothing", "to-nothing/x", "to-itself", "to-itself/x"),
                *("to-inside/b/kept", "up/a/b/kept", "up/up/up/outside/secret"),
            ):
                for verb in does.values():
                    with pytest.raises(errors.BadKeyError, match="symbolic link"):
                        verb(above + name)
                assert keys_in(store, above + name) == []
        assert keys_in(store) == ["a/b/kept"]
        assert files_below(tmp_path) == before

    @pytest.mark.timeout(60)
    def test_special_files(
        self, store: LocalStore, root: Path, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """FIFOs, sockets and devices are never opened, listed, replaced or removed; a FIFO never blocks."""
        store.put_bytes(b"", "a/z")
        os.mkfifo(root / "a" / "fifo")
        names = ["fifo", "socket"]
        with socket.socket(socket.AF_UNIX) as listener:
            monkeypatch.chdir(root / "a")  # the path of a socket is at most 107 bytes long
            listener.bind("socket")
            if os.geteuid() == 0:
                os.mknod(root / "a" / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
                names.append("device")
            does = verbs(store, work)
            before = files_below(root)
            for name in names:
                for verb in READS:
                    with pytest.raises(errors.AbsentError, match="a special file has this name"):
                        does[verb](f"a/{name}")
                for verb in WRITES:
                    with pytest.raises(errors.PermanentError, match="a special file has this name"):
                        does[verb](f"a/{name}")
                store.delete(f"a/{name}")
            assert keys_in(store) == ["a/z"]
            assert files_below(root) == before
            assert files_below(work) == {"in": b"new"}

    def test_a_fifo_planted_after_the_look(
        self, store: LocalStore, root: Path, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A FIFO that takes an object's name between look and open does not block either."""
        store.put_bytes(b"", "a")
        real_open = os.open

        def swap(path: str, *arguments: int) -> int:
            if path == str(root / "a"):
                Path(path).unlink()
                os.mkfifo(path)
            return real_open(path, *arguments)

        monkeypatch.setattr(os, "open", swap)
        with pytest.raises(errors.AbsentError, match="a special file has this name"):
            store.get("a", str(work / "out"))

    def test_percent_in_urls(self, tmp_path: Path) -> None:
        """A URL of a store or object names it without ambiguity, on one line, whatever is in the path."""
        store = LocalStore(os.fsdecode(os.fsencode(tmp_path) + b"/50%\xff ?#"))
        assert store.url == f"file://{tmp_path}/50%25%FF%20%3F%23/"
        assert store.url_of("é a%41\u0085") == f"{store.url}é%20a%2541%C2%85"


@pytest.fixture
def as_nobody() -> Iterator[Callable[[], None]]:
    """Yield a function that makes this process an ordinary user, whom modes bind; no-op if it is."""
    was_root = os.geteuid() == 0
    yield lambda: os.seteuid(65534) if was_root else None
    if was_root:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a folder that every user can reach (pytest's own are private)."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


class TestDisk:
    def test_put_on_a_full_disk(self, small_disk: Path, work: Path) -> None:
        """A put that finds no room leaves the old object, and no part of the new one."""
        store = LocalStore(str(small_disk / "store"))
        store.put_bytes(b"old", "a")
        before = files_below(small_disk)
        (work / "big").write_bytes(bytes(1_000_000))
        for verb in (
            lambda: store.put(str(work / "big"), "a"),
            lambda: store.put_bytes(bytes(1_000_000), "a"),
            lambda: store.put_bytes(bytes(1_000_000), "b", if_absent=True),
        ):
            with pytest.raises(errors.UnwritableError, match=r"file:///.*: No space left on device"):
                verb()
        assert files_below(small_disk) == before

    def test_get_to_a_full_disk(self, small_disk: Path, store: LocalStore) -> None:
        """A get that finds no room leaves nothing, and names the file, not only the object."""
        store.put_bytes(bytes(1_000_000), "a")
        target = small_disk / "out"
        with pytest.raises(errors.UnwritableError, match=f"{target}: No space left on device"):
            store.get("a", str(target))
        assert files_below(small_disk) == {}

    def test_between_file_systems(self, small_disk: Path, store: LocalStore, work: Path) -> None:
        """Objects come and go whole between file systems too."""
        data = os.urandom(100_000)
        store.put_bytes(data, "a")
        store.get("a", str(small_disk / "out"))
        other = LocalStore(str(small_disk / "store"))
        other.put(str(small_disk / "out"), "b")
        other.get("b", str(work / "out"))
        assert (work / "out").read_bytes() == data

    def test_read_only(self, small_disk: Path, work: Path) -> None:
        """A read-only file system is a permanent error; reading it goes on."""
        store = LocalStore(str(small_disk))
        store.put_bytes(b"old", "a")
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        does = verbs(store, work)
        for verb, key in (("put", "b"), ("put_bytes", "a"), ("if_absent", "d/b"), ("delete", "a")):
            with pytest.raises(errors.UnwritableError, match="Read-only file system"):
                does[verb](key)
        with pytest.raises(errors.UnwritableError, match=f"{small_disk}/out: Read-only file system"):
            store.get("a", str(small_disk / "out"))
        does["get"]("a")
        assert (work / "out").read_bytes() == b"old"

    def test_denied(self, open_folder: Path, as_nobody: Callable[[], None]) -> None:
        """What the mode of a file or folder forbids in the store is denied, and changes nothing."""
        store = LocalStore(str(open_folder / "store"))
        work = open_folder / "work"
        work.mkdir()
        work.chmod(0o777)
        does = verbs(store, work)
        for key in ("secret", "closed/a", "readable"):
            store.put_bytes(b"old", key)
        (open_folder / "store" / "secret").chmod(0)
        (open_folder / "store" / "closed").chmod(0)
        (open_folder / "store").chmod(0o555)
        as_nobody()
        for verb, key in (
            *(("get", "secret"), ("read_range", "secret"), *((verb, "closed/a") for verb in does)),
            *((verb, "new") for verb in WRITES),
            *((verb, "new/a") for verb in WRITES),
            *(("put", "readable"), ("put_bytes", "readable"), ("delete", "readable")),
        ):
            with pytest.raises(errors.DeniedError, match="Permission denied"):
                does[verb](key)
        with pytest.raises(errors.DeniedError, match="closed/"):
            list(store.list())
        does["get"]("readable")
        assert (work / "out").read_bytes() == b"old"
        (open_folder / "store").chmod(0o755) if os.geteuid() == 0 else None

    def test_local_side_denied(self, open_folder: Path, as_nobody: Callable[[], None]) -> None:
        """A local file that may not be written or read is no denial by the store, and is named."""
        store = LocalStore(str(open_folder / "store"))
        store.put_bytes(b"old", "a")
        (open_folder / "store").chmod(0o777)
        closed = open_folder / "closed"
        closed.mkdir()
        (open_folder / "secret").write_bytes(b"x")
        (open_folder / "secret").chmod(0)
        closed.chmod(0o555)
        as_nobody()
        for target in (closed / "out", closed / "new" / "out"):
            with pytest.raises(errors.PermanentError, match=f"get .*{target}: Permission denied"):
                store.get("a", str(target))
        with pytest.raises(errors.PermanentError, match=f"put .*{open_folder}/secret: Permission denied"):
            store.put(str(open_folder / "secret"), "b")
        assert keys_in(store) == ["a"]


class TestChanges:
    @pytest.mark.parametrize("kernel_copies", [True, False])
    @pytest.mark.parametrize("change", ["shrink", "empty", "grow", "rewrite"])
    @pytest.mark.parametrize("verb", ["get", "put"])
    def test_source_that_changes(
        self,
        store: LocalStore,
        root: Path,
        work: Path,
        monkeypatch: pytest.MonkeyPatch,
        verb: str,
        change: str,
        kernel_copies: bool,
    ) -> None:
        """A file that becomes shorter or longer, or is written to, while copied is a transient error."""
        store.put_bytes(bytes(300_000), "a")
        source = root / "a" if verb == "get" else work / "in"
        source.write_bytes(bytes(300_000))
        os.utime(source, (1_000_000_000, 1_000_000_000))
        before = files_below(root)

        def alter() -> None:
            with source.open("r+b") as file:
                if change in ("shrink", "empty"):
                    file.truncate(0 if change == "empty" else 200_000)
                else:
                    file.seek(300_000 if change == "grow" else 0)
                    file.write(b"x")

        def altering(function: Callable[..., Any], *, is_before: bool) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                if is_before:
                    alter()
                    return function(*arguments)
                result = function(*arguments)
                alter()
                return result

            return call

        is_before = change in ("shrink", "empty")
        if kernel_copies:
            copy = altering(os.copy_file_range, is_before=is_before)
            monkeypatch.setattr(os, "copy_file_range", copy)
        else:
            monkeypatch.setattr("htcjob.storage.local.files._KERNEL_COPIES", ())
            monkeypatch.setattr(os, "read", altering(os.read, is_before=is_before))
        name = "the object" if verb == "get" else str(source)
        copies: dict[str, Callable[[], object]] = {
            "get": lambda: store.get("a", str(work / "out")),
            "put": lambda: store.put(str(source), "a"),
        }
        with pytest.raises(errors.TransientError, match=f"{name} changed while it was read"):
            copies[verb]()
        assert not (work / "out").exists()
        assert [name for name in files_below(root) if TEMP_PREFIX in name] == []
        if verb == "put":
            assert files_below(root) == before

    def test_data_are_on_disk_before_the_name(
        self, store: LocalStore, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A put syncs the data before it gives the name, so that a power cut leaves no half object."""
        done: list[str] = []

        def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                done.append(name)
                return real(*arguments)

            return call

        for name in ("fsync", "replace", "link"):
            monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
        does = verbs(store, work)
        for verb, expected in (
            ("put", ["fsync", "replace"]),
            ("put_bytes", ["fsync", "replace"]),
            ("if_absent", ["fsync", "link"]),
            ("get", ["replace"]),
        ):
            done.clear()
            does[verb]("new" if verb == "if_absent" else "a")
            assert done == expected


class TestConditionalPut:
    def test_nfs_says_exists_after_its_own_success(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A link that was made although the answer says it existed before is a success."""
        real_link = os.link

        def link(*arguments: Any) -> None:
            real_link(*arguments)
            raise FileExistsError(errno.EEXIST, "File exists")

        monkeypatch.setattr(os, "link", link)
        assert store.put_bytes(b"one", "a", if_absent=True) is True
        assert store.put_bytes(b"two", "a", if_absent=True) is False
        assert store.read_range("a", 0) == b"one"

    def test_loser_of_a_late_race(self, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """A writer that finds the name free and loses it before its link is told False."""
        other = LocalStore(store.url.removeprefix("file://"))
        real_link = os.link

        def link(*arguments: Any) -> None:
            monkeypatch.setattr(os, "link", real_link)
            assert other.put_bytes(b"other", "a", if_absent=True) is True
            real_link(*arguments)

        monkeypatch.setattr(os, "link", link)
        assert store.put_bytes(b"mine", "a", if_absent=True) is False
        assert store.read_range("a", 0) == b"other"
        assert keys_in(store) == ["a"]

    @pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
    def test_without_hard_links_nothing_half_is_seen(
        self, store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        """Where links do not exist, the name is not there and then whole; an error leaves nothing behind."""
        monkeypatch.setattr(os, "link", failing(code))
        monkeypatch.setattr("htcjob.storage.local.files._rename_without_replacing", failing(errno.EINVAL))
        real_replace = os.replace
        seen: list[bytes | None] = []

        def replace(source: str, target: str) -> None:
            seen.append(Path(target).read_bytes() if os.path.lexists(target) else None)
            real_replace(source, target)
            seen.append(Path(target).read_bytes())

        monkeypatch.setattr(os, "replace", replace)
        assert store.put_bytes(b"whole", "a", if_absent=True) is True
        assert seen == [None, b"whole"]
        monkeypatch.setattr(os, "replace", failing(errno.EIO))
        with pytest.raises(errors.TransientError):
            store.put_bytes(b"whole", "b", if_absent=True)
        assert files_below(root) == {"a": b"whole"}


def test_a_directory_that_was_unmounted_is_not_an_empty_store(small_disk: Path) -> None:
    """Inputs do not look absent, and no result lands in the bare mount point."""
    (small_disk / "mounted").mkdir()
    mount = small_disk / "mounted"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(mount)], check=True)
    try:
        store = LocalStore(str(mount))
        store.put_bytes(b"1", "a")
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    for act in (
        lambda: store.put_bytes(b"2", "b"),
        lambda: store.head("a"),
        lambda: store.read_range("a", 0),
    ):
        with pytest.raises(errors.TransientError, match="unmounted"):
            act()
    assert list(mount.iterdir()) == []
