"""
One attempt, top to bottom:

1. the environment that the platform injected is read;
2. the stores are opened;
3. the chunk of this array index is located in the manifest;
4. entries that are committed already are left out;
5. the rest flows through stage-in -> work -> stage-out -> commit;
6. the ending is decided, once, by a pure function (`outcome/endings.py`);
7. the exit record is written, last.

Steps 2 to 5 are in `steps.py`. With no manifest configured there is nothing to stage, and the command is only
supervised (`plain.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from htcjob.attempt.attempt import Attempt, LoopLeftError
from htcjob.attempt.early_end import end_whatever_hangs, stop_early_where_told
from htcjob.attempt.exit_record import write_exit_record
from htcjob.attempt.plain import run_plain
from htcjob.environment.context import read_context
from htcjob.logs.events import WARNING, event
from htcjob.machine.limits import has_memory_limit
from htcjob.outcome.endings import Ending, decide
from htcjob.supervise.signals import Signals

if TYPE_CHECKING:
    from htcjob.run_options import RunOptions
    from htcjob.supervise.stop_requests import StopRequests


def follow_recipe(attempt: Attempt, signals: StopRequests, flags: Mapping[str, object]) -> Ending:
    """
    Take *attempt* through the seven steps; steps 6 and 7 are always taken. Never raises.

    Args:
        attempt: One that has just been made.
        signals: Where stop signals arrive.
        flags: What the command line says of the job's context; it wins over the environment.
    """
    try:
        context = attempt.context = read_context(attempt.environ, flags=flags)  # 1
        with stop_early_where_told(attempt, context, signals):
            if context.manifest is None and not attempt.options.entries:
                run_plain(attempt, context, signals)
            else:
                # Not imported at the top: a plain entrypoint, started a million times, needs none of these.
                from htcjob.attempt import steps

                end_whatever_hangs(attempt, signals)
                with steps.prepare(attempt, context, signals) as tools:
                    stores = steps.open_stores(tools)  # 2
                    manifest = steps.locate_chunk(attempt, stores, tools)  # 3
                    left = steps.leave_out_committed(attempt, manifest, stores, tools)  # 4
                    steps.flow(attempt, left, stores, tools)  # 5
    except LoopLeftError:
        pass  # the loop has noted why
    except BaseException as error:  # whatever it is, it has an ending
        attempt.facts.error = error
    attempt.await_loop()
    ending = decide_ending(attempt, signals)  # 6
    write_exit_record(attempt, ending, signals.stopped_at)  # 7
    attempt.ending = ending
    return ending


def run_attempt(
    options: RunOptions, *, environ: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[Ending, BaseException | None]:
    """
    Make one attempt; return how it ended, and the error that stopped it, if one did. Never raises.

    Args:
        options: What the user asked for.
        environ: The injected environment.
        flags: As for `follow_recipe`.
    """
    attempt = Attempt(options, environ)
    with attempt, Signals() as signals, _memory_guard(signals):
        if options.deadline_s is not None:
            signals.stop_after(options.deadline_s - options.grace_s)
        ending = follow_recipe(attempt, signals, flags)
        if attempt.last_resort is not None:
            attempt.last_resort.close()
    return ending, attempt.facts.error


def decide_ending(attempt: Attempt, signals: StopRequests) -> Ending:
    """Write the records that are still in memory, collect the last facts, and return the verdict."""
    facts = attempt.facts
    try:
        if attempt.ledger is not None:
            attempt.ledger.close()
    except Exception as error:
        facts.error = facts.error or error
    facts.stop_signal = signals.stop_signal
    facts.stop_cause = signals.stop_cause
    return decide(facts)


def _memory_guard(signals: Signals) -> AbstractContextManager[object]:
    """Return the memory guard, where there is a limit to guard."""
    if not has_memory_limit():
        return nullcontext()
    from htcjob.machine.cgroup_memory import CgroupMemory
    from htcjob.supervise.memory_guard import MemoryGuard

    try:
        return MemoryGuard(signals.children, CgroupMemory())
    except OSError as error:
        event(__name__, WARNING, "memory_not_watched", cause=str(error))
        return nullcontext()
