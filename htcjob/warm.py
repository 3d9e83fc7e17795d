"""
What a warm worker runs: a program by itself, for any Python from 3.8, that imports nothing of htcjob.

    python warm.py REQUESTS ANSWERS MODULE:FUNCTION

imports MODULE (found where we were started, or on sys.path), calls its `setup()` if it has one, and then
FUNCTION for each line of the file descriptor REQUESTS. The first line on ANSWERS says whether that can be
done, each other one is the answer to a request. Standard output and error are the function's own.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NAMES = ("input", "output_dir", "entry", "key", "params")
"""Parameters that are always given, where the function has them."""

LONGEST_VALUE = 64 * 1024
"""Characters of a return value as JSON: it goes into a record, which is no place for results."""


def main() -> None:
    """Answer requests until there are no more."""
    requests, answers, target = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    for descriptor in (requests, answers):
        os.set_inheritable(descriptor, False)  # a process that the function starts must not hold them open
    sys.path[0] = os.getcwd()  # else it is the folder of this file
    sys.argv[:] = [target]

    def answer(members: dict[str, Any]) -> None:
        data = json.dumps(members, allow_nan=False).encode() + b"\n"
        while data:
            data = data[os.write(answers, data) :]

    function = load(target, answer)
    if function is None:
        return
    answer({"is_ready": True})
    take = parameters(function)
    with open(requests, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            before = cpu_s()
            members = call(function, take, request)
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            answer({**members, "cpu_s": cpu_s() - before, "peak_memory_bytes": peak_memory_bytes()})


def load(target: str, answer: Callable[[dict[str, Any]], None]) -> Callable[..., object] | None:
    """Give the function, when `setup` is done; else say why there is none."""
    name, _, path = target.partition(":")
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            answer({"exit_status": 127, "problem": f"no module {error.name!r} here or on sys.path"})
            return None
        refused(error, f"import of {name}", answer)
        return None
    except Exception as error:
        refused(error, f"import of {name}", answer)
        return None
    module = sys.modules[name]
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        answer({"exit_status": 127, "problem": f"module {name} has no function {path}"})
        return None
    setup = getattr(module, "setup", None)
    if callable(setup) and setup is not found:
        try:
            setup()
        except Exception as error:
            refused(error, "setup()", answer)
            return None
    function: Callable[..., object] = found
    return function


def refused(error: Exception, what: str, answer: Callable[[dict[str, Any]], None]) -> None:
    """Say that *what* failed; the traceback goes to standard error."""
    show(error)
    answer({"exit_status": 126, "problem": f"{what} failed: {in_words(error)}"})


def parameters(function: Callable[..., object]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Give what makes the function's arguments of a request."""
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__"):
        import inspect

        found = inspect.signature(function).parameters
        names = [name for name, one in found.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        takes_more = any(one.kind is one.VAR_KEYWORD for one in found.values())
    else:  # the same, without 5 ms of import
        names = list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        names = names[1:] if getattr(function, "__self__", None) is not None else names
        takes_more = bool(code.co_flags & 0x08)  # inspect.CO_VARKEYWORDS

    def take(request: dict[str, Any]) -> dict[str, Any]:
        given = {**request["params"], **request}
        if names and names[0] not in given:
            given[names[0]] = request["input"]
        if takes_more:
            return {**request["params"], **{name: given[name] for name in names if name in given}}
        return {name: given[name] for name in names if name in given}

    return take


def call(
    function: Callable[..., object],
    take: Callable[[dict[str, Any]], dict[str, Any]],
    request: dict[str, Any],
) -> dict[str, Any]:
    """Call the function for one request, and give how that ended."""
    try:
        return {"value": checked_value(function(**take(request)))}
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            return {"exit_status": (exit_.code or 0) & 0xFF}
        return {"exit_status": 1, "problem": str(exit_.code)}
    except Exception as error:
        show(error)
        return {"exit_status": 1, "problem": in_words(error)}


def checked_value(value: object) -> object:
    """Give *value* as JSON has it; TypeError or ValueError: it is not for a record."""
    text = json.dumps(value, allow_nan=False)
    if len(text) > LONGEST_VALUE:
        raise ValueError(f"the value has {len(text)} characters as JSON: write it to a file")
    return json.loads(text)


def show(error: Exception) -> None:
    """Print the traceback without our own frames."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    sys.excepthook(type(error), error.with_traceback(traceback), traceback)


def in_words(error: Exception) -> str:
    """Give an exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def cpu_s() -> float:
    """Give the CPU seconds of this process and the children it waited for."""
    return sum(os.times()[:4])


def peak_memory_bytes() -> int:
    """Give the most resident memory that this process had so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)


if __name__ == "__main__":
    try:
        import _signal as signal  # type: ignore[import-not-found]  # `signal` above it costs time

        # Blocked by whoever started us, so that none comes while Python itself is still starting.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
        main()
    except KeyboardInterrupt:
        os._exit(130)  # told to stop: whoever sent it knows
