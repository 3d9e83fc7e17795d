"""`htcjob env`: what the platform injected, and what htcjob makes of it."""

from __future__ import annotations

import json

import click

from htcjob.cli.messages import printable, say_ending
from htcjob.cli.options import look_rows
from htcjob.cli.output import write
from htcjob.environment.context import read_context
from htcjob.environment.variables import current_environ, injected
from htcjob.errors import ConfigurationError
from htcjob.logs.redact import redact
from htcjob.outcome.endings import ending_of_error


@click.command(name="env", epilog=look_rows())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def environment(as_json: bool) -> int:
    """
    Show what the platform injected, with secrets redacted, and what htcjob makes of it.

    \b
    Example:
      htcjob env
    """
    environ = current_environ()
    variables = injected(environ)
    if not as_json:  # shown first, because they are what one looks for when they make no sense
        for name, value in variables:
            write(f"{name}={printable(value)}")
    try:
        context = read_context(environ)
    except ConfigurationError as error:
        ending = ending_of_error(error)
        if as_json:
            write(json.dumps({"variables": dict(variables), "problem": redact(ending.message)}))
        return say_ending(ending)
    meaning = {name: _shown(getattr(context, name)) for name in context._fields if name not in _NOT_SHOWN}
    if as_json:
        write(json.dumps({"variables": dict(variables), "context": meaning}))
        return 0
    if variables:
        write()
    for name, meant in meaning.items():
        write(f"{name + ':':<17}{'-' if meant is None else meant}")
    return 0


_NOT_SHOWN = {"ends_at", "token_file", "index_variable", "attempt_variable"}
"""Fields of the context that only tell how others were read."""


def _shown(value: object) -> object:
    return value if isinstance(value, (int, type(None))) else printable(redact(str(value)))
