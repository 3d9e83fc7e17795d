"""Runs attempts as processes of this same htcjob, each in a session of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from htcjob.outcome.results import status_of_code
from htcjob.simulate import orphans
from htcjob.simulate.runner import Ended, Launch


class Processes:
    """
    Runs attempts as processes.

    Args:
        arguments: Arguments of `htcjob run`.
        environ: What the attempts inherit besides the injected variables.
    """

    def __init__(self, *, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environ = environ

    async def open(self) -> None:
        """Do nothing: htcjob runs here already."""

    async def start(self, launch: Launch, output: int | None) -> _Process:
        """Start an attempt."""
        environ = {
            **self._environ,
            **launch.variables,
            "RESCALE_HTC_BEARER_TOKEN": launch.token.reveal(),
            "HTCJOB_JWKS": launch.key_set,
            "HTCJOB_TERMINATION_LOG": launch.termination_log,
        }
        process = await asyncio.create_subprocess_exec(
            *htcjob_argv(),
            "run",
            *self._arguments,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        return _Process(process, f"RESCALE_JOB_ID={environ['RESCALE_JOB_ID']}")

    async def close(self) -> None:
        """Do nothing: what a process left running ended with it."""


class _Process:
    """One attempt, and the variable that is in the environment of all its processes and of no other."""

    def __init__(self, process: asyncio.subprocess.Process, variable: str) -> None:
        self._process = process
        self._variable = variable
        self.ended = asyncio.create_task(self._wait())

    def send_signal(self, signum: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signum)

    async def _wait(self) -> Ended:
        returncode = await self._process.wait()
        if returncode < 0:
            # It was killed; in a container its command would have died with it.
            orphans.end(self._variable)
        return Ended(status_of_code(returncode))


def htcjob_argv() -> list[str]:
    """Return the argv that starts htcjob: the script we were started with, or else the module."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "htcjob" and os.access(script, os.X_OK):
        return [script]
    return [sys.executable, "-m", "htcjob"]
