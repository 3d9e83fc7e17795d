"""A small disk, to fill it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
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
