"""Photos, the shared test images, and the commands run as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reference_app.synthetic import make_photo

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def two_faces() -> bytes:
    """A JPEG with two faces."""
    return make_photo(faces=2, seed=1)


@pytest.fixture(scope="session")
def no_face() -> bytes:
    """A JPEG without a face."""
    return make_photo(faces=0, seed=1)


@pytest.fixture
def photo(tmp_path: Path, two_faces: bytes) -> Path:
    """A file with two faces, alone in the test's folder."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(two_faces)
    return path


@pytest.fixture
def environment() -> dict[str, str]:
    """A clean environment in which the project can be imported."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Run `python -m reference_app.<module> ARGUMENTS` in the test's folder, with more variables."""

    def run_module(
        module: str, *arguments: str | os.PathLike[str], **variables: str | os.PathLike[str]
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"reference_app.{module}", *arguments],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run_module
