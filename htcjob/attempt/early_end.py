"""
What ends an attempt early: the limit of the platform, a notice of the cloud, what hangs after a stop.

The attempt's own deadline is the signals' own (`StopRequests.stop_after`).
"""

from __future__ import annotations

import _thread
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

from htcjob.attempt.exit_record import exit_record_of, write_termination_log
from htcjob.environment.variables import metadata_server
from htcjob.errors import TransientError
from htcjob.logs.events import ERROR, WARNING, event, utc
from htcjob.outcome.endings import decide
from htcjob.supervise.bounded_call import OVERTIME_S

if TYPE_CHECKING:
    from htcjob.attempt.attempt import Attempt
    from htcjob.environment.context import JobContext
    from htcjob.supervise.stop_requests import StopRequests


def stop_early_where_told(
    attempt: Attempt, context: JobContext, signals: StopRequests
) -> AbstractContextManager[object]:
    """Stop ahead of the platform's own limit, and at the cloud's notice where the user wants that."""
    if context.ends_at is not None:
        _stop_before(context.ends_at, attempt.options.grace_s, signals)
    cloud = attempt.options.preemption_notice
    if cloud is None:
        return nullcontext()
    from htcjob.attempt.preemption import Notices

    return Notices(cloud, metadata_server(attempt.environ, cloud), signals.stop_by_notice)


def _stop_before(ends_at: int, grace_s: float, signals: StopRequests) -> None:
    """Stop a grace period before the platform does, unless the attempt's own deadline is earlier."""
    left_s = ends_at - time.time()
    if left_s <= 0:
        # The limit of a job that has ended, inherited; or one that the platform does not enforce.
        event(__name__, WARNING, "platform_limit_ignored", ended_at=utc(ends_at))
        return
    stop_in_s = left_s - grace_s
    if signals.stops_in_s is None or stop_in_s < signals.stops_in_s:
        signals.stop_after(stop_in_s)


def end_whatever_hangs(
    attempt: Attempt, signals: StopRequests, *, at_once: Callable[[int], None] | None = None
) -> None:
    """
    Make sure that nothing that hangs holds up an attempt that was asked to stop; a second call is ignored.

    Args:
        attempt: That attempt.
        signals: Where stop signals arrive; one may have come already.
        at_once: Called with the signal that asks it to stop, in another thread; by default it is asked there,
            for one that arrives just before the main thread waits for a lock wakes nobody.
    """
    if attempt.last_resort is not None:
        return
    from htcjob.supervise.last_resort import LastResort

    attempt.last_resort = LastResort(
        signals.request_in,
        after_s=attempt.options.grace_s + OVERTIME_S,
        last_words=lambda signum: _last_words(attempt, signals, signum),
        at_once=at_once or signals.ask_to_stop,
    )
    if signals.stop_signal is not None:
        attempt.last_resort.begin(signals.stop_signal)


def end_what_hangs_around_command(attempt: Attempt, signals: StopRequests) -> None:
    """
    Make sure of the same for a plain command, at no cost until a signal comes.

    Our own waits for a command end at a signal, so no thread has to watch from the beginning.
    """
    signals.on_stop = lambda signum: _exit_unless_over(attempt, signals, signum)
    if signals.stop_signal is not None:
        signals.on_stop(signals.stop_signal)


def _exit_unless_over(attempt: Attempt, signals: StopRequests, signum: int) -> None:
    """
    End this process by `os._exit` if the attempt is not over in time; costs a thread that waits.

    Called in a signal handler, so it must not take a lock.
    """

    def watch() -> None:
        if not attempt.is_over_within(attempt.options.grace_s + OVERTIME_S):
            status = os.EX_SOFTWARE
            try:
                status = _last_words(attempt, signals, signum)
            finally:
                os._exit(status)

    # The kernel may hand a signal to any thread that takes it, and the main thread would not wake.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with suppress(RuntimeError):  # this machine gives no thread
            _thread.start_new_thread(watch, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _last_words(attempt: Attempt, signals: StopRequests, signum: int) -> int:
    """Log and record the ending of an attempt that hangs after a request to stop; return its exit status."""
    facts, ending = attempt.facts, attempt.ending
    if ending is None:
        signals.ask_to_stop(signum)  # which the main thread may not have done
        facts.stop_signal, facts.stop_cause = signum, signals.stop_cause
        if not facts.is_plain:
            facts.command = None
        if facts.command is None:
            what, said = ("command", "no end") if facts.is_plain else ("storage", "no answer")
            facts.error = TransientError("wait", what, f"{said} within the grace period")
        ending = decide(facts)
        write_termination_log(attempt, exit_record_of(attempt, ending))
    # All may be committed, and the user's own program still hang: which is no success of the program. A
    # plain command has ended, or hangs: its own status is the truth.
    status = ending.exit_status if facts.is_plain else ending.exit_status or 128 + signum
    event(__name__, ERROR, "given_up", exit_status=status, message=ending.message)
    return status
