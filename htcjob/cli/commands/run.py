"""`htcjob run`: one attempt of one job."""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

from htcjob.attempt.recipe import run_attempt
from htcjob.cli.messages import report_bug, say_ending
from htcjob.cli.options import (
    BUDGET,
    DURATION,
    FUNCTION,
    LINE,
    SIZE,
    TIME_LIMIT,
    balance_option,
    exit_table,
    job_options,
    log_options,
    ours,
)
from htcjob.environment.variables import current_environ
from htcjob.errors import UsageError
from htcjob.logs import events as logs
from htcjob.machine.limits import cpus
from htcjob.outcome.reasons import TerminationReason
from htcjob.run_options import RunOptions

MOST_AT_A_TIME = 10_000
"""Entries; no job has that many CPUs, and a digit too many is a mistake."""


@click.command(epilog=exit_table())
@job_options
@ours(
    "--entry",
    "entries",
    variable="HTCJOB_ENTRIES",
    metavar="LINE",
    type=LINE,
    multiple=True,
    help="Work on this entry instead of those of a manifest; repeatable.",
)
@balance_option
@ours("--each", "is_each", is_flag=True, help="Run COMMAND once per entry instead of once for the chunk.")
@ours(
    "--call",
    metavar="MODULE:FUNCTION",
    type=FUNCTION,
    help="Instead of COMMAND, call a Python function once per entry, in a process that imports it once.",
)
@ours("--python", metavar="PROGRAM", help="The interpreter for --call.  [default: the one that runs htcjob]")
@ours(
    "--workers",
    type=click.IntRange(min=1, max=MOST_AT_A_TIME),
    help="Entries to work on at a time, with --each or --call.  "
    "[default: as many as the job has CPUs, by quota]",
)
@ours(
    "--prefetch",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Entries to fetch ahead, at most.",
)
@ours(
    "--disk-budget",
    "disk_budget_bytes",
    type=SIZE,
    help="Fetch ahead only while files in the work directory take less.  [default: half of the free space]",
)
@ours(
    "--output",
    "outputs",
    metavar="GLOB",
    type=LINE,
    multiple=True,
    help="Files to stage out, relative to the output directory; repeatable.  [default: everything]",
)
@ours(
    "--timeout",
    type=TIME_LIMIT,
    help="Stop COMMAND after this long: 90s, 5x (five times the median of the entries so far), 0 (never).  "
    "[default: 0]",
)
@ours(
    "--deadline",
    "deadline_s",
    variable="HTCJOB_DEADLINE_IN",
    type=DURATION,
    help="End the attempt this long after its start; set it to the platform's limit.  [default: none]",
)
@ours(
    "--grace",
    "grace_s",
    type=DURATION,
    default="30s",
    show_default=True,
    help="Time from SIGTERM to SIGKILL; keep it below the platform's.",
)
@ours(
    "--preemption-notice",
    type=click.Choice(["aws", "google"]),
    help="Stop when this cloud announces that it will take the machine away.  [default: wait for SIGTERM]",
)
@ours(
    "--max-failures",
    type=BUDGET,
    help="Entries that may fail before the attempt gives up.  "
    "[default: try them all; any failure fails the attempt]",
)
@ours(
    "--retry-entry",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Retry an entry that asks for it (exit status 75, transient trouble) up to N times, "
    "after all others.",
)
@ours(
    "--permanent-exit",
    type=click.Choice(["0", "65"]),
    default="65",
    show_default=True,
    help="Exit status when only entries that failed for good are left.",
)
@ours("--run", metavar="NAME", help="Name of this run in task storage.  [default: default]")
@ours("--work-dir", metavar="DIR", help="Where to make the work directory.  [default: $TMPDIR or /tmp]")
@ours(
    "--pass-credentials",
    is_flag=True,
    help="Leave tokens and storage credentials in COMMAND's environment.",
)
@log_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(
    command: tuple[str, ...],
    array_index: int | None,
    array_size: int | None,
    manifest: str | None,
    project_store: str | None,
    task_store: str | None,
    log_format: str,
    log_level: str,
    **asked: Any,
) -> int:
    """
    Stage in this job's chunk, run COMMAND, stage out its results.

    Put -- before COMMAND. Without a manifest, COMMAND is only supervised (signals, timeout, exit status). A
    flag wins over its variable, a variable over the default.

    COMMAND finds its inputs in $HTCJOB_WORK_DIR, listed in $HTCJOB_ENTRIES_FILE, and leaves results in
    $HTCJOB_OUTPUT_DIR. With --each it runs once per entry, and {input}, {output_dir}, {entry}, {key}, {stem}
    and the members of a JSON line are filled in.

    \b
    Example:
      htcjob run --each --entry photos/a.jpg --project-store . --task-store out -- wc -c {input}
    """
    if command and os.path.basename(command[0]) == "htcjob" and command[1:2] == ("run",):
        # An image's entrypoint is `htcjob run --`; a command that is htcjob itself takes its place.
        outer = click.get_current_context()
        if any(
            outer.get_parameter_source(name) is ParameterSource.COMMANDLINE
            for name in outer.params
            if name != "command"
        ):
            raise UsageError("COMMAND is itself htcjob run: give the options to that one")
        with run.make_context("htcjob run", list(command[2:])) as context:
            status: int = run.invoke(context)
            return status
    if bool(command) == bool(asked["call"]):
        raise click.UsageError("Give COMMAND or --call, not both." if command else "Give COMMAND, or --call.")
    asked["workers"] = asked["workers"] or max(1, int(cpus()))
    options = RunOptions.of_options(command=command, **asked)
    logs.set_up(log_format=log_format, level=log_level)
    ending, error = run_attempt(
        options,
        environ=current_environ(),
        flags={
            "array_index": array_index,
            "array_size": array_size,
            "manifest": manifest,
            "project_store": project_store,
            "task_store": task_store,
        },
    )
    if ending.reason is TerminationReason.INTERNAL_ERROR and error is not None:
        report_bug(error)
        return ending.exit_status
    return say_ending(ending)
