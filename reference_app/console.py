"""How the commands of this folder end: reasons on stderr and for the runtime, an exit status."""

from __future__ import annotations

import io
import os
import signal
import sys
import unicodedata
from typing import NoReturn

import click

MESSAGE_LIMIT = 500
"""Characters of the message file."""
_REASONS_TOLD = 3
"""Reasons spelled out in the message file; the others are counted."""


class CommandError(Exception):
    """A command ends with *status* for these reasons, each one line."""

    def __init__(self, status: int, *reasons: str, is_told: bool = False) -> None:
        super().__init__(status, *reasons)
        self.status = status
        """Exit status of the process."""
        self.reasons = reasons
        """One line each."""
        self.is_told = is_told
        """They are on stderr already."""


def run(command: click.Command) -> NoReturn:
    """
    Run *command* as this process and end it with its exit status.

    The reasons of a failure go to stderr, and in one line to the file that `HTCJOB_MESSAGE_FILE`
    names, when it names one: the runtime records from there why an entry failed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    name = str(command.name)
    try:
        status = command.main(prog_name=f"python -m reference_app.{name}", standalone_mode=False)
    except click.ClickException as error:
        reason = f"{error.format_message().rstrip('.')} (try --help)"
        status = _fail(name, CommandError(os.EX_USAGE, reason))
    except CommandError as error:
        status = _fail(name, error)
    except ImportError as error:
        cure = "" if "pip install" in str(error) else ": pip install '.[reference]' in the clone"
        status = _fail(name, CommandError(os.EX_CONFIG, f"{error}{cure}"))
    except click.Abort:
        status = 128 + signal.SIGINT
    sys.exit(status)


def complain(name: str, reason: str) -> None:
    """Say on stderr why something failed, in one line."""
    click.echo(f"{name}: error: {reason}", err=True)


def shown(text: str) -> str:
    r"""Give *text* on one line: control characters and undecodable bytes as `\x0a`, `\udcff`."""
    return "".join(
        repr(character)[1:-1] if unicodedata.category(character) in _ESCAPED else character
        for character in text
    )


_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: control, format (such as right-to-left override), surrogate, separators."""


def one_line(reasons: tuple[str, ...]) -> str:
    """Give the first few *reasons* and the number of others, in `MESSAGE_LIMIT` characters."""
    untold = len(reasons) - _REASONS_TOLD
    tail = f"; and {untold} more" if untold > 0 else ""
    text = shown("; ".join(reasons[:_REASONS_TOLD]))
    room = MESSAGE_LIMIT - len(tail)
    if len(text) > room:
        text = text[: room - 1] + "…"
    return text + tail


def _fail(name: str, error: CommandError) -> int:
    if not error.is_told:
        for reason in error.reasons:
            complain(name, reason)
    path = os.environ.get("HTCJOB_MESSAGE_FILE")
    if path:
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(one_line(error.reasons) + "\n")
        except OSError as trouble:
            click.echo(f"{name}: warning: {shown(path)}: {trouble.strerror}", err=True)
    return error.status
