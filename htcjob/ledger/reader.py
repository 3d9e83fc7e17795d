"""Reads a whole run's ledger for the commands that show it; memory does not grow with the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from htcjob.errors import AbsentError, ConfigurationError
from htcjob.ledger.layout import RESERVED_PREFIX, check_run_name, run_in, run_key
from htcjob.ledger.parts import Parts
from htcjob.ledger.records import Spot, Unreadable, is_count
from htcjob.logs.json_object import parse_object
from htcjob.outcome.results import EntryResult
from htcjob.retry import RetryPolicy

if TYPE_CHECKING:
    from htcjob.storage.contract import ObjectInfo, Store
    from htcjob.transfer.transfers import Transfers


@dataclass(slots=True)
class Summary:
    """The progress of a run."""

    run: str
    """Its name."""
    entries: int | None
    """Entries of its manifest; None where that cannot be read."""
    results: dict[EntryResult, int] = field(default_factory=lambda: dict.fromkeys(EntryResult, 0))
    """Entries by their final result: done, if any attempt did it, else what the latest one met."""
    outputs: int = 0
    """Objects put into task storage."""
    output_bytes: int = 0
    """Their total size."""
    work_s: float = 0.0
    """Total time of the commands, failed ones included."""
    first_ended_at: str = ""
    """When the first entry ended, UTC."""
    last_ended_at: str = ""
    """When the last entry ended, UTC."""
    unreadable: Unreadable = field(default_factory=Unreadable)
    """Objects and lines of its ledger that cannot be read, and count as absent."""

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
    """Yield the names of the runs in task storage, with one request for each, however large it is."""
    retry = RetryPolicy()

    def first_after(start_after: str | None) -> ObjectInfo | None:
        return next(store.list(RESERVED_PREFIX, start_after=start_after), None)

    after = given = None
    while True:
        found = retry.call(partial(first_after, after))
        if found is None:
            return
        name, after = run_in(found.key)
        if name and name != given:
            given = name
            yield name


def choose_run(store: Store, name: str | None) -> str:
    """
    Return *name*, or the only run in task storage where it is None.

    Raises:
        AbsentError: there is no run at all.
        ConfigurationError: there are several, and none was named; or *name* cannot be the name of a run.
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


class RecordedRun(NamedTuple):
    """The manifest of a run, as `run.json` records it; None for what it does not tell."""

    manifest: str | None = None
    """URL of the manifest."""
    size_bytes: int | None = None
    """Size of the manifest."""
    entries: int | None = None
    """Entries in the manifest."""


def read_run(store: Store, run: str, transfers: Transfers, unreadable: Unreadable) -> RecordedRun:
    """
    Return which manifest a run is of; where its record of that is damaged or lost, *unreadable* says so.

    Raises:
        AbsentError: there is no such run.
    """
    key = run_key(run)
    try:
        found = parse_object(transfers.call(lambda: store.read_range(key, 0)))
    except AbsentError as error:
        known = sorted(runs_in(store))
        if run not in known:
            recorded = ", ".join(known) or "none"
            raise AbsentError(
                "read", store.url, f"no run {run!r}; runs in this task storage: {recorded}"
            ) from error
        unreadable.add(Spot(store.url_of(key), None, "not there"))
        return RecordedRun()
    except ValueError as error:
        unreadable.add(Spot(store.url_of(key), None, str(error)))
        return RecordedRun()
    manifest, size_bytes, entries = (found.get(name) for name in ("manifest", "size_bytes", "entries"))
    if isinstance(manifest, str) and is_count(size_bytes) and is_count(entries):
        return RecordedRun(manifest, size_bytes, entries)
    unreadable.add(Spot(store.url_of(key), None, "it does not tell which manifest the run is of"))
    return RecordedRun()


def final_records(
    store: Store,
    run: str,
    transfers: Transfers,
    *,
    n_entries: int | None = None,
    unreadable: Unreadable | None = None,
) -> Iterator[dict[str, Any]]:
    """
    Yield one record for each entry that an attempt has ended, by position (`Parts.final`).

    Args:
        store: Task storage.
        run: Name of the run.
        transfers: Makes the requests.
        n_entries: Entries of its manifest, where that is known.
        unreadable: Collects what cannot be read.

    Raises:
        StorageError: the ledger cannot be read.
    """
    parts = Parts(store, run, transfers, n_entries=n_entries, unreadable=unreadable)
    for block in parts.read_all(transfers.each):
        final = parts.final(block)
        yield from (final[position] for position in sorted(final))


def summarize(store: Store, run: str, transfers: Transfers) -> Summary:
    """Return the progress of a run."""
    unreadable = Unreadable()
    entries = read_run(store, run, transfers, unreadable).entries
    summary = Summary(run, entries, unreadable=unreadable)
    for record in final_records(store, run, transfers, n_entries=entries, unreadable=unreadable):
        summary.add(record)
    return summary
