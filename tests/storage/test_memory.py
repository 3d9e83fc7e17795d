"""The memory store keeps the contract, and fails as planned."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from htcjob.errors import (
    AbsentError,
    ConfigurationError,
    DeniedError,
    StorageError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.storage.memory.store import MemoryStore

from .contract import StoreContract, files_below, keys_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class TestMemoryStore(StoreContract):
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


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("test")
    store.put_bytes(b"0123456789", "a")
    return store


def failures(call: Callable[[], object], times: int) -> list[int]:
    """Give the numbers, from 1, of the calls that fail with a StorageError."""
    failed = []
    for number in range(1, times + 1):
        try:
            call()
        except StorageError:
            failed.append(number)
    return failed


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


class TestFaults:
    def test_when(self, store: MemoryStore) -> None:
        """A fault strikes the nth call, every nth, all, or some drawn from a seed: the same each time."""
        store.faults.add(verb="head", nth=3)
        assert failures(lambda: store.head("a"), 9) == [3]
        store.faults.clear()
        store.faults.add(verb="head", every=4)
        assert failures(lambda: store.head("a"), 9) == [4, 8]
        store.faults.clear()
        store.faults.add(verb="head")
        assert failures(lambda: store.head("a"), 3) == [1, 2, 3]
        drawn = []
        for seed in (1, 1, 2):
            store.faults.clear()
            store.faults.add(verb="head", probability=0.3, seed=seed)
            drawn.append(failures(lambda: store.head("a"), 200))
        assert drawn[0] == drawn[1] != drawn[2]
        assert 30 < len(drawn[0]) < 90

    def test_the_first_of_two_strikes(self, store: MemoryStore) -> None:
        """When two faults are due, the one that was added first strikes; both have counted the call."""
        store.faults.add(verb="head", every=2, error=DeniedError)
        store.faults.add(every=2, error=UnauthenticatedError)
        store.head("a")
        with pytest.raises(DeniedError):
            store.head("a")
        store.read_range("a", 0)
        with pytest.raises(UnauthenticatedError):
            store.read_range("a", 0)

    def test_which(self, store: MemoryStore) -> None:
        """A fault counts and strikes only its verb, and only keys that begin as it says."""
        store.faults.add(verb="put_bytes", nth=2, prefix="x/")
        for key in ("a", "b", "x/1", "a"):
            store.put_bytes(b"", key)
        with pytest.raises(TransientError):
            store.put_bytes(b"", "x/2")
        store.put_bytes(b"", "x/3")
        assert keys_in(store) == ["a", "b", "x/1", "x/3"]

    @pytest.mark.parametrize("error", [TransientError, DeniedError, UnauthenticatedError, AbsentError])
    def test_what(self, store: MemoryStore, tmp_path: Path, error: type[StorageError]) -> None:
        """Every verb can fail with every kind of error; nothing has happened then."""
        (tmp_path / "in").write_bytes(b"x")
        before = files_below(tmp_path)
        store.faults.add(error=error)
        calls: dict[str, Callable[[], object]] = {
            "get": lambda: store.get("a", str(tmp_path / "out")),
            "read_range": lambda: store.read_range("a", 0),
            "put": lambda: store.put(str(tmp_path / "in"), "b"),
            "put_bytes": lambda: store.put_bytes(b"x", "b"),
            "list": lambda: [*store.list()],
            "head": lambda: store.head("a"),
            "delete": lambda: store.delete("a"),
        }
        for verb, call in calls.items():
            with pytest.raises(error, match="planned fault") as raised:
                call()
            assert raised.value.operation == verb
        store.faults.clear()
        assert keys_in(store) == ["a"]
        assert files_below(tmp_path) == before

    def test_own_error(self, store: MemoryStore) -> None:
        """A fault can make its own error, for example one with a time to wait."""

        def throttled(operation: str, url: str, reason: str) -> TransientError:
            return TransientError(operation, url, reason, retry_after_s=7.0)

        store.faults.add(verb="head", error=throttled)
        with pytest.raises(TransientError) as raised:
            store.head("a")
        assert raised.value.retry_after_s == 7.0

    def test_cut_get(self, store: MemoryStore, tmp_path: Path) -> None:
        """A get whose body ends early is transient and leaves the target as it was; the next one works."""
        (tmp_path / "out").write_bytes(b"old")
        store.faults.add(verb="get", nth=1, cut=4)
        with pytest.raises(TransientError, match="ended after 4 of 10 bytes"):
            store.get("a", str(tmp_path / "out"))
        assert files_below(tmp_path) == {"out": b"old"}
        store.get("a", str(tmp_path / "out"))
        assert files_below(tmp_path) == {"out": b"0123456789"}

    def test_cut_list(self, store: MemoryStore) -> None:
        """A listing can break off after some entries."""
        for key in ("b", "c"):
            store.put_bytes(b"", key)
        store.faults.add(verb="list", nth=1, cut=2)
        seen: list[str] = []
        with pytest.raises(TransientError, match="ended after 2 entries"):
            seen.extend(info.key for info in store.list())
        assert seen == ["a", "b"]
        assert keys_in(store) == ["a", "b", "c"]

    def test_lost_answer(self, store: MemoryStore) -> None:
        """A write can take effect although its answer is lost, as on a real network."""
        store.faults.add(verb="put_bytes", nth=1, after_effect=True)
        with pytest.raises(TransientError, match="the answer was lost"):
            store.put_bytes(b"mine", "b", if_absent=True)
        assert store.put_bytes(b"mine", "b", if_absent=True) is False
        assert store.read_range("b", 0) == b"mine"

    def test_calls_are_counted_across_threads(self, store: MemoryStore) -> None:
        """Exactly one of many threads meets the nth call."""
        store.faults.add(verb="head", nth=50)
        start = threading.Barrier(8)

        def call(_: int) -> int:
            start.wait()
            return len(failures(lambda: store.head("a"), 20))

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(call, range(8))) == 1

    @pytest.mark.parametrize(
        "plan",
        [
            {"verb": "push"},
            {"verb": "get", "nth": 1, "every": 2},
            {"verb": "get", "every": 2, "probability": 0.5},
            {"verb": "put", "cut": 1},
            {"cut": 1},
        ],
    )
    def test_plans_that_make_no_sense(self, store: MemoryStore, plan: dict[str, Any]) -> None:
        """A plan that would never strike as meant is refused when it is made."""
        with pytest.raises(ValueError, match=r"no verb|exclude|can be cut"):
            store.faults.add(**plan)


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
