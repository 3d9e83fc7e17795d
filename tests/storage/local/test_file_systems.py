"""A directory store on file systems with habits of their own, real ones: exFAT, and ext without a journal."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from htcjob.errors import AbsentError, BadKeyError
from htcjob.storage.local.claims import CLAIM_LIFE_S
from htcjob.storage.local.store import LocalStore
from tests.storage.contract import keys_in
from tests.support.disk import CannotMountError, FragileDisk, exfat_disk
from tests.support.skipping import skip_or_fail


@pytest.fixture(scope="module")
def exfat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An exFAT file system: no case, no hard links, no symbolic links."""
    try:
        with exfat_disk(tmp_path_factory.mktemp("exfat") / "disk") as folder:
            yield folder
    except CannotMountError as error:
        skip_or_fail("HTCJOB_REQUIRE_MOUNT", str(error))


@pytest.fixture
def store(exfat: Path, tmp_path: Path) -> LocalStore:
    return LocalStore(str(exfat / tmp_path.name))


@pytest.mark.parametrize(
    ("there", "key"),
    [
        ("a.txt", "A.txt"),
        ("caf\u00e9", "CAF\u00c9"),
        ("Folder/a", "folder/a"),
        ("Folder/a", "folder/b"),
        (".htcjob/default/run.json", ".HTCJOB/default/run.json"),
    ],
)
def test_two_keys_are_never_one_file(store: LocalStore, there: str, key: str, tmp_path: Path) -> None:
    """A key that would be another one's file is absent to readers and refused to writers; nothing is changed."""
    store.put_bytes(b"first", there)
    (tmp_path / "file").write_bytes(b"second")
    with pytest.raises(BadKeyError, match="ignores case"):
        store.put_bytes(b"second", key)
    with pytest.raises(BadKeyError, match="ignores case"):
        store.put_bytes(b"second", key, if_absent=True)
    with pytest.raises(BadKeyError, match="ignores case"):
        store.put(str(tmp_path / "file"), key)
    for read in (
        lambda: store.get(key, str(tmp_path / "got")),
        lambda: store.read_range(key, 0),
        lambda: store.read_part(key, 0, 1),
        lambda: store.head(key),
    ):
        with pytest.raises(AbsentError):
            read()
    store.delete(key)
    assert keys_in(store) == [there]
    assert list(store.list(key)) == []
    assert store.read_range(there, 0) == b"first"


def test_the_same_key_is_written_again(store: LocalStore) -> None:
    """Where case is ignored, an object can still be replaced, and put on condition, under its own name."""
    assert store.put_bytes(b"one", "A", if_absent=True) is True
    assert store.put_bytes(b"two", "A", if_absent=True) is False
    assert store.put_bytes(b"three", "A") is True
    assert store.read_range("A", 0) == b"three"
    assert keys_in(store) == ["A"]


def test_racing_spellings(store: LocalStore) -> None:
    """Of two writers of one file in two spellings at once, one is refused; its bytes are nowhere."""
    keys = ["name", "NAME", "Name", "nAmE"]

    def put(key: str) -> str | None:
        try:
            store.put_bytes(key.encode(), f"{turn}/{key}")
        except BadKeyError:
            return None
        return key

    with ThreadPoolExecutor(len(keys)) as pool:
        for turn in range(20):
            won = [key for key in pool.map(put, keys) if key is not None]
            assert len(won) == 1
            assert store.read_range(f"{turn}/{won[0]}", 0) == won[0].encode()


RACER = """
import sys
from htcjob.storage.local.store import LocalStore
store = LocalStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(*[turn for turn in range(40) if store.put_bytes(sys.argv[2].encode(), f"run/{turn}", if_absent=True)])
"""


def test_racing_processes_without_hard_links(store: LocalStore) -> None:
    """Of processes that want one free name exactly one gets it, and no reader sees an empty object."""
    root = store.url.removeprefix("file://")
    os.makedirs(root)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, root, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    seen = set()
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    while any(racer.poll() is None for racer in racers):
        seen |= {store.read_range(info.key, 0) for info in store.list("run/")}
    won = {str(number): racer.communicate()[0].split() for number, racer in enumerate(racers)}
    assert sorted(int(turn) for turns in won.values() for turn in turns) == list(range(40))
    assert all(
        store.read_range(f"run/{turn}", 0) == who.encode() for who, turns in won.items() for turn in turns
    )
    assert seen <= {b"0", b"1", b"2", b"3"}


def test_a_name_that_another_machine_takes_first_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even between the look and the rename, where the file system renames without replacing."""

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    def look_too_early(*arguments: object) -> bool:
        (tmp_path / "run.json").write_bytes(b"theirs")
        return False

    store = LocalStore(str(tmp_path))
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(store, "_is_taken", look_too_early)
    assert store.put_bytes(b"ours", "run.json", if_absent=True) is False
    assert (tmp_path / "run.json").read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["run.json"]


KILLED_WITH_A_CLAIM = """
import os, signal, sys
from htcjob.storage.local.store import LocalStore
os.replace = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
LocalStore(sys.argv[1]).put_bytes(b"mine", "run.json", if_absent=True)
"""


def test_a_kill_before_the_name_heals(store: LocalStore) -> None:
    """A writer that is killed just before its object has its name stops nobody for good, and leaves no object."""
    root = store.url.removeprefix("file://")
    os.makedirs(root)
    killed = subprocess.run([sys.executable, "-c", KILLED_WITH_A_CLAIM, root], check=False)
    assert killed.returncode == -9
    assert keys_in(store) == []
    claims = [name for name in os.listdir(root) if "claim" in name]
    assert len(claims) == 1
    long_ago = os.stat(os.path.join(root, claims[0])).st_mtime - 2 * CLAIM_LIFE_S
    os.utime(os.path.join(root, claims[0]), (long_ago, long_ago))
    assert store.put_bytes(b"mine", "run.json", if_absent=True) is True
    assert [name for name in os.listdir(root) if "claim" in name] == []


@pytest.mark.parametrize("make", [("mkfs.ext2", "-q"), ("mkfs.ext4", "-q", "-O", "^has_journal")])
@pytest.mark.parametrize("way", [("--each",), ()])
def test_power_cut_after_exit_status_0(
    htcjob, tmp_path: Path, make: tuple[str, ...], way: tuple[str, ...]
) -> None:
    """When the power goes just after exit status 0, every output, record and folder is on the disk."""
    htcjob.entries(*(f"f{number}" for number in range(12)))
    command = (
        'cp "$1" "$HTCJOB_OUTPUT_DIR/$HTCJOB_KEY.out"'
        if way
        else 'cd "$HTCJOB_WORK_DIR" && for f in *; do cp $f "$HTCJOB_OUTPUT_DIR/$f.out"; done'
    )
    try:
        disk = FragileDisk(tmp_path / "disk", make)
        with disk.mounted() as folder:
            subprocess.run(["sync", "--file-system", folder], check=True)
            htcjob.task = folder / "new" / "task"
            ended = htcjob.run(
                "--output",
                "*.out",
                *way,
                "--",
                "sh",
                "-c",
                command,
                "sh",
                *(["{input}"] if way else []),
                HTCJOB_TASK_STORE=str(htcjob.task),
            )
            assert ended.returncode == 0, ended.stderr
            with disk.after_power_cut() as left:
                htcjob.task = left / "new" / "task"
                assert set(htcjob.results().values()) == {"done"}
                assert len(htcjob.results()) == 12
                assert htcjob.outputs() == {f"f{number}.out": f"f{number}".encode() for number in range(12)}
                again = htcjob("status", "--task-store", str(htcjob.task))
                assert "12" in again.stdout, again.stdout
    except CannotMountError as error:
        skip_or_fail("HTCJOB_REQUIRE_MOUNT", str(error))


def test_inputs_of_a_chunk_are_never_each_others(htcjob, exfat: Path, tmp_path: Path) -> None:
    """In a work directory that ignores case, an entry whose input would be another one's file is failed."""
    work = exfat / tmp_path.name
    work.mkdir()
    names = ["a.jpg", "A.JPG", "d/b", "D/b", "e"]
    htcjob.entries(*names)
    copy = 'cd "$HTCJOB_WORK_DIR" && find . -type f -exec cat {} + > "$HTCJOB_OUTPUT_DIR/all"'
    done = htcjob.run("--work-dir", str(work), "--", "sh", "-c", copy)
    assert done.returncode == 65, done.stderr
    by_result = dict(zip(names, htcjob.results().values(), strict=True))
    won = {name for name, result in by_result.items() if result == "done"}
    assert {name.lower() for name in won} == {"a.jpg", "d/b", "e"}
    assert len(won) == 3
    content = htcjob.outputs()["all"].decode()
    assert {name for name in names if name in content} == won
    assert len(content) == sum(map(len, won))


def test_inputs_are_those_that_were_asked_for(htcjob, exfat: Path, tmp_path: Path) -> None:
    """From a directory that ignores case: a key in another spelling than the file's is an absent input."""
    htcjob.project = exfat / tmp_path.name
    htcjob.project.mkdir()
    htcjob.variables["HTCJOB_PROJECT_STORE"] = str(htcjob.project)
    htcjob.entries("a.jpg")
    htcjob.manifest("a.jpg", "A.JPG")
    assert htcjob.run("--each", "--", "cp", "{input}", "{output_dir}").returncode == 65
    assert htcjob.results() == {0: "done", 1: "failed"}
    assert htcjob.outputs() == {"a.jpg": b"a.jpg"}


@pytest.mark.parametrize("names", [("A.txt", "a.txt"), (".HTCJOB/default/run.json", "b")])
def test_outputs_are_never_each_others(htcjob, exfat: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    """In task storage that ignores case, the second entry that writes one file is failed; so is one for both."""
    htcjob.task = exfat / tmp_path.name
    htcjob.variables["HTCJOB_TASK_STORE"] = str(htcjob.task)
    htcjob.entries("one", "two")
    htcjob.manifest(
        *(f'{{"key": "{key}", "name": "{name}"}}' for key, name in zip(("one", "two"), names, strict=True))
    )
    write = 'mkdir -p "$(dirname "$2/$1")" && cp "$3" "$2/$1"'
    done = htcjob.run(
        "--workers", "1", "--each", "--", "sh", "-c", write, "sh", "{name}", "{output_dir}", "{input}"
    )
    assert done.returncode == 65, done.stderr
    contents = {name: key.encode() for name, key in zip(names, ("one", "two"), strict=True)}
    done_keys = [
        name for name, result in zip(names, htcjob.results().values(), strict=True) if result == "done"
    ]
    assert len(done_keys) == 1
    assert htcjob.outputs() == {done_keys[0]: contents[done_keys[0]]}
    both = htcjob.run(
        "--run", "both", "--each", "--", "sh", "-c", 'echo x > "$1/Q"; echo y > "$1/q"', "sh", "{output_dir}"
    )
    assert both.returncode == 65, both.stderr
    assert {record["result"] for record in htcjob.records("both")} == {"failed"}


def test_copies_are_never_each_others(htcjob, exfat: Path, tmp_path: Path) -> None:
    """`storage get` to a disk that ignores case: of two names that are one file, one is copied, one refused."""
    (htcjob.project / "d").mkdir()
    for name in ("d/a", "d/A"):
        (htcjob.project / name).write_text(name)
    done = htcjob("storage", "get", "-r", f"file://{htcjob.project}/d/", "-d", str(exfat / tmp_path.name))
    assert done.returncode == 74, done.stderr
    left = [path for path in (exfat / tmp_path.name).rglob("*") if path.is_file()]
    assert [path.read_text().removeprefix("d/") for path in left] == [path.name for path in left]
    assert len(left) == 1


def test_an_empty_record_of_the_run_is_none(htcjob) -> None:
    """It is what a kill once left where there are no hard links: the run begins, and it is made."""
    htcjob.entries("a")
    (htcjob.task / ".htcjob" / "default").mkdir(parents=True)
    (htcjob.task / ".htcjob" / "default" / "run.json").touch()
    assert htcjob.run("--each", "--", "true").returncode == 0
    assert htcjob.run("--each", "--", "true").returncode == 0
    assert htcjob.run("--each", "--", "false").returncode == 78
