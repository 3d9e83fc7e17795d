"""The `htcjob` command, from its arguments to the exit status of this process."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import NoReturn

import click
from click.core import ParameterSource

import htcjob
from htcjob.cli.messages import forget, report_bug, say, say_ending
from htcjob.cli.output import OutputError, finish, take_standard_output
from htcjob.errors import HtcjobError
from htcjob.logs import events as logs
from htcjob.outcome.endings import Ending, ending_of_error
from htcjob.outcome.reasons import TerminationReason
from htcjob.supervise.bounded_call import is_any_left

COMMANDS = {
    "run": ("run:run", "Run COMMAND on this job's chunk of the manifest."),
    "simulate": ("simulate:simulate", "Run a whole array on this machine, as the platform would."),
    "status": ("results:status", "Show how far a run is: entries done, failed, pending."),
    "failed": ("results:failed", "List the entries of a run that are not done, and why."),
    "collect": ("results:collect", "Write the records of a run, as JSON lines or CSV."),
    "storage": ("storage:storage", "List storage, and copy to, from and between stores."),
    "plan": ("plan:plan", "Show how large an array should be, and how to submit it."),
    "manifest": ("manifest:manifest", "Make, check and preview lists of entries."),
    "chunk": ("chunk:chunk", "Show the entries that an array index gets."),
    "check": ("check:check", "Check environment, token and storage; no work is done."),
    "env": ("env:environment", "Show what the platform injected, with secrets redacted."),
}
"""By name: where the command is (module of `commands/`, attribute), and its summary. Its module is imported
when it is called: every import is time that a million jobs pay."""


ATTEMPTS = ("run", "simulate")
"""Commands that end in their own way; Ctrl-C ends all others at once, whatever hangs."""

DASHES_HINT = {
    "run": " Put -- before COMMAND, and htcjob's own options before that.",
    "simulate": " The options of htcjob run go after --.",
}
"""By command: the hint after an unknown option, which is most often meant for COMMAND."""


_READER_GONE = 128 + signal.SIGPIPE
"""Standard output's reader has left (`| head`): we end quietly, as if by SIGPIPE."""


WARNINGS = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGALRM}
"""Signals that batch systems send ahead of the end; unlike SIGTERM, none of them asks a process to end."""


class LazyGroup(click.Group):
    """Imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command *name*; None: there is no such command."""
        if name not in COMMANDS:
            return None
        from importlib import import_module

        module, attribute = COMMANDS[name][0].split(":")
        command: click.Command = getattr(import_module(f"htcjob.cli.commands.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]}
)
@click.version_option(htcjob.__version__, message="htcjob %(version)s")
def cli() -> None:
    """
    Run one program over millions of files, every entry exactly once.

    htcjob is the layer between a batch platform and your program inside the container: it finds this job's
    entries, fetches them, runs your program with timeouts, puts the results back, and ends with an exit
    status the platform can act on. Try a whole array on your laptop first: htcjob simulate --help
    """
    logs.set_up(log_format="text", level="warning")  # until a command knows better
    if click.get_current_context().invoked_subcommand not in ATTEMPTS:
        from htcjob.supervise.last_resort import end_promptly

        end_promptly()


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line *args* (default: this process's) and exit with its status."""
    take_standard_output()
    status = _status_of(args)
    lost = None
    try:
        lost = finish()
    except KeyboardInterrupt:
        status = _interrupted()
    # Reported already, unless everything written fitted into the buffer.
    if lost is not None and status == 0:
        status = _status_of_output(lost)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        forget(2)
    # The outcome is decided and reported: a warning that arrives from now on changes nothing.
    signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    if is_any_left():
        os._exit(status)
    sys.exit(status)


def _status_of(args: list[str] | None) -> int:
    try:
        status = cli.main(args=args, prog_name="htcjob", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        return os.EX_USAGE
    except click.UsageError as error:
        return _say(ending_of_usage(error), usage=error.ctx.get_usage() if error.ctx else None)
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except click.ClickException as error:
        return _say(Ending(TerminationReason.BAD_USAGE, os.EX_USAGE, error.format_message()))
    except SystemExit:  # click ends so when the reader of standard output has gone
        return _READER_GONE
    except OutputError as error:
        return _status_of_output(error)
    except HtcjobError as error:
        return _say(ending_of_error(error))
    except Exception as error:
        ending = ending_of_error(error)
        if ending.reason is TerminationReason.INTERNAL_ERROR:
            report_bug(error)
            return ending.exit_status
        return _say(ending)


def _interrupted() -> int:
    """Return the exit status after Ctrl-C; unwritten results are discarded, as nobody may be reading."""
    forget(1)
    return 128 + signal.SIGINT


def _say(ending: Ending, *, usage: str | None = None) -> int:
    if usage and ending.reason is TerminationReason.BAD_USAGE:
        say(f"{usage}\nTry '--help' for help.")
    return say_ending(ending)


def ending_of_usage(error: click.UsageError) -> Ending:
    """Return the ending: 64 for a mistake on the command line, 78 for a bad value of a variable."""
    message = error.format_message()
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        message += DASHES_HINT.get(error.ctx.command.name or "", "")
    elif isinstance(error, click.MissingParameter) and error.param and error.param.name == "arguments":
        message += DASHES_HINT["simulate"]
    parameter = getattr(error, "param", None)
    if error.ctx is not None and parameter is not None and parameter.name is not None:
        source = error.ctx.get_parameter_source(parameter.name)
        if source is ParameterSource.ENVIRONMENT:
            variables = (
                parameter.envvar if isinstance(parameter.envvar, str) else " / ".join(parameter.envvar)
            )
            return Ending(TerminationReason.BAD_CONFIGURATION, os.EX_CONFIG, f"{variables}: {message}")
    return Ending(TerminationReason.BAD_USAGE, os.EX_USAGE, message)


def _status_of_output(error: OutputError) -> int:
    """Report that results are lost, unless their reader left on its own; return the exit status."""
    if error.errno == errno.EPIPE:
        return _READER_GONE
    message = f"standard output: {error.strerror}"
    return say_ending(Ending(TerminationReason.STAGING_FAILED, os.EX_IOERR, message))
