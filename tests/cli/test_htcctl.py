"""`htcctl`: scripts that were written for the platform's tool run unchanged."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers.htc_api import API_KEY, PROJECT, TASK, Vended, running_htc_api

HTCCTL = [sys.executable, "-m", "htcjob.cli.htcctl"]


@pytest.fixture
def htcctl(htcjob, tmp_path):
    """Run it in a fresh directory."""
    here = tmp_path / "here"
    here.mkdir()

    def run(*arguments, **variables):
        return subprocess.run(
            [*HTCCTL, *arguments],
            env={**htcjob.variables, **variables}, cwd=here, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    run.here = here
    return run


def tree(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_upload_takes_the_path_as_typed(htcjob, htcctl):
    """Task storage without -s, project storage with it; silence is success."""
    (htcctl.here / "val2017").mkdir()
    for name in ("val2017/x.jpg", "y.jpg", "-z.jpg"):
        (htcctl.here / name).write_text(name)
    done = htcctl("upload", "val2017/x.jpg", "./y.jpg", f"{htcctl.here}/y.jpg", "--", "-z.jpg")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    absolute = str(htcctl.here / "y.jpg").lstrip("/")
    assert tree(htcjob.task) == {
        "val2017/x.jpg": "val2017/x.jpg", "y.jpg": "y.jpg", absolute: "y.jpg", "-z.jpg": "-z.jpg",
    }  # fmt: skip
    assert htcctl("--project-shared", "upload", "val2017//./x.jpg").returncode == 0
    assert htcctl("upload", "y.jpg", "-s").returncode == 0
    assert set(tree(htcjob.project)) == {"val2017/x.jpg", "y.jpg"}


def test_download_keeps_the_keys_folders(htcjob, htcctl):
    """So a script finds the file under the key that it asked for; an old file is replaced."""
    htcjob.entries("val2017/x.jpg", "y.jpg")
    (htcctl.here / "y.jpg").write_text("old")
    done = htcctl("-s", "download", "val2017/x.jpg", "y.jpg")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert tree(htcctl.here) == {"val2017/x.jpg": "val2017/x.jpg", "y.jpg": "y.jpg"}
    assert htcctl("-s", "download", "y.jpg", "-d", "out/", "val2017/x.jpg").returncode == 0
    assert htcctl("-s", "download", "--directory=new", "./y.jpg").returncode == 0
    assert set(tree(htcctl.here)) >= {"out/y.jpg", "out/val2017/x.jpg", "new/y.jpg"}


def test_list_gives_one_key_per_line(htcjob, htcctl):
    """In order, without the records that htcjob itself keeps there."""
    htcjob.entries("b/c", "a")
    (htcjob.project / ".htcjob").mkdir()
    (htcjob.project / ".htcjob" / "run.json").write_text("{}")
    done = htcctl("-s", "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\nb/c\nlist.txt\n", "")
    assert htcctl("list").stdout == ""


def test_many_files_in_one_call(htcjob, htcctl):
    """As the tutorial's `upload *` does it."""
    for n in range(1000):
        (htcctl.here / f"{n:04}.jpg").write_text(f"{n}")
    names = sorted(os.listdir(htcctl.here))
    assert htcctl("-s", "upload", *names).returncode == 0
    assert tree(htcjob.project) == tree(htcctl.here)
    assert htcctl("-s", "list").stdout.splitlines() == names
    assert htcctl("-s", "download", *names, "-d", "back").returncode == 0
    assert tree(htcctl.here / "back") == tree(htcjob.project)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["download", "nix"], 66, "nix: no such object"),
        (["upload", "nix"], 66, "put nix: no such file"),
        (["upload", "../nix"], 64, "cannot contain '..'"),
        (["download", "../nix"], 64, "contains '..'"),
        (["download", "link/x"], 64, "links are not followed"),
        (["upload", "folder"], 74, "is a folder"),
        (["upload"], 64, "expected upload FILE"),
        (["list", "x"], 64, "expected upload FILE"),
        (["frobnicate", "x"], 64, "expected upload FILE"),
        ([], 64, "expected upload FILE"),
        (["upload", "x", "-d", "y"], 64, "-d is for download only"),
        (["--frob", "list"], 64, "option --frob not recognized; see htcctl --help"),
    ],
)
def test_a_failure_is_one_line_and_not_zero(htcctl, arguments, status, said):
    """Scripts look for non-zero; people read the line."""
    (htcctl.here / "folder").mkdir()
    (htcctl.here / "link").symlink_to("folder")
    done = htcctl(*arguments)
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert line.startswith("htcctl: error: ")
    assert said in line
    assert done.stdout == ""


def test_one_failure_does_not_keep_the_others(htcjob, htcctl):
    """What can be had is there, and the status is not zero."""
    htcjob.entries("a", "b")
    done = htcctl("-s", "download", "a", "nix", "nix2", "b")
    assert done.returncode == 66
    assert set(tree(htcctl.here)) == {"a", "b"}
    assert done.stderr.splitlines()[-1] == "htcctl: error: 2 of 4 failed"


def test_without_storage_the_variables_are_named(htcctl):
    """78, and what to set."""
    for arguments in (["list"], ["-s", "list"]):
        done = htcctl(*arguments, HTCJOB_TASK_STORE="", HTCJOB_PROJECT_STORE="")
        assert done.returncode == 78
        assert "RESCALE_HTC_BEARER_TOKEN" in done.stderr


def test_a_reader_that_leaves_early_is_no_error(htcjob):
    """`htcctl list | head -1` ends quietly."""
    for n in range(5000):
        (htcjob.task / f"a-rather-long-name-{n:06}").touch()
    command = f"({' '.join(HTCCTL)} list; echo $? >&2) | head -1"
    done = subprocess.run(["bash", "-c", command], env=htcjob.variables, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a-rather-long-name-000000\n", f"{128 + signal.SIGPIPE}\n")


def test_a_full_disk_under_a_list_is_told(htcjob):
    """74, not a success and no traceback."""
    (htcjob.task / "a").touch()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*HTCCTL, "list"], env=htcjob.variables, stdout=full, stderr=-1, text=True)
    assert (done.returncode, done.stderr) == (74, "htcctl: error: standard output: No space left on device\n")


def test_help_has_an_example_that_works(htcjob, htcctl):
    """The command under `Example:` can be typed as it stands."""
    text = htcctl("--help").stdout
    example = text.partition("Example:\n  ")[2].partition("\n")[0].split()
    assert example[0] == "htcctl"
    htcjob.entries("photos/0001.jpg")
    assert htcctl(*example[1:]).returncode == 0
    assert tree(htcctl.here) == {"photos/0001.jpg": "photos/0001.jpg"}


def test_nothing_heavy_is_imported(htcjob, htcctl):
    """A script of the tutorial starts two of these for each picture."""
    htcjob.entries("a")
    code = (
        "import sys; from htcjob.cli.htcctl import main\ntry: main(['-s', 'download', 'a'])\n"
        "except SystemExit as end: assert not end.code\nprint(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=htcjob.variables, cwd=htcctl.here, capture_output=True, text=True, check=True
    )  # fmt: skip
    modules = set(done.stdout.split())
    assert modules.isdisjoint(
        {
            "click",
            "argparse",
            "jwt",
            "tenacity",
            "concurrent.futures",
            "http.client",
            "ssl",
            "asyncio",
            "obstore",
        }
        | {
            "boto3",
            "urllib.request",
            "subprocess",
            "tempfile",
            "htcjob.transfer.copying",
            "htcjob.htc_api.vended_storage",
        }
    )


@pytest.fixture
def vending(rgw):
    """An API that vends short-lived session tokens of a real server, each good for its own prefix."""
    bucket = rgw.new_bucket()

    def vend(project, task, _region):
        prefix = f"projects/{project}/"
        given = rgw.assume_role(prefix, bucket)
        expires_at = given.pop("expires_at")
        return Vended(
            given | {"AWS_ENDPOINT_URL_S3": rgw.endpoint},
            project=f"s3://{bucket}/{prefix}shared/",
            task=f"s3://{bucket}/{prefix}tasks/{task}/" if task else None,
            expires_at=expires_at,
        )

    with running_htc_api(vend) as api:
        yield api


def test_the_tutorials_script_runs_against_vended_storage(htcctl, vending, rgw):
    """Notebook: upload to the project with an API key. Job: download, upload with the token. Notebook: fetch."""
    none = {"HTCJOB_PROJECT_STORE": "", "HTCJOB_TASK_STORE": "", "AWS_REGION": rgw.region}
    person = {**none, "HTCJOB_API_URL": vending.url, "RESCALE_API_TOKEN": API_KEY}
    job = {**none, **vending.environ()}
    (htcctl.here / "x.jpg").write_text("photo")
    steps = [
        (["--project-shared", "--project-id", PROJECT, "upload", "x.jpg"], person),
        (["-s", "download", "x.jpg", "-d", "job"], job),
        (["upload", "x.jpg"], job),
        (["--project-id", PROJECT, "--task-id", TASK, "download", "x.jpg", "-d", "results/"], person),
    ]
    for arguments, variables in steps:
        done = htcctl(*arguments, **variables)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), arguments
    assert set(tree(htcctl.here)) == {"x.jpg", "job/x.jpg", "results/x.jpg"}
    assert htcctl("list", **job).stdout == "x.jpg\n"
    assert htcctl("-s", "list", **person, RESCALE_HTC_PROJECT_ID=PROJECT).stdout == "x.jpg\n"
    denied = htcctl(
        "-s",
        "list",
        **{**person, "RESCALE_API_TOKEN": "planted-wrong-key-0123"},
        RESCALE_HTC_PROJECT_ID=PROJECT,
    )
    assert denied.returncode == 77
    assert "planted" not in denied.stderr
