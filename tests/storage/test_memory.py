"""The memory store keeps the contract, and fails as planned."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from htcjob.storage.memory import MemoryStore

from .contract import StoreContract

if TYPE_CHECKING:
    from collections.abc import Callable


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def new_store(self) -> Callable[[], MemoryStore]:
        numbers = count()
        return lambda: MemoryStore(f"test{next(numbers)}")
