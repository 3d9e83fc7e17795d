"""
The pipes, streams and directory of a warm worker's process: a call must not change them, or not for long.

For any Python from 3.8.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` above it costs time
import os
import sys
from errno import EBADF
from json import JSONDecoder, JSONEncoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

# Made once; and the user's code may put something else in the place of `json.dumps`.
_ENCODER, _DECODER = JSONEncoder(allow_nan=False), JSONDecoder()


class Held:
    """A file descriptor of ours, which the user's code can close, and which may be another file's then."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._identity = _identity(descriptor)

    def is_at(self, descriptor: int) -> bool:
        """Whether *descriptor* is of this very file."""
        return self._identity is not None and self._identity == _identity(descriptor)

    def is_whole(self) -> bool:
        """Whether it is what it was."""
        return self.is_at(self.descriptor)


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError as error:
        if error.errno != EBADF:
            raise
        return None
    return status.st_dev, status.st_ino


class Line:
    """
    Requests and answers, of this very process and no child of it.

    A child that `os.fork` makes has the code, the stack and the descriptors of its parent: it comes back from
    the user's function as its parent does. It loses the descriptors at once, and ends where it would answer.
    """

    def __init__(self, requests: int, answers: int) -> None:
        for descriptor in (requests, answers):
            os.set_inheritable(descriptor, False)  # a program that the function starts must not have them
        self._requests, self._answers = Held(requests), Held(answers)
        self._pid = os.getpid()
        self._number = 0
        """The number of the request in hand."""
        self._unread = b""
        self.close_in_children([self._requests, self._answers])

    def close_in_children(self, ours: Iterable[Held]) -> None:
        """Keep *ours* from forked children."""

        def close() -> None:
            for held in ours:
                if held.is_whole():
                    os.close(held.descriptor)

        os.register_at_fork(after_in_child=close)

    def leave_if_forked(self, members: Mapping[str, Any]) -> None:
        """End a forked child here, where it would go on as if it were this process."""
        if os.getpid() != self._pid:
            sys.exit(members.get("exit_status", 0))

    def next_request(self) -> dict[str, Any] | None:
        """Return the next request; None: there are no more."""
        while b"\n" not in self._unread:
            self._check(self._requests)
            data = os.read(self._requests.descriptor, 1 << 16)
            if not data:
                return None
            self._unread += data
        text, _, self._unread = self._unread.partition(b"\n")
        request: dict[str, Any] = _DECODER.decode(text.decode())
        self._number = request["number"]
        return request

    def answer(self, members: Mapping[str, Any]) -> None:
        """Answer the request in hand; at first, say whether there is anything to ask."""
        self.leave_if_forked(members)
        said = {"number": self._number, "pid": self._pid, **members}
        data = _ENCODER.encode(said).encode() + b"\n"
        while data:
            self._check(self._answers)
            data = data[os.write(self._answers.descriptor, data) :]

    def _check(self, held: Held) -> None:
        if not held.is_whole():
            try:
                os.write(2, b"the function closed file descriptors of its worker, which ends\n")
            finally:
                os._exit(1)


class Standing:
    """How this process stands before the first call, and so before each."""

    def __init__(self) -> None:
        self._has_timer = _signal.getitimer(_signal.ITIMER_REAL)[0] > 0
        self._mask = os.umask(0o022)
        os.umask(self._mask)
        self._fixed = self._what_stays()
        try:
            # By descriptor: it can be gone back to even when it was removed or moved.
            self._directory: Held | None = Held(os.open(".", getattr(os, "O_PATH", os.O_RDONLY)))
        except OSError:
            self._directory = None
        self._standard = {n: Held(os.dup(n)) for n in range(3) if _identity(n) is not None}
        self._streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}

    def descriptors(self) -> list[Held]:
        """Return what is held open for it."""
        return [*self._standard.values(), *filter(None, [self._directory])]

    def put_back(self) -> bool:
        """Put all back as it was; False: that cannot be, and no other call must be made here."""
        if not self._has_timer:
            _signal.setitimer(_signal.ITIMER_REAL, 0)  # whose handler might raise in another entry's call
        for name in ("stdout", "stderr"):
            _flush(getattr(sys, name, None))
        os.umask(self._mask)
        for number, held in self._standard.items():
            if not held.is_at(number):
                if not held.is_whole():
                    return False
                os.dup2(held.descriptor, number)
        for number, (name, stream) in enumerate(self._streams.items()):
            if not _is_open(stream):
                self._streams[name] = stream = _opened_again(number, stream)
            if getattr(sys, name, None) is not stream:
                _flush(stream)
                setattr(sys, name, stream)
        return self._is_back() and self._fixed == self._what_stays()

    def _is_back(self) -> bool:
        if self._directory is None:
            return True
        if not self._directory.is_whole():
            return False
        try:
            os.fchdir(self._directory.descriptor)
        except OSError:
            return False
        return True

    def _what_stays(self) -> object:
        """Return the user, the group and the root directory, which no call may change."""
        try:
            root = os.stat("/")
        except OSError:
            return None
        return os.geteuid(), os.getegid(), root.st_dev, root.st_ino


def _is_open(stream: Any) -> bool:
    try:
        return stream is None or not getattr(stream, "closed", False)
    except Exception:  # its buffer was taken from it
        return False


def _opened_again(number: int, stream: Any) -> Any:
    try:
        return open(
            number,
            "w" if number else "r",
            buffering=1,
            encoding=getattr(stream, "encoding", None),
            errors=getattr(stream, "errors", None),
            closefd=False,
        )
    except Exception:  # there is no such descriptor
        return None


def _flush(stream: Any) -> None:
    try:
        if stream is not None:
            stream.flush()
    except Exception:  # a full disk behind it, or no stream at all; the function has returned
        pass
