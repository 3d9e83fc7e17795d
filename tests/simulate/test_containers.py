"""`htcjob simulate --docker`: the same array in real containers, and none of them left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from htcjob.errors import EngineError
from htcjob.logs.redact import Secret
from htcjob.simulate import engine
from htcjob.simulate.containers import Box, Containers
from htcjob.simulate.engine import Engine
from htcjob.simulate.runner import Launch
from tests.conftest import some_of
from tests.support.interrupt import press_ctrl_c
from tests.support.servers.docker import HOST_NETWORK

REPOSITORY = Path(__file__).parents[2]
OF_THIS_MACHINE = f"--docker-option=--network={HOST_NETWORK}"
WAIT = """
touch $PROJECT_SHARED_FOLDER/began-$HTCJOB_ARRAY_INDEX
while [ ! -e $PROJECT_SHARED_FOLDER/go ]; do sleep 0.1; done
"""
"""A command that works until it is allowed to end."""


class Simulation:
    """Simulates arrays in containers of one image."""

    def __init__(self, htcjob, docker, image: str, folder: Path) -> None:
        self.htcjob = htcjob
        self.docker = docker
        self.image = image
        self.folder = folder
        self.network: tuple[str, ...] = (OF_THIS_MACHINE,)
        for name in ("HTCJOB_PROJECT_STORE", "HTCJOB_TASK_STORE", "HTCJOB_TERMINATION_LOG"):
            del htcjob.variables[name]

    def arguments(self, *arguments: str, size: int = 1, options: tuple[str, ...] = ()) -> list[str]:
        return [
            *("simulate", "--array-size", str(size), "--json", *options),
            *("--project-store", str(self.htcjob.project), "--task-store", str(self.htcjob.task)),
            *("--", *arguments),
        ]

    def __call__(self, *arguments: str, size: int = 1, options: tuple[str, ...] = (), **variables: str):
        options = ("--docker", self.image, *self.network, *options)
        return self.htcjob(*self.arguments(*arguments, size=size, options=options), **variables)

    @contextmanager
    def start(self, *arguments: str, size: int = 1, options: tuple[str, ...] = (), **variables: str):
        options = ("--docker", self.image, *self.network, *options)
        arguments = self.arguments(*arguments, size=size, options=options)
        with self.htcjob.start(*arguments, **variables) as process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise

    def containers(self, *states: str) -> list[str]:
        """Give the ids of the containers, running or not, that simulations of this test have."""
        lines = self.docker(
            *("ps", "--all", "--no-trunc", *(f"--filter=status={state}" for state in states)),
            *("--format", '{{.ID}} {{.Label "htcjob.simulation"}}'),
        ).stdout.splitlines()
        return [line.split()[0] for line in lines if line.split()[-1].startswith(f"{self.folder}/")]


@pytest.fixture
def simulate(htcjob, docker, base_image, tmp_path):
    simulation = Simulation(htcjob, docker, base_image, tmp_path)
    yield simulation
    for container in simulation.containers():
        docker("rm", "--force", container)


def each(script: str, *arguments: str) -> tuple[str, ...]:
    return (*arguments, "--manifest", "list.txt", "--each", "--", "sh", "-c", script)


def plain(script: str, *arguments: str) -> tuple[str, ...]:
    return (*arguments, "--", "sh", "-c", script)


def fake(folder: Path, name: str, script: str) -> dict[str, str]:
    """Give the variables that make *script* the container program, with $DOCKER for the real one."""
    folder.mkdir()
    program = folder / name
    program.write_text(f'#!/bin/sh\nDOCKER={shutil.which("docker")}\n{script}\nexec $DOCKER "$@"\n')
    program.chmod(0o755)
    return {"HTCJOB_DOCKER": name, "PATH": f"{folder}:{os.environ['PATH']}"}


COPY = 'cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/$HTCJOB_KEY.out"'


def test_an_array_does_every_entry(simulate, htcjob):
    """Counts, exit status, outputs, with no option for the engine; no container, and no file of the simulation left."""
    simulate.network = ()
    htcjob.entries("a", "b", "c", "d", "e")
    done = simulate(*each(COPY), size=3)
    summary = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (summary["jobs"], summary["succeeded"], summary["entries_done"]) == (3, 3, 5)
    assert set(htcjob.outputs()) == {f"{n}.out" for n in "abcde"}
    assert simulate.containers() == []
    assert list(htcjob.work.iterdir()) == []


def test_what_processes_began_containers_go_on_with(simulate, htcjob):
    """Stores are mounted where they are here, so it is the same run of the same manifest."""
    htcjob.entries("a", "b")
    command = each(
        f"[ $HTCJOB_KEY = a ] || [ $HTCJOB_TERMINATION_LOG = /dev/termination-log ] || exit 75; {COPY}"
    )
    assert htcjob(*simulate.arguments(*command, options=("--retries", "0"))).returncode == 75
    done = simulate(*command, size=2)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["entries_done_before"], summary["entries_done"]) == (1, 1)


@pytest.mark.timeout(600)
def test_containers_give_the_same_bytes_as_processes(htcjob, docker, face_tagger_image, photos, tmp_path):
    """64 jobs of the face tagger over real photos, both ways: the same keys, the same results."""
    chosen = some_of(photos, 8)
    for name, (path, _) in chosen.items():
        shutil.copy(path, htcjob.project / name)
    htcjob.manifest(*chosen)
    simulation = Simulation(htcjob, docker, face_tagger_image, tmp_path)
    outputs = []
    for python, options in (
        (sys.executable, ()),
        ("python", ("--docker", face_tagger_image, OF_THIS_MACHINE, "--memory", "256m")),
    ):
        arguments = ("--manifest", "list.txt", "--", python, "-m", "reference_app.face_tagger")
        with htcjob.start(*simulation.arguments(*arguments, size=64, options=options)) as process:
            out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        assert json.loads(out)["entries_done"] == len(chosen)
        outputs.append(htcjob.outputs())
        shutil.rmtree(htcjob.task)
    assert outputs[0] == outputs[1]
    assert any(key.endswith("_tagged.jpg") for key in outputs[0])
    assert simulation.containers() == []


def test_the_attempts_get_what_the_platform_injects(simulate, htcjob):
    """Rescale's variables, a token in a file that verifies, our own options, and nothing else of this machine."""
    script = "htcjob check | grep token; env | cut -d= -f1 | sort"
    done = simulate(
        *plain(script, "--pass-credentials"),
        options=("--only", "0"),
        HTCJOB_LOG_LEVEL="error",
        HTCJOB_ARRAY_SIZE="9",
        AWS_REGION="us-east-1",
        MY_OWN="1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok       token        "), done.stdout
    names = set(done.stdout.splitlines())
    assert {
        "AWS_REGION",
        "HTCJOB_LOG_LEVEL",
        "HTCJOB_TOKEN_FILE",
        "RESCALE_JOB_ID",
        "TASK_SHARED_FOLDER",
    } <= names
    assert not names & {"RESCALE_HTC_BEARER_TOKEN", "MY_OWN", "TMPDIR", "HTCJOB_WORK_DIR"}


def test_limits_and_options_reach_the_container(simulate, htcjob, wait_until):
    """Memory without swap, CPUs, the caller's user, and the engine's own options, which win."""
    simulate.network = ()
    options = ("--memory", "64m", "--cpus", "0.5", "--docker-option=--network=none")
    with simulate.start(*plain(WAIT), options=options) as process:
        wait_until((htcjob.project / "began-0").exists, within_s=100)
        (container,) = simulate.containers()
        told = json.loads(simulate.docker("inspect", container).stdout)[0]
        (htcjob.project / "go").touch()
        _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    host, config = told["HostConfig"], told["Config"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (64 << 20, 64 << 20, 500_000_000)
    assert (host["NetworkMode"], config["User"]) == ("none", f"{os.getuid()}:{os.getgid()}")


def test_a_container_is_asked_how_it_ended_before_it_goes(simulate):
    """Although what many write by habit would remove it at once."""
    done = simulate(*plain("exit 9"), options=("--docker-option=--rm",))
    assert done.returncode == 9, done.stderr
    assert simulate.containers() == []


def test_no_more_run_at_a_time_than_memory_is_free(simulate):
    """Of those that take more than half of it, one; whatever the CPUs."""
    script = 'cd "$PROJECT_SHARED_FOLDER"; mkdir lock || exit 9; sleep 1; rmdir lock'
    done = simulate(*plain(script), size=2, options=("--memory", "900g"))
    assert done.returncode == 0, done.stderr


def test_nobody_sees_a_token_or_a_key(simulate, htcjob, wait_until, tmp_path):
    """No token in what the engine tells of a container; neither it nor a key in its arguments, or in a log."""
    logs = tmp_path / "logs"
    variables = fake(tmp_path / "bin", "docker", f"printf '%s\\n' \"$@\" >> {tmp_path}/asked")
    variables["AWS_SECRET_ACCESS_KEY"] = "planted-secret-key"
    with simulate.start(*plain(f"{WAIT}env"), options=("--logs", str(logs)), **variables) as process:
        wait_until((htcjob.project / "began-0").exists, within_s=100)
        (container,) = simulate.containers()
        told = simulate.docker("inspect", container).stdout
        (token_file,) = logs.glob("*.token")
        token, mode = token_file.read_text(), stat.S_IMODE(token_file.stat().st_mode)
        (htcjob.project / "go").touch()
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert (token[:3], mode) == ("eyJ", 0o600)
    assert "eyJ" not in told
    asked = (tmp_path / "asked").read_text()
    assert "--env=HTCJOB_TOKEN_FILE\n" in asked
    assert "--env=AWS_SECRET_ACCESS_KEY\n" in asked
    written = [path.read_text() for path in logs.rglob("*") if path.is_file()]
    assert len(written) >= 3
    for text in (*written, asked, out, err):
        assert "eyJ" not in text
        assert "planted" not in text


def test_an_attempt_that_asks_for_it_is_tried_again(simulate, htcjob):
    """75 is retried in a new container, and what is done is not done again."""
    htcjob.entries("a", "b")
    script = 'echo >> "$PROJECT_SHARED_FOLDER/did-$HTCJOB_KEY"; [ $HTCJOB_KEY = a ] || [ $HTCJOB_ATTEMPT = 3 ] || exit 75'
    done = simulate(*each(script))
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["retried"], summary["entries_done"]) == (0, 2, 2), done.stderr
    assert (htcjob.project / "did-a").read_text().count("\n") == 1
    assert (htcjob.project / "did-b").read_text().count("\n") == 3


@pytest.mark.parametrize("status", [9, 125, 126, 127])
def test_the_commands_own_statuses_are_not_dockers(simulate, status):
    """What docker says of itself (125 to 127) a command may say as well."""
    done = simulate(*plain(f"exit {status}"))
    assert done.returncode == status
    assert f"command_failed: command ended with exit status {status}" in done.stderr
    assert json.loads(done.stdout)["failed_by_reason"] == {"command_failed": 1}


def test_the_platforms_timeout_is_not_retried(simulate):
    """SIGTERM to PID 1; where it was not up yet to see it, SIGKILL 30 s later."""
    done = simulate(*plain("sleep 1000"), options=("--timeout", "2s"))
    summary = json.loads(done.stdout)
    assert done.returncode in (143, 137), done.stderr
    assert (summary["failed"], summary["retried"]) == (1, 0)
    assert simulate.containers() == []


def test_preempted_arrays_complete_in_the_end(simulate, htcjob):
    """With every attempt at risk, retries finish the work, and every entry is done once."""
    htcjob.entries(*"abcdef")
    for _ in range(5):
        done = simulate(*each(f"sleep 0.3; {COPY}"), size=2, options=("--preempt", "70%", "--retries", "10"))
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    assert set(htcjob.outputs()) == {f"{n}.out" for n in "abcdef"}
    assert sorted(record["position"] for record in htcjob.records() if record["result"] == "done") == list(
        range(6)
    )
    assert simulate.containers() == []


EAT = "python3 -c 'b\"x\" * 10**9'"


def test_out_of_memory_is_told(simulate):
    """Whoever is first, htcjob's guard or the kernel; it is tried again as what is killed is."""
    done = simulate(*plain(EAT), options=("--memory", "64m", "--retries", "1"))
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["out_of_memory"], summary["retried"]) == (137, 2, 1), done.stderr
    assert summary["failed_by_reason"] == {"out_of_memory": 1}


def test_an_entry_that_ran_out_of_memory_is_told(simulate, htcjob):
    """Also where the attempt went on and ended by itself."""
    htcjob.entries("a", "b")
    done = simulate(
        *("--workers", "1", "--max-failures", "1"),
        *each(f'[ "$HTCJOB_KEY" = b ] || {EAT} || exit; {COPY}'),  # the kernel may kill Python alone
        options=("--memory", "64m"),
    )
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["out_of_memory"]) == (0, 1), done.stderr
    assert summary["entries_done"] == 1


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_leaves_no_container_behind(simulate, htcjob, wait_until, interrupts):
    """The attempts end, also those that ignore it and are killed by the second Ctrl-C."""
    htcjob.entries("a", "b")
    ignore = "trap '' INT TERM;" if interrupts == 2 else ""
    script = f'{ignore} touch "$PROJECT_SHARED_FOLDER/began-$HTCJOB_KEY"; while :; do sleep 0.1; done'
    with simulate.start(*each(script, "--grace", "60s"), size=2, options=("--parallel", "2")) as process:
        wait_until(lambda: len(list(htcjob.project.glob("began-*"))) == 2, within_s=100)
        press_ctrl_c(process, interrupts)
    assert process.returncode == 130
    assert simulate.containers() == []


def test_ctrl_c_while_containers_start_leaves_none_behind(simulate, wait_until):
    """From the first moment on; pressed again it kills what begins only then."""
    with simulate.start(*plain(WAIT), size=4, options=("--parallel", "4")) as process:
        wait_until(simulate.containers, within_s=100)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=1)
    assert process.returncode == 130
    assert simulate.containers() == []


def test_what_a_killed_simulation_left_the_next_one_removes(simulate, htcjob, wait_until):
    """Whatever it simulates."""
    with simulate.start(*plain(WAIT), size=2, options=("--parallel", "2")) as process:
        wait_until(lambda: len(list(htcjob.project.glob("began-*"))) == 2, within_s=100)
        process.kill()
        process.communicate()
    assert simulate(*plain("true"), options=("--only", "0")).returncode == 0
    assert simulate.containers() == []


@pytest.mark.parametrize("logs", ["logs", "new\nline"])
def test_the_containers_of_a_simulation_that_lives_are_left_alone(
    simulate, htcjob, wait_until, tmp_path, logs
):
    """Another one starts and ends beside it."""
    with simulate.start(*plain(WAIT), options=("--logs", str(tmp_path / logs))) as process:
        wait_until((htcjob.project / "began-0").exists, within_s=100)
        (container,) = simulate.docker("ps", "--quiet", f"--filter=volume={htcjob.project}").stdout.split()
        assert simulate(*plain("true", "--run", "other")).returncode == 0
        assert simulate.docker("inspect", "--format={{.State.Status}}", container).stdout == "running\n"
        (htcjob.project / "go").touch()
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert json.loads(out)["succeeded"] == 1


@pytest.mark.parametrize(
    ("options", "variables", "status", "message"),
    [
        (
            ("--docker", "nothing:here"),
            {},
            64,
            "no such image here: build it, or run docker pull nothing:here",
        ),
        (("--docker", "--help"), {}, 64, "--docker --help: no such image here"),
        (("--docker", "{bottom}"), {}, 64, "it has no htcjob: build it from htcjob's base image"),
        (("--docker", "{base}", "--memory", "1k"), {}, 64, "memory limit"),
        (("--docker", "{base}", "--docker-option=--frob"), {}, 64, "unknown flag: --frob"),
        (("--docker", "{base}"), {"HTCJOB_DOCKER": "no-such-program"}, 78, "in HTCJOB_DOCKER"),
        (("--docker", "{base}"), {"DOCKER_HOST": "unix:///nowhere"}, 78, "start its daemon"),
        (("--memory", "1g"), {}, 64, "--memory needs --docker"),
        (("--docker-option=--init",), {}, 64, "--docker-option needs --docker"),
        (("--docker", "{base}", "--memory", "lots"), {}, 64, "is not a memory limit"),
    ],
)
def test_what_cannot_work_is_said_once_and_before_any_job(
    simulate, htcjob, bottom, options, variables, status, message
):
    """One line, one cause, one next step; nothing is left of the attempt to begin."""
    options = tuple(option.format(bottom=bottom, base=simulate.image) for option in options)
    done = htcjob(*simulate.arguments(*plain("true"), size=1000, options=options), **variables)
    assert done.returncode == status
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("htcjob: error")]
    assert message in line
    assert "index" not in done.stderr
    assert list(htcjob.work.iterdir()) == []
    assert simulate.containers() == []


def test_another_program_may_serve(simulate, tmp_path):
    """HTCJOB_DOCKER names it; docker is not asked beside it."""
    variables = fake(tmp_path / "bin", "podman", f'echo "$1" >> {tmp_path}/asked')
    done = simulate(*plain("true"), **variables)
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().split()
    assert {"ps", "image", "run", "create", "start", "container", "rm"} <= set(asked)


@pytest.mark.parametrize(
    ("verb", "cause"),
    [
        ("create", "create: no space left on device"),
        ("start", "start ended with 1: the container is created"),
        ("container", "start ended with 0: no space left on device"),
    ],
)
def test_an_engine_that_fails_on_the_way_ends_the_simulation(simulate, tmp_path, verb, cause):
    """With its own words, once, and with nothing left running: it is no job's fault."""
    fails = (
        f'[ "$1" != {verb} ] || echo >> {tmp_path}/times; '
        f'if [ "$1" = {verb} ] && [ "$(wc -l < {tmp_path}/times)" -gt 3 ]; then '
        'echo "Error response from daemon: no space left on device." >&2; exit 1; fi'
    )
    variables = fake(tmp_path / "bin", "docker", fails)
    done = simulate(*plain("sleep 1"), size=100, options=("--parallel", "2"), **variables)
    assert done.returncode == 78
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("htcjob: error")]
    assert cause in line
    assert simulate.containers() == []


def test_an_engine_that_tells_no_state_is_no_bug_of_ours(simulate, tmp_path):
    """What stands for docker may print what it likes."""
    variables = fake(tmp_path / "bin", "docker", '[ "$1" != container ] || { echo hello; exit 0; }')
    done = simulate(*plain("true"), **variables)
    assert done.returncode == 78
    assert "no state of a container: 'hello\\n'" in done.stderr
    assert simulate.containers() == []


def test_an_engine_that_hangs_holds_nobody_who_wants_to_leave(tmp_path, monkeypatch):
    """A second Ctrl-C ends the attempt also where the engine takes no signal and tells of no end."""
    fake(
        tmp_path / "bin",
        "docker",
        f'[ "$1" != create ] || exit 0; echo > "{tmp_path}/$1"; sleep 1000',
    )
    key_set = tmp_path / "jwks.json"
    key_set.touch()

    async def leave() -> None:
        containers = Containers(
            Engine(str(tmp_path / "bin" / "docker"), os.environ),
            Box("any"),
            arguments=["--", "true"],
            directories=[],
            environ={},
            directory=str(tmp_path),
        )
        attempt = Launch(0, 1, {}, Secret("token"), str(key_set), str(tmp_path / "record.json"))
        with open(os.devnull, "wb") as nowhere:
            running = await containers.start(attempt, nowhere.fileno())
        while not (tmp_path / "start").exists():
            await asyncio.sleep(0.01)
        for name in ("ANSWERS_WITHIN_S", "HANGS_AGAIN_AFTER_S"):
            monkeypatch.setattr(engine, name, 0.1)
        running.send_signal(signal.SIGKILL)
        with pytest.raises(EngineError, match="no answer in"):
            await asyncio.wait_for(running.ended, 60)

    asyncio.run(leave())
    assert (tmp_path / "kill").exists()


def test_people_see_the_lines_of_all_attempts_as_they_come(simulate, htcjob, tmp_path):
    """On a terminal, each with its index; the log has them as they were."""
    keys, terminal = os.openpty()
    command = each('printf "hello \\033[31m$HTCJOB_KEY"; sleep 0.1; echo; printf "no newline"')
    htcjob.entries("a", "b")
    logs = tmp_path / "logs"
    options = ("--docker", simulate.image, OF_THIS_MACHINE, "--logs", str(logs))
    argv = simulate.arguments(*command, size=11, options=options)
    process = subprocess.Popen(
        [sys.executable, "-m", "htcjob", *argv],
        env=htcjob.variables,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(keys, 65536):
            shown += piece
    except OSError:  # the other side has closed the terminal
        pass
    os.close(keys)
    process.communicate(timeout=100)
    lines = shown.decode().splitlines()
    assert process.returncode == 0, shown
    assert "[ 0] hello \\x1b[31ma" in lines
    assert "[ 1] hello \\x1b[31mb" in lines
    assert any(line.startswith("[10] ") for line in lines)
    assert "11 of 11 jobs ended" in lines
    assert b"hello \x1b[31ma\nno newline" in (logs / "0-1.log").read_bytes()


@pytest.mark.parametrize("odd", [', a:b "c" =d', "new\nline"])
def test_directories_may_have_any_name(simulate, htcjob, tmp_path, odd):
    """Commas, colons, quotes, blanks, and lines."""
    for name in ("project", "task"):
        setattr(htcjob, name, tmp_path / f"{name}{odd}")
        getattr(htcjob, name).mkdir()
    htcjob.entries("a")
    done = simulate(*each(COPY))
    assert done.returncode == 0, done.stderr
    assert htcjob.outputs() == {"a.out": b"a"}


def test_a_file_url_is_a_directory_too(simulate, htcjob):
    """It is mounted as well."""
    htcjob.entries("a")
    argv = simulate.arguments(*each(COPY), options=("--docker", simulate.image))
    argv = [f"file://{word}" if word == str(htcjob.task) else word for word in argv]
    done = htcjob(*argv)
    assert done.returncode == 0, done.stderr
    assert htcjob.outputs() == {"a.out": b"a"}


def test_what_is_written_belongs_to_the_caller(simulate, docker):
    """A user who is not root simulates, and can read and remove what the containers wrote."""
    socket = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    if os.getuid() != 0 or not socket.is_socket():
        pytest.skip("only root can be another user, and only where the engine has a socket here")
    user, group = 12345, socket.stat().st_gid
    with tempfile.TemporaryDirectory(prefix="htcjob-of-a-user-") as name:
        home = Path(name)
        for folder in ("project", "task", "tmp"):
            (home / folder).mkdir()
        (home / "project" / "a").write_text("a")
        (home / "project" / "list.txt").write_text("a\n")
        for path in (home, *home.rglob("*")):
            os.chown(path, user, group)
        # Our Python may be where only root looks: to read is all that is left of its rights.
        rights = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
        done = subprocess.run(
            [
                *("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *rights),
                *(sys.executable, "-m", "htcjob", "simulate", "--array-size=1", f"--docker={simulate.image}"),
                *("--project-store", home / "project", "--task-store", home / "task", "--", *each(COPY)),
            ],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(home / "tmp"), "HOME": name},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        written = list((home / "task").rglob("*"))
        assert home / "task" / "a.out" in written
        assert {(path.stat().st_uid, path.stat().st_gid) for path in written} == {(user, group)}
        assert list((home / "tmp").iterdir()) == []


def test_stores_in_the_cloud_are_reached_with_the_callers_credentials(simulate, htcjob, rgw):
    """By URL; with the caller's network where the server is on this machine."""
    from htcjob.storage.access import Access
    from htcjob.storage.urls import open_store

    bucket = rgw.new_bucket()
    project, task = (
        open_store(f"s3://{bucket}/{name}", Access(environ=rgw.environ(), endpoint=rgw.endpoint))
        for name in ("project", "task")
    )
    project.put_bytes(b"data", "a")
    project.put_bytes(b"a\n", "list.txt")
    htcjob.variables.update(rgw.environ(), AWS_ENDPOINT_URL_S3=rgw.endpoint)
    done = htcjob(
        *("simulate", "--array-size", "1", "--docker", simulate.image, OF_THIS_MACHINE),
        *(
            "--project-store",
            f"s3://{bucket}/project",
            "--task-store",
            f"s3://{bucket}/task",
            "--",
            *each(COPY),
        ),
    )
    assert done.returncode == 0, done.stderr
    assert task.read_range("a.out", 0) == b"data"
