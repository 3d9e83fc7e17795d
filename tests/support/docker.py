"""
A Docker engine, and the images that its tests run; nothing is pulled.

`python -m tests.support.docker` makes the bottom image and prints its name.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .debian import InstallError, servers_folder

BOTTOM = "htcjob-bottom:1"
"""What the images are built on here, in place of `python:3.12-slim`: Debian with Python and pip. Another number
after a change of what is in it: an engine keeps what it has."""

RELEASE = "bookworm"


def bottom_image() -> str:
    """
    Give the name of the bottom image, made of Debian's packages when the engine does not have it.

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
    _run("tar", "--create", "--file", str(archive), "--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*",
         "--directory", str(root), ".")  # fmt: skip
    _run("docker", "import", str(archive), BOTTOM)


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
