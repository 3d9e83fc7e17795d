"""Debian packages unpacked into a folder, without changing the system."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from typing import TYPE_CHECKING

from tests.support.servers.installed import made_once

if TYPE_CHECKING:
    from pathlib import Path


class InstallError(Exception):
    """The packages cannot be had here; the text says why."""


def unpacked(name: str, *packages: str) -> Path:
    """
    Return a folder with the content of *packages* and of what they depend on and the system does not have.

    Downloaded once (`made_once`).
    """
    return made_once(name, partial(_unpack, packages))


def _unpack(packages: tuple[str, ...], temp: Path) -> Path:
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise InstallError(f"no {tool}: this is not Debian")
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
    return temp / "root"


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{command[0]} {command[1]}: nothing in {error.timeout} s") from None
    if done.returncode:
        raise InstallError(f"{' '.join(command[:3])}: {done.stderr.strip()[-1000:]}")
    return done.stdout
