"""Azurite, Microsoft's server of Azure Blob Storage for tests: SAS with real expiry, conditions, blocks."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.support.servers.installed import CannotStartError, made_once, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

VERSION = "3.37.0"
"""The first with `startFrom` in listings. It asks for Node 22 and does its blob service on Node 20 too."""
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Known to everyone: learn.microsoft.com/azure/storage/common/storage-connect-azurite"""

_START_S = 60.0


@dataclass(frozen=True)
class Azurite:
    """A running server."""

    endpoint: str
    """Of the account, `http://127.0.0.1:PORT/devstoreaccount1`."""
    account: str = ACCOUNT
    key: str = KEY

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account};AccountKey={self.key};"
            f"BlobEndpoint={self.endpoint};"
        )

    def environ(self) -> dict[str, str]:
        """Return the variables with which a child process finds the server and may do everything."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }

    def new_container(self) -> str:
        """Make an empty container and give its name."""
        from azure.storage.blob import ContainerClient

        name = f"test-{uuid.uuid4().hex}"
        with ContainerClient(self.endpoint, name, credential=self.key) as container:
            container.create_container()
        return name

    def sas(self, container: str, *, permissions: str = "racwdl", seconds: float = 3600) -> str:
        """
        Return a SAS token for a container, without `?`.

        Args:
            container: What it is for.
            permissions: Of r(ead) a(dd) c(reate) w(rite) d(elete) l(ist), in this order.
            seconds: Until it expires, from now; counted in whole seconds, rounded down. May be negative.
        """
        from azure.storage.blob import generate_container_sas

        return generate_container_sas(
            self.account,
            container,
            account_key=self.key,
            permission=permissions,
            expiry=datetime.now(timezone.utc) + timedelta(seconds=seconds),
        )


@contextmanager
def running_azurite(directory: Path) -> Iterator[Azurite]:
    """
    Run a server with all its data in memory; its log goes to *directory*.

    Raises:
        CannotStartError: Node or npm is missing, the package cannot be had, or the server does not start.
    """
    node = _program("node")
    home = made_once(f"azurite-{VERSION}", _install)
    main = home / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    log = directory / "azurite.log"
    command = [node, str(main), "--blobHost", "127.0.0.1", "--blobPort", "0", "--silent"]
    command += ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with running(command, directory, log) as process:
        yield Azurite(f"http://127.0.0.1:{_port(process, log)}/{ACCOUNT}")


@pytest.fixture(scope="session")
def azurite(shared: Callable[..., Azurite], skip_or_fail: Callable[[str, str], NoReturn]) -> Azurite:
    """A running server, one for all tests."""
    try:
        return shared(running_azurite)
    except CannotStartError as error:
        skip_or_fail("HTCJOB_REQUIRE_SERVERS", str(error))


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until the server says where it listens."""
    until = time.monotonic() + _START_S
    while True:
        has_ended = process.poll() is not None
        said = log.read_text(errors="replace")
        if found := re.search(r"successfully listens on http://127\.0\.0\.1:(\d+)", said):
            return int(found[1])
        if has_ended or time.monotonic() > until:
            raise CannotStartError(f"Azurite did not start ({log}): {said.strip()[-2000:]}")
        time.sleep(0.05)


def _install(new: Path) -> Path:
    command = [_program("npm"), "install", "--prefix", str(new), "--no-save", "--no-audit", "--no-fund"]
    command += ["--ignore-scripts", f"azurite@{VERSION}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotStartError(f"no Azurite: npm install failed: {done.stderr.strip()[-2000:]}")
    return new


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise CannotStartError(f"no Azurite: it needs {name}, which is not installed")
    return path
