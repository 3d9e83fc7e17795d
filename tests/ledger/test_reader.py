"""The progress of a run is read from its ledger alone."""

from __future__ import annotations

import csv
import io
import json

import pytest

from htcjob.errors import AbsentError, ConfigurationError, TransientError
from htcjob.ledger.ledger import Ledger
from htcjob.ledger.reader import choose_run, final_records, runs_in, summarize
from htcjob.ledger.records import Output, Record
from htcjob.ledger.run_identity import RunIdentity
from htcjob.manifest.entry_list import EntryList
from htcjob.outcome.results import EntryResult
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore
from htcjob.transfer.transfers import Transfers

NO_WAIT = RetryPolicy(sleep=lambda _seconds: False)


@pytest.fixture
def store():
    return MemoryStore("task")


@pytest.fixture
def transfers():
    with Transfers(NO_WAIT) as transfers:
        yield transfers


def record(position: int, result: EntryResult = EntryResult.DONE, **members) -> Record:
    return Record(position=position, entry=f"e{position}", result=result, **members)


def ledger(store, run="default") -> Ledger:
    return Ledger(store, run, NO_WAIT)


def commit(store, records, run="default") -> None:
    writer = ledger(store, run)
    writer.commit(records)
    writer.close()


def finals(store, transfers) -> dict[int, str]:
    return {found["position"]: found["result"] for found in final_records(store, "default", transfers)}


def test_one_record_per_entry_by_position(store, transfers):
    """However the records lie in blocks and parts, an entry is shown once, in order."""
    for position in (2500, 3, 0, 999, 1000, 7):
        commit(store, [record(position)])
    assert list(finals(store, transfers)) == [0, 3, 7, 999, 1000, 2500]


def test_done_wins_and_otherwise_the_latest(store, transfers):
    """A failure before or after a `done` does not undo it; of several failures the last one counts."""
    commit(store, [record(0, EntryResult.FAILED, ended_at="2026-01-01T00:00:01Z")])
    commit(store, [record(0, ended_at="2026-01-01T00:00:02Z")])
    commit(store, [record(0, EntryResult.TIMED_OUT, ended_at="2026-01-01T00:00:03Z")])
    commit(store, [record(1, EntryResult.TIMED_OUT, ended_at="2026-01-01T00:00:09Z")])
    commit(store, [record(1, EntryResult.FAILED, ended_at="2026-01-01T00:00:08Z")])
    assert finals(store, transfers) == {0: "done", 1: "timed_out"}


def test_damage_is_passed_over(store, transfers):
    """Lines that cannot be read count for nothing, and do not hide the others."""
    commit(store, [record(1)])
    junk = b'{"position":2,"result":"do\n[]\n{"position":3,"result":"splendid"}\n{"position":"4","result":"done"}\n'
    store.put_bytes(junk, ".htcjob/default/done/00000000/x.jsonl")
    assert finals(store, transfers) == {1: "done"}


def test_faults_are_retried(store, transfers):
    """A read that fails once does not fail the report, and one that fails for good does."""
    commit(store, [record(1)])
    store.faults.add(verb="read_range", nth=1)
    assert finals(store, transfers) == {1: "done"}
    store.faults.clear()
    store.faults.add(verb="read_range")
    with pytest.raises(TransientError):
        finals(store, transfers)


def test_the_summary_counts(store, transfers):
    """Entries by result, outputs, and what is pending."""
    entries = EntryList(["a", "b", "c", "d"])
    ledger(store).open_run(RunIdentity.of(entries), ["cmd"])
    outputs = (Output("x", 5, "00"), Output("y", 7, "00"))
    commit(store, [record(0, outputs=outputs, work_s=2.0, ended_at="2026-01-01T00:00:01Z")])
    commit(store, [record(2, EntryResult.FAILED, work_s=0.5, ended_at="2026-01-01T00:00:04Z")])
    summary = summarize(store, "default", transfers)
    assert (summary.entries, summary.pending) == (4, 2)
    assert summary.results[EntryResult.DONE] == summary.results[EntryResult.FAILED] == 1
    assert (summary.outputs, summary.output_bytes, summary.work_s) == (2, 12, 2.5)
    assert (summary.first_ended_at, summary.last_ended_at) == ("2026-01-01T00:00:01Z", "2026-01-01T00:00:04Z")


def test_a_listing_that_fails_once_is_made_again(store):
    """Also the first of all, which looks which runs there are, and those of the parts."""
    commit(store, [record(1)])
    for nth in (1, 2, 3):
        store.faults.add(verb="list", nth=nth)
        assert choose_run(store, None) == "default"
        with Transfers(NO_WAIT) as transfers:
            assert finals(store, transfers) == {1: "done"}
        store.faults.clear()


def test_the_only_run_is_chosen(store):
    """One run needs no name, two do, no run is an error; other objects are not runs."""
    with pytest.raises(AbsentError):
        choose_run(store, None)
    store.put_bytes(b"", ".htcjob/check-123")
    commit(store, [record(n) for n in range(0, 5000, 1000)], run="b")
    assert choose_run(store, None) == "b"
    commit(store, [record(0)], run="b-2")
    commit(store, [record(0)], run="a")
    assert sorted(runs_in(store)) == ["a", "b", "b-2"]
    with pytest.raises(ConfigurationError, match="a, b, b-2"):
        choose_run(store, None)
    assert choose_run(store, "a") == "a"
    with pytest.raises(ConfigurationError):
        choose_run(store, "../x")


# The commands


@pytest.fixture
def run_of_five(htcjob):
    """Entries 0 and 3 done, 1 failed, 2 to be tried again, 4 (job 1) not begun."""
    htcjob.entries("a", "b", "c", "d", "e,\u00e9")
    command = [
        "sh",
        "-c",
        "case $HTCJOB_KEY in b) exit 3;; c) exit 75;; esac; echo > $HTCJOB_OUTPUT_DIR/$HTCJOB_KEY",
    ]
    done = htcjob.run("--array-index", "0", "--array-size", "2", "--each", "--", *command)
    assert done.returncode == 65, done.stderr
    return htcjob


def test_status(run_of_five):
    """The table and the JSON object show the same."""
    shown = run_of_five("status")
    assert shown.returncode == 0, shown.stderr
    table = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert (table["entries"], table["done"], table["failed"], table["retry"]) == ("5", "1", "1", "1")
    assert table["pending"] == "2"
    found = json.loads(run_of_five("status", "--json").stdout)
    assert (found["entries"], found["pending"], found["results"]["done"]) == (5, 2, 1)


def test_failed(run_of_five):
    """What is not done, with reasons, as lines, as JSON and as two kinds of manifest."""
    lines = [line.split("\t") for line in run_of_five("failed").stdout.splitlines()]
    assert [line[:3] for line in lines] == [["1", "failed", "b"], ["2", "retry", "c"]]
    assert "exit status 3" in lines[0][3]
    objects = [json.loads(line) for line in run_of_five("failed", "--json").stdout.splitlines()]
    assert [found["position"] for found in objects] == [1, 2]
    assert run_of_five("failed", "--manifest", "failed").stdout == "b\n"
    assert run_of_five("failed", "--manifest", "left").stdout == "c\nd\ne,\u00e9\n"


def test_what_is_left_of_a_changed_manifest_is_not_guessed(run_of_five):
    """Positions of another list would name the wrong entries."""
    run_of_five.manifest("a", "b")
    shown = run_of_five("failed", "--manifest", "left")
    assert shown.returncode == 78
    assert "has changed" in shown.stderr
    assert shown.stdout == ""


def test_collect(run_of_five):
    """All records, by position, for programs and for spreadsheets."""
    other = run_of_five.run("--run", "x", "--array-index", "1", "--array-size", "2", "--each", "--", "false")
    assert other.returncode == 65
    records = [json.loads(line) for line in run_of_five("collect", "--run", "default").stdout.splitlines()]
    assert [found["position"] for found in records] == [0, 1, 2]
    assert records[0]["outputs"][0]["key"] == "a"
    table = run_of_five("collect", "--run", "default", "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [(row["entry"], row["result"], row["outputs"]) for row in rows] == [
        ("a", "done", "a"),
        ("b", "failed", ""),
        ("c", "retry", ""),
    ]


def test_no_run_at_all(htcjob):
    """A task storage without a run is absent (66), not a run of nothing."""
    for command in ("status", "failed", "collect"):
        shown = htcjob(command)
        assert shown.returncode == 66, command
        assert "no run was recorded" in shown.stderr
