"""Values, exceptions and figures of a process, as a record can hold them; for any Python from 3.8."""

from __future__ import annotations

import os
import resource
import sys
from json import JSONDecoder, JSONEncoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LONGEST_VALUE = 64 * 1024
"""Characters of a return value as JSON: it goes into a record, which is no place for results."""

DEEPEST_VALUE = 100
"""Lists and objects inside each other in a return value; a reader of records can read that many."""

LONGEST_NUMBER = 4300
"""Digits of an integer: Python's own limit for reading one."""

_LONGEST_PROBLEM = 4096
"""Characters of the text of an exception."""


def checked_value(value: object, what: str) -> object:
    """
    Return *value* as JSON would read it back.

    Args:
        value: Anything.
        what: A name for it, the first words of an error.

    Raises:
        TypeError, ValueError: it is not for a record.
    """
    try:
        text = _ENCODER.encode(value)
        if len(text) > LONGEST_VALUE:
            raise ValueError(
                f"it has {len(text)} characters as JSON, more than {LONGEST_VALUE}: write it to a file"
            )
        found: object = _DECODER.decode(text)
        if text.count("[") + text.count("{") > DEEPEST_VALUE and _is_deep(found):
            raise RecursionError
        return found
    except RecursionError:
        reason = f"it is nested more than {DEEPEST_VALUE} deep"
    except TypeError as error:
        raise TypeError(f"{what} cannot be recorded: {one_line(error)}") from None
    except ValueError as error:
        reason = one_line(error)
    except Exception as error:  # of an object of the user's
        reason = in_words(error)
    raise ValueError(f"{what} cannot be recorded: {reason}")


def _number_of(value: Any) -> object:
    """Return the number that a NumPy scalar, or one of its kin, is."""
    if getattr(value, "shape", None) == ():
        plain = value.item()
        if isinstance(plain, (int, float)):
            return plain
    raise TypeError(f"JSON has nothing for {type(value).__name__}")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two of its keys are {twice!r} as JSON")
    return found


def _integer(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"an integer of {len(text)} digits, more than {LONGEST_NUMBER}")
    return int(text)


def _is_deep(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(DEEPEST_VALUE):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for members in inner for one in members if isinstance(one, (dict, list))]
    return bool(level)


# Made once: the functions of `json` make one for every call.
_ENCODER = JSONEncoder(allow_nan=False, default=_number_of)
_DECODER = JSONDecoder(object_pairs_hook=_members, parse_int=_integer)


def in_words(error: BaseException) -> str:
    """Return an exception on one line."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(value: object) -> str:
    """Return the text of anything on one line that can be printed."""
    try:
        text = " ".join(str(value).split())
    except BaseException:
        text = "(its text cannot be had)"
    return text[:_LONGEST_PROBLEM].encode("utf-8", "backslashreplace").decode()


def exit_status_of(code: object) -> int:
    """Return the status of `sys.exit(code)`, as of a program; but 256 and its kind are no success."""
    if code is None:
        return 0
    if isinstance(code, int):
        return int(code) & 0xFF or int(code != 0)
    return 1


def cpu_s() -> float:
    """Return the CPU seconds of this process and the children it waited for."""
    return sum(os.times()[:4])


def peak_memory_bytes() -> int:
    """Return the most resident memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)
