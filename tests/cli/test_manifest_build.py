"""`htcjob manifest`: real processes on directories and on a real S3 server."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from htcjob.manifest.build import line_of
from htcjob.manifest.index import Index
from htcjob.manifest.manifest import Manifest
from htcjob.retry import RetryPolicy
from htcjob.storage.contract import LeftOut
from htcjob.storage.keys import check_key
from htcjob.storage.local.files import TEMP_PREFIX
from htcjob.storage.local.store import LocalStore
from htcjob.storage.memory.store import MemoryStore

ODD_KEYS = (
    "#comment",
    "./dot",
    " ",
    "\t",
    "\u2028",
    "{brace",
    "\ufeffmark",
    "a b/é ü.jpg",
    "back\\slash",
    "double//slash",
    "ends with blank ",
    "file:///etc/x",
    "gs://other/x",
    "https://example.org/x",
    "htcjob://x",
    "s3://other/x",
    "az://other/x",
    "#",
    "{}",
    '{"key": "x"}',
    "line\vtab",
    "percent%20",
    "question?x=1",
    "s3:/x",
    'say "it"',
    "x" * 1017,
    "~",
)


def files(htcjob, *names: str, folder=None) -> None:
    """Make files whose content is their name."""
    for name in names:
        path = (folder or htcjob.project) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def lines_of(htcjob, name: str = "manifest.txt") -> list[str]:
    return (htcjob.project / name).read_text().splitlines()


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("is_project", [False, True])
@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_line_means_the_key_it_was_made_of(key, is_project, as_json):
    """However odd the key; what no line can mean has none."""
    check_key(key)
    url = f"s3://bucket/prefix/{key}"
    line = line_of(key, url, 7, is_project=is_project, as_json=as_json)
    if line is None:  # what looks like a query may be a secret
        assert (key, is_project) == ("question?x=1", False)
        return
    store = MemoryStore("odd")
    store.put_bytes(f"{line}\n".encode(), "list.txt")
    (entry,) = Manifest(store, "list.txt", RetryPolicy()).entries(range(1))
    assert entry.problem is None
    assert entry.key in ({key, url} if is_project else {url})
    assert entry.is_url == (entry.key == url)  # it is not taken for the URL of another object
    assert entry.parameters == ({"size_bytes": 7} if as_json else {})


def test_build_makes_a_sorted_manifest_with_an_index(htcjob):
    """Of all keys of a folder, with their sizes; without what htcjob itself has written there."""
    files(htcjob, "b.jpg", "a/x.jpg", "a b.jpg", "#c", ".htcjob/run.json", "a/.htcjob/done/1")
    for _ in range(2):  # the second time its own manifest is there
        done = htcjob("manifest", "build", "project:")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "manifest.txt: 4 entries of 21 B together, and its index\n"
    assert lines_of(htcjob) == ['{"key": "#c"}', "a b.jpg", "a/x.jpg", "b.jpg"]
    index = Index(LocalStore(str(htcjob.project)), "manifest.txt", RetryPolicy())
    assert (index.head.n_entries, index.head.weight) == (4, 21)
    manifest = Manifest(LocalStore(str(htcjob.project)), "manifest.txt", RetryPolicy(), index=index)
    assert [entry.key for entry in manifest.entries(range(4))] == ["#c", "a b.jpg", "a/x.jpg", "b.jpg"]


def test_a_job_runs_on_what_was_built(htcjob):
    """Every entry is fetched, however its name had to be written; by equal bytes too."""
    keys = ["#c", " ", "{d", "e f", "s3:/x"]
    files(htcjob, *keys)
    assert htcjob("manifest", "build", "project:").returncode == 0
    for index in range(2):
        done = htcjob.run(
            *("--each", "--balance", "bytes", "--", "sh", "-c", 'cp "$1" "$2/$3"', "sh"),
            *("{input}", "{output_dir}", "of-{stem}"),
            HTCJOB_MANIFEST="manifest.txt",
            HTCJOB_ARRAY_SIZE="2",
            HTCJOB_ARRAY_INDEX=str(index),
        )
        assert done.returncode == 0, done.stderr
    assert sorted(htcjob.outputs().values()) == sorted(key.encode() for key in keys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("project:",), ["a.jpg", "b.png", "old/c.jpg", "old/deep/d.jpg", "sub/e.jpg"]),
        (("project:", "--include", "*.jpg"), ["a.jpg"]),
        (("project:", "--include", "**/*.jpg", "--exclude", "old/"), ["a.jpg", "sub/e.jpg"]),
        (("project:", "--include", "old", "--include", "b.*"), ["b.png", "old/c.jpg", "old/deep/d.jpg"]),
        (("project:old",), ["old/c.jpg", "old/deep/d.jpg"]),
        (("project:old/", "--exclude", "deep/*"), ["old/c.jpg"]),
        (("project:**/?.jpg", "--exclude", "a.jpg"), ["old/c.jpg", "old/deep/d.jpg", "sub/e.jpg"]),
    ],
)
def test_globs_say_what_to_take(htcjob, arguments, expected):
    """They are relative to the folder that is listed."""
    files(htcjob, "a.jpg", "b.png", "old/c.jpg", "old/deep/d.jpg", "sub/e.jpg")
    done = htcjob("manifest", "build", *arguments, "-o", "lists/list.txt")
    assert done.returncode == 0, done.stderr
    assert lines_of(htcjob, "lists/list.txt") == expected


def test_another_place_gives_urls_and_json_lines_give_sizes(htcjob, tmp_path):
    """Any store can be listed; the manifest is put where one says."""
    other = tmp_path / "other"
    files(htcjob, "x 1.jpg", "sub/y%.jpg", folder=other)
    done = htcjob("manifest", "build", f"file://{other}/", "--jsonl", "-o", "task:list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in (htcjob.task / "list").read_text().splitlines()]
    assert found == [
        {"key": f"file://{other}/sub/y%25.jpg", "size_bytes": 10},
        {"key": f"file://{other}/x%201.jpg", "size_bytes": 7},
    ]
    told = json.loads(done.stdout)
    assert (told["n_entries"], told["weight"]) == (2, 17)
    assert told["index"] == f"file://{htcjob.task}/list.idx"
    manifest = f"file://{htcjob.task}/list"
    command = ("sh", "-c", 'echo "$(cat "$1")"', "sh", "{input}")
    done = htcjob.run("--each", "--", *command, HTCJOB_MANIFEST=manifest, HTCJOB_LOG_LEVEL="error")
    # Entries are worked on in the order in which they arrive.
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, ["sub/y%.jpg", "x 1.jpg"]), done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("project:absent/",), 66, "no object matches"),
        (("project:", "--exclude", "**"), 66, "no object matches"),
        (("photos",), 64, "no place in storage"),
        (("project:", "-o", "lists/"), 64, "is a folder"),
        (("project:", "-o", "../list"), 64, "contains '..'"),
    ],
)
def test_what_cannot_be_built(htcjob, arguments, status, said):
    """One line, and the status of its kind."""
    files(htcjob, "a")
    done = htcjob("manifest", "build", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert [path.name for path in htcjob.project.rglob("*")] == ["a"]


def odd_files(folder, tmp_path) -> set[str]:
    """Make one thing of each kind that is no object, and one that is; give the ends of their URLs."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.txt").write_text("x")
    (folder / "sub").mkdir(parents=True)
    (folder / "plain.txt").write_text("x")
    (folder / "link").symlink_to(elsewhere / "x.txt")
    (folder / "folder-link").symlink_to(elsewhere)
    (folder / "sub" / "dangling").symlink_to("nowhere")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket"))
    (folder / "line\nbreak").touch()
    there = os.fsencode(folder)
    Path(os.fsdecode(there + b"/bad\xff")).touch()
    Path(os.fsdecode(there + b"/folder\xff")).mkdir()
    long = folder.joinpath(*["n" * 250] * 4)
    long.mkdir(parents=True)
    (long / ("n" * 30)).touch()
    # What is ours, or NFS's, is not worth a word.
    (folder / f"{TEMP_PREFIX}0123456789ab").touch()
    (folder / ".nfs0000000000001a2b00000001").touch()
    return {
        *("/link", "/folder-link/", "/sub/dangling", "/circle/", "/fifo", "/socket", "/line%0Abreak"),
        *("/bad%FF", "/folder%FF/", "/" + "/".join(["n" * 250] * 4 + ["n" * 30])),
    }


def test_nothing_in_a_directory_is_left_out_in_silence(htcjob, tmp_path):
    """What is no object stops a manifest, with its name; what is excluded, or not included, does not."""
    names = odd_files(htcjob.project, tmp_path)
    assert {f"/{left.key}" for left in lefts(htcjob.project)} == {
        os.fsdecode(unquote_to_bytes(n)) for n in names
    }
    done = htcjob("manifest", "build", "project:")
    assert (done.returncode, done.stdout) == (65, "")
    *named, last = done.stderr.splitlines()
    assert len(named) == 5
    assert all(any(f"{name}: " in line for name in names) for line in named)
    assert f"because of {len(names)} such keys or files" in last
    assert not list(htcjob.project.glob("manifest*"))
    for arguments, n_named in (
        (("--include", "*.txt"), 0),
        (("--include", "**/*.txt"), 3),  # of what may hold more, nobody knows whether it does
        (("--include", "**/*.txt", "--exclude", "folder*", "--exclude", "circle"), 0),
        (("--include", "sub/*"), 1),
    ):
        done = htcjob("manifest", "build", "project:", "-o", ".htcjob/list", *arguments)
        assert len(done.stderr.splitlines()) == (n_named + 1 if n_named else 0), (arguments, done.stderr)
        assert done.returncode == (65 if n_named else 0)


def lefts(folder) -> list[LeftOut]:
    """Give what a store says that it leaves out, in order."""
    found = [one for one in LocalStore(str(folder)).list_all() if isinstance(one, LeftOut)]
    keys = [os.fsencode(one.key) for one in found]
    assert keys == sorted(keys)
    return found


def test_copies_and_removals_tell_what_they_leave_out(htcjob, tmp_path):
    """A folder that is not copied or removed whole is an error, and a look at it names what is not shown."""
    n = len(odd_files(htcjob.task / "f", tmp_path))
    done = htcjob("storage", "ls", "-r", "task:")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert len(done.stderr.splitlines()) == 6
    assert f"{n} names left out" in done.stderr
    assert "/f/sub/dangling: a symbolic link" in htcjob("storage", "ls", "task:f/sub").stderr
    for arguments, n_failed in (
        (("get", "-r", "task:f", "-d", str(tmp_path / "got")), n),
        (("get", "task:f/*.txt", "-d", str(tmp_path / "txt")), 0),
        (("get", "task:f/fi*", "-d", str(tmp_path / "fi")), 1),
        (("cp", "-r", "task:f", "project:"), n),
        (("rm", "-r", "task:f/sub/"), 1),
        (("rm", "-r", "task:f"), n),
    ):
        done = htcjob("storage", *arguments, "--json")
        actions = [json.loads(line)["action"] for line in done.stdout.splitlines()]
        assert actions.count("failed") == n_failed, (arguments, done.stderr)
        assert done.returncode == (74 if n_failed else 0)
    assert (tmp_path / "got" / "f" / "plain.txt").exists()
    assert (htcjob.project / "f" / "plain.txt").exists()
    assert not (htcjob.task / "f" / "plain.txt").exists()


def test_build_on_a_full_temporary_disk(htcjob, small_disk):
    """Told with the place, and no half of a manifest is left."""
    for n in range(500):
        (htcjob.project / f"{n:020d}.jpg").touch()
    (small_disk / "filler").write_bytes(bytes(252 * 1024))
    done = htcjob("manifest", "build", "project:", TMPDIR=str(small_disk))
    assert (done.returncode, done.stdout) == (74, "")
    assert str(small_disk) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(htcjob.project.glob("manifest*"))


def test_on_s3_keys_and_urls_mean_the_same_objects(htcjob, rgw):
    """Both engines find what the other one's index is of."""
    bucket = rgw.new_bucket()
    htcjob.variables |= rgw.environ() | {"HTCJOB_PROJECT_STORE": f"s3://{bucket}/shared"}
    files(htcjob, "photos/a b.jpg", "photos/é#%.jpg", "photos/x//y", "photos/question?x=1", "z")
    # A name with // is no file: put by hand.
    subprocess.run(
        [sys.executable, "-c", _PUT, bucket, "shared/photos/x//y", "shared/photos/question?x=1", "shared/z"],
        env=htcjob.variables,
        check=True,
        timeout=120,
    )
    for key in ("photos/a b.jpg", "photos/é#%.jpg"):
        path = str(htcjob.project / key)
        assert htcjob("storage", "put", path, f"project:{key}").returncode == 0
    keys = ["photos/a b.jpg", "photos/question?x=1", "photos/x//y", "photos/é#%.jpg"]
    built = htcjob("manifest", "build", "project:photos/", "-o", "list.txt", HTCJOB_STORAGE_ENGINE="fast")
    assert built.returncode == 0, built.stderr
    shown = htcjob(
        *("chunk", "--json", "--manifest", "list.txt", "--array-size", "1", "--array-index", "0"),
        HTCJOB_STORAGE_ENGINE="sdk",
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["entries"] == keys
    # As a URL, what looks like a query is no part of a name. It is not left out in silence: nothing is made.
    done = htcjob("manifest", "build", f"s3://{bucket}/shared/photos/", "-o", "urls.txt")
    assert (done.returncode, done.stdout) == (65, "")
    assert "'shared/photos/question?x=1'" in done.stderr or "'photos/question?x=1'" in done.stderr
    assert "1 such key" in done.stderr
    assert htcjob("storage", "cat", "project:urls.txt").returncode == 66
    done = htcjob(
        "manifest", "build", f"s3://{bucket}/shared/photos/", "-o", "urls.txt", "--exclude", "question*"
    )
    assert done.returncode == 0, done.stderr
    assert htcjob("storage", "cat", "project:urls.txt").stdout.splitlines() == [
        f"s3://{bucket}/shared/{key}" for key in keys if "?" not in key
    ]


_PUT = """
import sys, boto3
for key in sys.argv[2:]:
    boto3.client("s3").put_object(Bucket=sys.argv[1], Key=key, Body=key.encode())
"""
