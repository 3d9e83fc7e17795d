"""A run is of one manifest and one command, and that is recorded once."""

import pytest

from htcjob.errors import PermanentError, RunMismatchError
from htcjob.ledger.ledger import Ledger
from htcjob.ledger.run_identity import RunIdentity
from htcjob.manifest.entry_list import EntryList
from htcjob.manifest.manifest import Manifest
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore

QUICK = RetryPolicy(sleep=lambda _: False)


@pytest.fixture
def store():
    return MemoryStore("run-identity")


def ledger(store, run="default") -> Ledger:
    return Ledger(store, run, QUICK)


def test_a_run_is_of_one_manifest_and_one_command(store):
    """The same again is welcome; another manifest or command is refused, and the message says what differs."""
    ledger(store).open_run(RunIdentity.of(EntryList(["a"])), ["prog", "x"])
    ledger(store).open_run(RunIdentity.of(EntryList(["a"])), ["prog", "x"])
    with pytest.raises(RunMismatchError, match=r"manifest entries:.*, now entries:.*--run"):
        ledger(store).open_run(RunIdentity.of(EntryList(["b"])), ["prog", "x"])
    with pytest.raises(RunMismatchError, match="command"):
        ledger(store).open_run(RunIdentity.of(EntryList(["a"])), ["prog", "y"])
    ledger(store, "other").open_run(RunIdentity.of(EntryList(["b"])), ["prog", "y"])


def test_a_manifest_that_was_written_again_is_the_same(store):
    """Another ETag with the same bytes is no other manifest; the same size with other bytes is one."""

    def opened(data: bytes) -> Manifest:
        store.delete("list.txt")
        store.put_bytes(data, "list.txt")
        return Manifest(store, "list.txt", QUICK)

    first, again, other = opened(b"a\nb\n"), opened(b"a\nb\n"), opened(b"a\nc\n")
    assert first.tag != again.tag
    ledger(store).open_run(RunIdentity.of(first), ["prog"])
    ledger(store).open_run(RunIdentity.of(again), ["prog"])
    with pytest.raises(RunMismatchError, match="has changed since"):
        ledger(store).open_run(RunIdentity.of(other), ["prog"])


def test_a_damaged_run_file_is_not_taken_for_ours(store):
    """It is an error that names the object."""
    store.put_bytes(b"{", ".htcjob/default/run.json")
    with pytest.raises(PermanentError, match=r"run\.json"):
        ledger(store).open_run(RunIdentity.of(EntryList(["a"])), ["prog"])
