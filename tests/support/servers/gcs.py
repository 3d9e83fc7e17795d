"""
gcp-storage-emulator, a server of Google Cloud Storage from PyPI.

It has no preconditions, no authentication, no multipart uploads (XML), no pages and no `startOffset` in listings;
it answers one request at a time on a connection each, and resets connections when more than about eight wait.
`fake_gcs.py` has those.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.support.servers.installed import CannotStartError, made_once, running, servers_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

VERSION = "2026.7.19"
_NAME = f"gcs-emulator-{VERSION}"
_PROGRAM = "bin/gcp-storage-emulator"
_START_S = 60.0


@dataclass(frozen=True)
class GcsEmulator:
    """A running server."""

    endpoint: str

    def environ(self) -> dict[str, str]:
        """Return the variable with which a child process finds the server."""
        return {"STORAGE_EMULATOR_HOST": self.endpoint}

    def new_bucket(self) -> str:
        """Make an empty bucket and give its name."""
        name = f"test-{uuid.uuid4().hex}"
        request = urllib.request.Request(
            f"{self.endpoint}/storage/v1/b?project=test",
            data=b'{"name": "%s"}' % name.encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
        return name


@contextmanager
def running_gcs_emulator(directory: Path) -> Iterator[GcsEmulator]:
    """
    Run a server with all its data in memory; its log goes to *directory*.

    Raises:
        CannotStartError: the package cannot be had, or the server does not start.
    """
    program = made_once(_NAME, _install) / _PROGRAM
    log = directory / "gcs-emulator.log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(program), "start", "--host", "127.0.0.1", "--port", str(port), "--quiet", "--in-memory"]
    with running(command, directory, log) as process:
        _wait(process, port, log)
        yield GcsEmulator(f"http://127.0.0.1:{port}")


@pytest.fixture(scope="session")
def gcs_emulator(
    shared: Callable[..., GcsEmulator], skip_or_fail: Callable[[str, str], NoReturn]
) -> GcsEmulator:
    """A running server, one for all tests."""
    try:
        return shared(running_gcs_emulator)
    except CannotStartError as error:
        skip_or_fail("HTCJOB_REQUIRE_SERVERS", str(error))


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_S
    while True:
        has_ended = process.poll() is not None
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if has_ended or time.monotonic() > until:
            said = log.read_text(errors="replace").strip()[-2000:]
            raise CannotStartError(f"the GCS emulator did not start ({log}): {said}")
        time.sleep(0.05)


def _install(new: Path) -> Path:
    _run([sys.executable, "-m", "venv", str(new)])
    package = f"gcp-storage-emulator=={VERSION}"
    _run([str(new / "bin" / "python"), "-m", "pip", "install", "--quiet", package])
    # A program in a venv names its interpreter by its full path.
    program = new / _PROGRAM
    program.write_text(program.read_text().replace(str(new), str(servers_folder() / _NAME)))
    return new


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotStartError(f"no GCS emulator: {command[0]} failed: {done.stderr.strip()[-2000:]}")
