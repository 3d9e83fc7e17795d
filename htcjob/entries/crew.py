"""
The warm workers of one attempt.

The options are read here and handed on as plain values: a worker knows nothing of them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from htcjob.supervise.worker import Worker

if TYPE_CHECKING:
    from htcjob.run_options import RunOptions
    from htcjob.supervise.signals import Signals


class Crew:
    """
    All workers of an attempt, from `__enter__` to `__exit__`.

    They start at once, so that they import while the attempt looks for its chunk.

    Args:
        options: Name the function and the interpreter, and say how many workers there are.
        environment: All variables of their processes.
        signals: Where stop signals arrive.

    Raises:
        CommandNotStartedError: the interpreter cannot be started.
        ShortageError: this machine has no process or file descriptor left.
    """

    def __init__(self, options: RunOptions, *, environment: Mapping[str, str], signals: Signals) -> None:
        self.workers = [
            Worker(
                options.call or "",
                python=options.python or sys.executable,
                environment=environment,
                number=number,
                signals=signals,
                grace_s=options.grace_s,
            )
            for number in range(options.workers)
        ]
        """The workers, by number."""

    def __enter__(self) -> Crew:
        try:
            for worker in self.workers:
                worker.start()
        except BaseException:
            self.reduce(0)
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.hang_up()
        for worker in self.workers:
            worker.close()

    def reduce(self, n_entries: int) -> None:
        """Keep no more workers than there are entries."""
        for worker in self.workers[n_entries:]:
            worker.dismiss()

    def hang_up(self) -> None:
        """Tell all of them, which are idle, that there are no more requests."""
        for worker in self.workers:
            worker.hang_up()
