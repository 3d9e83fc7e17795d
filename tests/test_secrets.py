"""A planted token is searched for in everything that is written."""

import json
import os
import time
from pathlib import Path

import jwt
import pytest

PLANTED = "planted-secret-0123456789abcdef"
SECRET_CLAIM = "planted-claim-0123456789"


@pytest.fixture(scope="module")
def token() -> str:
    """A token that is well formed, and recognisable by its signature and claims."""
    claims = {"exp": int(time.time()) + 3600, "userDefined_team": "blue", "secret": SECRET_CLAIM}
    return jwt.encode(claims, PLANTED + PLANTED, algorithm="HS256")


@pytest.fixture
def injected(htcjob, token):
    """A job with credentials of every kind in its environment."""
    htcjob.entries("a", "b")
    htcjob.variables |= {
        "RESCALE_HTC_BEARER_TOKEN": token,
        "RESCALE_HTC_REFRESH_TOKEN": f"{PLANTED}-refresh",
        "AWS_SECRET_ACCESS_KEY": f"{PLANTED}-aws",
        "AWS_SESSION_TOKEN": f"{PLANTED}-session",
        "AZURE_STORAGE_SAS_TOKEN": f"sv=1&sig={PLANTED}",
        "GCP_APPLICATION_CREDENTIALS": json.dumps({"private_key": PLANTED}),
    }
    return htcjob


def assert_clean(where: str, text: str | bytes, token: str) -> None:
    text = text if isinstance(text, bytes) else text.encode()
    for secret in (PLANTED, SECRET_CLAIM, token, *token.split(".")[1:]):
        assert secret.encode() not in text, f"a secret is in {where}"


def written(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize(
    "arguments",
    [
        (
            "run",
            "--each",
            "--",
            "sh",
            "-c",
            "env; tr '\\0' '\\n' < /proc/self/environ; tr '\\0' ' ' < /proc/$PPID/cmdline",
        ),
        ("run", "--", "env"),
        ("run", "--each", "--", "false"),
        ("run", "--entry", "../x", "--each", "--", "true"),
        ("run", "--manifest", "absent", "--", "true"),
        ("run", "--frobnicate"),
        ("chunk",),
        ("check",),
        ("env",),
        ("env", "--json"),
    ],
    ids=" ".join,
)
def test_no_secret_is_written_anywhere(injected, token, tmp_path, arguments, level):
    """Not to output, log, record, message, argument list or the command's environment."""
    done = injected(*arguments, HTCJOB_LOG_LEVEL=level)
    assert_clean("standard output", done.stdout, token)
    assert_clean("standard error", done.stderr, token)
    for path, data in written(tmp_path).items():
        assert_clean(path, data, token)


@pytest.mark.parametrize(
    "broken",
    [
        lambda token: token[:-10],
        lambda token: token.replace(".", "!"),
        lambda token: f"Bearer {token}",
        lambda token: token + " " + PLANTED,
    ],
)
def test_a_token_that_is_wrong_is_not_shown(injected, token, tmp_path, broken):
    """The message says what is wrong with it, in other words."""
    done = injected.run(
        "--each", "--", "true", RESCALE_HTC_BEARER_TOKEN=broken(token), HTCJOB_JWKS="/no/such/file"
    )
    assert done.returncode in (77, 78)
    assert "Traceback" not in done.stderr
    assert_clean("standard error", done.stderr, token)
    for path, data in written(tmp_path).items():
        assert_clean(path, data, token)


def test_a_bug_does_not_show_the_token(injected, token, tmp_path):
    """A traceback passes through the second fence."""
    (tmp_path / "sitecustomize.py").write_text(
        "import htcjob.chunk, os\n"
        "def broken(**_): raise ValueError('boom ' + os.environ['RESCALE_HTC_BEARER_TOKEN'])\n"
        "htcjob.chunk.chunk_bounds = broken\n"
    )
    done = injected.run("--each", "--", "true", PYTHONPATH=str(tmp_path))
    assert done.returncode == 70
    assert "boom" in done.stderr
    assert_clean("standard error", done.stderr, token)


def test_claims_of_the_job_definition_reach_the_program(injected):
    """Without their prefix, and only those."""
    done = injected.run("--each", "--entry", "a", "--", "sh", "-c", "env | grep CLAIM")
    assert done.stdout == "HTCJOB_CLAIM_team=blue\n"


def test_the_simulations_own_tokens_are_not_written(htcjob, tmp_path):
    """Nor in a process's arguments: the attempts look at their own and their parents'."""
    htcjob.entries("a", "b")
    logs = tmp_path / "logs"
    script = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; env"
    done = htcjob(
        *("simulate", "--array-size", "2", "--logs", str(logs)),
        *("--project-store", str(htcjob.project), "--task-store", str(htcjob.task)),
        *("--", "--manifest", "list.txt", "--each", "--log-level", "debug", "--", "sh", "-c", script),
    )
    assert done.returncode == 0, done.stderr
    assert len(list(logs.glob("*.log"))) == 2
    for path, data in {**written(tmp_path), "out": done.stdout.encode(), "err": done.stderr.encode()}.items():
        assert b"eyJ" not in data, f"a token is in {path}"


def test_the_search_can_fail(injected, token):
    """With --pass-credentials the planted token is found, so the search above means something."""
    done = injected.run("--pass-credentials", "--each", "--", "env")
    assert done.returncode == 0
    assert token in done.stdout
    assert PLANTED in done.stdout
    assert os.environ.get("RESCALE_HTC_BEARER_TOKEN") is None


def test_a_token_on_the_command_line_does_not_reach_storage(injected, token, tmp_path):
    """Kubernetes fills `$(VAR)` into arguments; neither record nor a mismatch with another job shows it."""
    assert injected.run("--each", "--", "true", token).returncode == 0
    assert injected.run("--each", "--", "true", "--other", token).returncode == 78
    for path, data in written(tmp_path).items():
        assert_clean(path, data, token)


def test_another_token_in_the_same_command_is_the_same_run(injected, token):
    """Each job of an array has its own token."""
    assert injected.run("--each", "--", "true", token).returncode == 0
    other = token.rsplit(".", 1)[0] + ".another-signature-0123456789"
    assert injected.run("--each", "--", "true", other).returncode == 0
