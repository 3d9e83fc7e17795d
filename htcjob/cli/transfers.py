"""What makes the requests of a command that a person waits for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from htcjob.logs import events as logs
from htcjob.retry import RetryPolicy
from htcjob.transfer.progress import Progress
from htcjob.transfer.transfers import Transfers


@contextmanager
def talking() -> Iterator[Transfers]:
    """Give what makes requests."""
    logs.set_up(log_format="text", level="info")
    with Transfers(RetryPolicy()) as transfers:
        yield transfers


@contextmanager
def moving(what: str) -> Iterator[Transfers]:
    """Give what moves files, with progress on standard error."""
    with ExitStack() as stack:
        transfers = stack.enter_context(talking())
        transfers.progress = stack.enter_context(Progress(what))
        yield transfers
