"""`htcjob status`, `failed` and `collect`: what became of a run, as its task storage tells."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from tabulate import tabulate

from htcjob.cli.messages import printable, say
from htcjob.cli.options import injected, look_rows
from htcjob.cli.output import write, write_bytes
from htcjob.environment.context import read_context
from htcjob.environment.variables import current_environ
from htcjob.errors import ConfigurationError
from htcjob.job_stores import JobStores
from htcjob.ledger.reader import RecordedRun, Summary, choose_run, final_records, read_run, summarize
from htcjob.ledger.records import Unreadable
from htcjob.logs.redact import redact
from htcjob.outcome.results import FAILED_FOR_GOOD, EntryResult
from htcjob.retry import RetryPolicy
from htcjob.storage.urls import is_url, split_object_url
from htcjob.transfer.transfers import Transfers

if TYPE_CHECKING:
    from htcjob.storage.contract import Store

WATCH_EVERY_S = 10.0
COLUMNS = (
    *("position", "entry", "result", "message", "exit_status", "array_index", "attempt", "outputs"),
    *("stage_in_s", "work_s", "stage_out_s", "cpu_s", "peak_memory_bytes", "ended_at"),
)
"""Columns of the table that `collect --format csv` writes."""


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which run is meant."""
    for option in (
        click.option(
            "--run", "name", metavar="NAME", help="Name of the run, where task storage holds several."
        ),
        injected("--task-store", metavar="URL|DIR", help="Task storage: outputs and records."),
    ):
        command = option(command)
    return command


@click.command(epilog=look_rows())
@run_options
@click.option("--watch", is_flag=True, help="Repeat every 10 s until nothing is left to do.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def status(name: str | None, task_store: str | None, watch: bool, as_json: bool) -> None:
    """
    Show how far a run is: entries done, failed, pending.

    \b
    Example:
      htcjob status --task-store out
    """
    with Transfers(RetryPolicy()) as transfers:
        _, store = _stores(task_store)
        run = choose_run(store, name)
        while True:
            summary = summarize(store, run, transfers)
            if watch and not as_json and sys.stdout.isatty():
                click.clear()
            write(json.dumps(_members(summary)) if as_json else _table(summary))
            sys.stdout.flush()
            _warn(summary.unreadable, run)
            if not watch or not (summary.pending or summary.results[EntryResult.RETRY]):
                return
            time.sleep(WATCH_EVERY_S)


@click.command(epilog=look_rows())
@run_options
@click.option(
    "--manifest",
    "of",
    type=click.Choice(["failed", "left"]),
    help="Print manifest lines instead: of the entries that failed for good, or of those still left to do.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per entry, for programs.")
def failed(name: str | None, task_store: str | None, of: str | None, as_json: bool) -> None:
    """
    List the entries of a run that are not done, and why.

    One line per entry: position, result, entry, reason. Entries that no attempt has finished yet are not
    listed; --manifest left includes them.

    \b
    Example:
      htcjob failed --task-store out
    """
    with Transfers(RetryPolicy()) as transfers:
        stores, store = _stores(task_store)
        run, unreadable = choose_run(store, name), Unreadable()
        identity = read_run(store, run, transfers, unreadable)
        records = final_records(store, run, transfers, n_entries=identity.entries, unreadable=unreadable)
        if of == "left":
            for line in _left(run, identity, records, stores):
                _write_manifest_line(line)
            records = iter(())
        for record in records:
            if record["result"] == EntryResult.DONE:
                continue
            if of == "failed":
                if record["result"] in FAILED_FOR_GOOD:
                    _write_manifest_line(record["entry"])
            elif as_json:
                write(json.dumps(record))
            else:
                reason = printable(redact(str(record.get("message", ""))))
                entry = printable(redact(str(record.get("entry", ""))))
                write(f"{record['position']}\t{record['result']}\t{entry}\t{reason}")
        _warn(unreadable, run)


@click.command(epilog=look_rows())
@run_options
@click.option(
    "--format",
    "as_what",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="JSON lines with everything recorded, or a table for spreadsheets.",
)
def collect(name: str | None, task_store: str | None, as_what: str) -> None:
    """
    Write the records of a run, one per entry, by position.

    \b
    Example:
      htcjob collect --task-store out --format csv
    """
    with Transfers(RetryPolicy()) as transfers:
        _, store = _stores(task_store)
        run, unreadable = choose_run(store, name), Unreadable()
        n_entries = read_run(store, run, transfers, unreadable).entries
        if as_what == "csv":
            write(_csv_line(COLUMNS), end="")
        for record in final_records(store, run, transfers, n_entries=n_entries, unreadable=unreadable):
            if as_what == "jsonl":
                write(json.dumps(record))
                continue
            record["outputs"] = " ".join(output["key"] for output in record.get("outputs", ()))
            write(_csv_line([_cell(record.get(column, "")) for column in COLUMNS]), end="")
        _warn(unreadable, run)


def _write_manifest_line(line: str) -> None:
    """Write *line* in UTF-8, whatever the encoding of standard output: it must name the same key."""
    write_bytes(line.encode(errors="backslashreplace") + b"\n")


def _stores(task_store: str | None) -> tuple[JobStores, Store]:
    """Return the stores of this job, and the task storage to look at: this job's own, or the one given."""
    stores = JobStores(read_context(current_environ()), RetryPolicy())
    return stores, stores.open(task_store) if task_store else stores.task


def _warn(unreadable: Unreadable, run: str) -> None:
    """Warn of what cannot be read in a run's ledger; those entries are done again, so nothing is lost."""
    if unreadable.count:
        say(
            f"htcjob: warning: run {run}: unreadable lines or objects in its ledger, which do not count: "
            f"{unreadable.count}; the first: {unreadable.first[0]}"
        )


def _left(
    run: str, identity: RecordedRun, records: Iterator[dict[str, Any]], stores: JobStores
) -> Iterator[str]:
    """Yield the manifest lines of the entries that are neither done nor failed for good."""
    from htcjob.manifest.manifest import Manifest

    if identity.manifest is None:
        raise ConfigurationError(f"run.json of run {run!r} cannot be read, so it is unknown what is left")
    if not is_url(identity.manifest):
        raise ConfigurationError(f"run {run!r} works on entries given with --entry, and has no manifest")
    store_url, key = split_object_url(identity.manifest)
    manifest = Manifest(stores.open(store_url, key), key, RetryPolicy())
    if manifest.size_bytes != identity.size_bytes:
        raise ConfigurationError(f"manifest {manifest.url} has changed since run {run!r} began")
    ended = (record["position"] for record in records if record["result"] != EntryResult.RETRY)
    next_ended = next(ended, None)
    for entry in manifest.entries(range(manifest.n_entries)):
        if entry.position == next_ended:
            next_ended = next(ended, None)
        else:
            yield entry.text


def _members(summary: Summary) -> dict[str, object]:
    return {
        "run": summary.run,
        "entries": summary.entries,
        "pending": summary.pending,
        "results": {result.value: summary.results[result] for result in EntryResult},
        "outputs": summary.outputs,
        "output_bytes": summary.output_bytes,
        "work_s": round(summary.work_s, 3),
        "first_ended_at": summary.first_ended_at or None,
        "last_ended_at": summary.last_ended_at or None,
        "unreadable": summary.unreadable.count,
        "unreadable_first": [
            {"object": spot.url, "line": spot.line_number, "reason": spot.reason}
            for spot in summary.unreadable.first
        ],
    }


def _table(summary: Summary) -> str:
    rows = [
        ("run", summary.run),
        ("entries", "?" if summary.entries is None else summary.entries),
        *(
            (result.value.replace("_", " "), n)
            for result, n in summary.results.items()
            if n or result == "done"
        ),
        ("pending", "?" if summary.pending is None else summary.pending),
        ("outputs", f"{summary.outputs}, {summary.output_bytes} bytes"),
        ("work", f"{summary.work_s:.1f} s in all"),
        ("ended", f"{summary.first_ended_at} … {summary.last_ended_at}" if summary.last_ended_at else "-"),
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _cell(value: object) -> object:
    """Return *value* so that no name in it can colour a terminal."""
    return printable(value) if isinstance(value, str) else value


def _csv_line(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()
