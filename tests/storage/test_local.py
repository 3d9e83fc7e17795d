"""The directory store keeps the contract."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from htcjob.storage.local import LocalStore

from .contract import REFUSED_KEYS, StoreContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class TestLocalStore(StoreContract):
    refused_keys = (
        *REFUSED_KEYS,
        "a//b",
        "a/",
        "a/./b",
        "./a",
        ".",
        "a/.htcjob-tmp-0",
        ".htcjob-tmp-x/a",
        ".nfs000001",
    )
    folder_like_keys = ()

    @pytest.fixture
    def new_store(self, tmp_path: Path) -> Callable[[], LocalStore]:
        numbers = count()
        return lambda: LocalStore(str(tmp_path / "stores" / f"{next(numbers)}"))
