"""Results arrive whole on standard output, or the command says that they did not."""

import json
import os
import subprocess
import sys

import pytest

COMMANDS = {
    "cat": ("storage", "cat", "project:big"),
    "ls": ("storage", "ls", "project:", "--json"),
    "chunk": ("chunk",),
    "chunk-json": ("chunk", "--json"),
    "split": ("manifest", "split", "list.txt", "--array-size", "3000"),
    "check": ("manifest", "check", "list.txt"),
    "collect": ("collect",),
    "csv": ("collect", "--format", "csv"),
    "failed": ("failed",),
    "left": ("failed", "--manifest", "left"),
    "again": ("failed", "--manifest", "failed"),
    "status": ("status",),
    "env": ("env",),
    "plan": (
        "plan",
        "--entries",
        "9",
        "--seconds-per-entry",
        "1",
        "--target-minutes",
        "1",
        "--start-seconds",
        "1",
    ),
    "help": ("--help",),
    "run-help": ("run", "--help"),
    "version": ("--version",),
}
LARGE = ("cat", "chunk", "chunk-json", "split", "left")
"""Those with more than any buffer or pipe takes."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store with a run of which one entry failed and thousands are left, and the variables for it."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "project").mkdir()
    (folder / "project" / "big").write_bytes(os.urandom(1_500_000))
    (folder / "project" / "list.txt").write_text("".join(f"entry-{n:06d}-é€\n" for n in range(6000)))
    variables = {
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "HTCJOB_PROJECT_STORE": str(folder / "project"),
        "HTCJOB_TASK_STORE": str(folder / "task"),
        "HTCJOB_MANIFEST": "list.txt",
    }
    one = {"HTCJOB_ARRAY_INDEX": "0", "HTCJOB_ARRAY_SIZE": "3000"}
    argv = [sys.executable, "-m", "htcjob", "run", "--each", "--", "true"]
    assert subprocess.run(argv, env=variables | one, capture_output=True, check=False).returncode == 65
    return variables


def call(home, command, shell, **variables):
    """Run *command*, in the way that *shell* says, in the place of `$@`."""
    argv = [sys.executable, "-m", "htcjob", *COMMANDS[command]]
    return subprocess.run(
        ["bash", "-c", shell, "bash", *argv],
        env=home | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "unbuffered"), [*((command, "1") for command in COMMANDS), ("cat", ""), ("status", "")]
)
def test_a_full_disk_is_no_success(home, command, unbuffered):
    """Nothing of the results is there, so it is 74, and one line says why."""
    done = call(home, command, '"$@" > /dev/full', PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr.decode()) == (
        74,
        "htcjob: error: standard output: No space left on device\n",
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_standard_output_is_no_success(home, command):
    """Python has none at all then, and would lose the results in silence."""
    done = call(home, command, '"$@" >&-')
    assert (done.returncode, done.stderr.decode()) == (74, "htcjob: error: standard output: it is closed\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["cat", "chunk", "left"])
def test_a_disk_that_takes_a_part_is_no_success(home, command, unbuffered, tmp_path):
    """The kernel writes what there is room for, and says how much that was."""
    done = call(home, command, f'ulimit -f 60; "$@" > {tmp_path}/part', PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 74
    assert done.stderr.decode() == "htcjob: error: standard output: File too large\n"
    assert 0 < (tmp_path / "part").stat().st_size <= 60 * 1024


_NON_BLOCKING = (
    "import os, subprocess, sys; reader, writer = os.pipe(); os.set_blocking(writer, False)\n"
    "process = subprocess.Popen(sys.argv[2:], stdout=writer); os.close(writer)\n"
    "if sys.argv[1] == 'read':\n"
    "    data = open(reader, 'rb').read(); sys.stdout.buffer.write(data)\n"
    "sys.exit(process.wait())"
)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["cat", "chunk"])
def test_a_slow_reader_of_a_non_blocking_pipe_gets_all(home, command, unbuffered):
    """The pipe is full again and again."""
    variables = {"PYTHONUNBUFFERED": unbuffered}
    shell = f'exec {sys.executable} -c "{_NON_BLOCKING}" read "$@"'
    done = call(home, command, shell, **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == call(home, command, '"$@"').stdout


def test_a_full_non_blocking_pipe_that_nobody_reads_is_no_success(home):
    """Nor is it waited for without end."""
    done = call(home, "cat", f'exec {sys.executable} -c "{_NON_BLOCKING}" leave "$@"', PYTHONUNBUFFERED="1")
    assert done.returncode == 74
    assert done.stderr.decode() == "htcjob: error: standard output: nobody reads it\n"


@pytest.mark.parametrize("command", LARGE)
def test_a_reader_that_leaves_ends_the_command_quietly(home, command):
    """As SIGPIPE would, so that `| head` is no error."""
    done = call(home, command, '"$@" | head -c 1 >&2; exit ${PIPESTATUS[0]}')
    assert done.returncode == 141
    assert len(done.stderr) == 1


@pytest.mark.parametrize("command", ["cat", "status", "version"])
def test_standard_error_that_takes_nothing_changes_no_status(home, command):
    """Neither of what succeeds nor of what fails, closed or full."""
    for way in ("2>&-", "2>/dev/full"):
        assert call(home, command, f'"$@" > /dev/null {way}').returncode == 0
        assert call(home, command, f'"$@" > /dev/full {way}').returncode == 74


@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict"])
@pytest.mark.parametrize("command", ["chunk", "chunk-json", "split", "csv", "left", "failed", "run-help"])
def test_names_that_the_encoding_lacks_are_escaped(home, command, encoding):
    """And lines of a manifest are UTF-8 in any case, or they would mean other keys."""
    done = call(home, command, '"$@"', PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    if command == "left":
        lines = done.stdout.decode().splitlines()
        assert lines[-1] == "entry-005999-é€"
        assert len(lines) == 5998
    elif command == "chunk":
        shown = done.stdout.decode(encoding.partition(":")[0])
        assert shown.splitlines()[0] == "0\tentry-000000-" + (
            r"\xe9\u20ac" if encoding.startswith("ascii") else r"é\u20ac"
        )
    elif command == "chunk-json":
        assert json.loads(done.stdout.decode(encoding.partition(":")[0]))["entries"][0] == "entry-000000-é€"


@pytest.mark.parametrize(
    ("way", "said"), [(">&-", "it is closed"), ("> /dev/full", "No space left on device")]
)
def test_htcctl_does_not_lose_its_list(home, way, said):
    """It has a start of its own, and the same output."""
    done = subprocess.run(
        ["bash", "-c", f'"$@" {way}', "bash", sys.executable, "-m", "htcjob.cli.htcctl", "-s", "list"],
        env=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (74, f"htcctl: error: standard output: {said}\n")
