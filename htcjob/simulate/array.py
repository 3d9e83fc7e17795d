"""Runs the attempts of an array as processes, a bounded number at a time, with the platform's retries."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from htcjob.simulate import orphans
from htcjob.simulate.platform import TRIED_AGAIN, JobIdentity, TokenIssuer, injected_variables

GRACE_S = 30.0
"""Seconds from SIGTERM to SIGKILL when the platform stops an attempt (AWS Batch)."""

PREEMPTED_WITHIN_S = 3.0
"""A simulated preemption comes at a random moment in this many seconds after the start."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """An array to run."""

    array_size: int
    indices: Sequence[int]
    """Which of the array to run."""
    parallel: int
    """Attempts at the same time."""
    retries: int
    """Further attempts of an index whose exit status asks for one."""
    timeout_s: float | None
    """The platform's limit for one attempt; it is not retried."""
    preempt_percent: float
    """Share of attempts that get SIGTERM at a random moment."""
    project_store: str
    """Absolute directory or URL."""
    task_store: str
    """Absolute directory or URL."""
    arguments: Sequence[str]
    """Of `htcjob run`."""
    environ: Mapping[str, str]
    """What the attempts inherit besides the injected variables."""
    directory: str
    """Where logs, exit records and the key set go."""
    inherits_output: bool = False
    """Attempts write to our own output instead of a log file each."""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How one attempt ended."""

    array_index: int
    attempt: int
    exit_status: int
    """As the platform sees it: 0–255, 128+n for a signal."""
    elapsed_s: float
    will_retry: bool
    log_path: str | None
    record: Mapping[str, Any] = field(default_factory=dict)
    """Its exit record; empty when it was killed before it could write one."""
    cause: str | None = None
    """What the platform did to it: `timeout` or `preempted`."""

    @property
    def reason(self) -> str:
        """Its termination reason, or what the platform knows where there is no exit record."""
        return str(self.record.get("termination_reason") or self.cause or f"exit status {self.exit_status}")


class Array:
    """One simulated array, from start to the last attempt."""

    def __init__(self, simulation: Simulation, on_end: Callable[[AttemptEnd], None]) -> None:
        """Prepare to run *simulation*; *on_end* hears of every attempt's end."""
        self._simulation = simulation
        self._on_end = on_end
        self._identity = JobIdentity.make()
        self._issuer = TokenIssuer()
        self._key_set = os.path.join(simulation.directory, "jwks.json")
        self._running: dict[asyncio.subprocess.Process, str] = {}
        """Attempts, and the variable that is in the environment of all their processes and of no other."""
        self._interrupts = 0
        self.stop_signal: int | None = None
        """The signal that asked the simulation itself to stop."""

    async def run(self) -> None:
        """Run every index to its end; a first interrupt stops the attempts, a second one kills them."""
        with open(self._key_set, "w", encoding="utf-8") as file:
            file.write(self._issuer.key_set())
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            loop.add_signal_handler(signum, self._interrupt, signum)
        waiting = iter(self._simulation.indices)
        try:
            await asyncio.gather(*(self._take(waiting) for _ in range(self._simulation.parallel)))
        finally:  # where one of them failed, the attempts of the others must not go on unwatched
            for process, variable in self._running.items():
                with suppress(ProcessLookupError):
                    process.kill()
                orphans.end(variable)

    def _interrupt(self, signum: int) -> None:
        self._interrupts += 1
        self.stop_signal = self.stop_signal or signum
        for process in self._running:
            self._pass_on_interrupt(process)

    def _pass_on_interrupt(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            # SIGINT reaches the commands at once: a person waits.
            process.send_signal(signal.SIGINT if self._interrupts == 1 else signal.SIGKILL)

    async def _take(self, waiting: Iterator[int]) -> None:
        for array_index in waiting:
            attempt = 1
            while self.stop_signal is None:
                end = await self._attempt(array_index, attempt)
                self._on_end(end)
                if not end.will_retry:
                    break
                attempt += 1
            if self.stop_signal is not None:
                return

    async def _attempt(self, array_index: int, attempt: int) -> AttemptEnd:
        simulation = self._simulation
        name = os.path.join(simulation.directory, f"{array_index}-{attempt}")
        environ = {
            **simulation.environ,
            **injected_variables(
                self._identity,
                array_index=array_index,
                array_size=simulation.array_size,
                attempt=attempt,
                token=self._issuer.job_token(self._identity, array_index),
                project_store=simulation.project_store,
                task_store=simulation.task_store,
            ),
            "HTCJOB_JWKS": self._key_set,
            "HTCJOB_TERMINATION_LOG": f"{name}.json",
        }
        log_path = None if simulation.inherits_output else f"{name}.log"
        started = time.monotonic()
        with suppress(FileNotFoundError):  # a record of an earlier simulation is not this attempt's
            os.unlink(f"{name}.json")
        process = await self._start(environ, log_path)
        variable = self._running[process] = f"RESCALE_JOB_ID={environ['RESCALE_JOB_ID']}"
        if self._interrupts:  # while it was started
            self._pass_on_interrupt(process)
        cause = await self._supervise(process, array_index, attempt)
        del self._running[process]
        if process.returncode is not None and process.returncode < 0:
            # It was killed; in a container its command would have died with it.
            orphans.end(variable)
        status = _as_the_platform_sees_it(process.returncode)
        return AttemptEnd(
            array_index=array_index,
            attempt=attempt,
            exit_status=status,
            elapsed_s=time.monotonic() - started,
            will_retry=(
                status in TRIED_AGAIN
                and cause != "timeout"
                and attempt <= simulation.retries
                and self.stop_signal is None
            ),
            log_path=log_path,
            record=_exit_record(f"{name}.json"),
            cause=cause,
        )

    async def _start(self, environ: Mapping[str, str], log_path: str | None) -> asyncio.subprocess.Process:
        with open(log_path or os.devnull, "wb") as log:
            output = log if log_path else None
            return await asyncio.create_subprocess_exec(
                *htcjob_argv(),
                "run",
                *self._simulation.arguments,
                env=environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def _supervise(
        self, process: asyncio.subprocess.Process, array_index: int, attempt: int
    ) -> str | None:
        """Wait for the attempt, stopping it as the platform would; tell why it was stopped, if it was."""
        simulation = self._simulation
        luck = random.Random(f"{array_index}-{attempt}")  # the same attempts are preempted every time
        stop_after_s, cause = simulation.timeout_s, "timeout"
        if luck.random() * 100 < simulation.preempt_percent:
            preempted_after_s = luck.uniform(0, PREEMPTED_WITHIN_S)
            if stop_after_s is None or preempted_after_s < stop_after_s:
                stop_after_s, cause = preempted_after_s, "preempted"
        if await _ends_within(process, stop_after_s):
            return None
        with suppress(ProcessLookupError):
            process.terminate()
        if not await _ends_within(process, GRACE_S):
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return cause


async def _ends_within(process: asyncio.subprocess.Process, seconds: float | None) -> bool:
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True


def htcjob_argv() -> list[str]:
    """Give the argv that starts htcjob: the script we were started with, or else the module."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "htcjob" and os.access(script, os.X_OK):
        return [script]
    return [sys.executable, "-m", "htcjob"]


def _as_the_platform_sees_it(returncode: int | None) -> int:
    if returncode is None:
        return 255
    return returncode if returncode >= 0 else 128 - returncode


def _exit_record(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
