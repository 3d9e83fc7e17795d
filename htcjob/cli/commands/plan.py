"""`htcjob plan`: how large an array should be, and how to submit it."""

from __future__ import annotations

import json
from typing import Any

import click
from tabulate import tabulate

from htcjob.cli.messages import say
from htcjob.cli.options import FloatRange, exit_rows
from htcjob.cli.output import write
from htcjob.errors import UsageError
from htcjob.simulate.start_up import CONTAINER_START_S, measured_start_s
from htcjob.submit.array_plan import LARGEST_BATCH, ArrayPlan, plan_array, worthwhile_target_s

_LONGEST = 1e9
"""The largest number of seconds or minutes that is accepted."""

_MOST_ENTRIES = 10**15
"""The most that stays exact beside fractions of seconds."""

_MOST_BATCHES = 100_000
"""Nobody submits more batches; each is shown with --json."""

_EXIT_ROWS = exit_rows(
    0, 64, 78, meanings={0: "shown", 78: "no job could be started here to measure its start-up"}
)


@click.command(epilog=_EXIT_ROWS)
@click.option(
    "--entries", type=click.IntRange(1, _MOST_ENTRIES), required=True, help="Entries of the manifest."
)
@click.option(
    "--seconds-per-entry",
    type=FloatRange(0, _LONGEST, min_open=True),
    required=True,
    help="Seconds that your program takes for one entry.",
)
@click.option(
    "--target-minutes",
    type=FloatRange(0, _LONGEST, min_open=True),
    required=True,
    help="Minutes that one job may take.",
)
@click.option(
    "--batch",
    "batch_size",
    metavar="JOBS",
    type=click.IntRange(2, 10_000),
    default=LARGEST_BATCH,
    show_default=True,
    help="Jobs in one batch; Rescale HTC takes up to 1,000, AWS Batch 10,000.",
)
@click.option(
    "--max-parallel",
    metavar="JOBS",
    type=click.IntRange(min=1),
    help="Jobs that run at the same time.  [default: all]",
)
@click.option(
    "--start-seconds",
    "start_s",
    type=FloatRange(0, _LONGEST),
    help="Seconds that a job takes besides its entries.  "
    f"[default: measured here, and {CONTAINER_START_S} s for a container]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def plan(start_s: float | None, target_minutes: float, as_json: bool, **sizes: Any) -> None:
    """
    Show how large an array should be, and how to submit it in batches.

    Every job gets as many entries as fit into the target time. Warns when start-up is more than a tenth of
    the jobs' time.

    \b
    Example:
      htcjob plan --entries 5000000 --seconds-per-entry 0.06 --target-minutes 10 --start-seconds 0.5
    """
    start_from = "as given"
    if start_s is None:
        measured_s = measured_start_s()
        start_s = measured_s + CONTAINER_START_S
        start_from = f"{measured_s:.2f} s measured here, {CONTAINER_START_S} s for a container"
    array = plan_array(target_s=target_minutes * 60, start_s=start_s, **sizes)
    if array.n_batches > _MOST_BATCHES:
        raise UsageError(
            f"{array.n_batches} batches are more than {_MOST_BATCHES}: give a longer --target-minutes"
        )
    write(json.dumps(_members(array)) if as_json else _table(array, start_from))
    if array.job_s > target_minutes * 60:
        say(f"htcjob: warning: one entry alone takes longer than {target_minutes:g} minutes")
    better_s = worthwhile_target_s(array)
    if better_s is not None:
        say(
            f"htcjob: warning: start-up is {array.overhead:.0%} of what the jobs take: "
            f"with --target-minutes {better_s / 60 + 0.005:.2f} it is less than 10%"
        )


def _members(array: ArrayPlan) -> dict[str, object]:
    return {
        "entries": array.entries,
        "array_size": array.array_size,
        "entries_per_job": array.entries_per_job,
        "batches": [batch._asdict() for batch in array.batches],
        "start_s": round(array.start_s, 3),
        "job_s": round(array.job_s, 3),
        "elapsed_s": round(array.elapsed_s, 3),
        "all_jobs_s": round(array.all_jobs_s, 3),
        "overhead": round(array.overhead, 6),
    }


def _table(array: ArrayPlan, start_from: str) -> str:
    batches = array.batches
    last, in_words = batches[-1], f"{len(batches)} × {batches[0].size} jobs"
    if last.size != batches[0].size:
        in_words = f"{len(batches) - 1} × {batches[0].size} jobs and 1 × {last.size}"
    offsets = [str(batch.array_offset) for batch in (*batches[:2], last)]
    at_once = f"{array.max_parallel} jobs at a time" if array.max_parallel else "all jobs at once"
    rows = [
        ("array size", array.array_size),
        ("entries per job", array.entries_per_job),
        ("batches", in_words),
        ("variables", f"HTCJOB_ARRAY_SIZE={array.array_size}"),
    ]
    if len(batches) > 1:
        shown = ", ".join(offsets[:2]) + (f", … {offsets[2]}" if len(batches) > 2 else "")
        rows.append(("", f"HTCJOB_ARRAY_OFFSET={shown} (one for each batch)"))
    rows += [
        ("one job", _duration(array.job_s)),
        ("all jobs", _duration(array.all_jobs_s)),
        ("start-up", f"{array.overhead:.1%} of that, {array.start_s:.2f} s a job ({start_from})"),
        ("the run", f"{_duration(array.elapsed_s)} with {at_once}"),
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _duration(seconds: float) -> str:
    """Return a duration for people: `42.0 s`, `9.9 min`, `3.5 h`, `12.0 d`."""
    for unit, unit_s, below_s in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < below_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{seconds / 86_400:.1f} d"
