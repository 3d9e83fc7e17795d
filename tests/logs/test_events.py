"""One event, one line, the same facts as text and as JSON."""

import io
import json
import logging
import re

import pytest

from htcjob.logs import events as logs

log = logging.getLogger("htcjob.tests")


def lines(log_format: str, level: str = "info", **fields) -> list[str]:
    stream = io.StringIO()
    logs.set_up(log_format=log_format, level=level, stream=stream)
    logs.event(log, logging.INFO, "stage_in_done", **fields)
    return stream.getvalue().splitlines()


def test_text_is_one_line_of_words():
    """Time, program, level, event, fields."""
    (line,) = lines("text", objects=5, elapsed_s=1.9, cause=None)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ htcjob INFO stage_in_done objects=5 elapsed_s=1.9", line
    )


def test_json_is_the_same_event():
    """Both formats are written from one event, so they cannot drift."""
    (line,) = lines("json", objects=5, elapsed_s=1.9, chunk=[0, 5])
    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "info",
        "event": "stage_in_done",
        "objects": 5,
        "elapsed_s": 1.9,
        "chunk": [0, 5],
    }


@pytest.mark.parametrize(
    "value",
    ["two words", "", 'quo"te', "a=b", "line\nbreak", "\x1b[31mred", "\u2028", "tab\t", "naïve file.jpg"],
)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_value_can_forge_a_line_or_colour_the_terminal(log_format, value):
    """Whatever an entry is called, the log stays one line of printable characters that gives it back."""
    (line,) = lines(log_format, entry=value)
    assert line.isprintable() or log_format == "json"
    assert "\x1b" not in line
    found = json.loads(line)["entry"] if log_format == "json" else json.loads(line.partition("entry=")[2])
    assert found == value


def test_less_important_lines_are_left_out():
    """--log-level says the least important line that is shown."""
    assert lines("text", "warning", objects=1) == []
