"""Secrets do not print themselves."""

import copy
import json
import logging
import pickle
import re
from base64 import b64encode
from urllib.parse import quote, quote_plus

import pytest

from htcjob.logs.redact import (
    LONGEST_SAID,
    REDACTED,
    Secret,
    one_line,
    redact,
    redact_value,
    redact_words,
    shortened,
)


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
    from htcjob.logs import events as logs

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


ODD = 'pa"ss\\wörd\n1/x+y &z'
"""A secret with all that quoting, escaping and folding change."""


@pytest.mark.parametrize(
    "spell",
    [
        str,
        repr,
        ascii,
        json.dumps,
        lambda s: json.dumps(s, ensure_ascii=False),
        lambda s: json.dumps({"body": json.dumps({"token": s})}),
        lambda s: repr(s.encode()),
        quote,
        quote_plus,
        lambda s: quote(s, safe=""),
        lambda s: re.sub("%..", lambda code: code[0].lower(), quote(s)),
        lambda s: " ".join(s.split()),
        lambda s: b64encode(s.encode()).decode(),
        lambda s: b64encode(b"user:" + s.encode()).decode(),
        lambda s: b64encode(b"me:" + s.encode() + b"\n").decode(),
    ],
)
def test_a_secret_is_known_however_it_is_spelled(spell):
    """What SDKs and servers quote is escaped, encoded and folded."""
    Secret(ODD)
    text = f"bad header: {spell(ODD)} (not retried)"
    shown = redact(text)
    assert shown != text
    assert "rd" not in shown.replace(REDACTED, "").replace("header", "").replace("retried", "")
    assert shown.startswith("bad header: ")
    assert shown.endswith("(not retried)")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("sv=2024&sig=Zm9vYmFyYmF6cXV4%3D&se=1", "Zm9vYmFyYmF6cXV4="),
        ("AccountName=x;AccountKey=Zm9vYmFyYmF6cXV5;EndpointSuffix=y", "Zm9vYmFyYmF6cXV5"),
        (
            json.dumps({"type": "x", "private_key": "-----\nMIIEvgIBADANBgkqhkiG\n-----"}),
            "MIIEvgIBADANBgkqhkiG",
        ),
        ("https://me:Zm9vYmFy%2FYmF6@host/x", "Zm9vYmFy/YmF6"),
    ],
)
def test_what_is_secret_in_a_secret_is_one_by_itself(value, part):
    """SDKs take connection strings, signatures and account files apart."""
    Secret(value)
    assert redact(f"refused {part} there") == f"refused {REDACTED} there"


@pytest.mark.parametrize("value", ["a", "test", "minioadmin", "my-secret", "data/in", "project1"])
def test_a_secret_that_is_an_ordinary_word_does_not_destroy_text(value):
    """It may be the part of a path, or any word; long and unusual ones are hidden everywhere."""
    Secret(value)
    text = f"get s3://{value}/{value}/x: there is no bucket {value}"
    assert redact(text) == text
    assert redact_words(["--password", value, f"SECRET_KEY={value}"]) == [
        "--password",
        REDACTED,
        f"SECRET_KEY={REDACTED}",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["--token=hunter2-x"],
        ["--token", "hunter2-x"],
        ["--api-key=hunter2-x y z"],
        ["env", "PASSWORD=hunter2-x<&", "cmd"],
        ["sh", "-c", "AWS_SECRET_ACCESS_KEY=hunter2-x cmd"],
        ["sh", "-c", "export TOKEN='hunter2-x'; cmd"],
        ["sh", "-c", 'access_token="hunter2-x"; cmd'],
        ["sh", "-c", 'A_TOKEN="$(PASSWORD=hunter2-x get)"'],
        ["sh", "-c", "cmd --password hunter2-x in"],
        ["curl", "-H", "Authorization: Bearer hunter2-x"],
        ["curl", "-H", "X-Api-Key: hunter2-x"],
        ["curl", "-u", "me:hunter2-x"],
        ["--pass=hunter2-x"],
        ["--helper-token=hunter2-x"],
        ["env", "MYSQL_PWD=hunter2-x", "cmd"],
        ["curl", "https://me:hunter2-x@host/"],
        ["curl", "https://host/k?X-Amz-Date=1&X-Amz-Signature=hunter2-x&a=b"],
        ["curl", "https://host/k?sv=1&sig=hunter2-x"],
        ["curl", "https://host/k?access_token=hunter2-x"],
        ["cmd", '{"password": "hunter2-x"}'],
        ["cmd", "AccountName=a;AccountKey=hunter2-x;B=c"],
    ],
    ids=" ".join,
)
def test_a_credential_among_the_words_of_a_command_is_hidden(words):
    """In every way in which commands take one; and the words stay as many, and the same each time."""
    shown = redact_words(words)
    assert "hunter2" not in " ".join(shown)
    assert REDACTED in " ".join(shown)
    assert len(shown) == len(words)
    assert redact_words(shown) == shown
    assert redact_words([word.replace("hunter2", "another") for word in words]) == shown


@pytest.mark.parametrize(
    "words",
    [
        ["--sig=5"],
        ["--token=5", "--max-tokens=512", "--pad-token", "<pad>", "--eos_token=end"],
        ["--password-file=/run/p", "--token-file", "/run/t", "HTCJOB_TOKEN_FILE=/run/t"],
        ["sh", "-c", 'access_token="$(cat f)"; curl -H "Authorization: Bearer $access_token"'],
        ["--token={token}", "--password=$PASSWORD", "--secret=${SECRET}"],
        ["--token", "--other"],
        ["--pass=2", "--compass=north", "--bypass=all", "PWD=/a/b", "OLDPWD=/c"],
        ["docker", "run", "-u", "1000:1000"],
        ["cp", "s3://b/sig=0.1/x@y", "git@host:x"],
        ['{"url":"http://host/x","key":"a@b"}'],
    ],
    ids=" ".join,
)
def test_what_is_no_credential_stays(words):
    """Or two commands that differ would be taken for the same."""
    assert redact_words(words) == words


def test_any_characters_can_be_a_secret():
    """Bytes of the environment that are not UTF-8, too."""
    for value in ("\udcff-not-utf8-0123", "planted\ud800-0123", "\x00" * 9, "🐎" * 8):
        Secret(value)
        assert redact(f"bad {value} there") == f"bad {REDACTED} there"


def test_values_are_redacted_inside_of_lists_and_mappings():
    """And numbers stay numbers."""
    value = {"a": ["https://u:pass-w0rd@h/", 5, None], "sig": 0.5}
    assert redact_value(value) == {"a": [f"https://{REDACTED}@h/", 5, None], "sig": 0.5}


@pytest.mark.parametrize(
    "text", ["eyJ" * 30000, "a-" * 30000 + "token", "a_token" * 10000, '"' * 50000 + "key"]
)
def test_hostile_text_is_searched_in_one_pass(text):
    """A key or message of that kind holds up nobody: pytest's own limit would."""
    assert redact(text * 3) == text * 3


def test_the_words_of_others_become_one_printable_line():
    """Line breaks, tabs, colours and lone surrogates are gone, and a secret is, even one of several lines."""
    Secret("first-line-0123\nsecond-line-4567")
    assert one_line("  a\r\n\tb\x1b[31m c\udcff\n") == "a b [31m c"
    assert one_line("got first-line-0123\nsecond-line-4567, no") == f"got {REDACTED}, no"
    assert one_line("x" * 500) == "x" * (LONGEST_SAID - 1) + "…"
    assert one_line("ab cd\nef", 5) == "ab c…"
    assert one_line("x\n" * 500, None) == " ".join("x" * 500)


def test_a_text_is_cut_to_the_limit_and_shows_that_it_was():
    """The limit counts the mark; what fits is left as it is."""
    assert shortened("abcde", 5) == "abcde"
    assert shortened("abcdef", 5) == "abcd…"
    assert shortened("", 5) == ""
