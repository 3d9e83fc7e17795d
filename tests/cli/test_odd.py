"""Odd names, options and surroundings: one line, one cause, what to do next, and never a bug in htcjob."""

import json
import os
import subprocess
import sys

import pytest

ODD = "x\x1b[31mred\r\u202ebidi"
"""A name that would colour a terminal, write over its line and turn it around."""

STORES = ("--project-store", ".", "--task-store", "x")
EACH = ("--each", "--", "true")


def assert_one_line(done, status, *words):
    """The ending is one printable line with these words; above it there is at most a usage line or a warning."""
    assert done.returncode == status, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("htcjob: error: ")
    assert line.isprintable()
    assert all(word in line for word in words), line
    assert "Traceback" not in done.stderr
    assert "a bug in htcjob" not in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{project}/list.txt", ("{project}/list.txt lies in project storage: write list.txt",)),
        ("{project}/../project/list.txt", ("lies in project storage: write list.txt",)),
        ("/etc/hostname", ("does not lie in project storage file://{project}/", "file:///etc/hostname")),
        ("../other", ("../other does not lie in project storage", "such as file:///")),
        ("folder/", ("'folder/'", "name a key of project storage, or a URL")),
        (".", ("'.'", "name a key of project storage, or a URL")),
        ("s3://bucket/k?sig=planted", ("a query (?name=value)",)),
        (ODD, (r"'x\x1b[31mred\r\u202ebidi'",)),
    ],
)
def test_a_manifest_that_is_no_key_is_explained(htcjob, name, words):
    """And its own name is said, not that of an index that nobody has named."""
    htcjob.entries("a")
    place = {"project": str(htcjob.project)}
    done = htcjob.run("--manifest", name.replace("{project}", place["project"]), *EACH)
    assert_one_line(done, 78, "--manifest (HTCJOB_MANIFEST)", *(word.format(**place) for word in words))
    assert ".idx" not in done.stderr
    assert "planted" not in done.stderr


def test_the_manifest_commands_explain_it_too(htcjob):
    """With the status of a mistake on the command line."""
    htcjob.entries("a")
    given = str(htcjob.project / "list.txt")
    assert_one_line(htcjob("manifest", "check", given), 64, "lies in project storage: write list.txt")
    assert_one_line(htcjob("manifest", "index", "folder/"), 64, "folder/ is a folder: name the manifest")


def test_entries_that_are_paths_of_this_machine_are_explained(htcjob):
    """As `find $PWD` and `ls in/*` write them."""
    htcjob.entries("a", "sub/b")
    htcjob.manifest(f"{htcjob.project}/a", "project/a", f"{htcjob.project.parent.name}/project/sub/b", "../a")
    assert htcjob.run(*EACH).returncode == 65
    messages = [record["message"] for record in htcjob.records()]
    assert "write keys as 'find . -type f' in the store's folder does, or file:/// URLs" in messages[0]
    assert messages[1].endswith("no such object; keys begin inside of the store: write a")
    assert messages[2].endswith("no such object; keys begin inside of the store: write sub/b")
    assert "find . -type f" in messages[3]


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("run", "--workers", "9" * 20, *EACH), 64, "1<=x<=10000"),
        (("run", "--timeout", "nan", *EACH), 64, "is not a duration"),
        (("run", "--deadline", "-1", *EACH), 64, "is not a duration"),
        (("run", "--timeout", "5min", *EACH), 64, "such as 90s, 5m or 2h"),
        (("run", "--array-index", "9" * 20, "--array-size", "9" * 21, *EACH), 78, "at most 18 digits"),
        (("run", "--each", "--", ""), 127, "command not found: ''"),
        (
            ("simulate", "--array-size", "9" * 20, *STORES, "--", *EACH),
            64,
            "range",
        ),
        (
            ("simulate", "--array-size", "1", "--docker", "x", "--cpus", "nan", *STORES, "--", *EACH),
            64,
            "not a number",
        ),
        (
            ("plan", "--entries", "3", "--seconds-per-entry", "nan", "--target-minutes", "1"),
            64,
            "not a number",
        ),
        (("manifest", "split", "list.txt", "--array-size", "9" * 20), 64, "range"),
        (("run", "--run", ODD, *EACH), 78, "run name"),
        (("run", "--each", "--", ODD), 127, r"x\x1b[31mred"),
        (("storage", "get", f"project:{ODD}"), 64, "line break"),
        (("storage", "put", ODD, "task:"), 66, r"\x1b"),
    ],
)
def test_odd_values_are_refused_in_one_line(htcjob, arguments, status, word):
    """Numbers that are none or too large, names that are none."""
    htcjob.entries("a")
    assert_one_line(htcjob(*arguments), status, word)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", *EACH),
        ("status",),
        ("storage", "get", "file:///etc/hostname"),
        ("simulate", "--array-size", "1"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_working_directory_that_is_gone_is_said(htcjob, tmp_path, arguments):
    """Where a path begins there; with paths from the root on nothing depends on it."""
    htcjob.entries("a")
    gone = tmp_path / "gone"
    gone.mkdir()
    stores = ("--project-store", "in", "--task-store", "out", "--", *EACH)
    words = [sys.executable, "-m", "htcjob", *arguments, *(stores if arguments[0] == "simulate" else ())]
    variables = htcjob.variables | {"PYTHONSAFEPATH": "1"}

    def call(**others):
        return subprocess.run(
            ["sh", "-c", 'mkdir -p "$0"; cd "$0"; rmdir "$0"; exec "$@"', str(gone), *words],
            env={**variables, **others},
            capture_output=True,
            text=True,
            check=False,
        )

    done = call(HTCJOB_PROJECT_STORE="in", HTCJOB_TASK_STORE="out")
    assert_one_line(done, 78, "the working directory has been removed")
    if arguments[0] == "run":
        assert call().returncode == 0


@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict"])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_names_are_escaped_wherever_they_are_said(htcjob, encoding, log_format):
    """In output, log and tables: no name colours a terminal, and none is more than an encoding has."""
    (htcjob.project / "ünicode €").touch()
    htcjob.manifest("ünicode €", ODD, b"bad\xff\xfe")
    variables = {"PYTHONIOENCODING": encoding, "HTCJOB_LOG_FORMAT": log_format}

    def call(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "htcjob", *arguments],
            env=htcjob.variables | variables | {"RESCALE_JOB_ID": ODD, "RESCALE_HTC_TASK_ID": "€"},
            capture_output=True,
            check=False,
        )
        outputs = [text.decode(encoding.partition(":")[0]) for text in (done.stdout, done.stderr)]
        assert all(line.expandtabs().isprintable() for text in outputs for line in text.splitlines()), (
            arguments
        )
        return done.returncode, outputs[1]

    status, said = call("run", "--each", "--", "sh", "-c", "exit 3")
    assert status == 65
    if log_format == "json":
        lines = [json.loads(line) for line in said.splitlines()[:-1]]
        assert "ünicode €" in [line.get("entry") for line in lines]
    for arguments in (
        ("chunk",),
        ("failed",),
        ("collect",),
        ("collect", "--format", "csv"),
        ("manifest", "split", "list.txt", "--array-size", "3"),
        ("storage", "ls", "project:"),
        ("env",),
    ):
        assert call(*arguments)[0] == 0, arguments


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("garbage", "token_not_usable"),
        ("a.b", "token_not_usable"),
        ("e30.eyJleHAiOjF9.eHg", "expired"),
        ("e30.e30.eHg", ""),
        ("", ""),
    ],
)
def test_a_plain_entrypoint_warns_of_a_token_that_is_of_no_use(token, said):
    """It needs none, so the command runs; but what the token is for will not work."""
    done = subprocess.run(
        [sys.executable, "-m", "htcjob", "run", "--log-level", "warning", "--", "echo", "ran"],
        env={"PATH": os.environ["PATH"], "RESCALE_HTC_BEARER_TOKEN": token, "HTCJOB_TERMINATION_LOG": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    assert len(done.stderr.splitlines()) == bool(said)
    assert said in done.stderr
    assert "garbage" not in done.stderr


def test_lines_of_a_variable_are_divided_as_those_of_a_manifest(htcjob):
    """Blank ones are none, and what else Python takes for the end of a line belongs to the name."""
    names = ["a\u2028b", "c\x0bd", "e\x85"]
    htcjob.entries(*names)
    del htcjob.variables["HTCJOB_MANIFEST"]
    done = htcjob.run(*EACH, HTCJOB_ENTRIES="\n" + "\r\n".join(names) + "\n\n")
    assert done.returncode == 0, done.stderr
    records = htcjob("collect").stdout.splitlines()
    assert [json.loads(record)["entry"] for record in records] == names
