"""Transfers for interactive commands: retried, with warnings in words and, if asked for, progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from htcjob.logs import events as logs
from htcjob.retry import RetryPolicy
from htcjob.transfer.progress import Progress
from htcjob.transfer.transfers import Transfers


@contextmanager
def without_progress() -> Iterator[Transfers]:
    """Yield transfers that show retries on standard error, and nothing else."""
    logs.set_up(log_format="text", level="info")
    with Transfers(RetryPolicy()) as transfers:
        yield transfers


@contextmanager
def with_progress(what: str) -> Iterator[Transfers]:
    """Yield transfers that show their progress on standard error, under the name *what*."""
    with ExitStack() as stack:
        transfers = stack.enter_context(without_progress())
        transfers.progress = stack.enter_context(Progress(what))
        yield transfers
