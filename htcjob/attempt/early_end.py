"""
What ends an attempt early: the limit of the platform, a notice of the cloud, what hangs after a stop.

Imported only where an attempt has one of these; the deadline of the attempt itself is the signals' own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from htcjob.attempt.exit_record import last_words
from htcjob.environment.variables import metadata_server
from htcjob.logs.events import WARNING, event, utc
from htcjob.supervise.bounded_call import OVERTIME_S

if TYPE_CHECKING:
    from htcjob.attempt.attempt import Attempt
    from htcjob.environment.context import JobContext
    from htcjob.supervise.last_resort import LastResort
    from htcjob.supervise.signals import Signals


def warned_early(attempt: Attempt, context: JobContext, signals: Signals) -> AbstractContextManager[object]:
    """Stop ahead of the platform's own limit, and at the cloud's notice where that is asked for."""
    if context.ends_at is not None:
        _stop_before(context.ends_at, attempt.options.grace_s, signals)
    cloud = attempt.options.preemption_notice
    if cloud is None:
        return nullcontext()
    from htcjob.attempt.preemption import Notices

    return Notices(cloud, metadata_server(attempt.environ, cloud), signals.stop_by_notice)


def _stop_before(ends_at: int, grace_s: float, signals: Signals) -> None:
    """Stop a grace period before the platform does, unless the attempt's own deadline is earlier."""
    left_s = ends_at - time.time()
    if left_s <= 0:
        # The limit of a job that has ended, inherited; or one that the platform does not enforce.
        event(__name__, WARNING, "platform_limit_ignored", ended_at=utc(ends_at))
        return
    stop_in_s = left_s - grace_s
    if signals.stops_in_s is None or stop_in_s < signals.stops_in_s:
        signals.stop_after(stop_in_s)


def guard(attempt: Attempt, signals: Signals, *, at_once: Callable[[int], None] | None = None) -> LastResort:
    """
    See to it that what hangs does not hold an attempt that was asked to stop.

    Args:
        attempt: That attempt.
        signals: Where stop signals arrive; one may have come already.
        at_once: Called with the signal that asks it to stop, in another thread.
    """
    from htcjob.supervise.last_resort import LastResort

    last_resort = LastResort(
        signals.request_in,
        after_s=attempt.options.grace_s + OVERTIME_S,
        last_words=lambda signum: last_words(attempt, signals, signum),
        at_once=at_once,
    )
    if signals.stop_signal is not None:
        last_resort.begin(signals.stop_signal)
    return last_resort
