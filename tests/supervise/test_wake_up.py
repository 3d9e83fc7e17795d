"""A signal is seen at once, also where Python alone would see it after the next event."""

import os
import signal
import subprocess
import sys

import pytest

from htcjob.supervise.kernel import WakeUp
from htcjob.supervise.last_resort import LastResort

DELIVER = '''
import signal, sys, threading

def deliver(signum):
    """Send *signum* when this thread lets others run next, which is inside poll(2): no step is between."""
    go = threading.Lock()
    go.acquire()
    def send():
        go.acquire()
        signal.pthread_kill(threading.get_ident(), signum)  # to another thread: poll(2) is not interrupted
    threading.Thread(target=send).start()
    sys.setswitchinterval(1000)
    go.release()
'''

WINDOW = (
    DELIVER
    + """
import os, select, time
from htcjob.supervise.command import run_command
from htcjob.supervise.last_resort import LastResort
from htcjob.supervise.signals import Signals

class Poll:
    def __init__(self):
        self.real, self.watched = real(), []
    def register(self, descriptor, events):
        self.watched.append(descriptor)
        self.real.register(descriptor, events)
    def poll(self, milliseconds):
        while not os.path.exists(ready):
            time.sleep(0.01)
        if to_come and to_come[0][1] == (signals.stop_fd in self.watched):
            deliver(to_come.pop(0)[0])
        return self.real.poll(milliseconds)

real, select.poll = select.poll, Poll
ready, way, *command = sys.argv[1:]
to_come = [(signal.SIGTERM, True), (signal.SIGINT, False)][: 2 if way == "second" else 1]
with Signals() as signals:
    if way == "behind":
        LastResort(signals.request_in, after_s=1000, last_words=lambda signum: 1)
    if way == "sleep":
        print(signals.sleep(1000), signals.stop_signal, flush=True)
    else:
        result = run_command(command, environment=os.environ, signals=signals, grace_s=1000)
        print(result.exit_status, result.stopped_by, to_come, flush=True)
    os._exit(0)
"""
)

COMMAND = 'trap "exit 5" TERM; trap "exit 6" INT; {}; echo > "$0"; while :; do sleep 0.01; done'


@pytest.mark.parametrize(
    ("way", "script", "told"),
    [
        ("first", "", "5 15 []"),
        ("second", "trap '' TERM", "6 15 []"),
        ("behind", "", "5 15 []"),
        ("sleep", "", "True 15"),
    ],
)
def test_a_signal_just_before_a_wait_ends_the_wait(tmp_path, way, script, told):
    """
    Between Python's last look and poll(2): passed on at once, not when something else happens.

    The first one, and another one while the command is stopped; also where `LastResort` is told of signals.
    """
    ready = tmp_path / "ready"
    if way == "sleep":
        ready.touch()
    done = subprocess.run(
        [sys.executable, "-c", WINDOW, ready, way, "sh", "-c", COMMAND.format(script or ":"), ready],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == told, done.stderr


FLOW = (
    DELIVER
    + """
from htcjob.cli.main import main

def wait(event, timeout=None):
    global is_sent
    is_flow = sys._getframe(1).f_globals["__name__"] == "htcjob.entries.flow"
    if is_flow and timeout is None and not is_sent:
        is_sent = True
        print("sent", flush=True)
        deliver(signal.SIGTERM)
    return real(event, timeout)

is_sent, real, threading.Event.wait = False, threading.Event.wait, wait
main(sys.argv[1:])
"""
)


def test_a_signal_just_before_a_flow_waits_stops_it(htcjob):
    """The main thread waits for a lock there; the thread of the last resort asks in its place."""
    htcjob.entries("a", "b", "c")
    done = subprocess.run(
        [sys.executable, "-c", FLOW, "run", "--each", "--grace", "1s", "--", "sleep", "1000"],
        env=htcjob.variables, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "sent\n", done.stderr
    assert done.returncode == 143, done.stderr
    assert "given_up" not in done.stderr, "it has ended by itself"
    assert htcjob.exit_record()["termination_reason"] == "preempted"


class Loop:
    """Has a wake-up descriptor, as an event loop has."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)

    def heard(self) -> list[int]:
        try:
            return list(os.read(self.reader, 100))
        except BlockingIOError:
            return []


@pytest.fixture
def loop():
    loop, usr1 = Loop(), signal.signal(signal.SIGUSR1, lambda *_: None)
    before = signal.set_wakeup_fd(loop.writer)
    yield loop
    signal.set_wakeup_fd(before)
    signal.signal(signal.SIGUSR1, usr1)


def test_a_loop_that_was_there_is_told_and_comes_back(loop):
    """Of what has arrived; not of what we were only told ourselves."""
    wake_up = WakeUp()
    wake_up.install()
    os.kill(os.getpid(), signal.SIGUSR1)
    wake_up.tell(signal.SIGTERM)
    assert list(wake_up.read()) == [signal.SIGUSR1, signal.SIGTERM]
    assert loop.heard() == [signal.SIGUSR1]
    wake_up.restore()
    wake_up.close()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert loop.heard() == [signal.SIGUSR1]


def test_a_loop_that_came_meanwhile_stays(loop):
    """It has taken our place, and is none of ours to remove."""
    wake_up, other = WakeUp(), Loop()
    wake_up.install()
    signal.set_wakeup_fd(other.writer)
    wake_up.restore()
    wake_up.close()
    assert signal.set_wakeup_fd(loop.writer) == other.writer


def test_a_loop_that_has_been_closed_gets_nothing(loop):
    """Its number may be another file's by now."""
    wake_up = WakeUp()
    wake_up.install()
    other = Loop()
    os.dup2(other.writer, loop.writer)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert list(wake_up.read()) == [signal.SIGUSR1]
    assert other.heard() == []
    wake_up.restore()
    wake_up.close()
    assert signal.set_wakeup_fd(-1) == -1


def test_the_last_resort_leaves_a_loop_as_it_was(loop):
    """It sees what arrives, and so does the loop."""
    seen = []
    last_resort = LastResort(lambda signum: seen.append(signum) or 0, after_s=1000, last_words=lambda _: 1)
    os.kill(os.getpid(), signal.SIGUSR1)
    last_resort.close()
    assert seen == [signal.SIGUSR1]
    assert loop.heard() == [signal.SIGUSR1]
    assert signal.set_wakeup_fd(loop.writer) == loop.writer
