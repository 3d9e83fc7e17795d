"""Preemption notices: a real `htcjob`, and a metadata server that speaks as Amazon's and Google's do."""

import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from htcjob.attempt import preemption
from htcjob.attempt.preemption import Aws, Notices
from htcjob.environment.variables import metadata_server as server_of
from htcjob.errors import ConfigurationError
from tests.support.processes import is_pending
from tests.support.servers.metadata import metadata_server

CLOUDS = ["aws", "google"]
WAIT = 'touch "$0"; sleep 1000'


@pytest.fixture
def metadata():
    with metadata_server() as server:
        yield server


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_notice_stops_the_attempt_as_sigterm_does(htcjob, metadata, tmp_path, wait_until, cloud):
    """The command in hand has its grace period, what is finished is committed, and the status is 143."""
    htcjob.entries("a", "b", "c")
    begun, go = tmp_path / "begun", tmp_path / "go"
    script = 'echo > "$0"; until [ -e "$1" ]; do sleep 0.01; done'
    options = ("--preemption-notice", cloud, "--workers", "1", "--each")
    command = ("--", "sh", "-c", script, str(begun), str(go))
    with htcjob.start("run", *options, *command, **metadata.environ(cloud)) as process:
        wait_until(begun.exists)
        metadata.give_notice()
        assert wait_for_event(process, "preemption_notice")
        wait_until(lambda: not is_pending(process.pid, signal.SIGTERM))
        go.touch()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "stopped by the cloud's preemption notice with 2 of 3 entries left" in err
    assert htcjob.results() == {0: "done"}
    assert htcjob.exit_record()["termination_reason"] == "preempted"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_plain_command_is_sent_sigterm(htcjob, metadata, tmp_path, wait_until, cloud):
    """As by the platform itself; what its variable says is what an option says."""
    variables = metadata.environ(cloud) | {"HTCJOB_PREEMPTION_NOTICE": cloud}
    begun = tmp_path / "begun"
    with htcjob.start("run", "--", "sh", "-c", WAIT, str(begun), **variables) as process:
        wait_until(begun.exists)
        metadata.give_notice()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "stopped by the cloud's preemption notice" in err


@pytest.mark.parametrize("cloud", CLOUDS)
def test_without_a_notice_nothing_changes(htcjob, metadata, cloud):
    """Nor is anybody waited for at the end."""
    done = htcjob.run("--preemption-notice", cloud, "--", "true", **metadata.environ(cloud))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_nobody_asks_unless_told_to(htcjob, metadata):
    """It is off by default."""
    done = htcjob.run("--", "true", **metadata.environ("aws"), **metadata.environ("google"))
    assert done.returncode == 0
    assert metadata.requests == []


def wait_for_event(process: subprocess.Popen, name: str) -> bool:
    """Read standard error up to that event."""
    return any(f" {name} " in line for line in process.stderr)


@pytest.mark.parametrize("trouble", ["nobody listens", "it is no metadata server"])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_server_that_cannot_be_asked_fails_no_job(htcjob, metadata, tmp_path, wait_until, cloud, trouble):
    """It is said once."""
    variables = metadata.environ(cloud)
    metadata.is_broken = True
    if trouble == "nobody listens":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        variables = {
            name: value.replace(metadata.host.split(":")[1], port) for name, value in variables.items()
        }
    go = tmp_path / "go"
    command = ("--", "sh", "-c", 'until [ -e "$0" ]; do sleep 0.01; done', str(go))
    with htcjob.start("run", "--preemption-notice", cloud, *command, **variables) as process:
        assert wait_for_event(process, "no_preemption_notices")
        go.touch()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""


def test_it_goes_on_asking_a_server_in_trouble(metadata, wait_until, monkeypatch):
    """A notice that comes later is seen."""
    monkeypatch.setattr(preemption, "TROUBLE_PAUSE_S", 0.01)
    metadata.is_broken = True
    told = []
    endpoint = server_of(metadata.environ("aws"), "aws")
    with Notices("aws", endpoint, lambda: told.append("once")):
        wait_until(lambda: len(metadata.requests) > 3)
        metadata.give_notice()
        metadata.is_broken = False
        wait_until(lambda: told)
    assert told == ["once"]


def test_a_token_that_has_ended_is_renewed(metadata):
    """The server says 401; the next question has another token."""
    aws = Aws(urlsplit(f"http://{metadata.host}"))
    assert aws.ask() is None
    metadata.tokens.clear()
    assert aws.ask() is None
    metadata.give_notice()
    assert aws.ask() == "terminate at 2026-01-01T00:02:00Z"
    assert [request.split()[0] for request in metadata.requests] == ["PUT", "GET", "GET", "PUT", "GET"]


def test_google_is_asked_to_answer_when_it_changes(htcjob, metadata, tmp_path, wait_until):
    """One question a minute, not one a second: the second one waits at the server."""
    variables = metadata.environ("google")
    with htcjob.start(
        "run", "--preemption-notice", "google", "--", "sh", "-c", WAIT, str(tmp_path / "x"), **variables
    ) as process:
        wait_until(lambda: len(metadata.requests) == 2)
        metadata.give_notice()
        process.communicate(timeout=60)
    path = "GET /computeMetadata/v1/instance/preempted"
    assert metadata.requests == [path, f"{path}?wait_for_change=true&timeout_sec=60&last_etag=a1"]


def test_a_notice_after_the_end_stops_nobody(metadata, wait_until):
    """Else it would end the process that makes the next attempt."""
    told = []
    with Notices(
        "google", server_of(metadata.environ("google"), "google"), lambda: told.append(1)
    ) as notices:
        wait_until(lambda: len(metadata.requests) == 2)
    metadata.give_notice()
    notices._thread.join(timeout=30)
    assert not notices._thread.is_alive()
    assert told == []


@pytest.mark.parametrize(
    ("cloud", "variables"),
    [
        ("aws", {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "169.254.169.254"}),
        ("aws", {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://"}),
        ("aws", {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://a:99999"}),
        ("google", {"GCE_METADATA_HOST": "user@host"}),
        ("google", {"GCE_METADATA_HOST": "host/path"}),
    ],
)
def test_a_server_that_cannot_be_one_is_a_wrong_variable(htcjob, cloud, variables):
    """78, and the variable's name."""
    done = htcjob.run("--preemption-notice", cloud, "--", "true", **variables)
    assert done.returncode == 78, done.stderr
    assert next(iter(variables)) in done.stderr


def test_an_address_of_version_6_may_be_the_server():
    """Amazon's other one."""
    with pytest.raises(ConfigurationError):
        Notices("aws", ("X", "http://[fd00"), lambda: None)
    assert preemption._server("X", "http://[fd00:ec2::254]/").hostname == "fd00:ec2::254"


def test_nothing_of_it_is_imported_otherwise(htcjob):
    """An HTTP client is 34 ms of start-up."""
    code = (
        "import sys\nfrom htcjob.cli.main import main\n"
        "try: main(['run', '--', 'true'])\nexcept SystemExit: pass\n"
        "assert 'htcjob.attempt.preemption' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env=htcjob.variables, check=True)
