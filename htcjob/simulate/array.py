"""Runs the attempts of an array, a bounded number at a time, with the platform's stops and retries."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from htcjob.ledger.exit_records import LONGEST_EXIT_RECORD_BYTES
from htcjob.ledger.records import is_count
from htcjob.logs.json_object import parse_object
from htcjob.outcome.reasons import TerminationReason
from htcjob.outcome.results import EntryResult
from htcjob.simulate.injection import TRIED_AGAIN, JobIdentity, injected_variables
from htcjob.simulate.output import copied_to
from htcjob.simulate.runner import Launch, Runner, Running
from htcjob.simulate.token_issuer import TokenIssuer

GRACE_S = 30.0
"""Seconds from SIGTERM to SIGKILL when the platform stops an attempt (AWS Batch)."""

PREEMPTED_WITHIN_S = 3.0
"""A simulated preemption comes at a random moment of these first seconds."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """An array to run."""

    array_size: int
    indices: Sequence[int]
    """Array indices to run."""
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
    directory: str
    """Directory for logs, exit records and the key set."""
    inherits_output: bool = False
    """Attempts write to our own output instead of a log file each."""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How one attempt ended."""

    array_index: int
    attempt: int
    exit_status: int
    """Exit status as the platform sees it: 0–255, 128+n for a signal."""
    elapsed_s: float
    will_retry: bool
    log_path: str | None
    record: Mapping[str, Any] = field(default_factory=dict)
    """Its exit record; empty when it was killed before it could write one."""
    cause: str | None = None
    """Why the platform ended it: `timeout`, `preempted` or `out_of_memory`."""
    is_out_of_memory: bool = False
    """One of its processes was killed at the memory limit, by the kernel or by htcjob's guard."""

    @property
    def reason(self) -> str:
        """Its termination reason, or what the platform knows of it without an exit record."""
        return str(self.record.get("termination_reason") or self.cause or f"exit status {self.exit_status}")


class Array:
    """One simulated array, from start to the last attempt."""

    def __init__(
        self,
        simulation: Simulation,
        runner: Runner,
        *,
        on_end: Callable[[AttemptEnd], None],
        on_line: Callable[[int, str], None] | None = None,
    ) -> None:
        """
        Prepare to run *simulation*.

        Args:
            simulation: The array.
            runner: Runs its attempts.
            on_end: Called when an attempt has ended.
            on_line: Called for each line that an attempt of an array index writes, as it comes.
        """
        self._simulation = simulation
        self._runner = runner
        self._on_end = on_end
        self._on_line = on_line
        self._identity = JobIdentity.make()
        self._issuer = TokenIssuer()
        self._key_set = os.path.join(simulation.directory, "jwks.json")
        self._running: list[Running] = []
        self._interrupts = 0
        self.stop_signal: int | None = None
        """The signal that asked the simulation itself to stop."""

    async def run(self) -> None:
        """
        Run every index to its end; a first interrupt stops the attempts, a second one kills them.

        Raises:
            HtcjobError: no attempt can be run, or none any more.
        """
        with open(self._key_set, "w", encoding="utf-8") as file:
            file.write(self._issuer.key_set())
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            loop.add_signal_handler(signum, self._interrupt, signum)
        waiting = iter(self._simulation.indices)
        takers: list[asyncio.Task[None]] = []
        try:
            await self._runner.open()
            takers += (asyncio.create_task(self._take(waiting)) for _ in range(self._simulation.parallel))
            await asyncio.gather(*takers)
        finally:  # where one of them failed, the attempts of the others must not go on unwatched
            for taker in takers:
                taker.cancel()
            await asyncio.gather(*takers, return_exceptions=True)
            for running in self._running:
                running.send_signal(signal.SIGKILL)
            await asyncio.gather(*(running.ended for running in self._running), return_exceptions=True)
            await self._runner.close()

    def _interrupt(self, signum: int) -> None:
        self._interrupts += 1
        self.stop_signal = self.stop_signal or signum
        for running in self._running:
            self._pass_on_interrupt(running)

    def _pass_on_interrupt(self, running: Running) -> None:
        # SIGINT reaches the commands at once: a person waits.
        running.send_signal(signal.SIGINT if self._interrupts == 1 else signal.SIGKILL)

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
        launch = Launch(
            array_index=array_index,
            attempt=attempt,
            variables=injected_variables(
                self._identity,
                array_index=array_index,
                array_size=simulation.array_size,
                attempt=attempt,
                project_store=simulation.project_store,
                task_store=simulation.task_store,
            ),
            token=self._issuer.job_token(self._identity, array_index),
            key_set=self._key_set,
            termination_log=f"{name}.json",
        )
        log_path = None if simulation.inherits_output else f"{name}.log"
        started = time.monotonic()
        with suppress(FileNotFoundError):  # a record of an earlier simulation is not this attempt's
            os.unlink(launch.termination_log)
        async with self._output(array_index, log_path) as output:
            running = await self._runner.start(launch, output)
            self._running.append(running)
            if self._interrupts:  # while it was started
                self._pass_on_interrupt(running)
            cause = await self._supervise(running, array_index, attempt)
        self._running.remove(running)
        ended = running.ended.result()
        if ended.is_out_of_memory and ended.exit_status != 0:
            cause = cause or "out_of_memory"
        record = _exit_record(launch.termination_log)
        return AttemptEnd(
            array_index=array_index,
            attempt=attempt,
            exit_status=ended.exit_status,
            elapsed_s=time.monotonic() - started,
            will_retry=(
                ended.exit_status in TRIED_AGAIN
                and cause != "timeout"
                and attempt <= simulation.retries
                and self.stop_signal is None
            ),
            log_path=log_path,
            record=record,
            cause=cause,
            is_out_of_memory=ended.is_out_of_memory or _was_short_of_memory(record),
        )

    @asynccontextmanager
    async def _output(self, array_index: int, log_path: str | None) -> AsyncIterator[int | None]:
        """Yield the descriptor that an attempt writes to; None: our own output."""
        if log_path is None:
            yield None
            return
        with open(log_path, "wb") as log:
            if self._on_line is None:
                yield log.fileno()
            else:
                on_line = self._on_line
                async with copied_to(log, lambda line: on_line(array_index, line)) as descriptor:
                    yield descriptor

    async def _supervise(self, running: Running, array_index: int, attempt: int) -> str | None:
        """Wait for the attempt, stopping it as the platform would; return why it was stopped, if it was."""
        simulation = self._simulation
        luck = random.Random(f"{array_index}-{attempt}")  # the same attempts are preempted every time
        stop_after_s, cause = simulation.timeout_s, "timeout"
        if luck.random() * 100 < simulation.preempt_percent:
            preempted_after_s = luck.uniform(0, PREEMPTED_WITHIN_S)
            if stop_after_s is None or preempted_after_s < stop_after_s:
                stop_after_s, cause = preempted_after_s, "preempted"
        if await _ends_within(running, stop_after_s):
            return None
        running.send_signal(signal.SIGTERM)
        if not await _ends_within(running, GRACE_S):
            running.send_signal(signal.SIGKILL)
            await _ends_within(running, None)
        return cause


async def _ends_within(running: Running, seconds: float | None) -> bool:
    done, _ = await asyncio.wait({running.ended}, timeout=seconds)
    return bool(done)


def _was_short_of_memory(record: Mapping[str, Any]) -> bool:
    is_command = record.get("termination_reason") == TerminationReason.OUT_OF_MEMORY.value
    return is_command or bool(record.get("entries", {}).get(EntryResult.OUT_OF_MEMORY.value))


def _exit_record(path: str) -> dict[str, Any]:
    """Return an attempt's exit record; empty: there is none, or a command wrote something in its place."""
    try:
        with open(path, "rb") as file:
            record = parse_object(file.read(LONGEST_EXIT_RECORD_BYTES + 1))
    except (OSError, ValueError):
        return {}
    return record if _is_ours(record) else {}


def _is_ours(record: Mapping[str, Any]) -> bool:
    """Whether the members that we use are of the right kind: a command can write anything in its place."""
    return (
        "htcjob" in record
        and isinstance(record.get("termination_reason"), str)
        and isinstance(record.get("message"), str)
        and isinstance(record.get("run"), str | None)
        and is_count(record.get("staged_out"))
        and isinstance(entries := record.get("entries"), dict)
        and all(map(is_count, entries.values()))
    )
