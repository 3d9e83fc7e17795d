"""What became of a run's entries, read from its ledger in one listing; memory does not grow with the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from htcjob.errors import AbsentError, ConfigurationError, HtcjobError
from htcjob.ledger import check_run_name
from htcjob.outcome import EntryResult
from htcjob.storage.keys import LAST_CHARACTER

if TYPE_CHECKING:
    from htcjob.storage.contract import ObjectInfo, Store
    from htcjob.transfer import Transfers

T = TypeVar("T")


@dataclass(slots=True)
class Summary:
    """How far a run is."""

    run: str
    """Its name."""
    entries: int | None
    """Entries of its manifest; None when its record does not say."""
    results: dict[EntryResult, int] = field(default_factory=lambda: dict.fromkeys(EntryResult, 0))
    """Entries by their final result: done, if any attempt did it, else what the latest one met."""
    outputs: int = 0
    """Objects put into task storage."""
    output_bytes: int = 0
    """Their size together."""
    work_s: float = 0.0
    """Time of the commands together, failed ones included."""
    first_ended_at: str = ""
    """When the first entry ended, UTC."""
    last_ended_at: str = ""
    """When the last one did, UTC."""

    @property
    def pending(self) -> int | None:
        """Entries that no attempt has ended yet."""
        return None if self.entries is None else self.entries - sum(self.results.values())

    def add(self, record: dict[str, Any]) -> None:
        """Count the final record of an entry."""
        self.results[EntryResult(record["result"])] += 1
        outputs = record.get("outputs", ())
        self.outputs += len(outputs)
        self.output_bytes += sum(output["size_bytes"] for output in outputs)
        self.work_s += record.get("work_s", 0.0)
        ended_at = record.get("ended_at", "")
        if ended_at:
            self.first_ended_at = min(self.first_ended_at or ended_at, ended_at)
            self.last_ended_at = max(self.last_ended_at, ended_at)


def runs_in(store: Store) -> Iterator[str]:
    """Give the names of the runs in task storage, with one request each, however large they are."""
    after = None
    while True:
        found = next(store.list(".htcjob/", start_after=after), None)
        if found is None:
            return
        name = found.key.split("/")[1]
        if "/" in found.key.removeprefix(f".htcjob/{name}"):
            yield name
        after = f".htcjob/{name}/{LAST_CHARACTER}"


def choose_run(store: Store, name: str | None) -> str:
    """
    Give *name*, or else the only run in task storage.

    Raises:
        AbsentError: there is no run at all.
        ConfigurationError: there are several, and none was named; or *name* is no name of a run.
    """
    if name is not None:
        check_run_name(name)
        return name
    names = sorted(runs_in(store))
    if not names:
        raise AbsentError("list", store.url, "no run was recorded in this task storage")
    if len(names) > 1:
        raise ConfigurationError(f"{store.url} holds several runs: name one with --run: {', '.join(names)}")
    return names[0]


def read_run(store: Store, run: str, transfers: Transfers) -> dict[str, Any]:
    """
    Give what `run.json` says: manifest, entries, command.

    Raises:
        AbsentError: there is no such run.
    """
    key = f".htcjob/{run}/run.json"
    try:
        found = json.loads(transfers.call(lambda: store.read_range(key, 0)))
    except AbsentError as error:
        known = ", ".join(sorted(runs_in(store))) or "none at all"
        raise AbsentError("read", store.url, f"no run {run!r}; there is {known}") from error
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def final_records(store: Store, run: str, transfers: Transfers) -> Iterator[dict[str, Any]]:
    """
    Give one record for each entry that an attempt has ended, by position.

    An entry may have several: failures before it was done, or two attempts that overlapped. The first
    `done` counts; without one, the record that ended last.

    Raises:
        StorageError: the ledger cannot be read.
    """

    def read(part: ObjectInfo) -> tuple[str, bytes | None]:
        block = part.key.rpartition("/")[0]
        try:
            return block, transfers.call(lambda: store.read_range(part.key, 0))
        except AbsentError:  # gone since it was listed: an attempt has put this block's parts together
            return block, None

    parts = store.list(f".htcjob/{run}/done/")
    for block, pairs in groupby(_good(transfers.each(read, parts)), key=lambda pair: pair[0]):
        contents = [content for _, content in pairs]
        while None in contents:
            contents = [content for _, content in map(read, store.list(f"{block}/"))]
        final: dict[int, dict[str, Any]] = {}
        for content in contents:
            for record in _records_in(content or b""):
                known = final.get(record["position"])
                if known is None or _rank(record) > _rank(known):
                    final[record["position"]] = record
        for position in sorted(final):
            yield final[position]


def summarize(store: Store, run: str, transfers: Transfers) -> Summary:
    """Give how far a run is."""
    entries = read_run(store, run, transfers).get("entries")
    summary = Summary(run, entries if isinstance(entries, int) else None)
    for record in final_records(store, run, transfers):
        summary.add(record)
    return summary


def _good(results: Iterable[T | HtcjobError]) -> Iterator[T]:
    for result in results:
        if isinstance(result, HtcjobError):
            raise result
        yield result


def _records_in(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            EntryResult(record["result"])
            if isinstance(record["position"], int):
                yield record


def _rank(record: dict[str, Any]) -> tuple[bool, str]:
    """Give what the record that counts has most of: a `done`, and of the others the latest."""
    is_done = record["result"] == EntryResult.DONE
    return is_done, "" if is_done else str(record.get("ended_at", ""))
