"""One simulation: how many attempts run at a time, which runner starts them, and what came of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from htcjob.environment.context import read_context
from htcjob.environment.variables import container_program, current_environ, without_injected
from htcjob.errors import HtcjobError
from htcjob.job_stores import JobStores
from htcjob.ledger.reader import final_records
from htcjob.logs.events import utc
from htcjob.machine.limits import available_memory, cpus
from htcjob.retry import RetryPolicy
from htcjob.simulate.array import Array, AttemptEnd, Simulation
from htcjob.simulate.containers import Box, Containers
from htcjob.simulate.engine import Engine
from htcjob.simulate.processes import Processes
from htcjob.simulate.summary import summarise
from htcjob.storage.urls import local_directory
from htcjob.transfer.transfers import Transfers

if TYPE_CHECKING:
    from htcjob.simulate.runner import Runner


class SimulatedRun:
    """
    An array that is simulated once.

    Args:
        simulation: The array.
        box: What containers are made of; None: attempts are processes.
        arguments: Arguments of `htcjob run`.
    """

    def __init__(self, simulation: Simulation, *, box: Box | None, arguments: Sequence[str]) -> None:
        self._simulation = simulation
        # Nothing of a platform around us, nor of another simulation, reaches the attempts.
        self._environ = without_injected(current_environ())
        self._runner = self._make_runner(box, arguments)
        self._started, self._started_at = time.monotonic(), utc(time.time())
        self._stop_signal: int | None = None
        self.ends: list[AttemptEnd] = []
        """Every attempt that has ended so far."""

    def run(
        self, on_end: Callable[[AttemptEnd], None], on_line: Callable[[int, str], None] | None = None
    ) -> None:
        """
        Run the array to its end; returns as well when a signal has stopped it.

        Args:
            on_end: Called when an attempt has ended.
            on_line: Called for each line that an attempt of an array index writes, as it comes.

        Raises:
            HtcjobError: no attempt can be run, or none any more.
        """

        def note_end(end: AttemptEnd) -> None:
            self.ends.append(end)
            on_end(end)

        array = Array(self._simulation, self._runner, on_end=note_end, on_line=on_line)
        asyncio.run(array.run())
        self._stop_signal = array.stop_signal

    def summarise(self, warn: Callable[[str], None]) -> dict[str, Any]:
        """
        Return the summary.

        Args:
            warn: Called with the reason why records are missing in it.
        """
        return summarise(
            self.ends,
            jobs=len(self._simulation.indices),
            elapsed_s=time.monotonic() - self._started,
            records=self._records(warn),
            since=self._started_at,
        )

    def exit_status(self, *, has_collisions: bool) -> int:
        """
        Return 0 if all is well, else the status of the first index that did not succeed.

        Args:
            has_collisions: Several entries wrote one output.
        """
        if self._stop_signal is not None:
            return 128 + self._stop_signal
        last = {end.array_index: end.exit_status for end in self.ends}
        first_failure = next((status for _, status in sorted(last.items()) if status != 0), 0)
        return first_failure or (os.EX_DATAERR if has_collisions else 0)

    def _make_runner(self, box: Box | None, arguments: Sequence[str]) -> Runner:
        if box is None:
            return Processes(arguments=arguments, environ=self._environ)
        simulation = self._simulation
        return Containers(
            Engine(container_program(self._environ), self._environ),
            box,
            arguments=arguments,
            directories=[
                directory
                for store in (simulation.project_store, simulation.task_store)
                if (directory := local_directory(store)) is not None
            ],
            environ=self._environ,
            directory=simulation.directory,
        )

    def _records(self, warn: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """Yield all records of this simulation's runs; an unreadable ledger only shortens the table."""
        retry = RetryPolicy()
        for name in sorted({end.record["run"] for end in self.ends if end.record.get("run")}):
            try:
                # As the attempts reach it: by its name, with the SDK's own credentials.
                stores = JobStores(read_context(self._environ), retry)
                with Transfers(retry) as transfers:
                    yield from final_records(stores.open(self._simulation.task_store), name, transfers)
            except HtcjobError as error:
                warn(f"records of run {name}: {error}")


def attempts_at_a_time(box: Box | None) -> int:
    """Return how many attempts this machine can run at a time, 1 or more."""
    fitting = [cpus() / ((box and box.cpus) or 1)]
    if box is not None and box.memory_bytes is not None and (memory := available_memory()) is not None:
        fitting.append(memory / box.memory_bytes)
    return max(1, int(min(fitting)))
