"""The ledger: what is committed stays so, at any array size; what is not is never shown as committed."""

import pytest

from htcjob.errors import PermanentError, TransientError
from htcjob.ledger.ledger import Ledger
from htcjob.ledger.records import Output, Record
from htcjob.outcome.results import EntryResult
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore

QUICK = RetryPolicy(sleep=lambda _: False)


@pytest.fixture
def store():
    return MemoryStore("ledger-test")


def ledger(store, run="default") -> Ledger:
    return Ledger(store, run, QUICK)


def commit(store, records, run="default") -> None:
    """Commit as an attempt that ends at once does."""
    writer = ledger(store, run)
    writer.commit(records)
    writer.close()


def parts(store) -> list[str]:
    return [info.key for info in store.list(".htcjob/default/done/")]


def record(position: int, result=EntryResult.DONE, **members) -> Record:
    return Record(position=position, entry=f"e{position}", result=result, **members)


def test_what_is_committed_is_done_for_every_other_attempt(store):
    """Records written by two attempts are read by a third, whatever range it asks for."""
    commit(store, [record(0), record(999), record(1000)])
    commit(store, [record(1001, EntryResult.FAILED), record(5)])
    assert set(ledger(store).done(range(2000))) == {0, 5, 999, 1000}
    assert set(ledger(store).done(range(999, 1001))) == {999, 1000}
    assert set(ledger(store).done(range(6, 999))) == set()
    assert set(ledger(store).done(range(0))) == set()


@pytest.mark.parametrize("result", [result for result in EntryResult if result is not EntryResult.DONE])
def test_only_done_is_done(store, result):
    """An entry that failed, in whatever way, is not left out by the next attempt."""
    commit(store, [record(3, result)])
    assert set(ledger(store).done(range(10))) == set()


def test_a_failure_does_not_undo_a_done(store):
    """Two attempts of one index may overlap; the first done wins."""
    commit(store, [record(3)])
    commit(store, [record(3, EntryResult.FAILED)])
    assert set(ledger(store).done(range(10))) == {3}


def test_only_the_blocks_that_a_chunk_overlaps_are_listed(store):
    """A job's cost does not grow with the run: one listing that ends behind its last block, and its parts."""
    commit(store, [record(position) for position in range(0, 50_000, 1000)])
    seen, read = [], []
    plain_list, plain_read = store.list, store.read_range

    def listing(prefix="", **rest):
        for info in plain_list(prefix, **rest):
            seen.append(info.key)
            yield info

    store.list = listing
    store.read_range = lambda key, *rest: (read.append(key), plain_read(key, *rest))[1]
    assert set(ledger(store).done(range(2500, 4500))) == {3000, 4000}
    assert [key.split("/")[-2] for key in read] == ["00000002", "00000003", "00000004"]
    assert [key.split("/")[-2] for key in seen] == ["00000002", "00000003", "00000004", "00000005"]


def test_no_attempt_writes_to_anothers_part(store):
    """The same index and attempt number twice (two reruns) never overwrites a record."""
    for _ in range(5):
        commit(store, [record(0, array_index=7, attempt=1)])
    assert len(parts(store)) == 5


def test_records_are_written_together_and_at_the_end(store):
    """Many entries make few objects; when the attempt ends, all are there, and the caller heard of each."""
    told = []
    writer = Ledger(store, "default", QUICK, on_committed=told.extend)
    for position in range(100):
        writer.commit([record(position)])
    writer.close()
    assert set(ledger(store).done(range(100))) == set(range(100))
    assert [found.position for found in told] == list(range(100))
    assert len(parts(store)) < 10


def test_records_are_written_now_and_then(store, wait_until, monkeypatch):
    """What is finished is in storage soon, although nothing else happens in the attempt."""
    monkeypatch.setattr("htcjob.ledger.ledger.FIRST_FLUSH_S", 0.01)
    writer = ledger(store)
    writer.commit([record(1)])
    wait_until(lambda: set(ledger(store).done(range(10))) == {1})
    writer.commit([record(2)])
    wait_until(lambda: set(ledger(store).done(range(10))) == {1, 2})
    writer.close()


def test_a_full_buffer_is_written_at_once(store):
    """Memory does not grow with the chunk."""
    writer = ledger(store)
    for position in range(2500):
        writer.commit([record(position)])
    assert len(ledger(store).done(range(2500))) >= 2000
    writer.close()


def test_without_a_thread_records_are_written_at_the_end(store, monkeypatch):
    """`can't start new thread` costs the early look at them, not the attempt; the next commit tries again."""

    def start(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", start)
        commit(store, [record(1)])
        writer = ledger(store)
        writer.commit([record(2)])
    writer.commit([record(3)])
    assert writer._flusher.is_alive()
    writer.close()
    assert set(ledger(store).done(range(10))) == {1, 2, 3}


def test_what_could_not_be_written_is_kept_and_said(store, wait_until, monkeypatch):
    """A failure in the background reaches the attempt, reports nothing as committed, and a later flush may heal it."""
    monkeypatch.setattr("htcjob.ledger.ledger.FIRST_FLUSH_S", 0.01)
    store.faults.add(verb="put_bytes")
    told = []
    writer = Ledger(store, "default", QUICK, on_committed=told.extend)
    writer.commit([record(1), record(1001)])

    def has_failed() -> bool:
        try:
            writer.commit([])
        except TransientError:
            return True
        return False

    wait_until(has_failed)
    with pytest.raises(TransientError):
        writer.flush()
    assert told == []
    store.faults.clear()
    writer.close()
    assert set(ledger(store).done(range(2000))) == {1, 1001}
    assert sorted(found.position for found in told) == [1, 1001]


def test_scattered_parts_are_put_together(store):
    """A later attempt leaves one part of many, with the same records; only the owner of the block does so."""
    for position in range(30):
        commit(store, [record(position, EntryResult.FAILED), record(position)])
    assert len(parts(store)) == 30
    assert set(ledger(store).done(range(10, 30))) == set(range(10, 30))
    assert len(parts(store)) == 30
    assert set(ledger(store).done(range(30))) == set(range(30))
    (key,) = parts(store)
    assert len(store.read_range(key, 0).splitlines()) == 60
    assert set(ledger(store).done(range(30))) == set(range(30))


def test_putting_together_survives_being_cut_short(store):
    """Whatever call fails, nothing that was committed is lost, and the attempt goes on."""
    for calls in range(1, 40):
        store = MemoryStore("cut")
        for position in range(20):
            commit(store, [record(position)])
        for verb in ("put_bytes", "delete"):
            store.faults.add(verb=verb, nth=calls, error=PermanentError)
        assert set(ledger(store).done(range(20))) == set(range(20))
        store.faults.clear()
        assert set(ledger(store).done(range(1, 20))) == set(range(1, 20))


def test_a_reader_survives_parts_put_together_under_it(store):
    """Parts that vanish between listing and reading are found again in the part that took their place."""
    for position in range(20):
        commit(store, [record(position)])
    plain_read, was_tidied = store.read_range, []

    def read(key, *rest):
        if not was_tidied:
            was_tidied.append(True)
            assert len(ledger(store).done(range(20))) == 20
        return plain_read(key, *rest)

    store.read_range = read
    assert set(ledger(store).done(range(20))) == set(range(20))


def test_a_damaged_part_says_nothing_and_stops_nothing(store):
    """Its entries are done again; that is safe."""
    commit(store, [record(1)])
    store.put_bytes(b'{"position": 2, "result": "do', ".htcjob/default/done/00000000/x.jsonl")
    store.put_bytes(
        b'[]\n{"result":"done"}\n{"position":"3","result":"done"}\n\xff\n',
        ".htcjob/default/done/00000000/y.jsonl",
    )
    assert set(ledger(store).done(range(10))) == {1}


def test_a_commit_that_fails_is_not_believed(store):
    """The error reaches the caller, and no record is there."""
    store.faults.add(verb="put_bytes")
    with pytest.raises(TransientError):
        commit(store, [record(1)])
    store.faults.clear()
    assert set(ledger(store).done(range(10))) == set()


def test_the_outputs_of_what_is_done_are_known(store):
    """So that a later attempt sees when another entry writes the same name."""
    commit(store, [record(1, outputs=(Output("x", 1, ""), Output("y", 1, "")))])
    assert ledger(store).done(range(10)) == {1: ["x", "y"]}
