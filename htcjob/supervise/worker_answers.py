"""The answers of a warm worker, one a line: each is believed only as the answer to the request in hand."""

from __future__ import annotations

from json import JSONDecoder
from typing import Any, NamedTuple

LONGEST_ANSWER_BYTES = 1 << 18
"""No line is longer: it holds `worker_program.values.LONGEST_VALUE` and a few words."""


class NoAnswerError(Exception):
    """A line that is no answer to the request in hand; the text of the error says why not."""


class Said(NamedTuple):
    """An answer."""

    pid: int
    """The process id of the one that answers, as it counts: it may be behind a wrapper, or in a namespace."""
    is_ready: bool = False
    """It can be called; the first answer only."""
    exit_status: int = 0
    """As if the function had been a command."""
    value: object = None
    """The value that it returned."""
    problem: str = ""
    """Why it did not, in its own words."""
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    is_last: bool = False
    """The process must not be asked again."""


def read_answer(line: bytes, *, number: int, pid: int | None) -> Said:
    """
    Return the answer that *line* is.

    Args:
        line: Without its line break.
        number: The number of the request in hand.
        pid: The process id of the one that must have written it; None: the first line shows it.

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
