"""The memory store keeps the contract, and fails as planned."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING

import pytest

from htcjob.errors import ConfigurationError
from htcjob.storage.memory.store import MemoryStore
from tests.storage.contract import StoreContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class TestMemoryStore(StoreContract):
    examples = 100

    @pytest.fixture(autouse=True)
    def eager_threads(self) -> Iterator[None]:
        """Let threads interrupt each other a thousand times more often than usual."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(5e-6)
        yield
        sys.setswitchinterval(before)

    @pytest.fixture
    def new_store(self) -> Callable[[], MemoryStore]:
        numbers = count()
        return lambda: MemoryStore(f"test{next(numbers)}")


class TestNames:
    def test_named_stores_are_shared(self) -> None:
        """One name is one store in the process, for all threads; a store made directly is its own."""
        with ThreadPoolExecutor(8) as pool:
            stores = list(pool.map(lambda _: MemoryStore.named("test-shared"), range(50)))
        assert len({id(store) for store in stores}) == 1
        assert MemoryStore("test-shared") is not stores[0]

    @pytest.mark.parametrize("name", ["", "a/b"])
    def test_bad_names(self, name: str) -> None:
        """A name that would not come back from the store's URL is refused."""
        with pytest.raises(ConfigurationError):
            MemoryStore.named(name)


def test_list_while_objects_come_and_go(store: MemoryStore) -> None:
    """A listing goes on, in order and without repetition, while the store changes."""
    for i in range(3000):
        store.put_bytes(b"", f"k{i:05}")
    seen = []
    for info in store.list("k"):
        seen.append(info.key)
        store.delete(info.key)
        store.put_bytes(b"", "a")
    assert seen == [f"k{i:05}" for i in range(3000)]
