"""SHOW_ENV shows the environment and no secret in it."""

from __future__ import annotations

import base64
import json

import pytest

from reference_app.show_env import printable


def _jwt() -> str:
    parts = ({"alg": "RS256", "typ": "JWT"}, {"sub": "me", "exp": 1})
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join([*(part.rstrip("=") for part in coded), "c2lnbmF0dXJl"])


SECRETS = {
    # By name.
    "RESCALE_HTC_BEARER_TOKEN": "abc",
    "RESCALE_HTC_REFRESH_TOKEN": "abc",
    "AWS_SECRET_ACCESS_KEY": "abc",
    "AWS_ACCESS_KEY_ID": "abc",
    "AWS_SESSION_TOKEN": "abc",
    "AZURE_STORAGE_CONNECTION_STRING": "abc",
    "AZURE_STORAGE_SAS": "abc",
    "AZURE_CLIENT_SECRET": "abc",
    "GOOGLE_APPLICATION_CREDENTIALS": "abc",
    "PGPASSWORD": "abc",
    "MYSQL_PWD": "abc",
    "passphrase": "abc",
    "url_signature": "abc",
    "MY_SIG": "abc",
    "APIKEY": "abc",
    "HTTP_AUTHORIZATION": "abc",
    "SENTRY_DSN": "abc",
    # By look.
    "A": _jwt(),
    "B": f"curl -H 'X: {_jwt()}' https://example.org",
    "C": "https://user:hunter2@example.org/",
    "D": "https://hunter2@example.org/",
    "E": "https://x.blob.core.windows.net/c?sv=2022&sig=ab%2Fcd",
    "F": "https://b.s3.amazonaws.com/k?X-Amz-Signature=ab&X-Amz-Credential=cd",
    "G": "https://storage.googleapis.com/b/k?X-Goog-Signature=ab",
    "H": "AccountName=a;AccountKey=abc;EndpointSuffix=core.windows.net",
    "I": "BlobEndpoint=x;SharedAccessSignature=abc",
    "J": "AKIAIOSFODNN7EXAMPLE",
    "K": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY12",
    "L": "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
    "M": "Bearer abc",
    "N": '{"type": "x", "private_key": "abc"}',
    "O": "d41d8cd98f00b204e9800998ecf8427e",
    "P": "ghp_abcdefghijklmnopqrst",
    "Q": "--password=hunter2 --verbose",
    "R": "refresh_token: abc",
    # A secret from above, copied into something harmless.
    "S": "prefix d41d8cd98f00b204e9800998ecf8427e suffix",
}

HARMLESS = {
    "HOME": "/root",
    "PATH": "/usr/local/bin:/usr/bin:/opt/Python3/venv/bin",
    "PWD": "/data/Some-Long-Folder/2024",
    "IMG_OBJKEY_LIST": "lists/image_list.txt",
    "AWS_BATCH_JOB_ARRAY_INDEX": "12",
    "AWS_BATCH_JOB_ID": "b35f6a1e-5a6c-4d0e-9a27-3c2f0f4f8a51:12",
    "BATCH_JOB_ARRAY_SIZE": "999",
    "RESCALE_HTC_PROJECT_ID": "b35f6a1e-5a6c-4d0e-9a27-3c2f0f4f8a51",
    "RESCALE_HTC_REGION": "AWS_US_EAST_1",
    "PROJECT_SHARED_FOLDER": "s3://bucket/project/shared",
    "HTCJOB_API_URL": "https://htc.rescale.com/api/v1",
    "SIMULATE_FAILURES": "true",
    "LANG": "C.UTF-8",
    "EMPTY": "",
}


@pytest.mark.parametrize(("name", "value"), SECRETS.items())
def test_a_secret_is_redacted(name: str, value: str) -> None:
    """A variable whose name or value looks like a secret is shown by its name only."""
    environment = {name: value}
    if name == "S":
        environment["SOME_KEY"] = "d41d8cd98f00b204e9800998ecf8427e"
    assert f"{name}=<redacted>" in printable(environment)


def test_harmless_variables_are_shown() -> None:
    """What one looks for in a job's log is there, sorted by name, one line each."""
    assert printable(HARMLESS) == sorted(f"{name}={value}" for name, value in HARMLESS.items())


def test_a_secret_inside_another_value_is_redacted() -> None:
    """A short password that is repeated in a harmless-looking variable does not show there."""
    lines = printable({"DB_PASSWORD": "hunter2", "COMMAND": "connect hunter2", "OTHER": "connect"})
    assert lines == ["COMMAND=<redacted>", "DB_PASSWORD=<redacted>", "OTHER=connect"]


def test_no_value_can_forge_a_line() -> None:
    """A line break or an undecodable byte in a value is escaped."""
    assert printable({"A": "x\nB=y\x1b[2J\udcff"}) == ["A=x\\nB=y\\x1b[2J\\udcff"]
