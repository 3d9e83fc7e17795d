"""`htcjob simulate`: a whole array on this machine."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from typing import Any

import click
from tabulate import tabulate

from htcjob.cli.array_progress import ArrayProgress
from htcjob.cli.commands.run import run
from htcjob.cli.messages import say
from htcjob.cli.options import DURATION, MEMORY, MOST_JOBS, FloatRange, exit_table
from htcjob.cli.output import write
from htcjob.errors import HtcjobError, UsageError
from htcjob.simulate.array import Simulation
from htcjob.simulate.containers import Box
from htcjob.simulate.simulation import SimulatedRun, attempts_at_a_time
from htcjob.simulate.summary import rows
from htcjob.storage.keys import real_path
from htcjob.storage.urls import local_directory


@click.command(epilog=exit_table(), context_settings={"ignore_unknown_options": False})
@click.option("--array-size", type=click.IntRange(1, MOST_JOBS), required=True, help="Jobs in the array.")
@click.option(
    "--project-store", metavar="DIR|URL", required=True, help="Project storage: manifest and inputs."
)
@click.option("--task-store", metavar="DIR|URL", required=True, help="Task storage: outputs and records.")
@click.option(
    "--only", metavar="INDEX", type=click.IntRange(0), help="Run only this index, and show its output."
)
@click.option(
    "--parallel",
    type=click.IntRange(1),
    help="Attempts to run at the same time.  [default: as many as CPUs and memory allow]",
)
@click.option(
    "--retries",
    type=click.IntRange(0, 10),
    default=2,
    show_default=True,
    help="Further attempts for an index that ended with 75, 137 or 143.",
)
@click.option("--timeout", type=DURATION, help="The platform's limit for one attempt.  [default: none]")
@click.option(
    "--preempt",
    metavar="P%",
    default="0%",
    help="Share of the attempts to send SIGTERM at a random moment in their first 3 s.  [default: 0%]",
)
@click.option(
    "--docker",
    "image",
    metavar="IMAGE",
    help="Run every attempt in a container of this image, which must contain htcjob.",
)
@click.option("--memory", type=MEMORY, help="With --docker: the platform's memory limit, such as 128m.")
@click.option(
    "--cpus", "cpu_limit", type=FloatRange(0, min_open=True), help="With --docker: CPUs for each attempt."
)
@click.option(
    "--platform", metavar="OS/ARCH", help="With --docker: the platform of the image, such as linux/arm64."
)
@click.option(
    "--docker-option",
    "docker_options",
    metavar="OPTION",
    multiple=True,
    help="With --docker: an option of docker run, such as --docker-option=--network=host; repeatable.",
)
@click.option(
    "--logs", metavar="DIR", help="Keep every attempt's log here.  [default: keep them only on failure]"
)
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
    image: str | None,
    memory: int | None,
    cpu_limit: float | None,
    platform: str | None,
    docker_options: tuple[str, ...],
    logs: str | None,
    as_json: bool,
    arguments: tuple[str, ...],
) -> int:
    """
    Run a whole array on this machine, as the platform would.

    ARGUMENTS are those of htcjob run; put -- before them. Every job is a real attempt in a process of its
    own, or with --docker in a container, with the variables that Rescale HTC injects, including a signed
    token. Exits with 0 when every job succeeded, otherwise with the status of the first index that did not.

    \b
    Example:
      htcjob simulate --array-size 8 --project-store . --task-store out -- --manifest list.txt -- ls
    """
    _check_arguments(arguments, image)
    if only is not None and only >= array_size:
        raise UsageError(f"--only {only}: array size {array_size} has the indices 0 to {array_size - 1}")
    indices = range(array_size) if only is None else range(only, only + 1)
    box = _box(image, memory_bytes=memory, cpus=cpu_limit, platform=platform, options=docker_options)
    simulation = Simulation(
        array_size=array_size,
        indices=indices,
        parallel=min(parallel or attempts_at_a_time(box), len(indices)),
        retries=retries,
        timeout_s=timeout,
        preempt_percent=_percent(preempt),
        project_store=_store(project_store, "--project-store", make=False),
        task_store=_store(task_store, "--task-store", make=True),
        directory=_log_directory(logs),
        inherits_output=only is not None,
    )
    is_live = box is not None and only is None and sys.stderr.isatty()
    simulated = SimulatedRun(simulation, box=box, arguments=arguments)
    with ArrayProgress(
        array_size=array_size, jobs=len(indices), is_quiet=only is not None, is_live=is_live
    ) as progress:
        try:
            simulated.run(progress.update, progress.show_line if is_live else None)
        except HtcjobError:
            if logs is None and not simulated.ends:
                shutil.rmtree(simulation.directory, ignore_errors=True)
            raise
    summary = simulated.summarise(warn=lambda text: say(f"htcjob: warning: {text}"))
    _show(summary, as_json=as_json)
    status = simulated.exit_status(has_collisions=bool(summary["collisions"]))
    if logs is None and (status == 0 or only is not None):
        shutil.rmtree(simulation.directory, ignore_errors=True)
    elif only is None:
        say(f"logs: {simulation.directory}")
    return status


def _show(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        write(json.dumps(summary))
    else:
        write(tabulate(rows(summary), tablefmt="plain", preserve_whitespace=True))
    for collision in summary["collisions"]:
        say(
            f"htcjob: error: output {collision['key']} was written by the entries at positions "
            f"{', '.join(map(str, collision['positions']))}: only one of them is in storage; "
            "name outputs after their entry, as with $HTCJOB_KEY or {key}"
        )


def _check_arguments(arguments: tuple[str, ...], image: str | None) -> None:
    """Refuse what `htcjob run` would refuse, before every job does so."""
    if arguments[0] in ("run", "htcjob"):
        raise UsageError("leave out 'htcjob run': only its options and COMMAND go after --")
    with run.make_context("htcjob run", list(arguments)) as context:
        # The variables of an image, which may say what to call, are not known here.
        if image is None and not context.params["command"] and not context.params["call"]:
            raise UsageError("COMMAND is missing: put it, with -- before it, after the options of htcjob run")


def _box(image: str | None, **limits: Any) -> Box | None:
    """Return what containers are made of; None: attempts are processes."""
    if image is not None:
        return Box(image, **limits)
    if given := next((name for name, value in limits.items() if value), None):
        option = {"options": "docker-option", "memory_bytes": "memory"}.get(given, given)
        raise UsageError(f"--{option} needs --docker")
    return None


def _log_directory(logs: str | None) -> str:
    if logs is None:
        return tempfile.mkdtemp(prefix="htcjob-simulate-")
    try:
        os.makedirs(logs, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--logs {logs}: {error.strerror}") from error
    return real_path(logs)


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise UsageError(f"--preempt {text!r}: it must be a share such as 20%")
    return percent


def _store(store: str, option: str, *, make: bool) -> str:
    """Return the URL, or the real path of the directory, which must exist: platforms mount it."""
    directory = local_directory(store)
    if directory is None:
        return store
    try:
        if make:
            os.makedirs(directory, exist_ok=True)
        os.listdir(directory)
    except OSError as error:
        raise UsageError(f"{option} {store}: {error.strerror}") from error
    return directory
