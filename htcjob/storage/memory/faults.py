"""When a store in memory fails, and how: a plan that a test makes."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from htcjob.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from htcjob.errors import StorageError

_VERBS = frozenset({"get", "read_range", "put", "put_bytes", "list", "head", "delete"})


@dataclass
class Fault:
    """One line of the plan; counts the calls that it concerns."""

    verb: str | None
    prefix: str
    is_due: Callable[[int], bool]
    error: Callable[[str, str, str], StorageError]
    cut: int | None
    is_late: bool
    calls: int = 0


class Faults:
    """
    When a store fails, and how; empty at first.

    Every line counts its own calls. When several are due at once, the first added one strikes.
    """

    def __init__(self) -> None:
        self._plan: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        *,
        verb: str | None = None,
        nth: int | None = None,
        every: int | None = None,
        probability: float | None = None,
        seed: int = 0,
        prefix: str = "",
        error: Callable[[str, str, str], StorageError] = TransientError,
        cut: int | None = None,
        after_effect: bool = False,
    ) -> None:
        """
        Plan a fault: of every call, unless *nth*, *every* or *probability* selects some.

        Args:
            verb: The method's name; None: all methods.
            nth: Only this call, from 1.
            every: Each call whose number, from 1, this divides.
            probability: That a call fails, 0 to 1, drawn from *seed*.
            seed: For this line's own random numbers.
            prefix: Count and strike only calls whose key begins with this (for `list`, whose prefix does).
            error: A StorageError class, or a function of operation, URL and reason that makes one:
                `TransientError` (throttled), `DeniedError`, `UnauthenticatedError` (expired), …
            cut: Fail after this many bytes of a `get`, or this many entries of a `list`.
            after_effect: The call takes effect, only its answer is lost.
        """
        if verb is not None and verb not in _VERBS:
            raise ValueError(f"no verb {verb!r} in {sorted(_VERBS)}")
        if (nth, every, probability).count(None) < 2:
            raise ValueError("nth, every and probability exclude each other")
        if cut is not None and verb not in ("get", "list"):
            raise ValueError("only get and list can be cut")
        is_due: Callable[[int], bool] = _always
        if nth is not None:
            is_due = _equal_to(nth)
        elif every is not None:
            is_due = _divisible_by(every)
        elif probability is not None:
            is_due = _drawn(probability, seed)
        with self._lock:
            self._plan.append(Fault(verb, prefix, is_due, error, cut, after_effect))

    def clear(self) -> None:
        """Forget the plan: nothing fails any more."""
        with self._lock:
            self._plan.clear()

    def due(self, verb: str, key: str) -> Fault | None:
        """Count a call; return the fault that strikes it."""
        struck = None
        with self._lock:
            for fault in self._plan:
                if fault.verb in (None, verb) and key.startswith(fault.prefix):
                    fault.calls += 1
                    if fault.is_due(fault.calls) and struck is None:
                        struck = fault
        return struck


def _always(_call: int) -> bool:
    return True


def _equal_to(nth: int) -> Callable[[int], bool]:
    return lambda call: call == nth


def _divisible_by(every: int) -> Callable[[int], bool]:
    return lambda call: call % every == 0


def _drawn(probability: float, seed: int) -> Callable[[int], bool]:
    draw = random.Random(seed).random
    return lambda _call: draw() < probability
