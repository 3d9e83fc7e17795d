"""
What supervision asks of the kernel, and does without where it is an old one or not Linux.

Process groups, descriptors for signals and for the end of a process, orphans, and death with us.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from htcjob.machine.proc import is_suspended
from htcjob.supervise.stopping import Step
from htcjob.trouble import let_go

EMPTY_STDIN = ((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),)

RESET = tuple(
    signum
    for name in ("SIGPIPE", "SIGXFSZ", "SIGCHLD")
    if (signum := getattr(signal, name, None)) is not None
)
"""Python ignores the first two, our own starter perhaps the last; a command must not inherit that."""

_PR_SET_CHILD_SUBREAPER = 36
"""https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html"""

_WATCHED = 32
"""At most this many leftovers are awaited at once: each costs a file descriptor."""


def signal_group(group: int, signum: int) -> bool:
    """Send *signum* to every process of *group*; False when there is none left to take it."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):  # macOS says "not permitted" of a group of zombies
        return False
    return True


def end_group(group: int, signum: int) -> None:
    """Send SIGTERM or SIGKILL, so that it is taken: a stopped process takes SIGTERM only when it goes on."""
    signal_group(group, signum)
    signal_group(group, signal.SIGCONT)


def carry_out(step: Step, group: int) -> None:
    """Do what *step* says with the command whose process group is *group*."""
    if step is Step.TERMINATE:
        end_group(group, signal.SIGTERM)
    elif step is Step.KILL:
        signal_group(group, signal.SIGKILL)
    elif step is Step.RESUME and is_suspended(group):
        signal_group(group, signal.SIGCONT)


_LONGEST_POLL_MS = 2**31 - 1
"""poll(2) takes a C int."""


def wait_readable(descriptors: Sequence[int], until: float | None) -> list[int]:
    """Return the descriptors that are readable before the moment *until*; None: wait for ever."""
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    milliseconds = None if until is None else max(until - time.monotonic(), 0.0) * 1000
    if milliseconds is not None:
        milliseconds = min(milliseconds, _LONGEST_POLL_MS)  # a caller that waits longer just comes again
    return [descriptor for descriptor, _ in poller.poll(milliseconds)]


_TOLD = 0x80
"""Marks a number that `tell` has written, on which no signal has arrived; theirs are 64 at most."""


class WakeUp:
    """
    A descriptor that is readable once a signal has come, whatever the main thread was about to do.

    Python runs the handler of a signal between two steps of the main thread: one that arrives just before
    poll(2), or in another thread, wakes nobody. But its number is written at once to the descriptor that is
    installed: https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd. There is only one. The one
    that was there before, an event loop's, say, is told of the signals that `read` returns.
    """

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)
        self._before = -1
        self._identity: tuple[int, int] | None = None
        """Device and inode of that descriptor: once closed, its number may be another file's."""

    def install(self) -> None:
        """Be told of signals from now on; must be called in the main thread, as `restore`."""
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._identity = _identity_of(self._before)

    def restore(self) -> None:
        """Put the former descriptor back, unless another library has taken our place meanwhile."""
        before = self._before if self._is_before_open() else -1
        present = signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        if present != self._writer:
            with suppress(OSError, ValueError):  # it has been closed by its owner
                signal.set_wakeup_fd(present)

    def tell(self, signum: int) -> None:
        """Let `read` return *signum* too; may be called from any thread, and in a signal handler."""
        with suppress(OSError):  # full of signals, or hung up
            os.write(self._writer, bytes([signum | _TOLD]))

    def read(self) -> bytes:
        """
        Return the numbers of the signals that have arrived; empty: it was hung up.

        Raises:
            OSError: passing trouble; BlockingIOError: none has arrived.
        """
        numbers = os.read(self.reader, 4096)
        arrived = bytes(number for number in numbers if not number & _TOLD)
        if arrived and self._is_before_open():
            with suppress(OSError):  # full, or closed this very moment
                os.write(self._before, arrived)
        return bytes(number & ~_TOLD for number in numbers)

    def hang_up(self) -> None:
        """Let `read` end."""
        if self._writer >= 0:
            let_go(self._writer)
        self._writer = -1

    def close(self) -> None:
        """Close both ends."""
        self.hang_up()
        let_go(self.reader)

    def _is_before_open(self) -> bool:
        return self._identity is not None and self._identity == _identity_of(self._before)


def _identity_of(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def exit_fd(pid: int) -> Iterator[int]:
    """Yield a descriptor that is readable once our child *pid* has ended; it is still to be waited for."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, before 5.3, or forbidden by a seccomp profile
        descriptor, write = os.pipe()

        def wait() -> None:
            with suppress(ChildProcessError):  # a caller that gave up on it has waited for it
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            let_go(write)

        threading.Thread(target=wait, daemon=True).start()
    try:
        yield descriptor
    finally:
        let_go(descriptor)


def wait_for_any(pids: Sequence[int], until: float) -> bool:
    """Wait for the end of any of *pids*, children of ours; False: the moment *until* came first."""
    descriptors: list[int] = []
    try:
        descriptors.extend(map(os.pidfd_open, pids[:_WATCHED]))
        return bool(wait_readable(descriptors, until))
    except (AttributeError, OSError):  # no pidfd here, or no file descriptor left
        time.sleep(0.01)
        return time.monotonic() < until
    finally:
        for descriptor in descriptors:
            let_go(descriptor)


def be_subreaper(is_one: bool) -> bool:
    """Make orphans among our descendants our children, or no longer; False when that cannot be."""
    if os.getpid() == 1:
        return True  # they do anyway
    try:
        # `ctypes` on top of it is 3 ms of start-up, more than any other module of ours.
        import _ctypes

        prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
        done = _ctypes.call_function(prctl, (_PR_SET_CHILD_SUBREAPER, int(is_one), 0, 0, 0))
    except (ImportError, AttributeError, OSError):  # a Python without it, or not Linux
        return False
    return bool(done == 0)


def let_die_first(pid: int) -> None:
    """
    Let the kernel, where memory is short before anybody could act, choose that process before this one.

    Its children inherit it. The number is in thousandths of the memory there is, added to what a process
    uses: https://man7.org/linux/man-pages/man5/proc_pid_oom_score_adj.5.html. A platform may have set ours.
    """
    with suppress(OSError, ValueError):
        with open("/proc/self/oom_score_adj", "rb", buffering=0) as file:
            ours = int(file.read())
        with open(f"/proc/{pid}/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"%d" % min(ours + 500, 1000))


@contextmanager
def dies_with_us(group: int) -> Iterator[None]:
    """
    Let the kernel kill the process group *group* when this process is gone, however it went.

    A pipe of which we hold both ends and nobody else any: whichever end is closed first, the other one's
    owner, which is the group, is sent the signal that it asked for (https://man7.org/linux/man-pages/man2/F_SETSIG.2const.html).
    PR_SET_PDEATHSIG would reach the command only, not its children, and needs a program between us and it.
    Processes that left the group live on. PID 1 needs none of this, with it everything is gone. The end of
    the context kills whatever is in the group still.
    """
    ends: tuple[int, ...] = ()
    if sys.platform == "linux" and os.getpid() != 1:
        import fcntl

        with suppress(OSError):
            ends = os.pipe()
            for end in ends:
                fcntl.fcntl(end, fcntl.F_SETOWN, -group)
                fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
                fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC)
    try:
        yield
    finally:
        for end in ends:
            let_go(end)
