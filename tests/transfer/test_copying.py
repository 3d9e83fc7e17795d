"""Many objects, both ways: what is the same is skipped, what fails is told, nothing is half."""

import os
from collections import Counter

import pytest

from htcjob.errors import DeniedError, PermanentError, TransientError, UnwritableError
from htcjob.storage.contract import ObjectInfo
from htcjob.storage.local.store import LocalStore
from htcjob.storage.memory.store import MemoryStore
from htcjob.transfer import copying
from htcjob.transfer.copying import BLOCK_BYTES, Copier, Target, blocks, files_below, is_empty
from htcjob.transfer.locations import parse
from htcjob.transfer.tasks import run_tasks


class Stores:
    """Two stores in memory."""

    def __init__(self):
        self.project = MemoryStore("project")
        self.task = MemoryStore("task")


@pytest.fixture
def stores():
    return Stores()


class Moves:
    """Copies as the commands do."""

    def __init__(self, stores, transfers, folder):
        self.stores, self.transfers, self.folder = stores, transfers, folder

    def get(self, *texts, is_recursive=True, has_folders=False):
        """Return the outcomes of copies to the folder."""
        copier = Copier(
            Target(None, str(self.folder), is_folder=True), self.transfers, has_folders=has_folders
        )
        places = [parse(text, self.stores) for text in texts]
        tasks = (task for place in places for task in copier.objects(place, is_recursive=is_recursive))
        return list(run_tasks(tasks, self.transfers))

    def put(self, *paths, to="task:", store=None, is_recursive=True, has_folders=False):
        """Return the outcomes of copies to a store."""
        place = parse(to, self.stores)
        target = Target(store or place.store, place.key, is_folder=place.is_folder)
        copier = Copier(
            target,
            self.transfers,
            is_new=place.is_folder and is_empty(target, self.transfers),
            has_folders=has_folders,
        )
        tasks = (task for path in paths for task in copier.files(str(path), is_recursive=is_recursive))
        return list(run_tasks(tasks, self.transfers))

    def cp(self, source, to, scratch):
        """Return the outcomes of copies between stores."""
        place, target = parse(source, self.stores), parse(to, self.stores)
        copier = Copier(
            Target(target.store, target.key, target.is_folder), self.transfers, scratch=str(scratch)
        )
        return list(run_tasks(copier.objects(place, is_recursive=True), self.transfers))


@pytest.fixture
def moves(stores, transfers, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    return Moves(stores, transfers, folder)


def actions(outcomes):
    return Counter(outcome.action for outcome in outcomes)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects(store):
    return {info.key: store.read_range(info.key, 0) for info in store.list()}


def test_a_thousand_files_go_out_and_come_back(moves, stores, tmp_path):
    """The same names and bytes, each once; the second time nothing moves, either way."""
    source = tmp_path / "source"
    for n in range(1000):
        path = source / f"{n % 7}" / f"ü {n:04}#?.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(n))
    assert actions(moves.put(f"{source}/")) == {"copied": 1000}
    assert objects(stores.task) == tree(source)
    assert actions(moves.put(f"{source}/")) == {"skipped": 1000}
    assert actions(moves.get("task:")) == {"copied": 1000}
    assert tree(moves.folder) == tree(source)
    assert actions(moves.get("task:")) == {"skipped": 1000}
    assert moves.transfers.objects_put == moves.transfers.objects_got == 1000


def test_twenty_percent_of_failures_lose_nothing(moves, stores, tmp_path):
    """Every verb of both directions fails one time in five, lost answers and cut bodies included."""
    source = tmp_path / "source"
    source.mkdir()
    for n in range(300):
        (source / f"{n:03}").write_bytes(os.urandom(100 + n))
    for seed, options in enumerate([{}, {"verb": "put", "after_effect": True}, {"verb": "get", "cut": 50}]):
        stores.task.faults.add(probability=0.07, seed=seed, **options)
    assert actions(moves.put(f"{source}/")) == {"copied": 300}
    assert actions(moves.get("task:")) == {"copied": 300}
    stores.task.faults.clear()
    assert tree(moves.folder) == tree(source) == objects(stores.task)


def test_what_differs_is_copied_again(moves, stores, tmp_path):
    """Size or content, at either side; what is only at the target is left alone."""
    stores.task.put_bytes(b"one", "1")
    stores.task.put_bytes(b"two", "2")
    stores.task.put_bytes(b"three", "3")
    (moves.folder / "1").write_bytes(b"one")
    (moves.folder / "2").write_bytes(b"TWO")
    (moves.folder / "3").write_bytes(b"longer")
    (moves.folder / "own").write_bytes(b"own")
    assert [outcome.action for outcome in moves.get("task:")] == ["skipped", "copied", "copied"]
    assert tree(moves.folder) == {"1": b"one", "2": b"two", "3": b"three", "own": b"own"}
    (moves.folder / "2").write_bytes(b"TWO")
    assert actions(moves.put(f"{moves.folder}/")) == {"copied": 2, "skipped": 2}
    assert objects(stores.task)["2"] == b"TWO"


class ToldStore(MemoryStore):
    """A store that knows checksums, or does not, as the clouds do."""

    def __init__(self, checksum):
        super().__init__("told")
        self.url = "s3://told/"
        self.checksum = checksum

    def head(self, key):
        info = super().head(key)
        return ObjectInfo(key, info.size_bytes, info.etag, info.last_modified, self.checksum)


@pytest.mark.parametrize(
    ("checksum", "action"),
    [
        ("md5:5d41402abc4b2a76b9719d911017c592", "skipped"),
        ("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "skipped"),
        ("md5:00000000000000000000000000000000", "copied"),
        ("crc9000:00", "copied"),
        (None, "copied"),
    ],
)
def test_a_clouds_checksum_decides(moves, tmp_path, checksum, action):
    """Without one that can be computed here the object is copied again: size alone proves nothing."""
    store = ToldStore(checksum)
    store.put_bytes(b"hello", "a")
    moves.stores.task = store
    (moves.folder / "a").write_bytes(b"hello")
    assert actions(moves.get("task:a")) == {action: 1}
    assert actions(moves.put(moves.folder / "a", to="task:a")) == {action: 1}


def test_between_stores(moves, stores, tmp_path):
    """By way of a file that is gone afterwards; the same is skipped, itself is refused."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for key in ("a", "b/c", "b/d"):
        stores.project.put_bytes(key.encode(), key)
    assert actions(moves.cp("project:", "task:copy/", scratch)) == {"copied": 3}
    assert set(objects(stores.task)) == {"copy/a", "copy/b/c", "copy/b/d"}
    assert actions(moves.cp("project:", "task:copy/", scratch)) == {"skipped": 3}
    assert actions(moves.cp("project:a", "task:x", scratch)) == {"copied": 1}
    (outcome,) = moves.cp("project:a", "project:a", scratch)
    assert "the same object" in str(outcome.error)
    assert list(scratch.iterdir()) == []


def test_between_stores_that_know_a_checksum_nothing_moves(moves, stores, tmp_path):
    """Equal checksums are enough; the object is not even fetched."""
    for name in ("project", "task"):
        setattr(stores, name, ToldStore("sha256:" + 64 * "0"))
        getattr(stores, name).put_bytes(b"hello", "a")
    stores.task.url = "s3://other/"
    assert actions(moves.cp("project:a", "task:a", tmp_path)) == {"skipped": 1}


def test_failures_are_gathered(moves, stores):
    """One object that cannot be had does not keep the others; each failure names its object."""
    for n in range(50):
        stores.task.put_bytes(b"x", f"{n:02}")
    stores.task.faults.add(verb="get", prefix="07", error=DeniedError)
    stores.task.faults.add(verb="get", prefix="1", every=3, error=PermanentError)
    outcomes = moves.get("task:", "task:nix")
    failed = {outcome.key for outcome in outcomes if outcome.error}
    assert failed == {"07", "task:nix", *(outcome.key for outcome in outcomes if outcome.action == "failed")}
    assert actions(outcomes) == {"copied": 46, "failed": 5}
    assert len(tree(moves.folder)) == 46


def test_transient_trouble_that_stays_fails(moves, stores):
    """After the retries, without a half file."""
    stores.task.put_bytes(b"12345678", "a")
    stores.task.faults.add(verb="get", cut=4)
    (outcome,) = moves.get("task:a", is_recursive=False)
    assert isinstance(outcome.error, TransientError)
    assert list(moves.folder.iterdir()) == []


def test_no_copy_leaves_its_folder(moves, stores, tmp_path):
    """Keys without a file of their own and links in the target folder are refused; nothing is written there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (moves.folder / "link").symlink_to(outside)
    (moves.folder / "file").symlink_to(outside / "new")
    for key in ("link/x", "file", "a//b", "a/./b", "good"):
        stores.task.put_bytes(b"x", key)
    assert actions(moves.get("task:")) == {"failed": 4, "copied": 1}
    assert list(outside.iterdir()) == []
    assert tree(moves.folder) == {"good": b"x"}


def test_a_folders_marker_is_no_file(moves, stores):
    """Empty objects whose name ends in a slash, as consoles make them, are passed over."""
    for key in ("in/", "in/sub/", "in/sub/a"):
        stores.task.put_bytes(b"a" if key.endswith("a") else b"", key)
    assert actions(moves.get("task:in/")) == {"skipped": 2, "copied": 1}
    stores.task.put_bytes(b"content", "in/sub/")
    assert actions(moves.get("task:in/")) == {"skipped": 2, "failed": 1}


def test_two_objects_never_take_one_name(moves, stores, tmp_path):
    """From several folders, the second one fails and says whose name it wanted."""
    stores.task.put_bytes(b"1", "a/x")
    stores.task.put_bytes(b"2", "b/x")
    copied, failed = moves.get("task:a/x", "task:b/x", has_folders=True)
    assert (copied.action, failed.action) == ("copied", "failed")
    assert "memory:task/a/x has the same name x" in str(failed.error)
    assert tree(moves.folder) == {"x": b"1"}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "y").write_text(folder)
    outcomes = moves.put(tmp_path / "a" / "y", tmp_path / "b" / "y", has_folders=True)
    assert [outcome.action for outcome in outcomes] == ["copied", "failed"]


def test_a_tree_is_put_with_its_links_or_says_why_not(moves, stores, tmp_path):
    """A link to a file is a file; one to a folder, a dangling one and a FIFO are failures, not silence."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_bytes(b"a")
    (source / "to-file").symlink_to("a")
    (source / "to-folder").symlink_to("sub")
    (source / "to-nothing").symlink_to("nix")
    os.mkfifo(source / "fifo")
    (source / ".htcjob-tmp-0123").write_bytes(b"half")
    (source / "sub" / ".hidden").write_bytes(b"h")
    (source / os.fsdecode(b"\xff")).write_bytes(b"not UTF-8")
    outcomes = moves.put(source)
    assert objects(stores.task) == {"source/a": b"a", "source/to-file": b"a", "source/sub/.hidden": b"h"}
    assert actions(outcomes) == {"copied": 3, "failed": 4}


@pytest.mark.parametrize("typed", [".", "./", "..", "sub/.."])
def test_a_folder_without_a_name_is_its_content(moves, stores, tmp_path, monkeypatch, typed):
    """`put -r .` makes no key that begins with a dot."""
    (tmp_path / "w" / "sub").mkdir(parents=True)
    (tmp_path / "w" / "a").write_bytes(b"a")
    monkeypatch.chdir(tmp_path / "w" / ("sub" if typed == ".." else ""))
    moves.put(typed)
    assert set(objects(stores.task)) == {"a"}


def test_an_unreadable_folder_is_a_failure(tmp_path, monkeypatch):
    """What is in it would be lost in silence."""
    (tmp_path / "sub").mkdir()

    def scandir(path):
        if path.endswith("sub/"):
            raise PermissionError(13, "Permission denied", path)
        return original(path)

    original = os.scandir
    monkeypatch.setattr(copying.os, "scandir", scandir)
    ((path, error),) = files_below(str(tmp_path))
    assert path == f"{tmp_path}/sub/"
    assert "Permission denied" in str(error)


def test_an_absent_file_or_folder_is_named(moves):
    """A file that is not there is absent; a folder is not put by accident."""
    nix, folder = moves.put("nix", moves.folder, is_recursive=False)
    assert "no such file" in str(nix.error)
    assert "is a folder: add -r" in str(folder.error)


def test_a_full_disk_is_told(moves, stores, small_disk):
    """The file that fits stays, the other leaves nothing."""
    stores.task.put_bytes(b"x" * 1000, "a")
    stores.task.put_bytes(b"x" * 1_000_000, "b")
    moves.folder = small_disk
    copied, failed = moves.get("task:")
    assert copied.action == "copied"
    assert isinstance(failed.error, UnwritableError)
    assert os.listdir(small_disk) == ["a"]


def test_who_may_only_write_can_put(moves, stores, tmp_path):
    """Without the right to list or look, everything is copied."""
    (tmp_path / "a").write_bytes(b"a")
    stores.task.put_bytes(b"a", "a")
    for verb in ("list", "head"):
        stores.task.faults.add(verb=verb, error=DeniedError)
    assert actions(moves.put(tmp_path / "a")) == {"copied": 1}


def test_nothing_is_asked_about_an_empty_target(moves, stores, tmp_path):
    """The first put of a folder costs one listing, and then one request for each file."""
    for name in "abc":
        (moves.folder / name).write_bytes(b"x")
    stores.task.faults.add(verb="head", error=DeniedError)
    assert actions(moves.put(f"{moves.folder}/")) == {"copied": 3}
    target = Target(LocalStore(str(tmp_path / "absent")), "", is_folder=True)
    assert is_empty(target, moves.transfers)


def test_blocks_are_the_object(stores, transfers, monkeypatch):
    """In order and complete, an empty one too."""
    monkeypatch.setattr(copying, "BLOCK_BYTES", 1000)
    data = os.urandom(3500)
    stores.task.put_bytes(data, "a")
    stores.task.put_bytes(b"", "empty")
    pieces = list(blocks(stores.task, stores.task.head("a"), transfers))
    assert b"".join(pieces) == data
    assert [len(piece) for piece in pieces] == [1000, 1000, 1000, 500]
    assert list(blocks(stores.task, stores.task.head("empty"), transfers)) == []
    assert BLOCK_BYTES == 8 << 20
