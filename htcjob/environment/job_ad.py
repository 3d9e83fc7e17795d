"""The file in which HTCondor describes a job (`$_CONDOR_JOB_AD`), as it was when the attempt began."""

from __future__ import annotations

import re

from htcjob.trouble import read_at_once

_LARGEST_BYTES = 1 << 20
"""A description has some ten thousand."""
_STARTS = re.compile(rb"^NumJobStarts[ \t]*=[ \t]*(\d{1,9})[ \t\r]*$", re.MULTILINE | re.IGNORECASE)
"""Attempts before this one: 0 in the first."""


def attempt_in(path: str) -> int | None:
    """Return the attempt, from 1; None where the file cannot be read, as in a container, or does not say."""
    try:
        content = read_at_once(path, _LARGEST_BYTES)
    except (OSError, ValueError):
        return None
    found = _STARTS.search(content)
    return int(found[1]) + 1 if found else None
