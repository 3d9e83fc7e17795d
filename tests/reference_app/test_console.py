"""How the reference app's commands end: one line, a status, a message for the runtime."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reference_app.console import MESSAGE_LIMIT, one_line, shown

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_message_is_one_short_line() -> None:
    """Whatever the reasons, the message has at most 500 characters, no line break, and the count."""
    assert one_line(("a", "b", "c")) == "a; b; c"
    assert one_line(("a", "b", "c", "d", "e")) == "a; b; c; and 2 more"
    assert one_line(("two\nlines",)) == "two\\nlines"
    long = one_line(("x" * 400,) * 1000)
    assert len(long) == MESSAGE_LIMIT
    assert long.endswith("x…; and 997 more")
    assert len(one_line(("x" * 500,))) == 500


def test_control_characters_are_escaped_and_letters_are_not() -> None:
    """Terminal escapes and directions do not get through; names in any language do."""
    assert shown("ünï 图像\u3000.jpg") == "ünï 图像\u3000.jpg"
    assert shown("a\r\x1b[1m\u202eb\u2028\udcff\t") == "a\\r\\x1b[1m\\u202eb\\u2028\\udcff\\t"


def test_a_closed_pipe_ends_it_quietly(photo: Path, environment: dict[str, str]) -> None:
    """When the reader of stdout leaves, the process ends without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "reference_app.face_tagger", str(photo)],
        env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode != 0


@pytest.mark.parametrize("module", ["face_tagger", "tutorial", "aggregate", "synthetic"])
def test_the_example_in_the_help_works(
    module: str, photo: Path, tmp_path: Path, environment: dict[str, str], run: Run
) -> None:
    """The command under `Example:` can be typed as it stands."""
    text = run(module, "--help").stdout
    match = re.search(r"Example:\n +(.+)\n", text)
    assert match, text
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.jpg_tagged.dat").write_bytes(b"face_cnt\n2")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "htcjob").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "htcjob").chmod(0o755)
    environment["PATH"] = f"{tmp_path}/bin:{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", match[1]],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
