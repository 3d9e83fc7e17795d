"""Secrets do not print themselves."""

import copy
import json
import logging
import pickle

import pytest

from htcjob.redact import REDACTED, Secret, redact


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        "{}".format,
        "{:>30}".format,
        lambda s: f"{s!r}",
        lambda s: f"{[s]} { ({'k': s}) }",
        "%s".__mod__,
    ],
)
def test_a_secret_shows_nothing_of_itself(show):
    """However it is turned into text, the value is not in it."""
    assert "hunter2hunter2" not in show(Secret("hunter2hunter2"))
    assert REDACTED in show(Secret("hunter2hunter2"))


def test_a_secret_is_not_serialised():
    """Pickle, copy and JSON do not carry it elsewhere."""
    secret = Secret("hunter2hunter2")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize(
    "text",
    [
        "https://user:pass-w0rd@host/x",
        "GET https://b.s3.amazonaws.com/k?X-Amz-Signature=pass-w0rd&X-Amz-Date=1",
        "https://a.blob.core.windows.net/c/k?sv=2024&sig=pass-w0rd",
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJtZSJ9cGFzcy13MHJk.pass-w0rd",
    ],
)
def test_what_looks_like_a_credential_is_removed_from_text(text):
    """URL signatures, URL passwords and JSON web tokens go, whoever wrote the text."""
    assert "pass-w0rd" not in redact(text)


def test_known_secrets_are_removed_from_log_lines_and_tracebacks(capsys):
    """The second fence: a secret that was revealed and logged does not reach the log."""
    from htcjob import logs

    for log_format in ("text", "json"):
        logs.set_up(log_format=log_format, level="debug")
        secret = Secret("correct-horse-battery")
        try:
            raise ValueError(f"bad {secret.reveal()}")
        except ValueError:
            logging.getLogger("htcjob.test").exception("oops %s", secret.reveal())
        shown = capsys.readouterr().err
        assert "oops" in shown
        assert "ValueError" in shown
        assert "correct-horse" not in shown


def test_ordinary_text_is_left_alone():
    """Redaction does not eat messages."""
    text = "bearer token expired 5 s ago; s3://bucket/key?x=1 user@host sign=1"
    assert redact(text) == text
