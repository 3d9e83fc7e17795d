"""Tasks of a command that works on many objects: done side by side, with an outcome each."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from htcjob.errors import HtcjobError, PermanentError
from htcjob.storage.contract import LeftOut
from htcjob.transfer.locations import find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from htcjob.storage.contract import Store
    from htcjob.transfer.locations import Found, Location
    from htcjob.transfer.transfers import Transfers

COPIED, SKIPPED, REMOVED, FAILED = "copied", "skipped", "removed", "failed"


class Outcome(NamedTuple):
    """How one task ended, about one object or file."""

    key: str
    """The object; when one is copied to another, the new one. Where a task failed early: as it was named."""
    size_bytes: int | None
    """Its size, where that is known."""
    action: str
    """`copied`, `skipped`, `removed` or `failed`."""
    error: HtcjobError | None = None
    """Why it failed."""


class Task(NamedTuple):
    """One thing to do."""

    key: str
    """The object or file that it is about."""
    act: Callable[[], Outcome]
    """Does it; raises an HtcjobError."""


def run_tasks(tasks: Iterable[Task], transfers: Transfers) -> Iterator[Outcome]:
    """Do all *tasks*, side by side, and yield their outcomes in the same order."""

    def do(task: Task) -> Outcome:
        try:
            return task.act()
        except HtcjobError as error:
            return Outcome(task.key, None, FAILED, error)

    for outcome in transfers.each(do, tasks):
        if isinstance(outcome, Outcome):  # always: failures are outcomes
            yield outcome


def removals(location: Location, transfers: Transfers, *, is_recursive: bool) -> Iterator[Task]:
    """Yield a task for the removal of each object that *location* means."""
    store = location.store

    def remove(found: Found) -> Outcome:
        transfers.call(lambda: store.delete(found.key))
        return Outcome(found.key, found.info.size_bytes if found.info else None, REMOVED)

    try:
        for found in find(location, is_recursive=is_recursive, transfers=transfers, is_checked=True):
            if isinstance(found, LeftOut):
                yield left_out(found, store)
            else:
                yield Task(found.key, partial(remove, found))
    except HtcjobError as error:
        yield failing(location.text, error)


def failing(key: str, error: HtcjobError) -> Task:
    """Return a task that has failed before it began."""

    def fail() -> NoReturn:
        raise error

    return Task(key, fail)


def left_out(found: LeftOut, store: Store) -> Task:
    """Return the failing task of a name that is no object: without it, the folder would not be whole."""
    return failing(found.key, PermanentError("list", store.url_of(found.key), found.reason))
