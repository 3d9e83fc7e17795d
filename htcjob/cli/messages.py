"""What a person is told on standard error: one line, one cause, one next step."""

from __future__ import annotations

import os
from contextlib import suppress

import htcjob
from htcjob.logs.redact import redact
from htcjob.outcome.endings import Ending


def say(text: str) -> None:
    """
    Write a line to standard error, if it is open.

    Trouble with standard error (a full disk, a reader that has gone or does not read) must not become the
    exit status, nor hold it back.
    """
    from htcjob.logs.standard_error import may_wait, standard_error

    stream = standard_error()
    if stream is None:  # Python has none when it was started with that closed
        return
    may_wait(stream)
    try:
        stream.write(f"{_without_escapes(redact(text))}\n")
        stream.flush()
    except (OSError, ValueError):
        forget(2)


def _without_escapes(text: str) -> str:
    """Return *text* so that no name in it can colour a terminal or move its cursor."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def forget(descriptor: int) -> None:
    """Discard what is still to be written to *descriptor*, or Python would complain when it ends."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def report_bug(error: BaseException) -> None:
    """Show the traceback of a bug in htcjob, and ask for a report."""
    import traceback

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    say(
        f"{text}htcjob: error: this is a bug in htcjob {htcjob.__version__}; "
        "please report it with the lines above"
    )


def say_ending(ending: Ending) -> int:
    """Write one line on standard error that says why the attempt did not succeed; return its exit status."""
    if ending.exit_status != 0:
        say(f"htcjob: error: {' '.join(ending.message.split())}")
    return ending.exit_status


def printable(text: str) -> str:
    """Return *text* so that it cannot break a line or colour a terminal: as JSON, unless it is plain."""
    if text.isprintable():
        return text
    import json

    return json.dumps(text)
