"""
Log set-up and events: one event, one line.

Libraries call `event`; only the command line calls `set_up`. Every value passes through `redact`, the second
fence behind `Secret`. A job that shows no line does not import `logging`, which takes as long as all modules
of a plain command together.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from htcjob.trouble import is_passing

if TYPE_CHECKING:
    import logging

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
"""Levels, as `logging` counts them."""

LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
"""Levels by the names that users know."""

_least = 0
"""The least important level that is shown, once the log is set up."""
_wanted: tuple[str, str, TextIO | None, bool] | None = None
"""Format, level, stream and `is_guest` of a set-up that waits for the first line."""


def event(logger: logging.Logger | str, level: int, name: str, **fields: object) -> None:
    """
    Log the event *name* with its *fields*.

    Names and fields are listed in docs/exit-status.md; values are numbers, strings, lists or None. A field
    whose value is None is left out.

    Args:
        logger: A logger, or its name in a module that does not import `logging`.
        level: One of the levels above.
        name: The event.
        fields: Its facts.
    """
    if level < _least and "logging" not in sys.modules:
        return
    try:
        import logging

        _install()
        if isinstance(logger, str):
            logger = logging.getLogger(logger)
        if logger.isEnabledFor(level):
            shown = {key: value for key, value in fields.items() if value is not None}
            logger.log(level, name, extra={"fields": shown})
    except Exception as error:
        if not is_passing(error):
            raise
        # No line is worth the attempt: this machine is short of what it takes to write one.


def set_up(*, log_format: str, level: str, stream: TextIO | None = None, is_guest: bool = False) -> None:
    """
    Send all log lines of htcjob to *stream*.

    Args:
        log_format: `text` or `json`.
        level: One of `LEVELS`.
        stream: Default: standard error, flushed per line (containers die mid-buffer), and never waited for
            longer than a moment (`standard_error.py`).
        is_guest: The process belongs to another program, and so does its `sys.stderr`. Otherwise all that
            libraries write there goes the same way.
    """
    global _least, _wanted
    _least, _wanted = LEVELS[level], (log_format, level, stream, is_guest)
    if "logging" in sys.modules:
        _install()


def _install() -> None:
    global _wanted
    if _wanted is not None:
        from htcjob.logs.lines import install

        log_format, level, stream, is_guest = _wanted
        install(log_format=log_format, level=level, stream=stream, is_guest=is_guest)
        _wanted = None


def utc(seconds: float) -> str:
    """Return seconds since the epoch as UTC in ISO 8601, to the millisecond."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{stamp}.{int(seconds % 1 * 1000):03d}Z"
