"""What a warm worker says, a line at a time: believed only where it is the answer to the request in hand."""

from __future__ import annotations

from json import JSONDecoder
from typing import Any, NamedTuple

LONGEST_ANSWER_BYTES = 1 << 18
"""A line is no longer: `warm.LONGEST_VALUE` and a few words."""


class NoAnswerError(Exception):
    """What came is no answer to the request in hand; its text says how it is none."""


class Said(NamedTuple):
    """An answer."""

    pid: int
    """Of the process that says so, as it counts: it may be behind a wrapper, or in a namespace."""
    is_ready: bool = False
    """It can be called; the first answer only."""
    exit_status: int = 0
    """As if the function had been a command."""
    value: object = None
    """What it returned."""
    problem: str = ""
    """Why it did not, in its own words."""
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    is_last: bool = False
    """The process must not be asked again."""


def read_answer(line: bytes, *, number: int, pid: int | None) -> Said:
    """
    Give the answer that *line* is.

    Args:
        line: Without its line break.
        number: Of the request in hand.
        pid: Of the process that must have written it; None: the first line tells.

    Raises:
        NoAnswerError: it is anything else.
    """
    try:
        members = _DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        raise NoAnswerError("it is not JSON") from None
    if not isinstance(members, dict) or type(members.get("number")) is not int:
        raise NoAnswerError("it has no number")
    if members.pop("number") != number:
        raise NoAnswerError("it is of another request")
    try:
        said = Said(**members)
    except TypeError:
        raise NoAnswerError("it has other members than an answer") from None
    if not _is_sound(said) or pid not in (None, said.pid):
        raise NoAnswerError("its members are not those of an answer")
    return said


def _is_sound(said: Said) -> bool:
    kinds = [
        (said.pid, int),
        (said.is_ready, bool),
        (said.exit_status, int),
        (said.problem, str),
        (said.peak_memory_bytes, int),
        (said.is_last, bool),
    ]
    return (
        all(type(value) is kind for value, kind in kinds)
        and 0 <= said.exit_status <= 255
        and type(said.cpu_s) in (int, float)
        and 0 <= said.cpu_s < float("inf")
        and said.peak_memory_bytes >= 0
    )


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


_DECODER = JSONDecoder(parse_constant=_refuse)
"""Made once: `json.loads` makes one for every call."""
