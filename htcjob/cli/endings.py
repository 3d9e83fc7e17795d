"""How an ending that is not a success is shown to a person: one line, one cause, one next step."""

from __future__ import annotations

import traceback

import click

import htcjob
from htcjob.outcome import Ending
from htcjob.redact import redact


def report_bug(error: BaseException) -> None:
    """Show the traceback of a fault of ours, and ask for a report."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    click.echo(redact(text), err=True, nl=False)
    click.echo(
        f"htcjob: error: this is a bug in htcjob {htcjob.__version__}; please report it with the lines above",
        err=True,
    )


def say_ending(ending: Ending) -> int:
    """Say on one line of standard error why the attempt did not succeed; give its exit status."""
    if ending.exit_status != 0:
        message = " ".join(redact(ending.message).split())
        click.echo(f"htcjob: error: {message}", err=True)
    return ending.exit_status
