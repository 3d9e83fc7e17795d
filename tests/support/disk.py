"""A small disk, to fill it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.skipping import skip_or_fail


@contextmanager
def small_disk(folder: Path, *, size_kb: int) -> Iterator[Path]:
    """Have a file system of *size_kb* KiB at *folder*; where nobody may mount one, the test cannot run."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        skip_or_fail(
            "HTCJOB_REQUIRE_MOUNT", f"no small disk, only root can mount one: {mounted.stderr.strip()}"
        )
    try:
        yield folder
    finally:
        # Lazily: a process that a failed test has left there must not keep it mounted for ever.
        subprocess.run(["umount", "--lazy", folder], check=True)
