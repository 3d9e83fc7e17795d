"""The tests that every store passes; a backend's test class inherits them and gives the fixtures."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.errors import AbsentError, BadKeyError, PermanentError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from htcjob.storage import Store

KEYS = (
    "a",
    "a b",
    "a#b",
    "a?b",
    "a?b=c&d",
    "a%41",
    "aA",
    "a+b",
    "a&b",
    "a\\b",
    "a!",
    "a.b",
    "a2",
    "b/c",
    "b/c d/e",
    "b!/c",
    "b2/c",
    "d/..e/...",
    ".hidden/.x",
    "-rf",
    "~",
    "*",
    "'\"<>|",
    "\u00e9",  # é, composed
    "e\u0301",  # é, decomposed: another key
    "日本語/ファイル",
    "\uff5e",  # before the next one in UTF-8, behind it in UTF-16
    "\U0001f600",
    "s" * 200 + "/" + "t" * 200,
    "/".join(["k" * 204] * 5),  # 1,024 bytes
)
"""Keys that live side by side in every store."""

REFUSED_KEYS = (
    "",
    "/a",
    "..",
    "../a",
    "a/../b",
    "a/..",
    "/../../a",
    "a\0b",
    "a\nb",
    "a\r",
    "\ud800",
    "k" * 1025,
    "é" * 513,
)
"""Keys that no store takes."""

# Few characters, so that keys collide in their beginnings; on both sides of `/`, of one and more bytes.
_segments = st.text(alphabet="a!0~é\uff5e\U0001f600", min_size=1, max_size=3)
_key_sets = st.sets(st.lists(_segments, min_size=1, max_size=4).map("/".join), max_size=12)


def by_bytes(key: str) -> bytes:
    """Return what keys are ordered by."""
    return key.encode()


def files_below(folder: Path) -> dict[str, bytes | str]:
    """Return everything below *folder*, with content or kind: equal before and after means untouched."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes() if stat.S_ISREG(mode) else stat.filemode(mode)
    return found


def keys_in(store: Store, prefix: str = "", **options: Any) -> list[str]:
    """List keys only."""
    return [info.key for info in store.list(prefix, **options)]


def failing(code: int) -> Callable[..., Any]:
    """Return a function that raises the OSError *code*."""

    def fail(*_arguments: object, **_options: object) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond *size_bytes*: as good as a full disk, for root too."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class StoreContract:
    """
    What every store promises.

    A subclass gives the fixture `new_store`: a function that makes an empty store at every call.
    """

    keys: tuple[str, ...] = KEYS
    """Keys to try."""
    refused_keys: tuple[str, ...] = REFUSED_KEYS
    """Keys that must be refused; longer where the storage has more rules."""
    folder_like_keys: tuple[str, ...] = ("a//b", "a/", "a/b", "a/./b")
    """Keys that live beside `a` where `/` is a character like any other; () where it is not."""
    many = 2_500
    """Objects that are more than one page of a listing."""
    examples = 40
    """Sets of keys that are listed; on a server each needs a bucket of its own, and is the same for all servers."""

    @pytest.fixture
    def new_store(self) -> Callable[[], Store]:
        raise NotImplementedError

    @pytest.fixture
    def store(self, new_store: Callable[[], Store]) -> Store:
        return new_store()

    @pytest.fixture
    def work(self, tmp_path: Path) -> Path:
        """Return an empty folder that no store is in."""
        (tmp_path / "work").mkdir()
        return tmp_path / "work"

    # One object

    def test_round_trip(self, store: Store, work: Path) -> None:
        """What is put is what is read, in every way of reading, for none to some megabytes."""
        for size in (0, 1, 4096, 3_000_001):
            data = os.urandom(size)
            (work / "in").write_bytes(data)
            put = store.put(str(work / "in"), "dir/object")
            got = store.get("dir/object", str(work / "out"))
            assert (work / "out").read_bytes() == data
            assert store.read_range("dir/object", 0) == data
            for info in (put, got, store.head("dir/object"), *store.list()):
                assert (info.key, info.size_bytes, info.etag) == ("dir/object", size, put.etag)
                assert info.last_modified.utcoffset() == timedelta(0)

    def test_a_part_comes_with_what_storage_says_of_the_object(self, store: Store) -> None:
        """Bytes, as many as there are, and size and version of the whole, of the object as it is then."""
        store.put_bytes(b"0123456789", "d/a")
        for start, stop, expected in ((0, 4, b"0123"), (3, 10, b"3456789"), (9, 5000, b"9")):
            data, info = store.read_part("d/a", start, stop)
            assert (data, info.key, info.size_bytes) == (expected, "d/a", 10)
            assert info.tag == store.head("d/a").tag
        store.put_bytes(b"01234567890", "d/a")
        data, other = store.read_part("d/a", 0, 5000)
        assert data == b"01234567890"
        assert other.tag != info.tag

    def test_a_part_that_is_not_there(self, store: Store) -> None:
        """Nothing is asked for, or nothing is there: an error, as for an object that is absent."""
        store.put_bytes(b"0123456789", "a")
        store.put_bytes(b"", "empty")
        for key, start, stop in (
            ("a", 10, 20),
            ("a", 11, 20),
            ("a", 3, 3),
            ("a", 4, 3),
            ("a", -1, 3),
            ("empty", 0, 9),
        ):
            with pytest.raises(PermanentError):
                store.read_part(key, start, stop)
        with pytest.raises(AbsentError):
            store.read_part("absent", 0, 9)

    def test_put_bytes_answers_true(self, store: Store) -> None:
        """Without a condition bytes are always written."""
        assert store.put_bytes(b"one", "a") is True
        assert store.put_bytes(b"two", "a") is True
        assert store.read_range("a", 0) == b"two"

    def test_if_absent(self, store: Store) -> None:
        """A conditional put writes to a free name only, and says which happened."""
        assert store.put_bytes(b"one", "d/a", if_absent=True) is True
        assert store.put_bytes(b"two", "d/a", if_absent=True) is False
        assert store.read_range("d/a", 0) == b"one"
        store.delete("d/a")
        assert store.put_bytes(b"", "d/a", if_absent=True) is True
        assert store.put_bytes(b"three", "d/a", if_absent=True) is False
        assert store.read_range("d/a", 0) == b""

    def test_etag_changes_with_the_object(self, store: Store) -> None:
        """An object replaced by another of the same length has another ETag."""
        store.put_bytes(b"one", "a")
        before = store.head("a").etag
        store.put_bytes(b"two", "a")
        assert store.head("a").etag != before

    def test_ranges(self, store: Store) -> None:
        """A range is half-open and exact, and may be empty."""
        store.put_bytes(b"0123456789", "a")
        store.put_bytes(b"", "empty")
        assert store.read_range("a", 0, 10) == b"0123456789"
        assert store.read_range("a", 3, 7) == b"3456"
        assert store.read_range("a", 9) == b"9"
        assert store.read_range("a", 10) == b""
        assert store.read_range("a", 4, 4) == b""
        assert store.read_range("empty", 0) == b""
        assert store.read_range("empty", 0, 0) == b""

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 11), (9, 11), (11, None), (11, 11), (7, 3), (-1, 3), (-1, None)]
    )
    def test_ranges_outside(self, store: Store, start: int, stop: int | None) -> None:
        """A range that the object does not have is a permanent error, never fewer bytes."""
        store.put_bytes(b"0123456789", "a")
        with pytest.raises(PermanentError):
            store.read_range("a", start, stop)

    def test_absent(self, store: Store, work: Path) -> None:
        """A missing object is an AbsentError that names it, in every way of reading; deleting it is none."""
        store.put_bytes(b"", "a/there")
        for read in (
            lambda: store.get("a/absent", str(work / "new" / "out")),
            lambda: store.read_range("a/absent", 0),
            lambda: store.read_range("a/absent", 0, 0),
            lambda: store.head("a/absent"),
        ):
            with pytest.raises(AbsentError, match="a/absent") as raised:
                read()
            assert raised.value.url == store.url_of("a/absent")
        assert files_below(work) == {}
        store.delete("a/absent")
        store.delete("b/absent")

    def test_delete(self, store: Store) -> None:
        """A deleted object is gone, and nothing else is."""
        for key in ("a/b", "a/c", "a2"):
            store.put_bytes(b"", key)
        store.delete("a/b")
        store.delete("a/b")
        assert keys_in(store) == ["a/c", "a2"]
        with pytest.raises(AbsentError):
            store.head("a/b")

    def test_url(self, store: Store) -> None:
        """A store's URL ends in a slash, and an object's URL begins with it."""
        assert store.url.endswith("/")
        assert store.url_of("a/b") == f"{store.url}a/b"

    # Keys

    def test_keys_are_distinct(self, store: Store, work: Path) -> None:
        """Every unusual key is an object of its own, whole way round."""
        for key in self.keys:
            store.put_bytes(key.encode(), key)
        assert keys_in(store) == sorted(self.keys, key=by_bytes)
        for key in self.keys:
            assert store.read_range(key, 0) == key.encode()
            assert store.head(key).key == key
            assert store.get(key, str(work / "out")).key == key
            assert (work / "out").read_bytes() == key.encode()
            assert keys_in(store, key)[0] == key
            assert store.put_bytes(b"", key, if_absent=True) is False
        for count, key in enumerate(self.keys, start=1):
            store.delete(key)
            assert len(keys_in(store)) == len(self.keys) - count

    def test_folder_like_keys(self, store: Store) -> None:
        """Where storage knows no folders, keys with `/` in odd places are objects like others."""
        keys = ("a", *self.folder_like_keys)
        for key in keys:
            store.put_bytes(key.encode(), key)
        assert keys_in(store) == sorted(keys, key=by_bytes)
        for key in keys:
            assert store.read_range(key, 0) == key.encode()

    def test_refused_keys(self, store: Store, tmp_path: Path, work: Path) -> None:
        """A key that must not be used is refused by every verb, before anything is read or written."""
        (work / "in").write_bytes(b"secret")
        store.put_bytes(b"kept", "kept")
        before = files_below(tmp_path)
        for key in self.refused_keys:
            for refused in (
                lambda key: store.get(key, str(work / "out")),
                lambda key: store.read_range(key, 0),
                lambda key: store.put(str(work / "in"), key),
                lambda key: store.put_bytes(b"x", key),
                lambda key: store.put_bytes(b"x", key, if_absent=True),
                store.head,
                store.delete,
            ):
                with pytest.raises(BadKeyError):
                    refused(key)
        assert keys_in(store) == ["kept"]
        assert files_below(tmp_path) == before

    # Listing

    def test_list_empty(self, store: Store) -> None:
        """A store with objects elsewhere lists none under a prefix that none has."""
        store.put_bytes(b"", "a")
        assert keys_in(store, "b") == []
        assert keys_in(store, "a/") == []
        assert keys_in(store, start_after="a") == []

    def test_list_odd_prefixes(self, store: Store) -> None:
        """A prefix that no key can have finds nothing, and never looks outside the store."""
        store.put_bytes(b"", "a/b")
        for prefix in ("/", "../", "a/../", "./", "a//", "a/b/", "a\0", "\ud800", "x" * 2000):
            assert keys_in(store, prefix) == []

    def test_prefix_is_a_plain_start_of_names(self, store: Store) -> None:
        """A prefix is no folder: it finds siblings that go on after it."""
        for key in ("a/b", "a2", "ab/c", "b", "a!"):
            store.put_bytes(b"", key)
        assert keys_in(store, "a") == ["a!", "a/b", "a2", "ab/c"]
        assert keys_in(store, "a/") == ["a/b"]
        assert keys_in(store, "ab") == ["ab/c"]

    def test_list_order(self, new_store: Callable[[], Store]) -> None:
        """Listing gives exactly the keys asked for, in the order of their UTF-8 bytes."""

        @settings(max_examples=self.examples, deadline=None, derandomize=True, database=None)
        @given(_key_sets, st.data())
        def check(drawn: set[str], data: st.DataObject) -> None:
            # A file and a folder of one name are another test's.
            keys = {key for key in drawn if not any(other.startswith(f"{key}/") for other in drawn)}
            store = new_store()
            for key in keys:
                store.put_bytes(key.encode(), key)
            in_order = sorted(keys, key=by_bytes)
            if keys:
                listed = list(store.list())
                assert [info.key for info in listed] == in_order
                assert [info.size_bytes for info in listed] == [len(by_bytes(k)) for k in in_order]
            else:
                store.put_bytes(b"", "zzz")
                in_order = ["zzz"]
            beginnings = sorted({key[:n] for key in drawn for n in range(len(key) + 1)} | {"", "a/"})
            for _ in range(3):
                prefix = data.draw(st.sampled_from(beginnings))
                start_after = data.draw(st.none() | st.sampled_from(beginnings) | _segments)
                assert keys_in(store, prefix, start_after=start_after) == [
                    key
                    for key in in_order
                    if key.startswith(prefix)
                    and (start_after is None or by_bytes(key) > by_bytes(start_after))
                ]

        check()

    def test_list_more_than_a_page(self, store: Store) -> None:
        """A long listing is complete, and can be taken up anywhere."""
        keys = [f"n/{i:06}" for i in range(self.many)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put_bytes(b"", key), keys))
        assert keys_in(store, "n/") == keys
        middle = self.many // 2
        assert keys_in(store, start_after=keys[middle]) == keys[middle + 1 :]

    # Nothing half

    def test_get_makes_folders_and_replaces(self, store: Store, work: Path) -> None:
        """A get makes the folders it needs, replaces the file, and leaves nothing beside it."""
        store.put_bytes(b"new", "a")
        target = work / "x" / "y" / "out"
        store.get("a", str(target))
        target.write_bytes(b"something old and longer")
        store.get("a", str(target))
        assert files_below(work / "x" / "y") == {"out": b"new"}

    def test_get_replaces_a_link_not_its_target(self, store: Store, work: Path) -> None:
        """A symbolic link in the place of the target is replaced; the file it means is not written to."""
        store.put_bytes(b"new", "a")
        (work / "victim").write_bytes(b"old")
        (work / "out").symlink_to(work / "victim")
        store.get("a", str(work / "out"))
        assert files_below(work) == {"victim": b"old", "out": b"new"}

    def test_failed_get_keeps_the_old_file(self, store: Store, work: Path) -> None:
        """A get of an absent object leaves an existing file alone."""
        store.put_bytes(b"", "a")
        (work / "out").write_bytes(b"old")
        with pytest.raises(AbsentError):
            store.get("b", str(work / "out"))
        assert files_below(work) == {"out": b"old"}

    def test_get_to_an_impossible_place(self, store: Store, work: Path) -> None:
        """A get that cannot write says which local file, not that the object is missing or denied."""
        store.put_bytes(b"new", "a")
        (work / "file").write_bytes(b"old")
        (work / "folder" / "sub").mkdir(parents=True)
        before = files_below(work)
        for target in (work / "file" / "out", work / "folder", work / ("n" * 300)):
            with pytest.raises(PermanentError) as raised:
                store.get("a", str(target))
            assert str(target) in str(raised.value)
            assert raised.value.url == store.url_of("a")
        assert files_below(work) == before

    def test_get_to_a_full_disk(self, store: Store, work: Path) -> None:
        """A get that runs out of room leaves nothing, and the old file as it was."""
        store.put_bytes(os.urandom(100_000), "a")
        (work / "out").write_bytes(b"old")
        with files_limited_to(50_000), pytest.raises(PermanentError, match="out"):
            store.get("a", str(work / "out"))
        assert files_below(work) == {"out": b"old"}

    def test_put_of_what_is_no_file(self, store: Store, work: Path) -> None:
        """A put of a missing file, a folder or a FIFO names it, writes no object, and never waits."""
        os.mkfifo(work / "fifo")
        store.put_bytes(b"old", "a")
        for source in (work / "missing", work, work / "fifo"):
            with pytest.raises(PermanentError) as raised:
                store.put(str(source), "a")
            assert str(source) in str(raised.value)
            with pytest.raises(PermanentError):
                store.put(str(source), "new/a")
        assert keys_in(store) == ["a"]
        assert store.read_range("a", 0) == b"old"

    def test_put_follows_a_link(self, store: Store, work: Path) -> None:
        """A symbolic link to a file is put as the file."""
        (work / "file").write_bytes(b"content")
        (work / "link").symlink_to("file")
        store.put(str(work / "link"), "a")
        assert store.read_range("a", 0) == b"content"

    # Together

    def test_racing_conditional_puts(self, store: Store) -> None:
        """Of many threads that want one free name exactly one is told that it has it, and it has."""
        racers = 12
        start = threading.Barrier(racers)

        def race(number: int) -> list[int]:
            won = []
            for turn in range(20):
                start.wait()
                if store.put_bytes(f"{number}".encode() * 1000, f"race/{turn}", if_absent=True):
                    won.append(turn)
            return won

        with ThreadPoolExecutor(racers) as pool:
            won = list(pool.map(race, range(racers)))
        assert sorted(turn for turns in won for turn in turns) == list(range(20))
        for number, turns in enumerate(won):
            for turn in turns:
                assert store.read_range(f"race/{turn}", 0) == f"{number}".encode() * 1000
        assert len(keys_in(store)) == 20

    def test_readers_see_whole_objects(self, store: Store, work: Path) -> None:
        """While an object is overwritten, every reader gets the old one or the new one, never a mixture."""
        versions = [bytes([n]) * (100_000 + 10_000 * n) for n in range(10)]
        for n, version in enumerate(versions):
            (work / f"in{n}").write_bytes(version)
        store.put_bytes(versions[0], "a")
        is_over = threading.Event()

        def read(number: int) -> int:
            count = 0
            while not is_over.is_set() or not count:
                assert store.read_range("a", 0) in versions
                info = store.get("a", str(work / f"out{number}"))
                data = (work / f"out{number}").read_bytes()
                assert data in versions
                assert info.size_bytes == len(data)
                assert keys_in(store) == ["a"]
                assert store.put_bytes(b"intruder", "a", if_absent=True) is False
                count += 1
            return count

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read, number) for number in range(3)]
            for turn in range(60):
                if turn % 2:
                    store.put_bytes(versions[turn % 10], "a")
                else:
                    store.put(str(work / f"in{turn % 10}"), "a")
            is_over.set()
            assert all(reader.result() for reader in readers)

    def test_threads_do_not_disturb_each_other(self, store: Store, work: Path) -> None:
        """Every verb does its work while other threads use the same store."""

        def exercise(number: int) -> None:
            for turn in range(15):
                key, data = f"t/{number}/{turn}", os.urandom(2_000 + turn)
                (work / f"in{number}").write_bytes(data)
                store.put(str(work / f"in{number}"), key)
                store.get(key, str(work / "out" / f"{number}" / f"{turn}"))
                assert (work / "out" / f"{number}" / f"{turn}").read_bytes() == data
                assert store.read_range(key, 10, 20) == data[10:20]
                assert key in keys_in(store, f"t/{number}/")
                if turn % 2:
                    store.delete(key)

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(exercise, number) for number in range(8)]:
                future.result()
        keys = keys_in(store)
        assert len(keys) == 8 * 8
        assert all(by_bytes(a) < by_bytes(b) for a, b in pairwise(keys))

    def test_errors_carry_their_facts(self, store: Store) -> None:
        """A failure says which operation, on which object, in one line."""
        store.put_bytes(b"", "there")
        with pytest.raises(StorageError) as raised:
            store.head("d/absent")
        assert raised.value.operation == "head"
        assert str(raised.value).startswith(f"head {store.url_of('d/absent')}: ")
        assert "\n" not in str(raised.value)
