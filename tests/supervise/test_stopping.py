"""When a command is asked to stop and when it is killed: every transition, as a table; no process, no clock."""

import ast
import inspect
import signal
from itertools import pairwise, product

import pytest

from htcjob.supervise import stopping as module
from htcjob.supervise.stopping import FINISHING_SHARE, Step, StoppedFor, Stopping

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
WAIT, RESUME, TERMINATE, KILL, LEAVE = Step
TIMEOUT, REQUEST = StoppedFor
ENDED = "ended"

TABLE = {
    # what it is told: moment -> event (None: time has passed); what it answers: step, until, stopped for
    "nothing happens": ({}, [(5, None, WAIT, None, None)]),
    "it ends": ({}, [(5, ENDED, LEAVE, None, None)]),
    "it ends before its timeout": (
        {"deadline": 10},
        [(0, None, WAIT, 10, None), (9, ENDED, LEAVE, 10, None)],
    ),
    "it ends at the very moment of its timeout": ({"deadline": 10}, [(10, ENDED, LEAVE, 10, None)]),
    "the wait ends a moment early": (
        {"deadline": 10},
        [(9.999, None, WAIT, 10, None), (10, None, TERMINATE, 20, TIMEOUT)],
    ),
    "its timeout, then it ends": (
        {"deadline": 10},
        [
            (10, None, TERMINATE, 20, TIMEOUT),
            (11, None, WAIT, 20, TIMEOUT),
            (12, ENDED, LEAVE, 20, TIMEOUT),
        ],
    ),
    "its timeout, then it is killed": (
        {"deadline": 10},
        [
            (10, None, TERMINATE, 20, TIMEOUT),
            (20, None, KILL, None, TIMEOUT),
            (99, None, WAIT, None, TIMEOUT),
            (100, ENDED, LEAVE, None, TIMEOUT),
        ],
    ),
    "seen late, the grace period is whole all the same": (
        {"deadline": 10},
        [(15, None, TERMINATE, 25, TIMEOUT), (25, None, KILL, None, TIMEOUT)],
    ),
    "a timeout of zero": ({"deadline": 0}, [(0, None, TERMINATE, 10, TIMEOUT)]),
    "no grace": (
        {"deadline": 10, "grace_s": 0},
        [(10, None, TERMINATE, 10, TIMEOUT), (10, None, KILL, None, TIMEOUT)],
    ),
    "a request to stop, which it was sent too": (
        {},
        [(5, TERM, RESUME, 15, REQUEST), (14, None, WAIT, 15, REQUEST), (15, None, KILL, None, REQUEST)],
    ),
    "a request, then it ends": ({}, [(5, HUP, RESUME, 15, REQUEST), (6, ENDED, LEAVE, 15, REQUEST)]),
    "a request without grace": (
        {"grace_s": 0},
        [(5, TERM, RESUME, 5, REQUEST), (5, None, KILL, None, REQUEST)],
    ),
    "a request and the end at once": ({}, [(5, (ENDED, TERM), LEAVE, None, None)]),
    "a second request changes nothing": (
        {},
        [(5, TERM, RESUME, 15, REQUEST), (9, INT, WAIT, 15, REQUEST), (15, None, KILL, None, REQUEST)],
    ),
    "a request after the timeout: it stays a timeout": (
        {"deadline": 10},
        [
            (10, None, TERMINATE, 20, TIMEOUT),
            (12, TERM, WAIT, 20, TIMEOUT),
            (20, None, KILL, None, TIMEOUT),
        ],
    ),
    "a request at the moment of the kill": (
        {"deadline": 10},
        [(10, None, TERMINATE, 20, TIMEOUT), (20, TERM, KILL, None, TIMEOUT)],
    ),
    "the timeout inside the grace period of a request does not count": (
        {"deadline": 10},
        [(5, TERM, RESUME, 15, REQUEST), (10, None, WAIT, 15, REQUEST), (15, None, KILL, None, REQUEST)],
    ),
    "one that may finish does": (
        {"may_finish": True},
        [(5, TERM, WAIT, 13, None), (12, None, WAIT, 13, None), (12.5, ENDED, LEAVE, 13, None)],
    ),
    "one that may finish and does not": (
        {"may_finish": True},
        [
            (5, TERM, WAIT, 13, None),
            (13, None, TERMINATE, 15, REQUEST),
            (15, None, KILL, None, REQUEST),
        ],
    ),
    "one that may finish, without grace": (
        {"may_finish": True, "grace_s": 0},
        [(5, TERM, WAIT, 5, None), (5, None, TERMINATE, 5, REQUEST), (5, None, KILL, None, REQUEST)],
    ),
    "Ctrl-C reaches one that may finish": (
        {"may_finish": True},
        [(5, INT, RESUME, 15, REQUEST), (15, None, KILL, None, REQUEST)],
    ),
    "Ctrl-C while it finishes": (
        {"may_finish": True},
        [(5, TERM, WAIT, 13, None), (6, INT, WAIT, 13, None), (13, None, TERMINATE, 15, REQUEST)],
    ),
    "its timeout while it finishes has a grace period of its own": (
        {"may_finish": True, "deadline": 10},
        [
            (5, TERM, WAIT, 10, None),
            (10, None, TERMINATE, 20, TIMEOUT),
            (13, None, WAIT, 20, TIMEOUT),
            (20, None, KILL, None, TIMEOUT),
        ],
    ),
    "its timeout behind the time to finish does not count": (
        {"may_finish": True, "deadline": 14},
        [(5, TERM, WAIT, 13, None), (13, None, TERMINATE, 15, REQUEST), (14, None, WAIT, 15, REQUEST)],
    ),
    "both are over when it is looked at: it is a timeout": (
        {"may_finish": True, "deadline": 12},
        [(5, TERM, WAIT, 12, None), (14, None, TERMINATE, 24, TIMEOUT)],
    ),
    "a request that comes with the timeout is a request": (
        {"deadline": 10},
        [(10, TERM, RESUME, 20, REQUEST)],
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_every_transition(name):
    """Each row of the table: what is to be done, until when there is nothing else, and why."""
    options, rows = TABLE[name]
    stopping = Stopping(**{"grace_s": 10, **options})
    for now, event, step, wait_until, stopped_for in rows:
        events = event if isinstance(event, tuple) else (event,)
        signum = next((one for one in events if isinstance(one, int)), None)
        found = stopping.step(now, has_ended=ENDED in events, stop_signal=signum)
        assert (found, stopping.wait_until, stopping.stopped_for) == (step, wait_until, stopped_for), now


def test_a_request_is_listened_for_until_it_would_change_nothing():
    """Its descriptor stays readable for ever: watched any longer, it would keep the processor busy."""
    finishing, timed_out = Stopping(grace_s=10, may_finish=True), Stopping(grace_s=10, deadline=1)
    assert finishing.listens
    finishing.step(5, stop_signal=TERM)
    assert not finishing.listens
    assert timed_out.listens
    timed_out.step(1)
    assert not timed_out.listens


@pytest.mark.parametrize(
    ("deadline", "may_finish", "grace_s", "signum", "at"),
    list(product((None, 0, 3, 7), (False, True), (0, 5), (None, INT, TERM), (0, 3, 4, 8))),
)
def test_who_does_not_end_is_killed_once_and_within_the_grace_period(
    deadline, may_finish, grace_s, signum, at
):
    """Asked at every moment: SIGTERM before SIGKILL, each at most once, and never a day late."""
    stopping = Stopping(grace_s=grace_s, deadline=deadline, may_finish=may_finish)
    taken = []
    for now in range(40):
        for _ in range(3):
            came = signum if now >= at and stopping.listens else None
            step = stopping.step(now, stop_signal=came)
            if step is not WAIT:
                taken.append((step, now))
    steps = [step for step, _ in taken]
    begun = min([moment for moment in (deadline, at if signum else None) if moment is not None], default=None)
    if begun is None:
        assert steps == []
        return
    assert steps in ([RESUME, KILL], [TERMINATE, KILL])
    assert all(earlier <= later for (_, earlier), (_, later) in pairwise(taken))
    longest = grace_s * (1 + FINISHING_SHARE if may_finish and deadline is not None else 1)
    assert begun + grace_s <= taken[-1][1] <= begun + longest + 1


def test_the_shares_of_a_grace_period_make_it_whole():
    """Finishing and SIGTERM together take no longer than SIGTERM alone would."""
    stopping = Stopping(grace_s=10, may_finish=True)
    stopping.step(0, stop_signal=TERM)
    assert stopping.wait_until == 10 * FINISHING_SHARE
    stopping.step(stopping.wait_until)
    assert stopping.wait_until == pytest.approx(10)


def test_it_imports_nothing_that_acts():
    """No clock, no thread, no file; and of `signal` it takes a number."""
    tree = ast.parse(inspect.getsource(module))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"signal"}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [one for one in calls if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "signal"]
