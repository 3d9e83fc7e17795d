"""What tests of the memory store start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from htcjob.storage.memory.store import MemoryStore

if TYPE_CHECKING:
    pass


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("test")
    store.put_bytes(b"0123456789", "a")
    return store
