"""`htcjob manifest index`, and runs that use what it makes."""

import json

from htcjob.manifest.index_writer import IndexWriter
from htcjob.storage.local.store import LocalStore


def weighted_index(htcjob, *sizes: int) -> None:
    """Make the index of the manifest with the sizes of its entries."""
    store = LocalStore(str(htcjob.project))
    with IndexWriter(has_sizes=True) as writer:
        writer.feed(store.read_range("list.txt", 0))
        writer.feed_sizes(sizes)
        writer.write(str(htcjob.project / "list.txt.idx"), tag=store.head("list.txt").tag)


def test_index_says_what_it_made(htcjob):
    """A line for people, JSON for programs; the manifest by key, as a LOCATION and as a URL."""
    htcjob.manifest("a.jpg", "# no entry", "b.jpg")
    done = htcjob("manifest", "index", "list.txt")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("list.txt.idx: 2 entries, ")
    url = (htcjob.project / "list.txt").as_uri()
    for name in ("project:list.txt", "./list.txt", url):
        (htcjob.project / "list.txt.idx").unlink()
        made = json.loads(htcjob("manifest", "index", "--json", name).stdout)
        assert made["n_entries"] == 2
        assert made["index"] == f"{url}.idx"
        assert made["index_bytes"] == (htcjob.project / "list.txt.idx").stat().st_size


def test_index_of_an_absent_manifest(htcjob):
    """One line, and the status of an absent manifest; a key that leads elsewhere is a mistake."""
    done = htcjob("manifest", "index", "no.txt")
    assert done.returncode == 66
    assert len(done.stderr.splitlines()) == 1
    assert "no.txt: no such object; name a key of project storage, or a URL" in done.stderr
    assert htcjob("manifest", "index", "../list.txt").returncode == 64


def test_index_on_a_full_temporary_disk(htcjob, small_disk):
    """Told with the place, not as a bug, and no half of an index is left."""
    htcjob.manifest(*(f"photos/{n:020d}.jpg" for n in range(300_000)))
    (small_disk / "filler").write_bytes(bytes(252 * 1024))
    done = htcjob("manifest", "index", "list.txt", TMPDIR=str(small_disk))
    assert done.returncode == 74
    assert str(small_disk) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in htcjob.project.iterdir()] == ["list.txt"]


def test_a_run_uses_the_index_and_says_when_it_cannot(htcjob):
    """The same entries with it, and with a stale one, about which there is one line."""
    htcjob.entries("a", "b", "c")
    assert htcjob("manifest", "index", "list.txt").returncode == 0
    done = htcjob("chunk", "--array-size", "3", "--array-index", "1")
    assert (done.stdout, done.stderr) == ("1\tb\n", "")
    htcjob.manifest("a", "c")
    done = htcjob("chunk", "--array-size", "2", "--array-index", "1")
    assert done.stdout == "1\tc\n"
    assert len(done.stderr.splitlines()) == 1
    assert "index_not_used" in done.stderr
    done = htcjob("run", "--array-size", "2", "--array-index", "1", "--each", "--", "true")
    assert done.returncode == 0
    assert "WARNING index_not_used" in done.stderr


def test_a_run_goes_on_with_an_index_that_was_made_since(htcjob):
    """What is committed is skipped: the run is of the same manifest, with index or without."""
    htcjob.entries("a", "b", "c")
    variables = {"HTCJOB_ARRAY_SIZE": "2", "HTCJOB_ARRAY_INDEX": "0"}
    assert htcjob("run", "--each", "--", "true", **variables).returncode == 0
    assert htcjob("manifest", "index", "list.txt").returncode == 0
    done = htcjob("run", "--each", "--", "true", HTCJOB_ARRAY_SIZE="1", HTCJOB_ARRAY_INDEX="0")
    assert done.returncode == 0
    assert "start=0 stop=3 already_done=2" in done.stderr
    assert "index_not_used" not in done.stderr


def test_equal_bytes_for_all_jobs(htcjob):
    """The jobs of an array together do every entry once, by option and by variable."""
    htcjob.entries("a", "b", "c", "d")
    weighted_index(htcjob, 10, 1, 1, 8)
    chunks = [
        htcjob("chunk", "--balance", "bytes", "--array-size", "2", "--array-index", index).stdout
        for index in ("0", "1")
    ]
    assert chunks == ["0\ta\n", "1\tb\n2\tc\n3\td\n"]
    for index, stop in (("0", "1"), ("1", "4")):
        variables = {"HTCJOB_BALANCE": "bytes", "HTCJOB_ARRAY_SIZE": "2", "HTCJOB_ARRAY_INDEX": index}
        done = htcjob("run", "--each", "--", "true", **variables)
        assert done.returncode == 0
        assert f"start={index} stop={stop} already_done=0" in done.stderr
    records = [json.loads(line) for line in htcjob("collect").stdout.splitlines()]
    assert [(record["position"], record["result"]) for record in records] == [(n, "done") for n in range(4)]


def test_equal_bytes_without_sizes(htcjob):
    """Refused, with the command that helps; a check says it before."""
    htcjob.entries("a", "b")
    for command in (["run", "--each", "--", "true"], ["chunk"], ["check"]):
        done = htcjob(command[0], "--balance", "bytes", *command[1:])
        assert done.returncode == 78
        assert "htcjob manifest build" in done.stderr
