"""The memory store fails as planned, and only then."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from htcjob import errors
from htcjob.storage.memory.store import MemoryStore
from tests.storage.contract import files_below, keys_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def failures(call: Callable[[], object], times: int) -> list[int]:
    """Return the numbers, from 1, of the calls that fail with a StorageError."""
    failed = []
    for number in range(1, times + 1):
        try:
            call()
        except errors.StorageError:
            failed.append(number)
    return failed


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
        store.faults.add(verb="head", every=2, error=errors.DeniedError)
        store.faults.add(every=2, error=errors.UnauthenticatedError)
        store.head("a")
        with pytest.raises(errors.DeniedError):
            store.head("a")
        store.read_range("a", 0)
        with pytest.raises(errors.UnauthenticatedError):
            store.read_range("a", 0)

    def test_which(self, store: MemoryStore) -> None:
        """A fault counts and strikes only its verb, and only keys that begin as it says."""
        store.faults.add(verb="put_bytes", nth=2, prefix="x/")
        for key in ("a", "b", "x/1", "a"):
            store.put_bytes(b"", key)
        with pytest.raises(errors.TransientError):
            store.put_bytes(b"", "x/2")
        store.put_bytes(b"", "x/3")
        assert keys_in(store) == ["a", "b", "x/1", "x/3"]

    @pytest.mark.parametrize(
        "error", [errors.TransientError, errors.DeniedError, errors.UnauthenticatedError, errors.AbsentError]
    )
    def test_what(self, store: MemoryStore, tmp_path: Path, error: type[errors.StorageError]) -> None:
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

        def throttled(operation: str, url: str, reason: str) -> errors.TransientError:
            return errors.TransientError(operation, url, reason, retry_after_s=7.0)

        store.faults.add(verb="head", error=throttled)
        with pytest.raises(errors.TransientError) as raised:
            store.head("a")
        assert raised.value.retry_after_s == 7.0

    def test_cut_get(self, store: MemoryStore, tmp_path: Path) -> None:
        """A get whose body ends early is transient and leaves the target as it was; the next one works."""
        (tmp_path / "out").write_bytes(b"old")
        store.faults.add(verb="get", nth=1, cut=4)
        with pytest.raises(errors.TransientError, match="ended after 4 of 10 bytes"):
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
        with pytest.raises(errors.TransientError, match="ended after 2 entries"):
            seen.extend(info.key for info in store.list())
        assert seen == ["a", "b"]
        assert keys_in(store) == ["a", "b", "c"]

    def test_lost_answer(self, store: MemoryStore) -> None:
        """A write can take effect although its answer is lost, as on a real network."""
        store.faults.add(verb="put_bytes", nth=1, after_effect=True)
        with pytest.raises(errors.TransientError, match="the answer was lost"):
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
