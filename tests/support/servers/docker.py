"""
A Docker engine, and the images that its tests run; nothing is pulled.

`python -m tests.support.servers.docker` makes the bottom image and prints its name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.skipping import skip_or_fail

from .debian import InstallError
from .installed import REPOSITORY, servers_folder

BOTTOM = "htcjob-bottom:2"
"""What the images are built on here, in place of `python:3.12-slim`: Debian with Python and pip. Another number
after a change of what is in it: an engine keeps what it has."""

RELEASE = "bookworm"

HOST_NETWORK = "host"
"""For containers that may have any network: one of its own takes an engine as long as all the rest of a container."""

TAG = f"test-{hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:8]}"
"""Of the images that tests build: two clones on one machine share an engine."""


class Docker:
    """An engine, by its command line."""

    def __call__(
        self, *arguments: str | os.PathLike[str], is_checked: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGUMENTS…`."""
        done = subprocess.run(
            ["docker", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0 or not is_checked, (arguments, done.stdout, done.stderr)
        return done

    def run(self, *arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
        """Run a container to its end, whatever its exit status, and remove it."""
        return self("run", "--rm", *_network(arguments), *arguments, is_checked=False)

    @contextmanager
    def started(self, *arguments: str | os.PathLike[str]) -> Iterator[str]:
        """Start a container, give its id, and remove it at the end."""
        container = self("run", "--detach", *_network(arguments), *arguments).stdout.strip()
        try:
            yield container
        finally:
            self("rm", "--force", "--volumes", container)

    def wait(self, container: str) -> int:
        """Wait until it has ended, and give its exit status."""
        return int(self("wait", container).stdout)

    def kill(self, container: str, signum: int = signal.SIGKILL) -> None:
        """Send a signal to its first process."""
        self("kill", "--signal", str(int(signum)), container)

    def logs(self, container: str) -> str:
        """Return what it wrote to standard output and to standard error so far, one behind the other."""
        done = self("logs", container)
        return done.stdout + done.stderr

    @contextmanager
    def following(self, container: str) -> Iterator[Iterator[str]]:
        """Give the lines of its standard output from the first on, as they come."""
        command = ["docker", "logs", "--follow", container]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield map(str.strip, process.stdout)
            finally:
                process.kill()

    def build(
        self, dockerfile: Path, name: str, *arguments: str, context: Path = REPOSITORY, **variables: str
    ) -> str:
        """Build an image as `make image` does, and give its name."""
        done = subprocess.run(
            [REPOSITORY / "docker" / "build", dockerfile, name, *arguments],
            cwd=context,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, (dockerfile, done.stdout[-2000:], done.stderr[-5000:])
        return name


@pytest.fixture(scope="session")
def docker() -> Docker:
    """An engine; tests that need one are skipped where there is none."""
    try:
        _run("docker", "version")
    except InstallError as error:
        skip_or_fail("HTCJOB_REQUIRE_DOCKER", f"no Docker engine: {error}")
    return Docker()


@pytest.fixture(scope="session")
def bottom(docker: Docker) -> str:
    """The name of the image that the others are built on."""
    try:
        return bottom_image()
    except InstallError as error:
        skip_or_fail("HTCJOB_REQUIRE_DOCKER", f"no image to build on: {error}")


@pytest.fixture(scope="session")
def base_image(shared: Callable[..., str], bottom: str) -> str:
    """The base image of this clone."""
    return shared(built, "base.Dockerfile", f"htcjob-base:{TAG}", "--build-arg", f"BASE_IMAGE={bottom}")


@pytest.fixture(scope="session")
def face_tagger_image(shared: Callable[..., str], base_image: str) -> str:
    """The face tagger's image of this clone."""
    arguments = ("--build-arg", f"HTCJOB_IMAGE={base_image}")
    return shared(built, "face-tagger.Dockerfile", f"htcjob-face-tagger:{TAG}", *arguments)


@contextmanager
def built(_: Path, dockerfile: str, name: str, *arguments: str) -> Iterator[str]:
    """Build an image of this clone; it stays, so that the next build is short."""
    yield Docker().build(REPOSITORY / "docker" / dockerfile, name, *arguments)


def bottom_image() -> str:
    """
    Return the name of the bottom image, made of Debian's packages when the engine does not have it.

    Raises:
        InstallError: the packages cannot be had, or there is no engine.
    """
    servers_folder().mkdir(parents=True, exist_ok=True)
    with (servers_folder() / "bottom.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _run("docker", "images", "--quiet", BOTTOM).strip():
            if shutil.which("debootstrap") is None:
                raise InstallError("no debootstrap, which the bottom image is made with")
            with tempfile.TemporaryDirectory(prefix="htcjob-bottom-") as temp:
                _import_debian(Path(temp))
    return BOTTOM


def _import_debian(folder: Path) -> None:
    root, archive = folder / "root", folder / "bottom.tar"
    packages = "--include=ca-certificates,python3,python3-pip"
    _run("debootstrap", "--variant=minbase", packages, RELEASE, str(root))
    # As in `python:*-slim`: `python` is there, and pip may install beside Debian's own packages.
    (root / "usr/bin/python").symlink_to("python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    # As in Debian's own images: no translations, and no wait for the disk behind each file.
    (root / "etc/apt/apt.conf.d/docker-no-languages").write_text('Acquire::Languages "none";\n')
    (root / "etc/dpkg/dpkg.cfg.d/docker-apt-speedup").write_text("force-unsafe-io\n")
    left_out = ("--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*")
    _run("tar", "--create", "--file", str(archive), *left_out, "--directory", str(root), ".")
    _run("docker", "import", str(archive), BOTTOM)


def _network(arguments: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return the option for this machine's network, which costs least, where *arguments* name none."""
    return () if "--network" in arguments else ("--network", HOST_NETWORK)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    except OSError as error:
        raise InstallError(f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{' '.join(command[:2])}: nothing in {error.timeout} s") from None
    if done.returncode:
        raise InstallError(f"{' '.join(command[:2])}: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done.stdout


if __name__ == "__main__":
    print(bottom_image())
