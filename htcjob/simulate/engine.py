"""The command line of a container engine: docker, or one used in the same way (podman, nerdctl)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from htcjob.errors import EngineError

ANSWERS_WITHIN_S = 180.0
"""An engine silent for longer counts as hung; without an overlay file system each container is a copy."""

HANGS_AGAIN_AFTER_S = 10.0
"""The same just after an engine was given up, as a person may be waiting to leave."""

CLOSES_WITHIN_S = 1.0
"""Seconds that the pipes of a program which was killed may take to close."""

_NOISE = ("WARNING:", "Run '", "See '")
"""How lines of standard error begin that say nothing of the cause."""


class EngineAnswer(NamedTuple):
    """The answer of the engine's program."""

    status: int
    """Its exit status."""
    output: str
    """Its standard output."""
    cause: str
    """Its error message, on one line."""


class State(NamedTuple):
    """How a container ended."""

    exit_status: int
    """Exit status of its first process."""
    is_out_of_memory: bool
    """The kernel killed one of its processes at its memory limit."""


class Engine:
    """
    The container engine of this machine.

    Args:
        program: Name of its command.
        environ: What that command inherits; `docker run --env NAME` takes values from there.
    """

    def __init__(self, program: str, environ: Mapping[str, str]) -> None:
        self.program = program
        self._environ = environ
        self._is_hanging = False

    async def start(
        self, *arguments: str, output: int | None, errors: int | None, environ: Mapping[str, str] = {}
    ) -> asyncio.subprocess.Process:
        """
        Start the program.

        Args:
            arguments: Its arguments.
            output: Where its standard output goes; None: to ours.
            errors: Where its standard error goes; None: to ours.
            environ: Further variables.

        Raises:
            EngineError: there is no such program.
        """
        try:
            return await asyncio.create_subprocess_exec(
                self.program,
                *arguments,
                env={**self._environ, **environ},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,  # a Ctrl-C is ours to pass on
            )
        except OSError as error:
            raise EngineError(
                f"{self.program}: {error.strerror}: install Docker, or name another program in HTCJOB_DOCKER"
            ) from error

    async def ask(self, *arguments: str, environ: Mapping[str, str] = {}) -> EngineAnswer:
        """
        Return its output.

        Raises:
            EngineError: there is no such program, or it says nothing.
        """
        pipe = asyncio.subprocess.PIPE
        process = await self.start(*arguments, output=pipe, errors=pipe, environ=environ)
        within_s = HANGS_AGAIN_AFTER_S if self._is_hanging else ANSWERS_WITHIN_S
        try:
            output, errors = await asyncio.wait_for(process.communicate(), within_s)
        except asyncio.TimeoutError:
            kill(process)
            with suppress(asyncio.TimeoutError):  # a process that left its group may hold the pipes
                await asyncio.wait_for(process.communicate(), CLOSES_WITHIN_S)
            await process.wait()
            self._is_hanging = True
            raise EngineError(
                f"{self.program} {arguments[0]}: no answer in {within_s:.0f} s: restart its daemon"
            ) from None
        self._is_hanging = False
        return EngineAnswer(await process.wait(), output.decode(errors="replace"), cause_in(errors))

    async def state(self, container: str) -> State:
        """
        Return how a container ended.

        Raises:
            EngineError: it was not made, not started, or has not ended; or the engine does not tell.
        """
        answer = await self.ask("container", "inspect", "--format", "{{json .State}}", container)
        if answer.status != 0:
            raise EngineError(answer.cause)
        try:
            found: dict[str, Any] = json.loads(answer.output)
            status, state = found["Status"], State(int(found["ExitCode"]), bool(found.get("OOMKilled")))
        except (ValueError, LookupError, TypeError):
            raise EngineError(f"no state of a container: {answer.output[:60]!r}") from None
        if status in ("created", "running"):
            raise EngineError(found.get("Error") or f"the container is {status}")
        return state

    async def remove(self, container: str) -> None:
        """Remove a container, running or not; one that is not there is no error."""
        await self.ask("rm", "--force", "--volumes", container)

    async def containers(self, label: str) -> list[str]:
        """
        Return the ids of all containers with a label (`NAME=value`), running or not.

        Raises:
            EngineError: the engine cannot be asked.
        """
        answer = await self.ask("ps", "--all", "--quiet", "--filter", f"label={label}")
        if answer.status != 0:
            raise EngineError(
                f"{self.program} ps: {answer.cause}; start its daemon, and check that you may use it"
            )
        return answer.output.split()


def kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process of `Engine.start` that has not ended; a script around docker dies with its children."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def cause_in(errors: bytes) -> str:
    """Return an error message of docker on one line, without what it always says."""
    lines = [line.strip() for line in errors.decode(errors="replace").splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith(_NOISE))
    for beginning in ("docker: ", "Error: ", "Error response from daemon: "):
        said = said.removeprefix(beginning)
    return said.rstrip(".")
