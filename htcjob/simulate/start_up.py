"""How long a job takes that does nothing, measured on this machine."""

from __future__ import annotations

import os
import statistics
import subprocess
import time

from htcjob.environment.variables import current_environ, without_injected
from htcjob.errors import ConfigurationError
from htcjob.machine.temporary import temporary_directory
from htcjob.simulate.processes import htcjob_argv

CONTAINER_START_S = 0.32
"""Median of `docker run … true` with an image that is there already, two CPUs, 2026-11."""

MEASURED_JOBS = 5
"""Jobs whose median is the start-up."""


def measured_start_s() -> float:
    """
    Return the seconds of a whole job with one empty entry, local stores and `true` as its command.

    Raises:
        ConfigurationError: it does not work here.
    """
    environ = {
        name: value
        for name, value in without_injected(current_environ()).items()
        if not name.startswith("HTCJOB_")
    }
    # Empty, it is no copy at all: the container's own record is not to be overwritten.
    environ |= {"HTCJOB_TERMINATION_LOG": "", "HTCJOB_LOG_LEVEL": "error"}
    elapsed = []
    with temporary_directory() as directory:
        project = os.path.join(directory, "project")
        os.mkdir(project)
        with open(os.path.join(project, "empty"), "wb"):
            pass
        for n in range(MEASURED_JOBS):
            stores = ("--project-store", project, "--task-store", os.path.join(directory, f"task{n}"))
            argv = [*htcjob_argv(), "run", *stores, "--entry", "empty", "--each", "--", "true"]
            started = time.perf_counter()
            job = subprocess.run(argv, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            elapsed.append(time.perf_counter() - started)
            if job.returncode != 0:
                raise ConfigurationError(
                    f"a job to measure the start-up ended with {job.returncode}: give --start-seconds"
                )
    return statistics.median(elapsed)
