"""`htcjob storage`: look at storage, and copy to, from and between stores."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import click

from htcjob.cli.messages import printable, say, say_ending
from htcjob.cli.options import exit_rows
from htcjob.cli.output import write, write_bytes
from htcjob.cli.targets import (
    check_apart,
    have_several_folders,
    sources,
    target_here,
    target_in_store,
)
from htcjob.cli.transfers import with_progress, without_progress
from htcjob.errors import BadKeyError, HtcjobError, TransientError, UsageError
from htcjob.job_stores import JobStores
from htcjob.logs.redact import redact
from htcjob.machine.temporary import temporary_directory
from htcjob.outcome.endings import Ending, ending_of_error
from htcjob.outcome.reasons import EXIT_STATUS, TerminationReason
from htcjob.retry import RetryPolicy
from htcjob.storage.contract import LeftOut
from htcjob.storage.keys import real_path
from htcjob.transfer.copying import Copier, Target, blocks, is_empty
from htcjob.transfer.globs import GLOB
from htcjob.transfer.locations import browse, is_local, parse
from htcjob.transfer.progress import size_in_words
from htcjob.transfer.tasks import COPIED, FAILED, REMOVED, SKIPPED, Outcome, removals, run_tasks

FAILURES_SHOWN = 5
"""Failures that are shown; the others are counted (`--json` has them all)."""

_MILDEST_FIRST = (0, 75, 66, 74, 77, 78, 64, 70)
"""When files fail for several reasons, the last of their statuses counts: 75 asks for the same again, and
means that this may be enough."""

_HELP = """
\b
LOCATION:
  project:KEY  task:KEY           storage of this job
  s3://… gs://… az://… file:///…  anywhere else
  A / at the end means a folder: everything in it. * ? [ ] are globs, ** matches any number of folders; a
  name that exists is taken literally. Copies keep the name behind the last / before a glob, as with rsync.

""" + exit_rows(
    *(0, 64, 66, 74, 75, 77, 78, 130),
    meanings={74: "impossible for good (disk full, no file can have this name)"},
)


@click.group(epilog=_HELP)
def storage() -> None:
    """
    Look at storage, and copy to, from and between stores.

    Copies run side by side and are retried; what is there already, with the same checksum, is skipped. So
    after an interruption, run the same command again.

    \b
    Example:
      htcjob storage ls project:
    """


_recursive = click.option(
    "-r", "--recursive", "is_recursive", is_flag=True, help="Include folders, with everything in them."
)
_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object for each file, for programs."
)


@storage.command(epilog=_HELP)
@click.argument("text", metavar="LOCATION")
@click.option(
    "-r", "--recursive", "is_recursive", is_flag=True, help="List the objects in folders, not the folders."
)
@_json
def ls(text: str, is_recursive: bool, as_json: bool) -> None:
    """
    List objects and folders: size in bytes, time of last change, key.

    \b
    Example:
      htcjob storage ls project:photos/
    """
    location = parse(text, JobStores(None, RetryPolicy()))
    n_left_out = 0
    with without_progress() as transfers:
        for entry in browse(location, is_recursive=is_recursive, transfers=transfers):
            if isinstance(entry, LeftOut):
                n_left_out += 1
                if n_left_out <= FAILURES_SHOWN:
                    say(f"htcjob: warning: left out: {location.store.url_of(entry.key)}: {entry.reason}")
                continue
            if isinstance(entry, str):
                key, size_bytes, changed = entry, None, None
            else:
                key, size_bytes = entry.key, entry.size_bytes
                changed = f"{entry.last_modified:%Y-%m-%dT%H:%M:%SZ}"
            if as_json:
                url = location.store.url_of(key)
                _write_json({"key": key, "url": url, "size_bytes": size_bytes, "last_modified": changed})
            else:
                shown = "" if size_bytes is None else size_bytes
                write(f"{shown:>13}  {changed or '':20}  {printable(key)}")
    if n_left_out > 1:
        say(f"htcjob: warning: {n_left_out} names left out")


@storage.command(epilog=_HELP)
@click.argument("texts", metavar="LOCATION...", nargs=-1, required=True)
@click.option("-d", "--directory", metavar="DIR", default=".", help="Where to put the files.  [default: .]")
@_recursive
@_json
def get(texts: tuple[str, ...], directory: str, is_recursive: bool, as_json: bool) -> int:
    """
    Copy objects to files in DIR.

    \b
    Example:
      htcjob storage get 'project:photos/*.jpg' -d photos
    """
    locations = sources(texts, JobStores(None, RetryPolicy()), is_recursive=is_recursive)
    target = Target(None, real_path(directory), is_folder=True)
    for location in locations:
        check_apart(location, target, is_recursive=is_recursive)
    with with_progress("get") as transfers:
        copier = Copier(target, transfers, has_folders=have_several_folders(locations))
        tasks = (
            task for location in locations for task in copier.objects(location, is_recursive=is_recursive)
        )
        return _report(run_tasks(tasks, transfers), as_json=as_json)


@storage.command(epilog=_HELP)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.argument("text", metavar="LOCATION")
@_recursive
@_json
def put(files: tuple[str, ...], text: str, is_recursive: bool, as_json: bool) -> int:
    """
    Copy files to LOCATION: a folder or store, or the new object's name.

    \b
    Example:
      htcjob storage put -r photos task:
    """
    target = target_in_store(text, JobStores(None, RetryPolicy()), is_many=is_recursive or len(files) > 1)
    for file in files:
        check_apart(file, target, is_recursive=is_recursive)
    with with_progress("put") as transfers:
        has_folders = len({os.path.dirname(file) for file in files}) > 1
        is_new = target.is_folder and is_empty(target, transfers)
        copier = Copier(target, transfers, is_new=is_new, has_folders=has_folders)
        tasks = (task for file in files for task in copier.files(file, is_recursive=is_recursive))
        return _report(run_tasks(tasks, transfers), as_json=as_json)


@storage.command(epilog=_HELP)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@_recursive
@_json
def cp(source: str, destination: str, is_recursive: bool, as_json: bool) -> int:
    """
    Copy SRC to DST; both are LOCATIONs, or one is a local path.

    \b
    Example:
      htcjob storage cp project:list.txt task:list.txt
    """
    if is_local(source) and is_local(destination):
        raise UsageError("both are on this machine: use cp, or write project:KEY, task:KEY or a URL")
    stores = JobStores(None, RetryPolicy())
    location = None if is_local(source) else sources([source], stores, is_recursive=is_recursive)[0]
    is_many = is_recursive or (location is not None and GLOB.search(location.key) is not None)
    if is_local(destination):
        target = target_here(destination, is_many=is_many)
    else:
        target = target_in_store(destination, stores, is_many=is_many)
    check_apart(location or source, target, is_recursive=is_recursive)
    with with_progress("cp") as transfers, temporary_directory() as folder:
        is_new = is_many and is_empty(target, transfers)
        copier = Copier(target, transfers, is_new=is_new, scratch=folder)
        if location is None:
            tasks = copier.files(source, is_recursive=is_recursive)
        else:
            tasks = copier.objects(location, is_recursive=is_recursive)
        return _report(run_tasks(tasks, transfers), as_json=as_json)


@storage.command(epilog=_HELP)
@click.argument("text", metavar="LOCATION")
def cat(text: str) -> None:
    """
    Write the bytes of one object to standard output.

    \b
    Example:
      htcjob storage cat project:list.txt
    """
    location = parse(text, JobStores(None, RetryPolicy()))
    if location.is_folder:
        raise UsageError(f"{text} is a folder: name one object")
    with without_progress() as transfers:
        store = location.store
        info = transfers.call(lambda: store.head(location.key))
        for block in blocks(store, info, transfers):
            write_bytes(block)
        if transfers.call(lambda: store.head(location.key)).etag != info.etag:
            raise TransientError("cat", location.url, "the object was replaced while it was read")


@storage.command(epilog=_HELP)
@click.argument("texts", metavar="LOCATION...", nargs=-1, required=True)
@_recursive
@click.option("--all", "is_all", is_flag=True, help="Allow removing everything in a store.")
@_json
def rm(texts: tuple[str, ...], is_recursive: bool, is_all: bool, as_json: bool) -> int:
    """
    Remove objects.

    \b
    Example:
      htcjob storage rm -r task:photos
    """
    locations = sources(texts, JobStores(None, RetryPolicy()), is_recursive=is_recursive)
    for location in locations:
        is_deep = is_recursive or "**" in location.key
        if is_deep and not location.key.strip("*/") and not is_all:
            raise UsageError(
                f"{location.text} means everything in {location.store.url}: add --all if you mean that"
            )
    with with_progress("rm") as transfers:
        tasks = (
            task
            for location in locations
            for task in removals(location, transfers, is_recursive=is_recursive)
        )
        return _report(run_tasks(tasks, transfers), as_json=as_json)


def _report(outcomes: Iterable[Outcome], *, as_json: bool) -> int:
    """Show what became of each file; return the exit status."""
    counts = dict.fromkeys((COPIED, SKIPPED, REMOVED, FAILED), 0)
    copied_bytes, worst = 0, 0
    for outcome in outcomes:
        counts[outcome.action] += 1
        copied_bytes += (outcome.size_bytes or 0) if outcome.action == COPIED else 0
        cause = None
        if outcome.error is not None:
            ending = _ending(outcome.error)
            cause = redact(ending.message)
            worst = max(worst, ending.exit_status, key=_MILDEST_FIRST.index)
            if counts[FAILED] <= FAILURES_SHOWN:
                say_ending(ending)
        if as_json:
            key, size_bytes, action, _ = outcome
            _write_json({"key": key, "size_bytes": size_bytes, "action": action, "cause": cause})
    if counts[FAILED] > 1:
        say(f"htcjob: error: {counts[FAILED]} of {sum(counts.values())} failed")
    if not as_json:
        counts.pop(FAILED)
        said = [f"{n} {action}" for action, n in counts.items() if n]
        if copied_bytes:
            said.append(size_in_words(copied_bytes))
        if said or worst == 0:
            write(", ".join(said or ["nothing to do"]))
    return worst


def _ending(error: HtcjobError) -> Ending:
    if isinstance(error, BadKeyError):  # of an object or a file, here; not of the configuration
        reason = TerminationReason.STAGING_FAILED
        return Ending(reason, EXIT_STATUS[reason], str(error))
    return ending_of_error(error)


def _write_json(line: dict[str, object]) -> None:
    write(json.dumps(line))
