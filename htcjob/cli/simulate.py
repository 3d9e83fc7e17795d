"""`htcjob simulate`: a whole array on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import click
from tabulate import tabulate

from htcjob import env
from htcjob.cli.endings import say
from htcjob.cli.options import DURATION, exit_table
from htcjob.cli.run import run
from htcjob.errors import HtcjobError, UsageError
from htcjob.logs import utc
from htcjob.results import final_records
from htcjob.retry import RetryPolicy
from htcjob.simulate.array import Array, AttemptEnd, Simulation
from htcjob.simulate.platform import without_injected
from htcjob.simulate.summary import rows, summarise
from htcjob.storage.urls import is_url, open_store
from htcjob.transfer import Transfers

PROGRESS_EVERY_S = 30.0
"""Seconds between progress lines where standard error is no terminal."""


@click.command(epilog=exit_table(), context_settings={"ignore_unknown_options": False})
@click.option("--array-size", type=click.IntRange(1), required=True, help="Jobs in the array.")
@click.option(
    "--project-store", metavar="DIR|URL", required=True, help="Project storage: manifest and inputs."
)
@click.option("--task-store", metavar="DIR|URL", required=True, help="Task storage: outputs and records.")
@click.option("--only", metavar="INDEX", type=click.IntRange(0), help="Run this one index, its output shown.")
@click.option("--parallel", type=click.IntRange(1), help="Attempts at the same time.  [default: CPUs]")
@click.option(
    "--retries",
    type=click.IntRange(0, 10),
    default=2,
    show_default=True,
    help="Further attempts of an index that ended with 75, 137 or 143.",
)
@click.option("--timeout", type=DURATION, help="The platform's limit for one attempt.  [default: none]")
@click.option(
    "--preempt",
    metavar="P%",
    default="0%",
    help="Share of attempts that get SIGTERM at a random moment.  [default: 0%]",
)
@click.option("--logs", metavar="DIR", help="Keep every attempt's log here.  [default: kept only on failure]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
def simulate(
    array_size: int,
    project_store: str,
    task_store: str,
    only: int | None,
    parallel: int | None,
    retries: int,
    timeout: float | None,
    preempt: str,
    logs: str | None,
    as_json: bool,
    arguments: tuple[str, ...],
) -> int:
    """
    Run a whole array on this machine, as the platform would.

    ARGUMENTS are those of htcjob run; put -- before them. Every job is a real attempt in a process of its
    own, with the variables Rescale HTC injects, a signed token included. Exits with 0 when every job
    succeeded, else with the status of the first index that did not.

    \b
    Example:
      htcjob simulate --array-size 8 --project-store . --task-store out -- --manifest list.txt -- ls
    """
    _check_arguments(arguments)
    if only is not None and only >= array_size:
        raise UsageError(f"--only {only}: array size {array_size} has the indices 0 to {array_size - 1}")
    indices = range(array_size) if only is None else range(only, only + 1)
    simulation = Simulation(
        array_size=array_size,
        indices=indices,
        parallel=min(parallel or _cpus(), len(indices)),
        retries=retries,
        timeout_s=timeout,
        preempt_percent=_percent(preempt),
        project_store=_store(project_store, "--project-store", make=False),
        task_store=_store(task_store, "--task-store", make=True),
        arguments=arguments,
        environ=without_injected(env.current()),
        directory=_log_directory(logs),
        inherits_output=only is not None,
    )
    started, started_at = time.monotonic(), utc(time.time())
    ends: list[AttemptEnd] = []
    with _Progress(jobs=len(indices), is_quiet=only is not None) as progress:

        def on_end(end: AttemptEnd) -> None:
            ends.append(end)
            progress.update(end)

        array = Array(simulation, on_end)
        asyncio.run(array.run())
    summary = summarise(
        ends,
        jobs=len(indices),
        elapsed_s=time.monotonic() - started,
        records=_records(simulation.task_store, ends),
        since=started_at,
    )
    if as_json:
        click.echo(json.dumps(summary))
    else:
        click.echo(tabulate(rows(summary), tablefmt="plain", preserve_whitespace=True))
    for collision in summary["collisions"]:
        say(
            f"htcjob: error: output {collision['key']} was written by the entries at positions "
            f"{', '.join(map(str, collision['positions']))}: only one of them is in storage; "
            "name outputs after their entry, as with $HTCJOB_KEY or {stem}"
        )
    status = _status(ends, array) or (os.EX_DATAERR if summary["collisions"] else 0)
    if logs is None and (status == 0 or only is not None):
        shutil.rmtree(simulation.directory, ignore_errors=True)
    elif only is None:
        say(f"logs: {simulation.directory}")
    return status


def _check_arguments(arguments: tuple[str, ...]) -> None:
    """Refuse what `htcjob run` would refuse, before it does so once a job."""
    if arguments[0] in ("run", "htcjob"):
        raise UsageError("leave out 'htcjob run': only its options and COMMAND go after --")
    run.make_context("htcjob run", list(arguments)).close()


class _Progress:
    """Shows how far the array is: a bar on a terminal, else a line now and then; failures at once."""

    def __init__(self, *, jobs: int, is_quiet: bool) -> None:
        self._jobs = jobs
        self._ended = 0
        self._said_at = time.monotonic()
        self._bar = (
            click.progressbar(length=jobs, label="jobs", file=sys.stderr, show_pos=True)
            if sys.stderr.isatty() and not is_quiet
            else None
        )

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def update(self, end: AttemptEnd) -> None:
        """Hear of an attempt's end."""
        if end.exit_status != 0:
            self._say_failure(end)
        if end.will_retry:
            return
        self._ended += 1
        if self._bar is not None:
            self._bar.update(1)
        elif time.monotonic() - self._said_at >= PROGRESS_EVERY_S:
            self._said_at = time.monotonic()
            say(f"{self._ended} of {self._jobs} jobs ended")

    def _say_failure(self, end: AttemptEnd) -> None:
        message = str(end.record.get("message") or f"exit status {end.exit_status}")
        again = "; tried again" if end.will_retry else ""
        log = f"; log: {end.log_path}" if end.log_path and not end.will_retry else ""
        line = f"index {end.array_index} attempt {end.attempt}: {end.reason}: {message}{again}{log}"
        # On a terminal the bar's own line is cleared first; it is drawn anew at once.
        if self._bar is not None:
            click.echo("\r\033[K", err=True, nl=False)
        say(line)


def _status(ends: list[AttemptEnd], array: Array) -> int:
    if array.stop_signal is not None:
        return 128 + array.stop_signal
    last = {end.array_index: end.exit_status for end in ends}
    return next((status for _, status in sorted(last.items()) if status != 0), 0)


def _records(task_store: str, ends: list[AttemptEnd]) -> Iterator[dict[str, Any]]:
    """Give all records of this simulation's runs; a ledger that cannot be read only shortens the table."""
    for name in sorted({end.record["run"] for end in ends if end.record.get("run")}):
        try:
            with Transfers(RetryPolicy()) as transfers:
                yield from final_records(open_store(task_store), name, transfers)
        except HtcjobError as error:
            say(f"htcjob: warning: records of run {name}: {error}")


def _log_directory(logs: str | None) -> str:
    if logs is None:
        return tempfile.mkdtemp(prefix="htcjob-simulate-")
    try:
        os.makedirs(logs, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--logs {logs}: {error.strerror}") from error
    return os.path.abspath(logs)


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise UsageError(f"--preempt {text!r}: it must be a share such as 20%")
    return percent


def _store(store: str, option: str, *, make: bool) -> str:
    """Give the URL, or the absolute directory, which must exist: a platform mounts what it injects."""
    if is_url(store):
        return store
    try:
        if make:
            os.makedirs(store, exist_ok=True)
        os.listdir(store)
    except OSError as error:
        raise UsageError(f"{option} {store}: {error.strerror}") from error
    return os.path.abspath(store)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
