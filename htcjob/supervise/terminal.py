"""The terminal that controls this process's session, and which process group is in its foreground."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from htcjob.trouble import let_go


class Terminal:
    """
    Our controlling terminal, lent to a command's process group and taken back.

    The caller ignores SIGTTOU: the kernel sends it to a process that changes the foreground from behind.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.borrower: int | None = None
        """The process group that is to have the terminal whenever it is ours to lend."""
        self._is_lent = False

    @classmethod
    def find(cls) -> Terminal | None:
        """Open the controlling terminal; None: there is none, as in nearly every job."""
        try:
            return cls(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        except OSError:
            return None

    def close(self) -> None:
        """Close our descriptor of it."""
        let_go(self._descriptor)

    @property
    def foreground(self) -> int:
        """The process group in the foreground; 0: the terminal has hung up."""
        try:
            return os.tcgetpgrp(self._descriptor)
        except OSError:
            return 0

    @property
    def is_ours(self) -> bool:
        """Whether our own process group is in the foreground."""
        return self.foreground == os.getpgrp()

    def lend(self, group: int) -> None:
        """Put *group* into the foreground, now and after every stop, until `take_back`."""
        self.borrower = group
        self._is_lent = True
        self._put_into_foreground(group)

    def lend_again(self) -> None:
        """After we went on: put the borrower into the foreground if a shell has put us there."""
        self._is_lent = False  # the shell that stopped us took the terminal
        if self.borrower is not None and self.is_ours:
            self.lend(self.borrower)

    def pause_loan(self) -> None:
        """Take the terminal back from a borrower that was stopped."""
        if self._is_lent:
            self._put_into_foreground(os.getpgrp())
        self._is_lent = False

    def take_back(self) -> None:
        """End the loan."""
        self.pause_loan()
        self.borrower = None

    def _put_into_foreground(self, group: int) -> None:
        with suppress(OSError):  # it hung up, or the group is gone
            os.tcsetpgrp(self._descriptor, group)


def is_interactive() -> bool:
    """
    Whether a person types what we read, and no other process of our group shares the terminal.

    In `htcjob run -- … | less` the pager needs the terminal, too: what a command is lent, it has not.
    """
    return os.isatty(0) and not any(_is_pipe(descriptor) for descriptor in (1, 2))


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def is_orphaned() -> bool:
    """
    Whether no shell could make us go on once we have stopped.

    That holds for PID 1 of a container, and for any process group without a parent in its session; the
    kernel does not let the terminal stop such a group either.
    https://pubs.opengroup.org/onlinepubs/9799919799/basedefs/V1_chap03.html (Orphaned Process Group)
    """
    parent = os.getppid()
    try:
        return parent == 0 or os.getsid(parent) != os.getsid(0)
    except OSError:
        return True
