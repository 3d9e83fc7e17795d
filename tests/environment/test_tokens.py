"""Tokens come from their variables or from a file, and are in no message."""

from __future__ import annotations

import os

import pytest

from htcjob.environment.context import read_context
from htcjob.logs import redact
from htcjob.logs.redact import REDACTED
from tests.environment.injected import OPAQUE, RESCALE, TOKEN, refused


class TestToken:
    @pytest.fixture(autouse=True)
    def no_secret_is_known(self, monkeypatch):
        monkeypatch.setattr(redact, "_known", set())

    def test_from_variable(self):
        """The platform's tokens are read, without white space around them."""
        context = read_context(
            {"RESCALE_HTC_BEARER_TOKEN": f" {TOKEN}\n", "RESCALE_HTC_REFRESH_TOKEN": OPAQUE}
        )
        assert context.token is not None
        assert context.refresh_token is not None
        assert (context.token.reveal(), context.refresh_token.reveal()) == (TOKEN, OPAQUE)
        assert read_context({}).token is None

    def test_from_file(self, tmp_path):
        """HTCJOB_TOKEN_FILE wins over the platform's variable, even over a malformed one."""
        file = tmp_path / "token"
        file.write_text(f"\n  {OPAQUE}\r\n")
        for theirs in (TOKEN, "not a token"):
            context = read_context({"HTCJOB_TOKEN_FILE": str(file), "RESCALE_HTC_BEARER_TOKEN": theirs})
            assert context.token is not None
            assert context.token.reveal() == OPAQUE

    def test_largest_file(self, tmp_path):
        """A token file of 64 KiB is read, one byte more is refused."""
        file = tmp_path / "token"
        file.write_text("t" * 65536)
        context = read_context({"HTCJOB_TOKEN_FILE": str(file)})
        assert context.token is not None
        assert len(context.token.reveal()) == 65536
        file.write_text("t" * 65537)
        assert "65536 bytes" in refused({"HTCJOB_TOKEN_FILE": str(file)})

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "blank"),
            (b" \n\t ", "blank"),
            (b"\xff\xfe" + OPAQUE.encode(), "printable ASCII"),
            ("ключ-planted".encode(), "printable ASCII"),
            (f"Bearer {OPAQUE}".encode(), "without spaces"),
            (f"{OPAQUE}\nX-Injected: 1".encode(), "printable ASCII"),
            (OPAQUE.encode() + b"\0", "printable ASCII"),
            (b"\xef\xbb\xbf" + OPAQUE.encode(), "printable ASCII"),
        ],
    )
    def test_bad_file(self, tmp_path, content, expected):
        """A file that is blank, not UTF-8 or not just a token is refused, without its content."""
        file = tmp_path / "token"
        file.write_bytes(content)
        message = refused({"HTCJOB_TOKEN_FILE": str(file)})
        assert message.startswith("HTCJOB_TOKEN_FILE: the file ")
        assert expected in message
        assert "planted" not in message

    def test_unreadable_file(self, tmp_path):
        """A file that cannot be read is refused at once: absent, a directory, a pipe nobody writes."""
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe"):
            assert "HTCJOB_TOKEN_FILE: " in refused({"HTCJOB_TOKEN_FILE": str(path)})

    def test_token_in_place_of_the_file(self):
        """A token put into HTCJOB_TOKEN_FILE by mistake is not in the message."""
        for text in (OPAQUE, "planted\0nul", "planted" * 5000):
            assert "planted" not in refused({"HTCJOB_TOKEN_FILE": text})

    @pytest.mark.parametrize("name", ["RESCALE_HTC_BEARER_TOKEN", "RESCALE_HTC_REFRESH_TOKEN"])
    @pytest.mark.parametrize("text", ["  ", f"Bearer {OPAQUE}", f"{OPAQUE}\r\nX: 1", "plantedé"])
    def test_bad_variable(self, name, text):
        """A token variable that is blank or holds more than a token is refused, without its value."""
        message = refused({name: text})
        assert message.startswith(name)
        assert "planted" not in message

    @pytest.mark.parametrize("token", [TOKEN, OPAQUE])
    @pytest.mark.parametrize(
        "name", ["HTCJOB_ARRAY_INDEX", "BATCH_TASK_COUNT", "SLURM_RESTART_COUNT", "HTCJOB_API_URL"]
    )
    @pytest.mark.parametrize("prefix", ["", "x" * 60])
    def test_token_in_the_wrong_variable(self, token, name, prefix):
        """The token is in no message, in whatever other variable it stands, cut or whole."""
        for source in ("RESCALE_HTC_BEARER_TOKEN", "RESCALE_HTC_REFRESH_TOKEN"):
            message = refused({source: token, name: prefix + token})
            assert name in message
            assert token[:12] not in message

    def test_unused_token_is_hidden_too(self, tmp_path):
        """The platform's token is hidden also where the file is what is used."""
        file = tmp_path / "token"
        file.write_text(TOKEN)
        other = "planted-unused-token-0002"
        message = refused(
            {
                "HTCJOB_TOKEN_FILE": str(file),
                "RESCALE_HTC_BEARER_TOKEN": other,
                "HTCJOB_ATTEMPT": other,
            }
        )
        assert other[:12] not in message

    def test_context_does_not_show_it(self, tmp_path):
        """A context's str, repr and fields show no token."""
        file = tmp_path / "token"
        file.write_text(OPAQUE)
        context = read_context(
            {
                **RESCALE,
                "RESCALE_HTC_REFRESH_TOKEN": TOKEN,
                "HTCJOB_TOKEN_FILE": str(file),
            }
        )
        for text in (str(context), repr(context), f"{context}", str([context.token])):
            assert "planted" not in text
            assert REDACTED in text
