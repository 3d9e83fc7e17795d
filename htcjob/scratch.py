"""A temporary directory of this machine, for work that memory shall not hold."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from htcjob.errors import TransientError, UnwritableError
from htcjob.trouble import in_words, is_passing

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory


def scratch() -> TemporaryDirectory[str]:
    """
    Give a context that has a temporary directory, which is removed at its end.

    Raises:
        UnwritableError: there is no place for one.
        TransientError: there is none now.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="htcjob-")
    except OSError as error:
        if is_passing(error):
            raise TransientError("make", "a temporary directory", in_words(error)) from error
        raise UnwritableError(
            "make", "a temporary directory", f"{error.strerror}; choose another place with TMPDIR"
        ) from error
