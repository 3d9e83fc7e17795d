"""What tests of the directory store start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from htcjob.storage.local.store import LocalStore

if TYPE_CHECKING:
    pass


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the directory of `store`; not made yet."""
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(str(root))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"
