"""The options of `htcjob run` as plain values: what the user asked for, whichever way it was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from htcjob.errors import UsageError
from htcjob.outcome.endings import FailureBudget


class Multiple(NamedTuple):
    """A time limit that is a multiple of the time that others took."""

    factor: float
    """How many times."""


class RunOptions(NamedTuple):
    """What the user asked `htcjob run` to do."""

    command: Sequence[str]
    """The user's argv; empty with `call`."""
    is_each: bool = False
    """Run the command once per entry, not once for the chunk."""
    call: str | None = None
    """`module:function` that is called for each entry in a warm Python process; implies `is_each`."""
    python: str | None = None
    """The interpreter for `call`; None: the one that runs htcjob."""
    workers: int = 1
    """Entries worked on at a time, with `is_each`."""
    prefetch: int = 16
    """Entries fetched ahead of the workers at most, with `is_each`."""
    disk_budget_bytes: int | None = None
    """Bytes that files in the work directory may take; None: half of the free space at the beginning."""
    entries: Sequence[str] = ()
    """Manifest lines given on the command line, in place of a manifest."""
    balance: str = "entries"
    """What is shared out equally among the jobs of the array: `entries`, or `bytes` of input."""
    run: str | None = None
    """Name of the run in the task storage; None: `default`, or one made from `entries`."""
    outputs: Sequence[str] = ()
    """Globs of the files to stage out, relative to the output directory; none: everything in it."""
    timeout_s: float | None = None
    """Seconds that one run of the command may take."""
    timeout_factor: float | None = None
    """The same as a multiple of the median of the entries done so far, with `is_each`."""
    deadline_s: float | None = None
    """Seconds after its start at which the attempt has ended, the grace period included."""
    grace_s: float = 30.0
    """Seconds from SIGTERM to SIGKILL (Kubernetes' and AWS Batch's own default)."""
    preemption_notice: str | None = None
    """The cloud whose metadata server is asked whether the machine is taken away: `aws` or `google`."""
    max_failures: FailureBudget | None = None
    """Entries that may fail; past it the attempt stops. None: none may, and all are tried."""
    retry_entry: int = 0
    """How often an entry whose result is `retry` is tried again within the attempt, with `is_each`."""
    permanent_exit: int = 65
    """Exit status where nothing is left but entries that failed for good: 65 or 0."""
    pass_credentials: bool = False
    """Leave tokens and storage credentials in the command's environment."""
    work_dir: str | None = None
    """Where the attempt makes its work directory; None: the system's temporary directory."""

    @property
    def program(self) -> Sequence[str]:
        """The program that a run is of: the command, or the function that is called."""
        return ("--call", self.call) if self.call else self.command

    @classmethod
    def of_options(
        cls,
        *,
        call: str | None,
        is_each: bool,
        timeout: float | Multiple | None,
        deadline_s: float | None,
        grace_s: float,
        permanent_exit: str,
        **rest: Any,
    ) -> RunOptions:
        """
        Return the options of `htcjob run`, as the command line has parsed them, in the form that is used.

        Raises:
            UsageError: two of them contradict each other.
        """
        if deadline_s and deadline_s <= grace_s:
            raise UsageError("--deadline must be longer than --grace, which is its last part")
        factor = timeout.factor if isinstance(timeout, Multiple) else None
        if factor is not None and not (is_each or call):
            raise UsageError("--timeout 5x compares entries: it needs --each or --call")
        return cls(
            call=call,
            is_each=is_each or call is not None,
            timeout_s=None if isinstance(timeout, Multiple) else timeout or None,
            timeout_factor=factor,
            deadline_s=deadline_s or None,
            grace_s=grace_s,
            permanent_exit=int(permanent_exit),
            **rest,
        )
