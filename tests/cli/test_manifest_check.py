"""`htcjob manifest check` and `split`: real processes on directories and on a real S3 server."""

import json
import tracemalloc
from unittest.mock import patch

import pytest

from htcjob.manifest import check as manifest_check
from htcjob.manifest.check import Check
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore
from htcjob.transfer.locations import Location
from htcjob.transfer.transfers import Transfers


def test_a_manifest_without_faults_is_said_to_have_none(htcjob):
    """One line, and silence on standard error; a job's sizes and order are no matter."""
    htcjob.entries("b", "sub/a", "c d", "#not")
    done = htcjob("manifest", "check", "list.txt", "--exists")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "list.txt: 3 entries, nothing wrong\n"
    assert htcjob("manifest", "check", "list.txt", "--json").stdout == ""


def test_every_fault_is_named_with_its_line(htcjob):
    """Unusable lines, the same entry again (as `find .` writes it, or with the same parameters), absent objects."""
    htcjob.entries("a", "b", "c")
    htcjob.manifest(
        *("# a comment", "a", "../a", "", "./a", "b", '{"key": "c", "x": 1, "y": 2}'),
        *('{"y": 2, "x": 1, "key": "c"}', '{"key": "c", "x": 2}', "gone", "a", "{broken", b"\xff", "gone"),
    )
    done = htcjob("manifest", "check", "list.txt")
    assert done.returncode == 65
    assert done.stderr == "htcjob: error: 7 problems with the 12 entries of list.txt\n"
    lines = done.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines[:3]] == [
        f"manifest line {number}" for number in (3, 12, 13)
    ]
    assert lines[3:] == [
        "manifest line 5: the same entry as line 2",
        "manifest line 11: the same entry as line 2",
        "manifest line 8: the same entry as line 7",
        "manifest line 14: the same entry as line 10",
    ]
    done = htcjob("manifest", "check", "list.txt", "--exists", "--json")
    assert done.returncode == 65
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 8
    absent = [problem for problem in found if "no such object" in problem["problem"]]
    assert absent == [
        {"line": 10, "problem": f"manifest line 10: no such object: file://{htcjob.project}/gone"}
    ]


def test_check_on_a_full_temporary_disk(htcjob, small_disk):
    """Told with the place: nothing is wrong with the manifest, nor with standard output."""
    htcjob.manifest(*(f"photos/{n:06d}.jpg" for n in range(110_000)))
    (small_disk / "filler").write_bytes(bytes(252 * 1024))
    done = htcjob("manifest", "check", "list.txt", TMPDIR=str(small_disk))
    assert (done.returncode, done.stdout) == (74, "")
    assert str(small_disk) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_index_of_another_version_is_a_fault(htcjob):
    """A job would not believe it, and read everything."""
    htcjob.entries("a", "b")
    assert htcjob("manifest", "index", "list.txt").returncode == 0
    assert htcjob("manifest", "check", "list.txt").returncode == 0
    htcjob.entries("a", "c")
    done = htcjob("manifest", "check", "list.txt")
    assert done.returncode == 65
    assert "index not usable: it is of another version" in done.stdout
    assert htcjob("manifest", "check", "absent.txt").returncode == 66


@pytest.mark.parametrize("damaged_at", [-3_000, -10])
def test_a_damaged_page_of_an_index_is_a_fault(htcjob, damaged_at):
    """Wherever it is: jobs of other chunks would not have met it. A split that meets it says what to do."""
    for n in range(400):
        (htcjob.project / f"{n:0200d}.jpg").touch()
    assert htcjob("manifest", "build", "project:").returncode == 0
    path = htcjob.project / "manifest.txt.idx"
    index = bytearray(path.read_bytes())
    index[damaged_at] ^= 1
    path.write_bytes(index)
    done = htcjob("manifest", "check", "manifest.txt")
    assert done.returncode == 65
    assert done.stdout.startswith("index not usable: its sizes of group ")
    done = htcjob("manifest", "split", "manifest.txt", "--array-size", "400")
    assert done.returncode == 78
    assert "manifest.txt.idx: its sizes of group " in done.stderr
    assert "make it again" in done.stderr


def test_urls_are_looked_for_in_their_own_stores(htcjob, tmp_path):
    """Each entry where it is."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "x y").write_text("x")
    htcjob.entries("a")
    url = f"file://{other}"
    htcjob.manifest("a", f"{url}/x%20y", f"{url}/gone", f"file://{htcjob.project}/a", f"{url}/x%20y")
    done = htcjob("manifest", "check", "list.txt", "--exists")
    assert done.returncode == 65
    assert done.stdout.splitlines() == [
        "manifest line 5: the same entry as line 2",
        f"manifest line 3: no such object: {url}/gone",
    ]


@pytest.mark.parametrize("step", [1, 7, 60])
@pytest.mark.parametrize("engine", ["fast", "sdk"])
def test_on_s3_absent_objects_are_found_with_listings_or_one_by_one(rgw, monkeypatch, tmp_path, engine, step):
    """Whether most objects of the store are in the manifest, or few."""
    from htcjob.storage.access import Access
    from htcjob.storage.urls import open_store

    for name, value in rgw.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTCJOB_STORAGE_ENGINE", engine)
    monkeypatch.setattr(manifest_check, "BATCH", 10)
    monkeypatch.setattr(manifest_check, "LISTED", 50)
    store = open_store(f"s3://{rgw.new_bucket()}/in", Access(engine=engine, environ=rgw.environ()))
    keys = [f"{n:04}" for n in range(600)]
    absent = {0, 60, 420, 599}
    with Transfers(RetryPolicy()) as transfers:
        there = [key for n, key in enumerate(keys) if n not in absent]
        assert set(transfers.each(lambda key: store.put_bytes(b"x", key), there)) == {True}
        wanted = keys[::step]
        store.put_bytes("".join(f"{key}\n" for key in reversed(wanted)).encode(), "list.txt")
        check = Check(
            Location("list.txt", store, "list.txt"),
            transfers=transfers,
            retry=RetryPolicy(),
            folder=str(tmp_path),
        )
        found = [problem.text.rpartition("/")[2] for problem in check.problems(lambda _url, _key: store)]
    assert sorted(found) == [keys[n] for n in sorted(absent) if n % step == 0]


def test_duplicates_are_found_through_files(tmp_path):
    """More lines than are sorted in memory."""
    store = MemoryStore("many")
    store.put_bytes("".join(f"{n % 400}\n" for n in range(1000)).encode(), "list.txt")
    with patch("htcjob.machine.sorted_lines.IN_MEMORY", 50), Transfers(RetryPolicy()) as transfers:
        check = Check(
            Location("list.txt", store, "list.txt"),
            transfers=transfers,
            retry=RetryPolicy(),
            folder=str(tmp_path),
        )
        found = sorted(check.problems())
    assert found == [
        (n + 1, f"manifest line {n + 1}: the same entry as line {n % 400 + 1}") for n in range(400, 1000)
    ]


def test_a_check_of_long_lines_takes_little_memory(tmp_path):
    """Neither sorting them nor looking for their objects keeps what else stands in them."""
    store = MemoryStore("long")
    parameters = "x" * 60_000
    lines = (json.dumps({"key": f"{n}.jpg", "note": parameters}) + "\n" for n in range(1500))
    store.put_bytes("".join(lines).encode(), "list.txt")
    with Transfers(RetryPolicy()) as transfers:
        check = Check(
            Location("list.txt", store, "list.txt"),
            transfers=transfers,
            retry=RetryPolicy(),
            folder=str(tmp_path),
        )
        tracemalloc.start()
        try:
            assert (
                sum(
                    problem.text.count("no such object")
                    for problem in check.problems(lambda _url, _key: store)
                )
                == 1500
            )
            _, most_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most_bytes < 60_000_000


def split(htcjob, *arguments: str) -> list[dict]:
    done = htcjob("manifest", "split", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("balance", ["entries", "bytes"])
@pytest.mark.parametrize("array_size", [1, 3, 7, 40])
def test_split_shows_what_every_job_gets(htcjob, balance, array_size):
    """The same as `htcjob chunk` shows one by one; bytes from the index."""
    sizes = {f"{n:02}": n * n for n in range(30)}
    for name, size in sizes.items():
        (htcjob.project / name).write_bytes(b"x" * size)
    assert htcjob("manifest", "build", "project:", "-o", "list.txt").returncode == 0
    rows = split(htcjob, "list.txt", "--array-size", str(array_size), "--balance", balance)
    names = list(sizes)
    assert [row["array_index"] for row in rows] == list(range(array_size))
    assert [n for row in rows for n in range(*row["chunk"])] == list(range(30))
    for row in rows:
        entries = names[slice(*row["chunk"])]
        assert row["entries"] == len(entries)
        assert row["size_bytes"] == sum(sizes[name] for name in entries)
        assert (row["first"], row["last"]) == ((entries[0], entries[-1]) if entries else (None, None))
    index = array_size // 2
    shown = htcjob(
        *("chunk", "--json", "--manifest", "list.txt", "--balance", balance),
        *("--array-size", str(array_size), "--array-index", str(index)),
    )
    assert json.loads(shown.stdout)["chunk"] == rows[index]["chunk"]


def test_split_of_a_long_manifest_reads_only_the_lines_at_the_borders(htcjob):
    """Or all of it, where the borders are many; without an index nobody knows the bytes."""
    lines = [f"folder/entry-{n:06}" for n in range(20_000)]
    htcjob.manifest("# a comment", *lines)
    without = split(htcjob, "list.txt", "--array-size", "3")
    assert htcjob("manifest", "index", "list.txt").returncode == 0
    assert split(htcjob, "list.txt", "--array-size", "3") == without
    assert [(row["first"], row["last"]) for row in without] == [
        (lines[0], lines[6666]),
        (lines[6667], lines[13_333]),
        (lines[13_334], lines[19_999]),
    ]
    assert {row["size_bytes"] for row in without} == {None}
    many = split(htcjob, "list.txt", "--array-size", "500")
    assert [(row["first"], row["last"]) for row in many] == [
        (lines[start], lines[start + 39]) for start in range(0, 20_000, 40)
    ]


def test_the_table_of_a_split_has_a_line_for_each_job(htcjob):
    """Tabs between its columns; a dash where there is nothing to say."""
    htcjob.entries("a", "b c")
    done = htcjob("manifest", "split", "list.txt", "--array-size", "3")
    assert done.stdout == "0\t1\t-\ta\ta\n1\t1\t-\tb c\tb c\n2\t0\t-\t-\t-\n"
    done = htcjob("manifest", "split", "list.txt", "--array-size", "3", "--balance", "bytes")
    assert (done.returncode, done.stdout) == (78, "")
    assert "htcjob manifest build" in done.stderr


@pytest.mark.parametrize(
    "command", [("plan",), ("manifest", "build"), ("manifest", "check"), ("manifest", "split")]
)
def test_help_shows_an_example_and_the_exit_table(htcjob, command):
    """As that of every command does."""
    shown = htcjob(*command, "--help").stdout
    assert "Example:" in shown
    assert "Exit status:" in shown
    example = next(line for line in shown.splitlines() if line.startswith("    htcjob "))
    assert example.split()[1 : 1 + len(command)] == list(command)
