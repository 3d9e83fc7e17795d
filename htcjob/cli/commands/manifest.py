"""`htcjob manifest`: make, check and preview lists of entries."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from htcjob.cli.messages import printable, say
from htcjob.cli.options import MOST_JOBS, balance_option, exit_rows, look_rows
from htcjob.cli.output import write
from htcjob.cli.transfers import with_progress, without_progress
from htcjob.errors import AbsentError, BadKeyError, UsageError
from htcjob.job_stores import JobStores
from htcjob.logs.redact import redact
from htcjob.machine.temporary import temporary_directory
from htcjob.manifest.index_format import SUFFIX
from htcjob.manifest.names import why_no_key
from htcjob.retry import RetryPolicy
from htcjob.storage.keys import check_key
from htcjob.transfer.locations import Location, is_local, parse
from htcjob.transfer.progress import size_in_words

if TYPE_CHECKING:
    from htcjob.storage.contract import Store


@click.group(name="manifest")
def manifest() -> None:
    """Make, check and preview lists of entries."""


@manifest.command(epilog=look_rows())
@click.argument("key", metavar="KEY|URL")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def index(key: str, as_json: bool) -> None:
    """
    Make the index of a manifest, beside it under its name plus .idx.

    With an index, a job reads only its own part of the manifest, however long that is. KEY is a key of
    project storage. Make the index again when the manifest has changed: one of another version is not used.

    \b
    Example:
      htcjob manifest index list.txt
    """
    from htcjob.manifest.index_writer import make_index

    location = location_of(key, JobStores(None, RetryPolicy()))
    with _named(location):
        made = make_index(location.store, location.key, RetryPolicy())
    if as_json:
        members = made._asdict() | {"index": location.store.url_of(location.key + SUFFIX)}
        write(json.dumps(members))
        return
    write(
        f"{printable(key)}{SUFFIX}: {made.n_entries} entries, {size_in_words(made.index_bytes)} "
        f"for a manifest of {size_in_words(made.manifest_bytes)}"
    )


_PROBLEM_ROWS = exit_rows(
    *(0, 64, 65, 66, 74, 75, 77, 78),
    meanings={
        0: "all is right",
        65: "bad lines, keys that no line can name, or links and special files in a directory",
    },
)


@manifest.command(epilog=_PROBLEM_ROWS)
@click.argument("location")
@click.option("--include", metavar="GLOB", multiple=True, help="Take only what matches; repeatable.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="Leave out what matches; repeatable.")
@click.option("--jsonl", is_flag=True, help="Write JSON lines, with key and size_bytes.")
@click.option(
    "-o",
    "--output",
    metavar="KEY|URL",
    help="The manifest to make, in project storage.  [default: manifest.txt or manifest.jsonl]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def build(
    location: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    jsonl: bool,
    output: str | None,
    as_json: bool,
) -> int:
    """
    Make a manifest of the objects in storage, and its index.

    The manifest is sorted by key; the index has all sizes. LOCATION is project:FOLDER/ or project: (entries
    are keys), or another LOCATION as in htcjob storage (entries are URLs); it may be a glob. The GLOBs are
    relative to its folder: *.jpg matches what is directly in it, **/*.jpg what is in any folder, and old/ or
    old a folder with everything in it.

    \b
    Example:
      htcjob manifest build project: --include '**/*.jpg' -o list.txt
    """
    from htcjob.ledger.layout import RESERVED_FOLDER
    from htcjob.manifest.build import Source
    from htcjob.manifest.build import build as build_manifest

    stores = JobStores(None, RetryPolicy())
    target = location_of(output or ("manifest.jsonl" if jsonl else "manifest.txt"), stores)
    source = Source(
        parse(location, stores, is_folder=True),
        is_project=location.startswith("project:"),
        reserved_folder=RESERVED_FOLDER,
        include=[glob.removesuffix("/") for glob in include],
        exclude=[glob.removesuffix("/") for glob in exclude],
        as_json=jsonl,
    )
    with with_progress("build") as transfers, temporary_directory() as folder:
        made = build_manifest(source, target, transfers=transfers, folder=folder)
    if made.indexed is None:
        for problem in made.unusable:
            say(f"htcjob: error: {problem}")
        n = made.n_unusable
        say(f"htcjob: error: no manifest made, because of {n} such keys or files: see --exclude")
        return os.EX_DATAERR
    if as_json:
        write(json.dumps(made.indexed._asdict() | {"manifest": target.url, "index": target.url + SUFFIX}))
        return 0
    write(
        f"{printable(target.text)}: {made.indexed.n_entries} entries of "
        f"{size_in_words(made.indexed.weight or 0)} together, and its index"
    )
    return 0


@manifest.command(epilog=_PROBLEM_ROWS)
@click.argument("key", metavar="KEY|URL")
@click.option("--exists", is_flag=True, help="Also look whether all objects exist.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each problem, for programs.")
def check(key: str, exists: bool, as_json: bool) -> int:
    """
    Find what is wrong with a manifest.

    Unusable lines, duplicate entries, an index that is damaged or of another version and, with --exists,
    absent objects: each problem gets a line, with the number of the manifest's line.

    \b
    Example:
      htcjob manifest check list.txt --exists
    """
    from htcjob.manifest.check import Check

    stores = JobStores(None, RetryPolicy())
    location = location_of(key, stores)
    n_problems = 0
    with _named(location), without_progress() as transfers, temporary_directory() as folder:
        made = Check(location, transfers=transfers, retry=RetryPolicy(), folder=folder)
        for problem in made.problems(partial(_open, stores) if exists else None):
            n_problems += 1
            if as_json:
                write(json.dumps({"line": problem.line_number, "problem": redact(problem.text)}))
            else:
                write(printable(redact(problem.text)))
    if n_problems:
        say(f"htcjob: error: {n_problems} problems with the {made.n_entries} entries of {location.text}")
        return os.EX_DATAERR
    if not as_json:
        write(f"{printable(location.text)}: {made.n_entries} entries, nothing wrong")
    return 0


@manifest.command(epilog=look_rows())
@click.argument("key", metavar="KEY|URL")
@click.option("--array-size", type=click.IntRange(1, MOST_JOBS), required=True, help="Jobs in the array.")
@balance_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each job, for programs.")
def split(key: str, array_size: int, balance: str, as_json: bool) -> None:
    """
    Show what every job of an array would get.

    One line per job: array index, number of entries, bytes of their inputs (- without an index that knows
    them), first and last entry.

    \b
    Example:
      htcjob manifest split list.txt --array-size 1000 --balance bytes
    """
    from htcjob.manifest.split import split as split_manifest

    location = location_of(key, JobStores(None, RetryPolicy()))
    with _named(location), without_progress() as transfers, temporary_directory() as folder:
        for job in split_manifest(
            location,
            array_size=array_size,
            balance=balance,
            transfers=transfers,
            retry=RetryPolicy(),
            folder=folder,
        ):
            ends = (job.first, job.last)
            if as_json:
                members = {
                    "array_index": job.array_index,
                    "chunk": [job.chunk.start, job.chunk.stop],
                    "entries": len(job.chunk),
                    "size_bytes": job.size_bytes,
                    "first": ends[0],
                    "last": ends[1],
                }
                write(json.dumps(members))
            else:
                size = "-" if job.size_bytes is None else job.size_bytes
                shown = ["-" if line is None else printable(redact(line)) for line in ends]
                write("\t".join(map(str, (job.array_index, len(job.chunk), size, *shown))))


def _open(stores: JobStores, url: str, key: str) -> Store:
    """Return the store of an object; where the URL is empty, project storage."""
    return stores.open(url, key) if url else stores.project


@contextmanager
def _named(location: Location) -> Iterator[None]:
    """Add to the error of an absent manifest what its name means."""
    try:
        yield
    except AbsentError as error:
        if error.url != location.url:
            raise
        raise AbsentError(
            "manifest", error.url, f"{error.reason}; name a key of project storage, or a URL"
        ) from error


def location_of(key: str, stores: JobStores) -> Location:
    """
    Return where a manifest is: a key of project storage, as `--manifest` takes it, or a LOCATION.

    Raises:
        UsageError: it is neither.
    """
    if is_local(key):
        key = key.removeprefix("./")
        try:
            check_key(key)
        except BadKeyError as error:
            raise UsageError(f"the manifest {why_no_key(key, error.reason, stores.project.url)}") from None
        location = Location(key, stores.project, key)
    else:
        location = parse(key, stores)
    if location.is_folder:
        raise UsageError(f"{location.text} is a folder: name the manifest")
    return location
