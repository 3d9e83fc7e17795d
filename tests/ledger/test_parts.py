"""Whoever reads a ledger sees every record in it, whatever others do with its parts meanwhile."""

import subprocess
import sys
from contextlib import suppress

import pytest

from htcjob.errors import AbsentError, TransientError
from htcjob.ledger import parts as parts_module
from htcjob.ledger.ledger import SCATTERED_PARTS, Ledger
from htcjob.ledger.reader import final_records
from htcjob.ledger.records import Record
from htcjob.outcome.results import EntryResult
from htcjob.retry import RetryPolicy
from htcjob.storage.local.listing import Walk
from htcjob.storage.local.store import LocalStore
from htcjob.storage.memory.store import MemoryStore
from htcjob.transfer.transfers import Transfers

QUICK = RetryPolicy(sleep=lambda _: False)
FOLDER = ".htcjob/default/done/00000000/"


def commit(store, *positions: int) -> None:
    """Commit each in a part of its own, as attempts that end at once do."""
    for position in positions:
        writer = Ledger(store, "default", QUICK)
        writer.commit([Record(position, f"e{position}", EntryResult.DONE)])
        writer.close()


def put_together(store) -> None:
    """Begin an attempt that owns the block: what is scattered is put together."""
    Ledger(store, "default", QUICK).done(range(1000))


def seen_by_commands(store) -> set[int]:
    with Transfers(QUICK) as transfers:
        return {record["position"] for record in final_records(store, "default", transfers)}


def seen_by_attempts(store) -> set[int]:
    return set(Ledger(store, "default", QUICK).done(range(1000)))


READERS = (seen_by_commands, seen_by_attempts)


class Racing(MemoryStore):
    """Storage that others change at the worst of moments: `strike` is called once a listing has begun."""

    def __init__(self, strikes=(), *, strikes_after: int = 0, leaves_out_gone: bool = False) -> None:
        super().__init__("racing")
        self.strikes = list(strikes)
        self.strikes_after = strikes_after
        """Keys given before it strikes."""
        self.leaves_out_gone = leaves_out_gone
        """Names are read first, and what has gone since is left out, as some servers do it."""
        self.is_armed = False

    def list(self, prefix="", *, start_after=None):
        """List, and be struck; a listing that another attempt makes meanwhile is left in peace."""
        names = list(super().list(prefix, start_after=start_after))
        strike = self.strikes.pop(0) if self.is_armed and self.strikes else None
        for number, info in enumerate([*names, None]):
            if strike is not None and number == min(self.strikes_after, len(names)):
                self.is_armed = False
                strike(self)
                self.is_armed = True
            if info is not None:
                with suppress(AbsentError):
                    if self.leaves_out_gone:
                        self.head(info.key)
                    yield info


def merge(store) -> None:
    put_together(store)


def commit_and_merge(store) -> None:
    """A whole rerun in a moment: as many new parts as are put together, and the putting together."""
    commit(store, *range(100, 100 + SCATTERED_PARTS))
    put_together(store)


def race(read, positions: int = 20, strikes=(), **options) -> set[int]:
    store = Racing(strikes, **options)
    commit(store, *range(positions))
    store.is_armed = True
    return read(store)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("strikes_after", [0, 1, 10, 19, 20])
def test_parts_that_go_after_they_were_listed_are_found_again(read, strikes_after):
    """A listing from before, whose parts are gone when they are read, costs no record."""
    assert race(read, strikes=[merge], strikes_after=strikes_after) == set(range(20))


@pytest.mark.parametrize("strikes_after", [0, 1, 10, 19, 20])
def test_parts_that_a_listing_leaves_out_are_found_again(strikes_after):
    """A command shows all records although its listing has neither the old parts nor the new one."""
    seen = race(seen_by_commands, strikes=[merge], strikes_after=strikes_after, leaves_out_gone=True)
    assert seen == set(range(20))


@pytest.mark.parametrize("read", READERS)
def test_pages_from_before_and_after_are_one_listing(read, monkeypatch):
    """Between two pages of a listing that goes forward, parts are put together: the later page has the new one."""
    monkeypatch.setattr("htcjob.storage.memory.store._PAGE_KEYS", 7)
    store = MemoryStore("pages")
    commit(store, *range(20))
    plain_page, asked = store._page, []

    def page(beginning, after):
        asked.append(after)
        if len(asked) == 2:
            put_together(store)
        return plain_page(beginning, after)

    store._page = page
    assert read(store) == set(range(20))
    assert len(asked) > 2


@pytest.mark.parametrize("times", range(1, 14))
def test_put_together_again_and_again_is_all_or_an_error(times):
    """However often it happens while a command reads: every record, or "try again" within a bounded time."""
    if times < parts_module.LISTINGS - 2:
        assert race(seen_by_commands, strikes=[commit_and_merge] * times) >= set(range(20))
        return
    with suppress(TransientError):
        assert race(seen_by_commands, strikes=[commit_and_merge] * times) >= set(range(20))


@pytest.mark.parametrize("read", READERS)
def test_what_storage_lists_and_has_not_is_an_error(read):
    """A listing that stays out of date hides records: that is no partial answer, but 75, after bounded retries."""
    store = MemoryStore("stale")
    commit(store, 1, 2, 3)
    plain_list = store.list
    stale = list(plain_list(FOLDER))
    store.delete(stale[1].key)
    store.list = lambda prefix="", **rest: iter(stale) if "done" in prefix else plain_list(prefix, **rest)
    with pytest.raises(TransientError, match="lists it, but does not have it"):
        read(store)


@pytest.mark.parametrize("read", READERS)
def test_a_listing_that_is_late_is_waited_for(read):
    """What is deleted may stay in listings for a while; then all is there."""
    store = MemoryStore("late")
    commit(store, *range(20))
    plain_list = store.list
    stale = list(plain_list(FOLDER))
    put_together(store)
    late = [stale] * 4

    def listed(prefix="", **rest):
        return iter(late.pop()) if late else plain_list(prefix, **rest)

    store.list = listed
    assert read(store) == set(range(20))


def test_two_attempts_that_put_the_same_together_lose_nothing():
    """Both write a part, both remove the old ones; the next attempt reads, and may put these together, too."""
    store = MemoryStore("two")
    commit(store, *range(20))
    plain_put, others = store.put_bytes, [merge, merge]

    def put(data, key, **rest):
        if others and "/m0" in key:
            others.pop()(store)
        return plain_put(data, key, **rest)

    store.put_bytes = put
    put_together(store)
    assert seen_by_commands(store) == seen_by_attempts(store) == set(range(20))
    assert len(list(store.list(FOLDER))) == 3
    commit(store, *range(20, 40))
    put_together(store)
    assert seen_by_commands(store) == seen_by_attempts(store) == set(range(40))
    (info,) = store.list(FOLDER)
    assert "/m000002-" in info.key


@pytest.mark.parametrize("verb", ["put_bytes", "delete"])
@pytest.mark.parametrize("nth", [1, 2, 9, 20])
@pytest.mark.parametrize("after_effect", [False, True])
def test_an_answer_that_is_lost_costs_no_record(verb, nth, after_effect):
    """A write or a removal that is repeated, or given up, leaves every record, and says nothing twice."""
    for retries in (0, 8):
        store = MemoryStore("lost")
        commit(store, *range(20))
        store.faults.add(verb=verb, nth=nth, after_effect=after_effect)
        Ledger(store, "default", RetryPolicy(retries, sleep=lambda _: False)).done(range(1000))
        store.faults.clear()
        assert seen_by_commands(store) == seen_by_attempts(store) == set(range(20))


def test_windows_of_a_long_ledger_are_one_reading(monkeypatch):
    """However many parts are listed at a time, each block is read once and whole."""
    store = MemoryStore("long")
    commit(store, *range(0, 30_000, 500))
    store.put_bytes(b"x", f"{FOLDER}foreign.txt")
    for window in (1, 2, 3, 7, 1000):
        monkeypatch.setattr("htcjob.ledger.parts.WINDOW", window)
        with Transfers(QUICK) as transfers:
            found = [record["position"] for record in final_records(store, "default", transfers)]
        assert found == list(range(0, 30_000, 500)), window


_WRITER = """
import sys
from htcjob.ledger.ledger import Ledger
from htcjob.ledger.records import Record
from htcjob.outcome.results import EntryResult
from htcjob.retry import RetryPolicy
from htcjob.storage.local.listing import Walk
from htcjob.storage.local.store import LocalStore

store = LocalStore(sys.argv[1])
for turn in range(int(sys.argv[2])):
    for position in range(SCATTERED):
        writer = Ledger(store, "default", RetryPolicy())
        writer.commit([Record(position, "e", EntryResult.DONE)])
        writer.close()
    done = Ledger(store, "default", RetryPolicy()).done(range(1000))
    assert set(done) == set(range(SCATTERED)), (turn, sorted(done))
"""


def test_readers_beside_attempts_that_put_together(tmp_path):
    """On a real disk, while other processes put parts together again and again, no reading ever lacks a record."""
    store = LocalStore(str(tmp_path))
    commit(store, *range(SCATTERED_PARTS))
    program = _WRITER.replace("SCATTERED", str(SCATTERED_PARTS))
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), "15"]) for _ in range(2)]
    n_readings = 0
    with Transfers(RetryPolicy()) as transfers:
        while any(writer.poll() is None for writer in writers):
            found = [record["position"] for record in final_records(store, "default", transfers)]
            assert found == list(range(SCATTERED_PARTS)), n_readings
            n_readings += 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert n_readings > 2


@pytest.mark.parametrize("read", READERS)
def test_a_folder_that_changes_behind_its_reader(read, tmp_path, monkeypatch):
    """Another process puts parts together just when a reader has the names of a folder, and before it looks at them."""
    store = LocalStore(str(tmp_path))
    commit(store, *range(SCATTERED_PARTS))
    program = _WRITER.replace("SCATTERED", str(SCATTERED_PARTS))
    plain_names, others = Walk._names, [1]

    def names(self, folder):
        found = plain_names(self, folder)
        if b"/done/0" in folder and others:
            others.pop()
            subprocess.run([sys.executable, "-c", program, str(tmp_path), "1"], check=True)
        return found

    monkeypatch.setattr(Walk, "_names", names)
    assert read(store) == set(range(SCATTERED_PARTS))
    assert not others
