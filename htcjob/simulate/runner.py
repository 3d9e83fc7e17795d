"""The contract of an array with its attempts: what they are given, how they are stopped, how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from htcjob.logs.redact import Secret


@dataclass(frozen=True, slots=True)
class Launch:
    """One attempt to start, and what it is given."""

    array_index: int
    attempt: int
    variables: Mapping[str, str]
    """Variables that the platform injects, besides the token."""
    token: Secret
    """The job's bearer token."""
    key_set: str
    """File with the keys that sign tokens."""
    termination_log: str
    """File for its exit record, not there yet."""


class Ended(NamedTuple):
    """How an attempt ended, as the platform sees it."""

    exit_status: int
    """0–255, 128+n for a signal."""
    is_out_of_memory: bool = False
    """The kernel killed a process of it at its memory limit; the exit status may be 0 all the same."""


class Running(Protocol):
    """An attempt that was started."""

    ended: asyncio.Task[Ended]
    """Done when nothing of it is left. Raises EngineError if it was never run to its end."""

    def send_signal(self, signum: int) -> None:
        """Signal the attempt, at once or as soon as it can get signals; no error when it has ended."""


class Runner(Protocol):
    """Runs attempts."""

    async def open(self) -> None:
        """
        Get ready; called once, before any attempt.

        Raises:
            HtcjobError: no attempt could run.
        """

    async def start(self, launch: Launch, output: int | None) -> Running:
        """
        Start an attempt.

        Args:
            launch: The attempt, and what it is given.
            output: Descriptor that both its outputs go to, still to be closed by the caller; None: our own.

        Raises:
            EngineError: the container engine cannot do it.
        """

    async def close(self) -> None:
        """Remove whatever is left of attempts; called once, when none runs any more."""
