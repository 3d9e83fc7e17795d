"""
Files that a command and the attempt exchange: the list of entries, failures, a message.

What the command wrote is read with care: it may be a link, a pipe, or nonsense.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, TextIO

from htcjob.errors import FailureReportError, TransientError
from htcjob.ledger.records import LONGEST_MESSAGE
from htcjob.logs.redact import redact
from htcjob.trouble import in_words, is_passing, let_go

if TYPE_CHECKING:
    from htcjob.manifest.entry import Entry

_READ_OF_MESSAGE = 64 * 1024
"""Characters of the command's message that are looked at."""


def entries_file_line(entry: Entry, path: str) -> str:
    """Return the manifest line with the local path: the path itself, or a JSON line with `input` added."""
    if not entry.text.startswith("{"):
        return path
    return json.dumps({"key": entry.key, **entry.parameters, "input": path}, ensure_ascii=False)


def failures_said_by_command(failures_file: str, inputs: AbstractSet[str]) -> dict[str, str]:
    """
    Return the reasons of the entries that the command of a chunk reports as failed, by their input.

    One JSON object a line, with `input`, a path of the entries file, and `message`. No file: none failed.

    Raises:
        FailureReportError: a line is something else. A guess could commit an entry that failed.
    """
    failures: dict[str, str] = {}
    try:
        with _open_made_by_command(failures_file) as file:
            for number, line in enumerate(file, start=1):
                said = json.loads(line)
                if said["input"] not in inputs:
                    raise FailureReportError(
                        f"line {number} of the command's HTCJOB_FAILURES_FILE names {said['input']!r}, "
                        "which is no input of this chunk; nothing is committed"
                    )
                failures[said["input"]] = str(said.get("message") or "reported as failed by the command")
    except FileNotFoundError:
        return {}
    except OSError as error:
        if is_passing(error):
            raise TransientError("read", failures_file, in_words(error)) from error
        raise _misunderstood(error) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _misunderstood(error) from error
    return failures


def _misunderstood(error: Exception) -> FailureReportError:
    return FailureReportError(
        f"the command's HTCJOB_FAILURES_FILE is not JSON lines with input and message "
        f"({type(error).__name__}); nothing is committed"
    )


def said_by_command(message_file: str) -> str:
    """Return the reason that the command left for a person, on one line; empty if it left none."""
    try:
        with _open_made_by_command(message_file) as file:
            # Cut last: half a secret would not be known for one.
            return " ".join(redact(file.read(_READ_OF_MESSAGE)).split())[:LONGEST_MESSAGE]
    except OSError:
        return ""


def _open_made_by_command(path: str) -> TextIO:
    """Open a file that the command was to write; not a link that it planted, nor a pipe that blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        let_go(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return open(descriptor, encoding="utf-8", errors="backslashreplace")
