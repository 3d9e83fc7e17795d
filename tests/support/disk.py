"""Small disks of many kinds: to fill them, to meet their habits, and to cut their power."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class CannotMountError(Exception):
    """Only root may mount a file system, and not everywhere."""


@contextmanager
def small_disk(folder: Path, *, size_kb: int) -> Iterator[Path]:
    """Have a file system of *size_kb* KiB at *folder*, which is made; CannotMountError: we may not."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise CannotMountError(f"no small disk, only root can mount one: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: a process that a failed test has left there must not keep it mounted for ever.
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """Have the file *image* as a block device; CannotMountError: we may not."""
    device = _run("losetup", "--find", "--show", str(image)).strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)


@contextmanager
def exfat_disk(folder: Path) -> Iterator[Path]:
    """Have an exFAT file system at *folder*, which is made: it ignores case, and has no links of any kind."""
    folder.mkdir()
    image = folder.with_suffix(".exfat")
    with image.open("wb") as file:
        file.truncate(16 << 20)
    _run("mkfs.exfat", str(image))
    with loop_device(image) as device:
        _run("mount.exfat-fuse", device, str(folder))
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


class FragileDisk:
    """
    A file system whose power can be cut: what has not reached the disk by then is gone.

    Args:
        folder: Where it is to be; made.
        make: The command that makes the file system, without the name of the image.
    """

    def __init__(self, folder: Path, make: Sequence[str]) -> None:
        self.folder = folder
        self._image = folder.with_suffix(".disk")
        folder.mkdir()
        with self._image.open("wb") as file:
            file.truncate(32 << 20)
        _run(*make, str(self._image))

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Have it at its folder. The image is what is on the disk; the kernel's memory is not part of it."""
        _run("mount", "-o", "loop", str(self._image), str(self.folder))
        try:
            yield self.folder
        finally:
            subprocess.run(["umount", "--lazy", self.folder], check=True)

    @contextmanager
    def after_power_cut(self) -> Iterator[Path]:
        """Have, at another folder, what would be left if the power went now; repaired, as at a boot."""
        image, folder = self._image.with_suffix(".cut"), self.folder.with_suffix(".after")
        image.write_bytes(self._image.read_bytes())
        folder.mkdir()
        subprocess.run(["e2fsck", "-fy", image], stdout=subprocess.DEVNULL, check=False)
        _run("mount", "-o", "loop", str(image), str(folder))
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotMountError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise CannotMountError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout
