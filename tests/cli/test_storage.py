"""`htcjob storage`: real processes on directories, on a real S3 server, and against what hangs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from htcjob.cli.commands.storage import _report
from htcjob.errors import AbsentError, DeniedError, PermanentError, TransientError, UnauthenticatedError
from htcjob.transfer.tasks import Outcome

COMMANDS = ("ls", "get", "put", "cp", "cat", "rm")


@pytest.fixture
def storage(htcjob, tmp_path):
    """Run a subcommand; the current directory is a fresh one."""
    here = tmp_path / "here"
    here.mkdir()

    def run(*arguments, **variables):
        return subprocess.run(
            [sys.executable, "-m", "htcjob", "storage", *arguments],
            env={**htcjob.variables, **variables}, cwd=here, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    run.here = here
    return run


def tree(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_listing_has_sizes_times_and_keys(htcjob, storage):
    """Folders with a slash, keys as they are in the store; with -r all objects; JSON for programs."""
    htcjob.entries("photos/a.jpg", "photos/more/b.jpg", "photos/na\u2028me")
    done = storage("ls", "project:photos/")
    assert (done.returncode, done.stderr) == (0, "")
    first, folder, odd = done.stdout.splitlines()
    assert re.fullmatch(r" +12  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  photos/a\.jpg", first)
    assert re.fullmatch(r" +photos/more/", folder)
    assert odd.endswith(r'"photos/na\u2028me"')
    found = lines(storage("ls", "-r", "--json", "project:"))
    assert [entry["key"] for entry in found] == [
        "list.txt", "photos/a.jpg", "photos/more/b.jpg", "photos/na\u2028me",
    ]  # fmt: skip
    assert found[1].keys() == {"key", "url", "size_bytes", "last_modified"}
    assert found[1]["url"] == f"file://{htcjob.project}/photos/a.jpg"
    assert lines(storage("ls", "--json", "project:photos/more"))[0]["key"] == "photos/more/b.jpg"


def test_files_go_out_and_come_back(htcjob, storage):
    """Once; the second time they are skipped, and a changed one is not."""
    (storage.here / "in" / "sub").mkdir(parents=True)
    (storage.here / "in" / "a").write_text("one")
    (storage.here / "in" / "sub" / "b #?ü").write_text("two")
    done = storage("put", "-r", "in", "task:")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 copied, 6 B\n", "")
    assert tree(htcjob.task) == {"in/a": "one", "in/sub/b #?ü": "two"}
    assert storage("put", "-r", "in", "task:").stdout == "2 skipped\n"
    assert storage("get", "-r", "task:in/", "-d", "out").stdout == "2 copied, 6 B\n"
    assert tree(storage.here / "out") == tree(storage.here / "in")
    (storage.here / "out" / "a").write_text("ONE")
    done = storage("get", "-r", "task:in/", "-d", "out", "--json")
    assert sorted(
        (line["key"], line["action"], line["size_bytes"], line["cause"]) for line in lines(done)
    ) == [
        ("in/a", "copied", 3, None),
        ("in/sub/b #?ü", "skipped", 3, None),
    ]


def test_one_file_gets_the_name_given_and_into_a_folder_its_own(htcjob, storage):
    """A LOCATION that ends in a slash, or is a whole store, is a folder; any other is the name."""
    (storage.here / "a").write_text("a")
    (storage.here / "b").write_text("b")
    assert storage("put", "a", "task:x").returncode == 0
    assert storage("put", "a", "b", "task:y/").returncode == 0
    assert storage("put", "a", "task:").returncode == 0
    assert tree(htcjob.task) == {"x": "a", "y/a": "a", "y/b": "b", "a": "a"}
    done = storage("put", "a", "b", "task:y")
    assert done.returncode == 64
    assert "task:y is the name of one object: for a folder, end it with /" in done.stderr


def test_any_to_any(htcjob, storage):
    """Store to store, to a file, to a folder, from a file, from and to a URL; two local sides are for cp."""
    htcjob.entries("in/a", "in/b")
    assert storage("cp", "-r", "project:in", "task:").returncode == 0
    assert storage("cp", "project:in/a", "task:one").returncode == 0
    assert storage("cp", "task:one", "file").returncode == 0
    assert storage("cp", "task:in/*", "folder/").returncode == 0
    assert storage("cp", "file", "task:back/").returncode == 0
    assert storage("cp", "-r", "folder", f"file://{htcjob.task}/").returncode == 0
    assert tree(htcjob.task) == {
        "in/a": "in/a", "in/b": "in/b", "one": "in/a", "back/file": "in/a", "folder/a": "in/a", "folder/b": "in/b",
    }  # fmt: skip
    assert tree(storage.here) == {"file": "in/a", "folder/a": "in/a", "folder/b": "in/b"}
    assert storage("cp", "file", "other").returncode == 64
    assert list(htcjob.work.iterdir()) == []


def test_cat_gives_the_bytes(htcjob, storage):
    """As they are, several blocks of them; a reader that leaves early is no error."""
    data = os.urandom(17 << 20)
    (htcjob.project / "big").write_bytes(data)
    command = [sys.executable, "-m", "htcjob", "storage", "cat", "project:big"]
    done = subprocess.run(command, env=htcjob.variables, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data
    done = subprocess.run(
        ["bash", "-c", f"({' '.join(command)}; echo $? >&2) | head -c 3"],
        env=htcjob.variables, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (data[:3], b"141\n")


def test_rm_removes_what_is_named(htcjob, storage):
    """A folder with -r, a whole store only with --all besides."""
    htcjob.entries("a", "b/c", "b/d", "bc")
    assert storage("rm", "project:a", "project:list.txt").stdout == "2 removed\n"
    assert storage("rm", "project:b").returncode == 64
    assert storage("rm", "-r", "project:b").returncode == 0
    assert tree(htcjob.project) == {"bc": "bc"}
    for arguments in (["-r", "project:"], ["project:**"], ["-r", "project:*"], ["project:"]):
        assert storage("rm", *arguments).returncode == 64
    assert tree(htcjob.project) == {"bc": "bc"}
    assert storage("rm", "-r", "--all", "project:").returncode == 0
    assert tree(htcjob.project) == {}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["get", "project:nix"], 66, "nix: no such object"),
        (["get", "project:nix*"], 66, "no object matches"),
        (["ls", "project:nix"], 66, "nothing is there"),
        (["cat", "project:nix"], 66, "no such object"),
        (["rm", "project:nix"], 66, "no such object"),
        (["put", "nix", "task:"], 66, "put nix: no such file"),
        (["get", "project:folder"], 64, "folder is a folder: add -r"),
        (["get", "project:folder/"], 64, "project:folder/ is a folder: add -r to mean all that is in it"),
        (["put", ".", "task:"], 64, ". is a folder: add -r"),
        (["cat", "project:folder/"], 64, "name one object"),
        (["get", "folder"], 64, "'folder' is no place in storage: write project:KEY, task:KEY or a URL"),
        (["get", "project:../x"], 64, "contains '..'"),
        (["get", "s3://bucket/key?X-Amz-Signature=planted"], 64, "a query"),
        (["cp", "-r", "project:", "project:folder/"], 64, "in the folder that is copied"),
        (["cp", "project:**", "project:folder/"], 64, "in the folder that is copied"),
        (["get", "-r", "project:", "-d", "../project/new"], 64, "in the folder that is copied"),
        (["put", "-r", "..", "project:new/"], 64, "in the folder that is copied"),
        (["get", "nosuch://x/y"], 64, "no such kind of storage"),
        (["get"], 64, "Missing argument"),
        (["frobnicate"], 64, "No such command"),
        (["get", "project:folder/a", "--frob"], 64, "No such option"),
    ],
)  # fmt: skip
def test_a_failure_has_one_line_and_its_status(htcjob, storage, arguments, status, said):
    """Cause and next step; nothing was written."""
    htcjob.entries("folder/a")
    done = storage(*arguments)
    assert done.returncode == status, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "planted" not in done.stderr
    assert "Traceback" not in done.stderr
    assert set(tree(htcjob.project)) == {"folder/a", "list.txt"}
    assert not list(htcjob.project.glob("*/new"))


def test_without_a_store_the_variable_is_named(storage):
    """78, and what to set."""
    done = storage("ls", "task:", HTCJOB_TASK_STORE="")
    assert done.returncode == 78
    assert "HTCJOB_TASK_STORE" in done.stderr


def test_many_failures_are_counted(htcjob, storage):
    """The first few are shown, the others counted; JSON has every cause; what is good is copied."""
    htcjob.entries(*(f"in/{n}" for n in range(10)))
    (storage.here / "out").mkdir()
    for n in range(9):
        (storage.here / "out" / f"{n}").symlink_to("elsewhere")
    done = storage("get", "project:in/*", "-d", "out")
    assert done.returncode == 74
    assert done.stdout == "1 copied, 4 B\n"
    said = done.stderr.splitlines()
    assert len(said) == 6
    assert all("links are not followed" in line for line in said[:5])
    assert said[5] == "htcjob: error: 9 of 10 failed"
    causes = [line["cause"] for line in lines(storage("get", "project:in/*", "-d", "out", "--json"))]
    assert sum("links are not followed" in cause for cause in causes if cause) == 9


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ([], 0),
        ([TransientError], 75),
        ([TransientError, AbsentError], 66),
        ([PermanentError, TransientError, AbsentError], 74),
        ([DeniedError, PermanentError], 77),
        ([UnauthenticatedError, TransientError], 77),
    ],
)
def test_the_worst_failure_decides(kinds, status):
    """75 asks for the same again: it is the answer only where that may be enough."""
    failed = [Outcome("a", None, "failed", kind("get", "s3://b/a", "reason")) for kind in kinds]
    assert _report([Outcome("b", 1, "copied"), *failed], as_json=True) == status


def test_a_command_ends_soon_after_ctrl_c(htcjob, tmp_path):
    """With 130 and nothing half, while a server never answers, for one object and for many."""
    pytest.importorskip("obstore")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        variables = {
            **htcjob.variables,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        }  # fmt: skip
        for keys in (["a"], ["a", "b", "c"]):
            with subprocess.Popen(
                [sys.executable, "-m", "htcjob", "storage", "get", *(f"s3://bucket/{key}" for key in keys)],
                env=variables, cwd=tmp_path / "work", stdout=-1, stderr=-1, text=True,
            ) as process:  # fmt: skip
                try:
                    connections = [server.accept()[0] for _ in keys]
                    process.send_signal(signal.SIGINT)
                    out, err = process.communicate(timeout=20)
                finally:
                    process.kill()
                for connection in connections:
                    connection.close()
            assert (process.returncode, out, err) == (130, "", "")
    assert tree(tmp_path / "work") == {}


def test_memory_does_not_grow_with_the_number_of_files(htcjob, storage, tmp_path):
    """Ten times as many files need no more of it."""
    peaks = []
    for n_files in (300, 3000):
        folder = storage.here / f"{n_files}"
        folder.mkdir()
        for n in range(n_files):
            (folder / f"a-rather-long-name-{n:060}").write_bytes(b"x")
        code = (
            "import sys, resource\nfrom htcjob.cli.main import main\ntry: main(sys.argv[1:])\n"
            "except SystemExit as end: assert end.code == 0\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        for arguments in (
            ["put", "-r", f"{folder}/", "task:"],
            ["get", "-r", "task:", "-d", f"{folder}-back"],
        ):
            done = subprocess.run(
                [sys.executable, "-c", code, "storage", *arguments, "--json"],
                env=htcjob.variables, capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert len(done.stdout.splitlines()) == len(list(htcjob.task.iterdir()))
            peaks.append(int(done.stderr.split()[-1]) * (1 if sys.platform == "darwin" else 1024))
    assert peaks[2] < peaks[0] + 4e6
    assert peaks[3] < peaks[1] + 4e6


def test_every_example_in_the_help_works(htcjob, storage):
    """The command under `Example:` can be typed as it stands; the exit table is there."""
    htcjob.entries("photos/a.jpg", "photos/b.jpg")
    (storage.here / "photos").mkdir()
    (storage.here / "photos" / "own.jpg").write_text("own")
    for name in ([], *([command] for command in COMMANDS)):
        text = storage(*name, "--help").stdout
        match = re.search(r"Example:\n +(.+)\n", text)
        assert match, text
        assert "Exit status:" in text
        assert "75 " in text
        done = subprocess.run(
            ["bash", "-c", match[1]], env=htcjob.variables, cwd=storage.here, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), match[1]


def test_s3(htcjob, storage, rgw):
    """Every command on a real server, by URL and as the job's own storage."""
    bucket = rgw.new_bucket()
    variables = rgw.environ() | {"HTCJOB_PROJECT_STORE": f"s3://{bucket}/shared"}
    url = f"s3://{bucket}/shared"
    for n in range(60):
        path = storage.here / "in" / f"{n % 3}" / f"{n:02} +#%é.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * n)
    big = storage.here / "in" / "big"
    big.write_bytes(os.urandom(9 << 20))  # goes in parts
    steps = [
        (["put", "-r", "in", "project:"], "61 copied"),
        (["put", "-r", "in", f"{url}/"], "61 skipped"),
        (["get", "-r", f"{url}/in/", "-d", "out"], "61 copied"),
        (["get", "-r", "project:in/", "-d", "out"], "61 skipped"),
        (["get", "project:in/*/3*.dat", "-d", "some"], "10 copied"),
        (["cp", "-r", f"{url}/in/", f"s3://{bucket}/copy/"], "61 copied"),
        (["cp", "-r", f"{url}/in/", f"s3://{bucket}/copy/"], "61 skipped"),
        (["rm", "-r", f"s3://{bucket}/copy/1"], "20 removed"),
    ]
    for arguments, said in steps:
        done = storage(*arguments, **variables)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert done.stdout.startswith(said), (arguments, done.stdout)
    assert (storage.here / "out" / "big").read_bytes() == big.read_bytes()
    for path in (storage.here / "in").glob("*/*"):
        assert (storage.here / "out" / path.relative_to(storage.here / "in")).read_text() == path.read_text()
    done = storage("ls", f"s3://{bucket}/copy/", **variables)
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["copy/0/", "copy/2/", "copy/big"]
    assert len(lines(storage("ls", "-r", "--json", f"s3://{bucket}", **variables))) == 61 + 41
    assert storage("cat", "project:in/0/03 +#%é.dat", **variables).stdout == "xxx"
    assert storage("get", f"{url}/nix", **variables).returncode == 66
    denied = {**variables, "AWS_SECRET_ACCESS_KEY": "wrong"}
    assert storage("ls", url, **denied).returncode == 77
