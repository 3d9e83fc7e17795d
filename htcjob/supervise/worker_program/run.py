"""The calls of a warm worker. For any Python from 3.8."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` above it costs time
import os
import sys
from functools import partial

from .library import Library
from .parameters import Parameters
from .process import Line, Standing
from .values import checked_value, cpu_s, exit_status_of, in_words, one_line, peak_memory_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from htcjob.trouble import is_passing
else:
    from htcjob_warm.trouble import is_passing  # the name that `program.py` gives these files and that one

TRY_AGAIN = 75
"""Exit status where this machine keeps the module from being imported, for now."""

INTERRUPTED = 130
"""Exit status after Ctrl-C: the person who pressed it knows."""

_GENERATORS = 0x20 | 0x200
"""Bits of `co_flags`, as `inspect` has them."""


def main(at_start: frozenset[str], path: list[str], folders: list[str]) -> None:
    """
    Answer requests until there are no more.

    Args:
        at_start: Modules that Python itself had imported.
        path: `sys.path` as Python made it.
        folders: The entries of it that are the standard library's.
    """
    try:
        # Blocked by our starter, so that none comes while Python itself is still starting.
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT,))
        _main(Library(at_start, path, folders))
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


def _main(library: Library) -> None:
    line = Line(int(sys.argv[1]), int(sys.argv[2]))
    function = Function(sys.argv[3], library)
    sys.argv[:] = [sys.argv[3]]
    library.open_to_user()
    refusal = function.load()
    if refusal is not None:
        line.answer(refusal)
        return
    standing = Standing()
    line.close_in_children(standing.descriptors())
    line.answer({"is_ready": True})
    while (request := line.next_request()) is not None:
        before = cpu_s()
        members = function.call(request)
        line.leave_if_forked(members)
        is_last = not standing.put_back() or members.get("exit_status") == INTERRUPTED
        used = {"cpu_s": cpu_s() - before, "peak_memory_bytes": peak_memory_bytes()}
        line.answer({**members, **used, "is_last": is_last})
        if is_last:
            os._exit(INTERRUPTED)  # even if something else runs here: nobody waits for it


class Function:
    """
    The user's function.

    Args:
        target: `module:function`.
        library: Where our own modules come from.
    """

    def __init__(self, target: str, library: Library) -> None:
        self._target = target
        self._library = library
        self._function: Callable[..., object]
        self._parameters: Parameters

    def _import(self, name: str) -> None:
        """Import a module; one that is not there is looked for once more, for Python does not say why."""
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name + ".").startswith(error.name + "."):
                raise
            sys.path_importer_cache.clear()
            __import__(name)

    def load(self) -> dict[str, Any] | None:
        """Import it, and call `setup`; return the answer when it cannot be called."""
        name, _, path = self._target.partition(":")
        try:
            self._import(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name + ".").startswith(error.name + "."):
                return {"exit_status": 127, "problem": f"no module {error.name!r} here or on sys.path"}
            return _refused(f"import of {name}", error)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            return _refused(f"import of {name}", error)
        found: Any = sys.modules[name]
        for part in path.split("."):
            found = getattr(found, part, None)
        if not callable(found):
            return {"exit_status": 127, "problem": f"module {name} has no function {path}"}
        if _flags(found) & _GENERATORS:
            return {"exit_status": 126, "problem": "a generator: it must return its value, not yield"}
        self._function = found
        try:
            self._parameters = Parameters(found, self._library)
        except Exception as error:
            return _refused("reading its parameters", error)
        setup = getattr(sys.modules[name], "setup", None)
        try:
            if callable(setup) and setup is not found:
                self._finished(setup())
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            return _refused("setup()", error)
        return None

    def call(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Call it for one request; return how that ended."""
        try:
            places, names = self._parameters.of(request)
            value = self._finished(self._function(*places, **names))
        except SystemExit as exit_:
            members: dict[str, Any] = {"exit_status": exit_status_of(exit_.code)}
            if exit_.code is not None and not isinstance(exit_.code, int):
                members["problem"] = one_line(exit_.code)
            return members
        except KeyboardInterrupt as error:
            return {"exit_status": INTERRUPTED, "problem": in_words(error)}
        except BaseException as error:
            _show(error)
            return {"exit_status": 1, "problem": in_words(error)}
        try:
            return {"value": checked_value(value, f"what {self._target} returned")}
        except (TypeError, ValueError) as error:
            return {"exit_status": 1, "problem": one_line(error)}

    def _finished(self, result: Any) -> object:
        """Return the value of a call; for an `async` function, the one that it returns at its end."""
        if not hasattr(type(result), "__await__"):
            return result

        async def wait() -> object:
            return await result

        is_coroutine = hasattr(type(result), "send")  # which is shown without a frame of ours
        value: object = self._library.module("asyncio").run(result if is_coroutine else wait())
        return value


def _flags(function: Any) -> int:
    """Return the `co_flags` of the code that runs when *function* is called, as far as that is Python."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None)
    if code is None and not isinstance(function, type):
        code = getattr(type(function).__call__, "__code__", None)
    flags = getattr(code, "co_flags", 0)
    return flags if isinstance(flags, int) else 0


def _refused(what: str, error: BaseException) -> dict[str, Any]:
    """Return the answer that *what* failed; the traceback goes to standard error."""
    is_for_now = isinstance(error, (OSError, MemoryError)) and is_passing(error)
    if not is_for_now:
        _show(error)
    return {"exit_status": TRY_AGAIN if is_for_now else 126, "problem": f"{what} failed: {in_words(error)}"}


def _show(error: BaseException) -> None:
    """Print the traceback without our own frames."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals.get("__package__") == __package__:
        traceback = traceback.tb_next
    try:
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
    except BaseException:  # the user's own hook, or stream
        pass
