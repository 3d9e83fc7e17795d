"""What is damaged or foreign in a ledger is counted and named, the rest is shown, and all agree on what counts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.errors import ConfigurationError, PermanentError
from htcjob.ledger.ledger import SCATTERED_PARTS, Ledger
from htcjob.ledger.reader import choose_run, final_records, summarize
from htcjob.ledger.records import Output, Record, Unreadable, read_record
from htcjob.ledger.run_identity import RunIdentity
from htcjob.manifest.entry_list import EntryList
from htcjob.outcome.results import EntryResult
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore
from htcjob.transfer.transfers import Transfers

QUICK = RetryPolicy(sleep=lambda _: False)
RUN = ".htcjob/default/"
DONE = f"{RUN}done/"
LISTED = EntryList(["a", "b", "c", "d", "e", "f"])
GOOD = Record(
    3, "d", EntryResult.DONE, outputs=(Output("x", 1, "ab"),), value={"n": 1}, ended_at="2026-01-01T00:00:00Z"
)


@pytest.fixture
def store():
    """A run of six entries, two of which are done and one has failed."""
    made = MemoryStore("damaged")
    ledger = Ledger(made, "default", QUICK)
    ledger.open_run(RunIdentity.of(LISTED), ["cmd"])
    ledger.commit([Record(0, "a", EntryResult.DONE), Record(1, "b", EntryResult.DONE)])
    ledger.commit([Record(2, "c", EntryResult.FAILED, message="no")])
    ledger.close()
    return made


def seen(store) -> dict[int, str]:
    """Return what commands read of all entries, which must agree with what attempts read as done."""
    ledger = Ledger(store, "default", QUICK)
    ledger.open_run(RunIdentity.of(LISTED), ["cmd"])
    with Transfers(QUICK) as transfers:
        n_entries = LISTED.n_entries
        records = {
            r["position"]: r["result"]
            for r in final_records(store, "default", transfers, n_entries=n_entries)
        }
        summary = summarize(store, "default", transfers)
    assert set(ledger.done(range(6))) == {
        position for position, result in records.items() if result == "done"
    }
    assert summary.pending == 6 - len(records)
    return records


def unreadable(store) -> Unreadable:
    with Transfers(QUICK) as transfers:
        return summarize(store, "default", transfers).unreadable


def changed(**members) -> bytes:
    return json.dumps({**json.loads(GOOD.to_json()), **members}).encode()


def without(name: str) -> bytes:
    return json.dumps(
        {key: value for key, value in json.loads(GOOD.to_json()).items() if key != name}
    ).encode()


def spelt(position: str) -> bytes:
    """The record with a position that Python would write otherwise."""
    return GOOD.to_json().replace('"position":3', f'"position":{position}').encode()


NO_RECORDS = {
    "truncated": GOOD.to_json().encode()[:-9],
    "binary": bytes(range(128, 256)),
    "zeros": b"\0" * 300,
    "latin-1": changed(entry="d").replace(b'"d"', b'"\xe9"'),
    "utf-16": GOOD.to_json().encode("utf-16"),
    "list": b"[1]",
    "number": b"7",
    "null": b"null",
    "deep": b'{"position":3,"result":"done","entry":"d","value":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep stranger": b'{"x":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001,
    "digits": spelt("1" * 10_000),
    "no position": without("position"),
    "no result": without("result"),
    "no entry": without("entry"),
    **{
        f"position {text}": spelt(text)
        for text in ('"3"', "3.0", "0.9", "true", "null", "-1", "[3]", "{}", '"0"')
    },
    **{
        f"position {text}": spelt(text)
        for text in ("1e400", "-1e400", "NaN", "Infinity", "1e2", "1000", "6", str(10**30))
    },
    **{
        f"result {value}": changed(result=value)
        for value in ("splendid", "", 1, None, True, ["done"], {}, "DONE")
    },
    **{f"entry {value}": changed(entry=value) for value in (1, None, ["d"])},
    **{
        f"outputs {value}": changed(outputs=value)
        for value in ({}, "x", 1, None, ["x"], [{}], [[]], [{"key": "x"}])
    },
    "outputs' size": changed(outputs=[{"key": "x", "size_bytes": "1", "sha256": ""}]),
    "outputs' huge size": changed(outputs=[{"key": "x", "size_bytes": 10**30, "sha256": ""}]),
    "outputs' deep member": changed(outputs=[{"key": "x", "size_bytes": 1, "sha256": "", "more": [[[]]]}]),
    **{
        f"work_s {text}": changed(work_s="W").replace(b'"W"', text)
        for text in (b'"1"', b"1e400", b"NaN", b"true", b"[]")
    },
    **{f"ended_at {value!r}": changed(ended_at=value) for value in (5, None, "x\n\x1b[2J", "x" * 99, "é")},
    **{f"{name} text": changed(**{name: "1"}) for name in ("exit_status", "attempt", "array_index", "cpu_s")},
    "message": changed(message=["no"]),
    "outputs_at": changed(outputs_at="3"),
    "peak": changed(peak_memory_bytes=-1),
}


@pytest.mark.parametrize("line", NO_RECORDS.values(), ids=NO_RECORDS)
def test_a_line_that_is_no_record_does_not_count_and_is_named(store, line):
    """Its entry is not done, the other lines of the same part count, and the warning has object and line number."""
    key = f"{DONE}00000000/0123-000000.jsonl"
    store.put_bytes(Record(4, "e", EntryResult.DONE).to_json().encode() + b"\n" + line + b"\n", key)
    assert seen(store) == {0: "done", 1: "done", 2: "failed", 4: "done"}
    found = unreadable(store)
    assert (found.count, found.first[0].url, found.first[0].line_number) == (
        line.count(b"\n") + 1,
        store.url_of(key),
        2,
    )


RECORDS = {
    "as it was": GOOD.to_json().encode(),
    "blanks": b"  " + GOOD.to_json().encode() + b" \r",
    "more members": changed(more={"a": [1]}, also=None, third=1e400),
    "lone surrogates": changed(entry="\udce9"),
    "NaN as value": changed(value=float("nan")),
    "whole seconds": changed(work_s=3, cpu_s=0),
    "shortest": b'{"position":3,"entry":"d","result":"done"}',
}


@pytest.mark.parametrize("line", RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize("end", [b"\n", b"", b"\n\n"])
def test_a_line_that_is_a_record_counts(store, line, end):
    """What other versions wrote, or an editor saved, counts for attempts and commands alike."""
    store.put_bytes(line + end, f"{DONE}00000000/0123-000000.jsonl")
    assert seen(store) == {0: "done", 1: "done", 2: "failed", 3: "done"}
    assert not unreadable(store).count


FOREIGN = (
    "done/.DS_Store", "done/x", "done/00000000/.DS_Store", "done/00000000/._0123-000000.jsonl",
    "done/00000000/x.jsonl.bak", "done/00000000/sub/0123-000000.jsonl", "done/0/0123-000000.jsonl",
    "done/block/0123-000000.jsonl", "done/\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660/0123-000000.jsonl",
    "done/99999999999/0123-000000.jsonl", "done/-0000001/0123-000000.jsonl", "done/00000000/n\u00e4me.jsonl",
    "done/00000000/a b.jsonl", "done/00000000.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_object_is_named_and_never_read(store, name):
    """Whatever lies in the ledger's folders, also a record's copy under a name that is none, does not count."""
    store.put_bytes(GOOD.to_json().encode(), RUN + name)
    store.faults.add(verb="read_range", prefix=RUN + name, error=PermanentError)
    assert seen(store) == {0: "done", 1: "done", 2: "failed"}
    assert [(spot.url, spot.line_number) for spot in unreadable(store).first] == [
        (store.url_of(RUN + name), None)
    ]


@pytest.mark.parametrize(
    "name", ["attempts/.DS_Store", "attempts/x/y", "attempts/0-1.json", "other/0", "x.json"]
)
def test_other_folders_of_a_run_are_none_of_a_readers_business(store, name):
    """Exit records, and what others put beside them, change nothing."""
    store.put_bytes(b"\xff{", RUN + name)
    assert seen(store) == {0: "done", 1: "done", 2: "failed"}
    assert not unreadable(store).count


def test_an_empty_part_is_damage(store):
    """A part always has a record: an empty one lost it."""
    store.put_bytes(b"", f"{DONE}00000000/0123-000000.jsonl")
    assert seen(store) == {0: "done", 1: "done", 2: "failed"}
    assert str(unreadable(store).first[0]).endswith("0123-000000.jsonl: empty")


def test_a_record_in_the_wrong_block_does_not_count(store):
    """Attempts would not look for it there."""
    store.put_bytes(GOOD.to_json().encode(), f"{DONE}00000001/0123-000000.jsonl")
    assert seen(store) == {0: "done", 1: "done", 2: "failed"}
    assert "position 3 is not of this block" in str(unreadable(store).first[0])


def test_a_long_line_is_a_line(store):
    """A hundred megabytes without a line end are one line that cannot be read; so are as many of JSON."""
    for data in (b"x" * 100_000_000, b'{"position":3,"result":"done","entry":"' + b"x" * 100_000_000):
        store.put_bytes(data, f"{DONE}00000000/0123-000000.jsonl")
        assert seen(store) == {0: "done", 1: "done", 2: "failed"}
        assert unreadable(store).count == 1


def test_what_cannot_be_read_is_never_removed(store):
    """Parts are put together without those that hold anything but records, and foreign objects stay."""
    kept = {
        f"{DONE}00000000/{n:04}-000000.jsonl": GOOD.to_json().encode() + b"\nx"
        for n in range(SCATTERED_PARTS)
    }
    kept[f"{DONE}00000000/.DS_Store"] = b"\0"
    kept[f"{DONE}00000000/z.jsonl"] = GOOD.to_json().encode()  # its name comes behind that of any new part
    for key, data in kept.items():
        store.put_bytes(data, key)
    before = {info.key for info in store.list(DONE)}
    assert set(seen(store)) == {0, 1, 2, 3}
    assert {info.key for info in store.list(DONE)} == before
    for position in range(SCATTERED_PARTS):
        writer = Ledger(store, "default", QUICK)
        writer.commit([Record(position % 6, "e", EntryResult.DONE)])
        writer.close()
    assert set(seen(store)) == set(range(6))
    after = {info.key for info in store.list(DONE)}
    assert len(after - kept.keys()) == 1
    assert after >= kept.keys()
    assert {key: store.read_range(key, 0) for key in kept} == kept


def test_which_done_counts_does_not_depend_on_parts(store):
    """The first to be done counts, in whatever part its record lies, before and after they are put together."""
    for n in range(SCATTERED_PARTS):
        writer = Ledger(store, "default", QUICK)
        at = f"2026-01-01T00:00:{(n * 7) % 20 + 1:02}Z"
        writer.commit([Record(5, "f", EntryResult.DONE, outputs=(Output(at, 1, ""),), ended_at=at)])
        writer.close()
    for _ in range(2):
        with Transfers(QUICK) as transfers:
            (record,) = [r for r in final_records(store, "default", transfers) if r["position"] == 5]
        assert record["ended_at"] == "2026-01-01T00:00:01Z"
        assert Ledger(store, "default", QUICK).done(range(6))[5] == ["2026-01-01T00:00:01Z"]
    assert len(list(store.list(DONE))) < 4


@settings(max_examples=150)
@given(st.data())
def test_no_bytes_end_a_reader(data):
    """Whatever happens to the bytes of a real part: no exception, and both readers agree."""
    store = MemoryStore("fuzzed")
    ledger = Ledger(store, "default", QUICK)
    ledger.open_run(RunIdentity.of(LISTED), ["cmd"])
    ledger.commit(
        [Record(n, f"e{n}", EntryResult.DONE, outputs=(Output("x", 1, "ab"),), work_s=0.5) for n in range(6)]
    )
    ledger.close()
    (info,) = store.list(DONE)
    part = bytearray(store.read_range(info.key, 0))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(part) - 1)) if part else 0
        new = data.draw(
            st.sampled_from([b"", b"\n", b'"', b"0", b"-", b"1e400", b"[", b"{", b"\xff", b"\0", b"null"])
        )
        part[at : at + data.draw(st.sampled_from([0, 1, 2, 9]))] = new
    store.put_bytes(bytes(part), info.key)
    assert seen(store).keys() <= set(range(6))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda one: st.lists(one) | st.dictionaries(st.sampled_from(list(json.loads(GOOD.to_json()))), one),
    )
)
def test_any_json_is_a_record_or_has_a_reason(value):
    """One function decides, and never raises."""
    found = read_record(json.dumps(value).encode(), block=0, n_entries=6)
    assert isinstance(found, str) or 0 <= found["position"] < 6


RUN_FILES = {
    "empty": b"", "half": b'{"manifest":"x', "list": b"[]", "null": b"null", "object": b"{}", "binary": b"\xff\0",
    "deep": b'{"manifest":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "digits": b'{"entries":' + b"9" * 9999 + b"}",
    "types": b'{"manifest":5,"entries":"6","size_bytes":null,"command":{}}',
    "entries": b'{"manifest":"m","entries":-6,"size_bytes":1}', "true": b'{"manifest":"m","entries":true,"size_bytes":1}',
    "1e400": b'{"manifest":"m","entries":1e400,"size_bytes":1}',
}  # fmt: skip


@pytest.mark.parametrize("data", RUN_FILES.values(), ids=RUN_FILES)
def test_a_damaged_run_file_hides_no_record(store, data):
    """Commands report it as damaged and show what is there; an attempt does not take it for its own run."""
    store.put_bytes(data, f"{RUN}run.json")
    with Transfers(QUICK) as transfers:
        summary = summarize(store, "default", transfers)
    assert (summary.entries, summary.pending, summary.results[EntryResult.DONE]) == (None, None, 2)
    assert [spot.url for spot in summary.unreadable.first] == [store.url_of(f"{RUN}run.json")]
    if data:  # an empty one was left by a kill, where there are no hard links, and is written anew
        with pytest.raises((PermanentError, ConfigurationError)):
            Ledger(store, "default", QUICK).open_run(RunIdentity.of(LISTED), ["cmd"])


def test_a_lost_run_file_hides_no_record(store):
    """A run is there as long as anything of it is."""
    store.delete(f"{RUN}run.json")
    found = unreadable(store)
    assert str(found.first[0]) == f"{store.url}{RUN}run.json: not there"
    assert found.count == 1


def test_what_is_no_run_is_not_taken_for_one(store):
    """Foreign names beside the runs do not make it unclear which run is meant, and end no listing."""
    for name in (
        "a b/x",
        ".hidden/x",
        "x",
        "\U0010ffff/\U0010ffff",
        f"{'y' * 200}/z",
        "default/\U0010ffff\U0010ffff",
    ):
        store.put_bytes(b"", f".htcjob/{name}")
    assert choose_run(store, None) == "default"


@pytest.fixture
def damaged(htcjob):
    """A real run of three entries, all done, and then three kinds of damage."""
    htcjob.entries("a", "b", "c")
    ended = htcjob.run("--each", "--", "sh", "-c", "echo > $HTCJOB_OUTPUT_DIR/$HTCJOB_KEY")
    assert ended.returncode == 0, ended.stderr
    (part,) = (htcjob.task / ".htcjob/default/done/00000000").iterdir()
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[2])
    (part.parent / ".DS_Store").write_bytes(b"\0")
    htcjob.lost = json.loads(lines[1])["position"]
    return htcjob


def test_commands_on_a_damaged_ledger(damaged):
    """Exit status 0, what is readable on standard output, one warning on standard error; the entry is done again."""
    lost = {0: "a", 1: "b", 2: "c"}[damaged.lost]
    for arguments in (
        ["status"],
        ["status", "--json"],
        ["collect"],
        ["collect", "--format", "csv"],
        ["failed"],
    ):
        shown = damaged(*arguments)
        assert shown.returncode == 0
        (warning,) = shown.stderr.splitlines()
        assert warning.startswith("htcjob: warning: run default: ")
        assert "do not count: 2; the first: file://" in warning
    assert json.loads(damaged("status", "--json").stdout)["pending"] == 1
    said = json.loads(damaged("status", "--json").stdout)
    assert said["unreadable"] == 2
    assert {spot["line"] for spot in said["unreadable_first"]} == {None, 2}
    assert len(damaged("collect").stdout.splitlines()) == 2
    assert damaged("failed", "--manifest", "left").stdout == f"{lost}\n"
    again = damaged.run("--each", "--", "sh", "-c", "echo > $HTCJOB_OUTPUT_DIR/$HTCJOB_KEY")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("records_unreadable") == 1
    assert damaged("failed", "--manifest", "left").stdout == ""
