"""
One writer at a time for a name, where the file system cannot make sure of that itself.

Without hard links (exFAT, Azure Files, many FUSE file systems) a name cannot be taken on condition that it is
free; where case is ignored, a rename can replace a file of another name. There, a writer that
takes a name holds a small file beside it, its claim, for the instant of a look and a rename. No half or empty
file ever has that name.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from htcjob.storage.local.errors import Blame
from htcjob.storage.local.spelling import folded

CLAIM_LIFE_S = 5.0
"""Seconds after which a claim is taken for that of a writer that was killed. A living one holds it for two
system calls, and looks whether it still has it before the second."""

_LOOK_AGAIN_S = 0.005
"""Between two looks at another writer's claim, on average."""

_PREFIX = ".htcjob-tmp-claim-"
"""Begins as the names of incomplete files do, so that no listing shows it."""


@contextmanager
def claim(path: str, blame: Blame, clock: str) -> Iterator[None]:
    """
    Keep all other writers from giving a file the name *path*, in whatever spelling.

    Args:
        path: The name to take.
        blame: Says whose failure an error is.
        clock: A file of ours beside *path*: its file system's clock tells the age of others' claims.

    Raises:
        TransientError: other writers have had the claim all the time, or took this one over.
    """
    folder, name = os.path.split(path)
    claimed = os.path.join(folder, _PREFIX + hashlib.sha256(folded(name).encode()).hexdigest()[:24])
    token = os.urandom(16)
    until = time.monotonic() + 2 * CLAIM_LIFE_S
    with blame:
        while not _make(claimed, token):
            if time.monotonic() > until:
                raise blame.busy()
            _end_if_old(claimed, clock)
            time.sleep(random.uniform(0, 2 * _LOOK_AGAIN_S))
    try:
        with blame:
            if _token_of(claimed) != token:
                raise blame.busy()
        yield
    finally:
        has = token
        with suppress(OSError):
            has = _token_of(claimed)
        if has == token:
            with suppress(OSError):  # it ends by itself, with its life
                os.unlink(claimed)


def _make(claimed: str, token: bytes) -> bool:
    """Make the claim; False: there is one."""
    try:
        descriptor = os.open(claimed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        try:
            os.write(descriptor, token)
        finally:
            os.close(descriptor)
    except BaseException:
        os.unlink(claimed)
        raise
    return True


def _end_if_old(claimed: str, clock: str) -> None:
    """Remove a claim whose writer is gone; the next try finds the name free."""
    with suppress(OSError):  # given back meanwhile
        token, made_at = _token_of(claimed), os.stat(claimed).st_mtime
        os.utime(clock)
        if os.stat(clock).st_mtime - made_at > CLAIM_LIFE_S and _token_of(claimed) == token:
            os.unlink(claimed)


def _token_of(claimed: str) -> bytes:
    with open(claimed, "rb") as file:
        return file.read()
