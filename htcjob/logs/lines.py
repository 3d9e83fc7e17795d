"""The form of a log line, for Python's own `logging`: text for people or JSON for programs."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

from htcjob.logs.redact import redact, redact_value
from htcjob.logs.standard_error import BoundedWriter, standard_error


def install(*, log_format: str, level: str, stream: TextIO | None, is_guest: bool) -> None:
    """Send all log lines of htcjob to *stream* (`events.set_up`)."""
    if stream is None:
        stream = standard_error()
        if stream is not None and not is_guest:
            sys.stderr = stream
    handler = _Handler(stream)
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    handler.setFormatter(formatter)
    logger = logging.getLogger("htcjob")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    writer = getattr(stream, "buffer", None)
    if isinstance(writer, BoundedWriter):
        writer.words_for_lost = lambda lines: _words_for_lost(formatter, lines)


def _words_for_lost(formatter: logging.Formatter, lines: int) -> str:
    record = logging.makeLogRecord(
        {"levelno": logging.WARNING, "levelname": "WARNING", "msg": "log_lines_lost"}
    )
    record.fields = {"lines": lines}
    return formatter.format(record) + "\n"


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic from Python 3.11
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name there
        """Be silent: a full disk under standard error is no reason for more messages."""


class TextFormatter(logging.Formatter):
    """`2025-01-01T00:00:03Z htcjob INFO stage_in_done objects=5 elapsed_s=1.9`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        words = [_utc(record.created), "htcjob", record.levelname, redact(record.getMessage())]
        words += [f"{key}={_word(value)}" for key, value in _fields(record).items()]
        return " ".join(words) + _traceback(self, record)


class JsonFormatter(logging.Formatter):
    """`{"time":"2025-01-01T00:00:03Z","level":"info","event":"stage_in_done","objects":5}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "event": redact(record.getMessage()),
            **_fields(record),
        }
        traceback = _traceback(self, record)
        if traceback:
            line["traceback"] = traceback.strip()
        return json.dumps(line, separators=(",", ":"), default=_as_text)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the facts of an event, without secrets: values are redacted before they become text."""
    fields: dict[str, object] = getattr(record, "fields", {})
    return {name: redact_value(value) for name, value in fields.items()}


def _as_text(value: object) -> str:
    """Return in words a value that JSON does not have."""
    return redact(str(value))


def _word(value: object) -> str:
    """Return *value* as one word; if it is not plainly one, as JSON, so that no line can be forged."""
    if isinstance(value, str) and value and value.isprintable() and set(value).isdisjoint(' "='):
        return value
    return _json(value)


def _json(value: object) -> str:
    """Return *value* as JSON on one printable line: no line break or colour of a terminal gets through."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=_as_text)
    if text.isprintable():
        return text
    return json.dumps(value, separators=(",", ":"), default=_as_text).replace("\x7f", "\\u007f")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n" + redact(formatter.formatException(record.exc_info)) if record.exc_info else ""
