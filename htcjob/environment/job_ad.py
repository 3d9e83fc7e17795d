"""The file in which HTCondor describes a job (`$_CONDOR_JOB_AD`), as it was when the attempt began."""

from __future__ import annotations

import os
import re

_LARGEST = 1 << 20
"""Bytes; a description has some ten thousand."""
_STARTS = re.compile(rb"^NumJobStarts[ \t]*=[ \t]*(\d{1,9})[ \t\r]*$", re.MULTILINE | re.IGNORECASE)
"""Attempts before this one: 0 in the first."""


def attempt_in(path: str) -> int | None:
    """Return the attempt, from 1; None where the file cannot be read, as in a container, or does not say."""
    try:
        # Should it be a named pipe, a writer is not waited for.
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
            content = file.read(_LARGEST) or b""
    except (OSError, ValueError):
        return None
    found = _STARTS.search(content)
    return int(found[1]) + 1 if found else None
