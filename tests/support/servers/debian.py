"""Debian packages unpacked into a folder, without changing the system."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


class InstallError(Exception):
    """The packages cannot be had here; the text says why."""


def servers_folder() -> Path:
    """Return the folder that test servers are installed below."""
    return Path(os.environ.get("HTCJOB_TEST_SERVERS") or REPOSITORY / ".servers")


def unpacked(name: str, *packages: str) -> Path:
    """
    Return a folder with the content of *packages* and of what they depend on and the system does not have.

    Downloaded once, to `servers_folder()/name`; a process that comes meanwhile waits.
    """
    folder = servers_folder() / name
    if folder.exists():
        return folder
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise InstallError(f"no {tool}: this is not Debian")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder.parent) as temp:
                _unpack(packages, Path(temp))
                (Path(temp) / "root").rename(folder)
    return folder


def _unpack(packages: tuple[str, ...], temp: Path) -> None:
    simulate = ["apt-get", "install", "--simulate", "--no-install-recommends", *packages]
    try:
        lines = _run(simulate, temp)
    except InstallError:
        _run(["apt-get", "update"], temp)  # there are no package lists, or old ones
        lines = _run(simulate, temp)
    missing = [line.split()[1] for line in lines.splitlines() if line.startswith("Inst ")]
    try:
        _run(["apt-get", "download", *missing], temp)
    except InstallError:
        _run(["apt-get", "update"], temp)
        _run(["apt-get", "download", *missing], temp)
    for package in temp.glob("*.deb"):
        _run(["dpkg", "--extract", package.name, "root"], temp)


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{command[0]} {command[1]}: nothing in {error.timeout} s") from None
    if done.returncode:
        raise InstallError(f"{' '.join(command[:3])}: {done.stderr.strip()[-1000:]}")
    return done.stdout
