"""A temporary directory, for work that is too large for memory."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from htcjob.errors import TransientError, UnwritableError
from htcjob.trouble import in_words, is_passing

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def temporary_directory() -> Iterator[str]:
    """
    Yield a temporary directory, which is removed when the context ends.

    Raises:
        UnwritableError: there is no place for one.
        TransientError: there is none now.
    """
    import tempfile

    try:
        path = tempfile.mkdtemp(prefix="htcjob-")
    except OSError as error:
        if is_passing(error):
            raise TransientError("make", "a temporary directory", in_words(error)) from error
        raise UnwritableError(
            "make", "a temporary directory", f"{error.strerror}; choose another place with TMPDIR"
        ) from error
    try:
        yield path
    finally:
        clear_away(path)


def clear_away(path: str) -> None:
    """Remove a directory with all in it, as far as that can be."""
    from shutil import rmtree

    for _ in range(2):
        try:
            rmtree(path, ignore_errors=True)
        except OSError:  # of a descriptor that it closes twice, where the first time was in vain
            continue
        if not os.path.lexists(path):
            return
