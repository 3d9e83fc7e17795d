"""
The Python way to work: an attempt whose entries are handed to the user's own loop.

    with htcjob.Job.from_env() as job:
        for entry in job.entries():
            ...
            entry.commit()

The recipe is that of `htcjob run --each` (`attempt/recipe.py`), in a thread of its own; the loop stays in the
main thread, where signals and exceptions arrive as in any program. Like the command line, this module reads
the options, shows the ending, and exits.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import click

from htcjob.attempt.attempt import Attempt
from htcjob.attempt.early_end import end_whatever_hangs
from htcjob.attempt.recipe import follow_recipe
from htcjob.cli.commands.run import run
from htcjob.cli.main import ending_of_usage
from htcjob.cli.messages import report_bug, say_ending
from htcjob.environment.variables import current_environ
from htcjob.errors import ConfigurationError, UsageError
from htcjob.logs import events as logs
from htcjob.outcome.endings import Ending, ending_of_error
from htcjob.outcome.reasons import TerminationReason
from htcjob.outcome.results import CommandResult
from htcjob.python_api.handover import Handover, JobEntry
from htcjob.python_api.stop_signals import StopSignals
from htcjob.run_options import RunOptions
from htcjob.supervise.stopping import FINISHING_SHARE
from htcjob.supervise.worker_program.values import exit_status_of, in_words

__all__ = ["Job", "JobEntry"]

_OF_THE_JOB = ("array_index", "array_size", "manifest", "project_store", "task_store")
"""Options that `environment/` reads from variables."""


class Job:
    """
    One attempt of one job, for a `with` statement in the main thread; made by `from_env`.

    With `__enter__` it begins to fetch. At the end of the context everything finished is put and committed,
    and the exit record is written. Then, unless all is well, one line on standard error says why, and the
    process ends with the attempt's exit status: `SystemExit`, or the exception that left the context. So a
    program never ends with 0 where work is left.

    * After a stop signal (SIGTERM, SIGINT, SIGHUP, SIGQUIT), or when the deadline is near, `entries` ends.
      The body has most of the grace period to finish its entry; one that hangs is left to the next attempt,
      what is done is committed, and after the grace period the process ends whatever hangs.
    * Ctrl-C raises KeyboardInterrupt as in any program; a handler of the user's for such a signal is called.
    * A warning (SIGUSR1, SIGUSR2, SIGXCPU) does not end a program that has no handler for it.
    * Nothing in the same process can stop a body that hangs without a signal: there is no timeout.
    """

    def __init__(
        self, options: RunOptions, *, environ: Mapping[str, str], flags: Mapping[str, object]
    ) -> None:
        self._signals = StopSignals()
        self._handover = Handover(self._signals, finish_s=options.grace_s * FINISHING_SHARE)
        self._attempt = Attempt(options, environ, loop=self._handover)
        self._flags = flags
        self._thread = threading.Thread(target=self._make_attempt, name="htcjob", daemon=True)
        self._process = os.getpid()

    @classmethod
    def from_env(
        cls,
        *,
        manifest: str | None = None,
        project_store: str | None = None,
        task_store: str | None = None,
        outputs: str | Sequence[str] = (),
        prefetch: int | None = None,
        max_failures: int | str | None = None,
        retry_entry: int | None = None,
    ) -> Job:
        """
        Return the job that the environment describes: the variables that `htcjob run` reads, and those of its
        options that are not about a command. Arguments given here win.

        Our lines go to standard error, unless the program has given the logger `htcjob` a handler before; no
        other logger is touched.

        Args:
            manifest: A key of project storage, or a URL.
            project_store: URL or directory.
            task_store: URL or directory.
            outputs: A glob, or several, below the output directory of what to stage out; none: everything.
            prefetch: Entries that are fetched ahead at most; default 16.
            max_failures: Entries that may fail, or a share of the chunk such as `"5%"`.
            retry_entry: How often an entry that asks for it is tried again within the attempt; default 0.

        Raises:
            SystemExit: after a line on standard error, as `htcjob run` ends: 64 or 78.
        """
        given = {
            "--manifest": manifest,
            "--project-store": project_store,
            "--task-store": task_store,
            "--prefetch": prefetch,
            "--max-failures": max_failures,
            "--retry-entry": retry_entry,
        }
        arguments = [f"{name}={value}" for name, value in given.items() if value is not None]
        arguments += [f"--output={glob}" for glob in ([outputs] if isinstance(outputs, str) else outputs)]
        try:
            with run.make_context("htcjob.Job", arguments) as context:
                return cls._of_options(dict(context.params), current_environ())
        except click.UsageError as error:
            raise SystemExit(say_ending(ending_of_usage(error))) from None
        except Exception as error:
            raise _ended_by(error) from None

    @classmethod
    def _of_options(cls, asked: dict[str, Any], environ: Mapping[str, str]) -> Job:
        if "HTCJOB_MESSAGE_FILE" in environ or "HTCJOB_WORKER" in environ:
            raise ConfigurationError(
                "htcjob.Job inside a command of htcjob run: both would work on the same entries; "
                "start the program without it, or name the manifest in the program only: then it supervises"
            )
        if asked["timeout"]:
            raise ConfigurationError(
                "HTCJOB_TIMEOUT: nothing can stop the body of a loop from inside; "
                "leave it out, or have htcjob run --call call a function"
            )
        flags = {name: asked.pop(name) for name in _OF_THE_JOB}
        log_format, level = asked.pop("log_format"), asked.pop("log_level")
        program = ("htcjob.Job", os.path.basename(sys.argv[0]), *sys.argv[1:])
        way = {"command": program, "call": None, "is_each": True, "workers": 1}
        options = RunOptions.of_options(**{**asked, **way})
        if not logging.getLogger("htcjob").handlers:
            logs.set_up(log_format=log_format, level=level, is_guest=True)
        return cls(options, environ=environ, flags=flags)

    @property
    def ending(self) -> Ending | None:
        """How the attempt ended: reason, exit status, message; None before the end of the context."""
        return self._attempt.ending

    def entries(self) -> Iterator[JobEntry]:
        """
        Yield the entries of this job that are not committed yet, one at a time, each when it is fetched.

        Ends when there are no more, when more failed than may, and after a stop signal; in a child that the
        body forked, at once. An entry that the body has not answered when it takes the next one counts as
        `retry`.

        Raises:
            SystemExit: the attempt cannot go on; leave the context with it.
            UsageError: called outside the context.
        """
        if self._signals.last_resort is None:
            raise UsageError("Job.entries() outside the job: write `with htcjob.Job.from_env() as job:`")
        while (entry := self._handover.take()) is not None:
            yield entry
        if self._attempt.facts.error is not None:
            raise SystemExit(1)  # `__exit__` knows the right one

    def __enter__(self) -> Job:
        if threading.current_thread() is not threading.main_thread():
            raise UsageError("htcjob.Job must be entered in the main thread: signals arrive nowhere else")
        if self._thread.ident is not None:
            raise UsageError("a htcjob.Job is one attempt: make another one with from_env()")
        options = self._attempt.options
        try:
            self._signals.__enter__()
            end_whatever_hangs(self._attempt, self._signals, at_once=self._stop)
            self._signals.last_resort = self._attempt.last_resort
            if options.deadline_s is not None:
                self._signals.stop_after(options.deadline_s - options.grace_s)
            self._thread.start()
        except Exception as error:
            self._signals.__exit__(None, None, None)
            raise _ended_by(error) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if os.getpid() != self._process or self._signals.last_resort is None:
            return  # a forked child of the user's: the attempt is its parent's
        self._signals.is_loop_over = True
        if error is not None:
            self._note(error)
        self._handover.loop_ended(is_orderly=error is None)
        self._thread.join()
        self._signals.__exit__(kind, error, traceback)
        assert self.ending is not None  # noqa: S101 - for mypy
        bug = self._attempt.facts.error
        if self.ending.reason is TerminationReason.INTERNAL_ERROR and bug is not None:
            report_bug(bug)
        else:
            say_ending(self.ending)
        if self.ending.exit_status != 0 and (error is None or isinstance(error, SystemExit)):
            raise SystemExit(self.ending.exit_status) from None

    def _stop(self, signum: int) -> None:
        self._signals.ask_to_stop(signum)
        self._handover.stop()

    def _note(self, error: BaseException) -> None:
        """Note what left the context, as the ending of a command."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)) and self._signals.stop_signal is not None:
            return  # that is why
        status = 1
        if isinstance(error, KeyboardInterrupt):
            status = 128 + signal.SIGINT
        elif isinstance(error, SystemExit):
            status = exit_status_of(error.code)
        self._attempt.facts.command = CommandResult(status)
        self._attempt.facts.command_message = in_words(error)

    def _make_attempt(self) -> None:
        """Make the attempt beside the loop; it ends when the loop has ended or is waited for no longer."""
        follow_recipe(self._attempt, self._signals, self._flags)


def _ended_by(error: Exception) -> BaseException:
    """Return the exception that ends a program whose attempt could not begin; a bug stays as it is."""
    ending = ending_of_error(error)
    if ending.reason is TerminationReason.INTERNAL_ERROR:
        return error
    return SystemExit(say_ending(ending))
