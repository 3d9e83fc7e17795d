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


CREDENTIALS = [
    (f"--token={PLANTED}",),
    ("--password", PLANTED),
    (f"AWS_SECRET_ACCESS_KEY={PLANTED}",),
    (f'access_token="{PLANTED}"; curl -H "Authorization: Bearer {PLANTED}" x',),
    ("-H", f"Authorization: Basic {PLANTED}"),
    (f"https://me:{PLANTED}@host/x", f"https://host/x?X-Amz-Signature={PLANTED}&a=b"),
    (f"https://host/c?sv=1&sig={PLANTED}",),
]
"""As the words of a command that is no secret to htcjob."""


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
        "import htcjob.manifest.chunk, os\n"
        "def broken(**_): raise ValueError('boom ' + os.environ['RESCALE_HTC_BEARER_TOKEN'])\n"
        "htcjob.manifest.chunk.chunk_bounds = broken\n"
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


@pytest.mark.parametrize("words", CREDENTIALS, ids=lambda words: words[0][:22])
def test_a_credential_in_the_command_is_written_nowhere(htcjob, tmp_path, words):
    """Not to run.json, records, logs or messages; the same command is still the same run, another is not."""
    htcjob.entries("a")
    failing = 'echo "$@" > "$HTCJOB_MESSAGE_FILE"; exit 3'
    for _ in range(2):
        done = htcjob.run("--each", "--log-level", "debug", "--", "sh", "-c", failing, "sh", *words)
        assert done.returncode == 65, done.stderr
        other = htcjob.run("--each", "--", "sh", "-c", failing, "sh", *words, "more")
        assert other.returncode == 78
        for where, data in {**written(tmp_path), "log": (done.stderr + other.stderr).encode()}.items():
            assert PLANTED.encode() not in data, f"a secret is in {where}"


@pytest.mark.parametrize(
    ("variables", "argument"),
    [
        ({}, "--sig=5"),
        ({}, 'access_token="$(cat token)"'),
        ({"AWS_ACCESS_KEY_ID": "minioadmin", "AWS_SECRET_ACCESS_KEY": "minioadmin"}, "/minioadmin/a"),
        ({"AWS_SECRET_ACCESS_KEY": "a", "AZURE_STORAGE_KEY": "true"}, "a"),
    ],
    ids=["sig=5", "reference", "minioadmin", "a"],
)
def test_what_only_looks_like_a_secret_changes_nothing(htcjob, variables, argument):
    """Lines, keys and returned values come back as they were, and commands that differ are told apart."""
    lines = [
        f'{{"key":"minioadmin/sig=0.1/a.txt","args":{json.dumps(argument)}}}',
        '{"key":"b@c","url":"http://host"}',
        "https://me:pass@host/x?sig=5",
    ]
    folder = htcjob.project / "minioadmin" / "sig=0.1"
    folder.mkdir(parents=True)
    (folder / "a.txt").touch()
    (htcjob.project / "b@c").touch()
    name = htcjob.manifest(*lines, name="minioadmin/sig=0.1/list")
    command = ("--each", "--permanent-exit", "0", "--", "true")
    for _ in range(2):
        done = htcjob.run(*command, argument, **variables)
        assert done.returncode == 0, done.stderr
    assert {record["entry"] for record in htcjob.records()} == set(lines)
    assert htcjob.results() == {0: "done", 1: "done", 2: "failed"}
    run = json.loads((htcjob.task / ".htcjob" / "default" / "run.json").read_text())
    assert run["manifest"].endswith(name)
    assert run["command"][-1] == argument
    assert htcjob("failed", "--manifest", "failed", **variables).stdout.splitlines() == lines[2:]
    assert [json.loads(line)["entry"] for line in htcjob("collect", **variables).stdout.splitlines()] == lines
    assert json.loads(htcjob("chunk", "--json", **variables).stdout)["entries"] == lines
    assert htcjob.run(*command, argument.replace("5", "6") + "x", **variables).returncode == 78


def test_what_a_function_returns_is_not_changed(htcjob, tmp_path):
    """Even where it looks like a credential: it is data, and somebody counts on it."""
    htcjob.entries("a")
    (tmp_path / "m.py").write_text(
        'def f(input):\n    return "http://x:y@z/?sig=5 minioadmin --token=abcdefgh"\n'
    )
    done = htcjob.run("--call", "m:f", PYTHONPATH=str(tmp_path), AWS_SECRET_ACCESS_KEY="minioadmin")
    assert done.returncode == 0, done.stderr
    assert htcjob.records()[0]["value"] == "http://x:y@z/?sig=5 minioadmin --token=abcdefgh"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_line_of_json_stays_json(htcjob, log_format):
    """Values are redacted before they become text, so no quote is lost."""
    line = '{"key":"../x","args":"--sig=5 https://me:pass-w0rd@host/","n":"a@b"}'
    htcjob.manifest(line)
    done = htcjob.run("--log-level", "debug", "--log-format", log_format, "--each", "--", "true")
    assert done.returncode == 65
    assert "pass-w0rd" not in done.stderr
    assert "--sig=5" in done.stderr
    if log_format == "json":
        assert len([json.loads(text) for text in done.stderr.splitlines() if text.startswith("{")]) >= 3


def test_a_secret_is_hidden_before_a_message_is_cut(injected, tmp_path, token):
    """Half a secret would not be known for one."""
    script = 'printf "%490s" x | tr " " y > "$HTCJOB_MESSAGE_FILE"; printf " %s" "$1" >> "$HTCJOB_MESSAGE_FILE"; exit 3'
    assert injected.run("--each", "--", "sh", "-c", script, "sh", f"{PLANTED}-aws").returncode == 65
    for path, data in written(tmp_path).items():
        assert b"planted" not in data, f"half a secret is in {path}"


@pytest.mark.parametrize(
    ("command", "old"),
    [
        (["--sig=5"], ["--sig=<redacted>"]),
        (["--token=planted-in-clear"], ["--token=planted-in-clear"]),
        (["--password", "planted-in-clear"], ["--password", "planted-in-clear"]),
        (["http://x", "a@b"], ["http://x", "a@b"]),
        (["https://me:pw@host/"], ["https://<redacted>@host/"]),
    ],
)
def test_the_record_of_a_run_that_version_0_1_0_began_is_understood(htcjob, command, old):
    """It hid more than secrets in some places, and none in others."""
    folder = htcjob.project / "sig=0.1"
    folder.mkdir()
    (folder / "list").write_text("a\n")
    (htcjob.project / "a").touch()
    arguments = ("--manifest", "sig=0.1/list", "--each", "--", "true")
    assert htcjob.run(*arguments, *command).returncode == 0
    path = htcjob.task / ".htcjob" / "default" / "run.json"
    run = json.loads(path.read_text())
    run["command"][1:] = old
    run["manifest"] = run["manifest"].replace("sig=0.1/list", "sig=<redacted>")
    path.write_text(json.dumps(run))
    assert htcjob.run(*arguments, *command).returncode == 0
    assert htcjob.run(*arguments, *command, "more").returncode == 78
    other = htcjob.run(*arguments, "something", "else")
    assert other.returncode == 78
    assert "in-clear" not in other.stderr
    assert htcjob("status").returncode == 0
