"""Progress of a simulated array, for the person who watches it."""

from __future__ import annotations

import os
import sys
import time

import click

from htcjob.cli.messages import say
from htcjob.outcome.reasons import TerminationReason
from htcjob.simulate.array import AttemptEnd

PROGRESS_EVERY_S = 30.0
"""Seconds between progress lines where standard error is no terminal."""

_LAST_BYTES = 4096
"""The end of a log in which its last line is looked for."""

_OUR_CAUSE = "htcjob: error: "
"""The beginning of the line that says why an attempt ended."""


class ArrayProgress:
    """
    Shows the progress of an array: a bar on a terminal, otherwise a line now and then; failures at once.

    Args:
        array_size: Jobs in the array.
        jobs: Number of jobs to run.
        is_quiet: Show nothing, as one job's own output is shown instead.
        is_live: Show what the attempts write, each line with its index, instead of a bar.
    """

    def __init__(self, *, array_size: int, jobs: int, is_quiet: bool, is_live: bool) -> None:
        self._jobs = jobs
        self._ended = 0
        self._every_s = 0.0 if is_live else PROGRESS_EVERY_S
        self._said_at = time.monotonic()
        self._width = len(str(array_size - 1))
        self._bar = (
            click.progressbar(length=jobs, label="jobs", file=sys.stderr, show_pos=True)
            if sys.stderr.isatty() and not is_quiet and not is_live
            else None
        )

    def __enter__(self) -> ArrayProgress:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def show_line(self, array_index: int, line: str) -> None:
        """Show a line that an attempt wrote."""
        say(f"[{array_index:>{self._width}}] {line}")

    def update(self, end: AttemptEnd) -> None:
        """Count an attempt that has ended, and report a failure."""
        if end.exit_status != 0:
            self._say_failure(end)
        if end.will_retry:
            return
        self._ended += 1
        if self._bar is not None:
            self._bar.update(1)
        elif time.monotonic() - self._said_at >= self._every_s:
            self._said_at = time.monotonic()
            say(f"{self._ended} of {self._jobs} jobs ended")

    def _say_failure(self, end: AttemptEnd) -> None:
        message = str(
            end.record.get("message") or _said_last(end.log_path) or f"exit status {end.exit_status}"
        )
        is_news = end.is_out_of_memory and end.reason != TerminationReason.OUT_OF_MEMORY.value
        memory = "; its container was out of memory" if is_news else ""
        again = "; tried again" if end.will_retry else ""
        log = f"; log: {end.log_path}" if end.log_path and not end.will_retry else ""
        line = f"index {end.array_index} attempt {end.attempt}: {end.reason}: {message}{memory}{again}{log}"
        # On a terminal the bar's own line is cleared first; it is drawn anew at once.
        if self._bar is not None:
            click.echo("\r\033[K", err=True, nl=False)
        say(line)


def _said_last(log_path: str | None) -> str:
    """Return the cause in the last line of a log, for an attempt without an exit record; empty: none."""
    try:
        with open(log_path or "", "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _LAST_BYTES))
            last = log.read().decode(errors="replace").rstrip().rpartition("\n")[2]
    except OSError:
        return ""
    return last.removeprefix(_OUR_CAUSE) if last.startswith(_OUR_CAUSE) else ""
