"""Servers of the tests: each is installed once, below one folder, and runs until its tests have ended."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.servers.shared import tied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REPOSITORY = Path(__file__).parents[3]


class CannotStartError(Exception):
    """A server cannot be installed or started here; says why."""


def servers_folder() -> Path:
    """Return the folder that test servers are installed below."""
    return Path(os.environ.get("HTCJOB_TEST_SERVERS") or REPOSITORY / ".servers")


def made_once(name: str, make: Callable[[Path], Path]) -> Path:
    """
    Return the folder *name* below the servers' folder; a process that comes while it is made waits.

    Args:
        name: Of one version of one server.
        make: Is given a new folder to work in, and returns the one that is to have that name.
    """
    folder = servers_folder() / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = Path(tempfile.mkdtemp(prefix=f"{name}-new-", dir=folder.parent))
            try:
                make(new).rename(folder)
            finally:
                with suppress(FileNotFoundError):
                    shutil.rmtree(new)
    return folder


@contextmanager
def running(command: Sequence[str], directory: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in *directory* that ends with the context, or with these tests; *log* gets its output."""
    directory.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied(*command),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
