"""`htcjob chunk`: the entries that an array index gets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from htcjob.cli.messages import printable
from htcjob.cli.options import balance_option, job_options, look_rows
from htcjob.cli.output import write
from htcjob.environment.context import read_context
from htcjob.environment.variables import current_environ
from htcjob.errors import ConfigurationError
from htcjob.job_stores import JobStores
from htcjob.logs.redact import redact
from htcjob.manifest.chunk import Share, chunk_bounds
from htcjob.retry import RetryPolicy

if TYPE_CHECKING:
    from htcjob.environment.context import JobContext
    from htcjob.manifest.manifest import Manifest


@click.command(epilog=look_rows())
@job_options
@balance_option
@click.option(
    "--entries",
    type=click.IntRange(min=0),
    help="Pretend that the manifest has this many entries; none is read.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def chunk(entries: int | None, as_json: bool, balance: str, **flags: Any) -> None:
    """
    Show the entries that an array index gets.

    One line per entry: its position in the manifest, from 0, and the entry. With --entries, only
    the range of positions.

    \b
    Example:
      htcjob chunk --entries 5001 --array-size 1000 --array-index 0
    """
    context = read_context(current_environ(), flags=flags)
    manifest: Manifest | None = None
    if entries is None:
        retry = RetryPolicy()
        manifest, bounds = open_manifest_of(context, JobStores(context, retry), retry, balance=balance)
    else:
        bounds = chunk_bounds(
            array_index=context.array_index, array_size=context.require_array_size(), n_entries=entries
        )
    if as_json:
        write(
            json.dumps(
                {
                    "array_index": context.array_index,
                    "array_size": context.array_size,
                    "manifest_entries": manifest.n_entries if manifest else entries,
                    "chunk": [bounds.start, bounds.stop],
                    "entries": None if manifest is None else [e.text for e in manifest.entries(bounds)],
                }
            )
        )
        return
    if manifest is None:
        write(f"{bounds.start} {bounds.stop}")
        return
    for entry in manifest.entries(bounds):
        note = f"\t# {entry.problem}" if entry.problem else ""
        write(f"{entry.position}\t{printable(redact(entry.text))}{note}")


def open_manifest_of(
    context: JobContext, stores: JobStores, retry: RetryPolicy, *, balance: str
) -> tuple[Manifest, range]:
    """
    Open a job's manifest and find its chunk, as `htcjob run` does.

    Raises:
        ConfigurationError: no manifest is named, or it is no key and no URL of an object.
        StorageError: it cannot be read.
    """
    from htcjob.manifest.opening import open_manifest

    if context.manifest is None:
        raise ConfigurationError("no manifest is known: set --manifest or HTCJOB_MANIFEST")
    project = stores.project
    share = Share(context.array_index, context.require_array_size(), balance)
    return open_manifest(context.manifest, share, project=project, retry=retry, open_url=stores.open)
