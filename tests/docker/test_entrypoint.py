"""The base image's entrypoint, as the first process of real containers."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.supervision import FAULTS, HARMLESS, OF_OURS, PAUSING, SCRIPTS, UNSEEN

AT_A_TIME = 4
EVERY_BIT = (0, *(1 << n for n in range(8)), 126, 127, 129, 137, 255)
"""Exit statuses that differ in each bit, and those with a meaning of their own."""

INITS = pytest.mark.parametrize("init", [(), ("--init",)], ids=["as PID 1", "under --init"])


DEADLY = sorted(signal.valid_signals() - HARMLESS - PAUSING - {signal.SIGSTOP})


def statuses_in_namespaces(docker, image, commands: list[str]) -> list[int]:
    """
    Return the statuses that the image's entrypoint ends with for each shell command.

    It is PID 1 of a namespace of its own each time, in one container: an engine needs many times as long for
    each container.
    """
    entrypoint = docker("inspect", "--format", "{{json .Config.Entrypoint}}", image).stdout.strip()
    may = ("--user", "0", "--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined")
    program = ("--volume", f"{SCRIPTS}:/scripts:ro", "--entrypoint", "/opt/htcjob/bin/python")
    done = docker.run(*may, *program, image, "-I", "/scripts/exit_statuses.py", entrypoint, *commands)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.splitlines()]


def exit_statuses(docker, image, commands: list[str]) -> list[int]:
    """Run each shell command in a container of its own, and return the statuses that these end with."""

    def run(command: str) -> int:
        return docker.run(image, "sh", "-c", command).returncode

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(run, commands))


def test_every_exit_status_comes_through(docker, base_image):
    """All 256 of them, and what differs in any bit through the engine too."""
    commands = [f"exit {status}" for status in range(256)]
    assert statuses_in_namespaces(docker, base_image, commands) == [*range(256)]
    assert exit_statuses(docker, base_image, [commands[status] for status in EVERY_BIT]) == [*EVERY_BIT]


def test_every_deadly_signal_is_told_as_128_plus_its_number(docker, base_image):
    """Real-time signals too; some of them through the engine."""
    assert len(DEADLY) > 50
    kills = [f"kill -{int(signum)} $$" for signum in DEADLY]
    expected = [128 + signum for signum in DEADLY]
    assert statuses_in_namespaces(docker, base_image, kills) == expected
    assert exit_statuses(docker, base_image, kills[::5]) == expected[::5]


@INITS
def test_every_signal_reaches_the_command(docker, base_image, init):
    """What `docker kill --signal` sends; once each, and in order."""
    sent = sorted(signal.valid_signals() - UNSEEN - OF_OURS - FAULTS - PAUSING)
    script = f"{SCRIPTS}:/scripts:ro"
    command = ("python3", "/scripts/print_signals.py")
    options = (*init, "--volume", script, "--env", "HTCJOB_GRACE=5m")
    with (
        docker.started(*options, base_image, *command) as container,
        docker.following(container) as lines,
    ):
        assert next(lines).startswith("ready")
        for signum in sent:
            docker.kill(container, signum)
            assert next(lines) == str(int(signum))
        assert docker.logs(container).splitlines()[1:] == [str(int(signum)) for signum in sent]


@INITS
def test_docker_stop_with_work_left(docker, base_image, htcjob, stores, init, wait_until):
    """What is finished is committed, a command that hangs is killed, and the exit status is not 0."""
    htcjob.entries("a", "b", "hangs", "left")
    command = "cp {input} {output_dir}; case $HTCJOB_ENTRY$HTCJOB_ATTEMPT in hangs1) "
    command += "trap '' TERM; echo hanging; while :; do sleep 60; done; esac"
    job = (
        "htcjob",
        "run",
        "--manifest",
        "list.txt",
        "--each",
        "--workers",
        "1",
        "--grace",
        "2s",
        "--",
        "sh",
        "-c",
        command,
    )
    with docker.started(*init, *stores, base_image, *job) as container:
        wait_until(lambda: "hanging" in docker.logs(container))
        docker("stop", "--time", "60", container)
        # After the 60 s the engine would have killed it: 137.
        assert docker.wait(container) == 143, docker.logs(container)
        assert htcjob.results() == {0: "done", 1: "done"}
        assert htcjob.outputs() == {"a": b"a", "b": b"b"}
        assert docker("top", container, is_checked=False).returncode != 0
    # The next attempt does the rest.
    again = docker.run(*init, *stores, "--env", "HTCJOB_ATTEMPT=2", base_image, *job)
    assert again.returncode == 0, again.stderr
    assert set(htcjob.results().values()) == {"done"}
    assert set(htcjob.outputs()) == {"a", "b", "hangs", "left"}


@INITS
def test_docker_stop_of_a_plain_command(docker, base_image, init, wait_until):
    """It gets the signal, and its exit status is passed on."""
    command = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done"
    with docker.started(*init, base_image, "sh", "-c", command) as container:
        wait_until(lambda: "ready" in docker.logs(container))
        docker("stop", "--time", "60", container)
        assert docker.wait(container) == 42


@INITS
def test_orphans_are_reaped(docker, base_image, init):
    """While the command runs."""
    command = ("timeout", "60", "python3", "/scripts/orphans.py")
    done = docker.run(*init, "--volume", f"{SCRIPTS}:/scripts:ro", base_image, *command)
    assert done.stdout == "20 orphans\nnone left\n", (done.stdout, done.stderr)


@INITS
def test_what_a_command_leaves_running_does_not_hold_the_container(docker, base_image, init):
    """A daemon in a session of its own is ended, also one that ignores SIGTERM."""
    leave = (
        "(trap '' TERM; setsid sleep 1000 & setsid sh -c \"trap '' TERM; sleep 1000\" & sleep 1000 &); exit 5"
    )
    assert docker.run(*init, base_image, "sh", "-c", leave).returncode == 5


@pytest.mark.parametrize("user", ["0", "1000:1000", "12345:54321", "nobody", ""])
def test_any_user_on_a_read_only_root_without_a_network(docker, base_image, htcjob, stores, tmp_path, user):
    """With a tmpfs, from which nothing can be executed, and a local store."""
    htcjob.entries("a", "b")
    (tmp_path / "module.py").write_text(
        "import os\ndef function(input, output_dir, key):\n"
        "    with open(os.path.join(output_dir, key), 'w') as file: file.write(os.environ['HOME'])\n"
    )
    options = ["--user", user] if user else []
    options += ["--read-only", "--tmpfs", "/tmp", "--network", "none", *stores]
    options += [
        "--volume",
        f"{tmp_path / 'module.py'}:/work/module.py:ro",
        "--env",
        "HTCJOB_MANIFEST=list.txt",
    ]
    done = docker.run(*options, "--env", "HTCJOB_CALL=module:function", base_image)
    assert done.returncode == 0, done.stderr
    assert htcjob.outputs() == {"a": b"/tmp", "b": b"/tmp"}
    done = docker.run(
        *options, "--env", "HTCJOB_RUN=each", base_image,
        *("htcjob", "run", "--each", "--", "sh", "-c", 'touch "$HOME/mine" && cat "$1" > "$2/$3.again"'),
        *("sh", "{input}", "{output_dir}", "{key}"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert htcjob.outputs()["a.again"] == b"a"


def test_the_command_runs_where_any_user_may_write(docker, base_image):
    """A script that leaves files in its directory works; so does `htcctl`."""
    for user in ("1000:1000", "12345:54321"):
        done = docker.run(
            "--user", user, base_image, "sh", "-c", "pwd && touch file && htcctl --help > /dev/null"
        )
        assert (done.returncode, done.stdout) == (0, "/work\n"), done.stderr


def test_a_wrong_use_of_the_image_says_what_is_missing(docker, base_image):
    """No command: one line, and 64."""
    done = docker.run(base_image)
    assert done.returncode == 64
    assert "Give COMMAND" in done.stderr


def test_the_users_python_and_ours_do_not_meet(docker, base_image, tmp_path: Path):
    """What lies on PYTHONPATH or in the working directory is for the user's program alone."""
    tmp_path.chmod(0o755)
    for module in ("click", "json"):
        (tmp_path / f"{module}.py").write_text("raise RuntimeError('of the user')\n")
    options = ("--volume", f"{tmp_path}:/theirs:ro", "--workdir", "/theirs", "--env", "PYTHONPATH=/theirs")
    assert docker.run(*options, base_image, "true").returncode == 0
    done = docker.run(*options, base_image, "python3", "-c", "import click")
    assert "of the user" in done.stderr
