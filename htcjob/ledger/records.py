"""
Records of the ledger, as attempts write them, and which lines of a part are records.

A line that is no record counts for nothing: its entry is done again. It is counted, named, and never removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeGuard

from htcjob.ledger.layout import block_of
from htcjob.logs.json_object import json_line
from htcjob.logs.redact import redact
from htcjob.outcome.results import EntryResult

SHOWN = 10
"""So many objects and lines that cannot be read are named; the others are counted."""

_REQUIRED = frozenset({"position", "result", "entry"})
_RESULTS = frozenset(result.value for result in EntryResult)
_decode = json.JSONDecoder().raw_decode
"""Returns a value and where it ends; `json.loads` looks for white space besides."""
_LARGEST = 2**63 - 1
"""The largest whole number: programs that read our records may do so in 64 bits."""
_LONGEST_S = 1e12
"""The longest time in seconds; sums of a few million of these are exact enough."""
_LONGEST_TIME = 40
"""Characters of a date with its time, at most."""

LONGEST_MESSAGE = 500
"""Characters of a reason that are kept in a record."""


@dataclass(frozen=True, slots=True)
class Output:
    """One object that an entry put into task storage."""

    key: str
    """Its key in task storage."""
    size_bytes: int
    sha256: str
    """Digest of its bytes, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one entry in one attempt."""

    position: int
    """Position in the manifest, from 0."""
    entry: str
    """The manifest line."""
    result: EntryResult
    message: str = ""
    """Why it is not done, for a person."""
    exit_status: int | None = None
    """Exit status of its command; None: the command did not run."""
    array_index: int = 0
    attempt: int = 1
    value: object = None
    """The value that the function of `--call` returned; any JSON value."""
    outputs: Sequence[Output] = ()
    """The objects it put into task storage. A command of a whole chunk puts its outputs as one set: they are
    listed with the first entry of that set, and the others point to it with `outputs_at`."""
    outputs_at: int | None = None
    """Position of the entry whose record lists the outputs, where that is another one."""
    stage_in_s: float = 0.0
    work_s: float = 0.0
    stage_out_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    ended_at: str = ""
    """When it ended, UTC."""

    def to_json(self) -> str:
        """Return the record as one JSON line, without the fields that are empty."""
        members = {**asdict(self), "message": redact(self.message)[:LONGEST_MESSAGE]}
        return json_line({name: value for name, value in members.items() if value not in ("", None, ())})


class Spot(NamedTuple):
    """An object of a ledger, or a line of it, that cannot be read."""

    url: str
    line_number: int | None
    """Number of the line, from 1; None: the whole object."""
    reason: str

    def __str__(self) -> str:
        line = "" if self.line_number is None else f" line {self.line_number}"
        return f"{self.url}{line}: {self.reason}"


@dataclass(slots=True)
class Unreadable:
    """The objects and lines of a ledger that cannot be read."""

    count: int = 0
    first: list[Spot] = field(default_factory=list)
    """The first few."""

    def add(self, spot: Spot) -> None:
        """Count *spot*, and remember it if it is among the first."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(spot)


def is_sound(part: bytes, block: int) -> bool:
    """Whether a part holds records and nothing else, so that it may be put together with others."""
    return all(isinstance(found, dict) for _, found in lines_of(part, block, None))


def lines_of(
    part: bytes, block: int, n_entries: int | None
) -> Iterator[tuple[int | None, dict[str, Any] | str]]:
    """Yield the lines of a part with their numbers, from 1: each as a record, or why it is none."""
    if not part:
        yield None, "empty"
    for line_number, line in enumerate(part.split(b"\n"), 1):
        if line:
            yield line_number, read_record(line, block=block, n_entries=n_entries)


def read_record(line: bytes, *, block: int, n_entries: int | None) -> dict[str, Any] | str:
    """
    Return the members of the record that *line* is, or the reason why it is none.

    Members that are not known here are kept as they are.

    Args:
        line: A line of a part, without its end.
        block: The block of the part.
        n_entries: Entries of the manifest; None: not known.
    """
    try:
        text = line.strip().decode()
        record, end = _decode(text)
        if end < len(text) or not isinstance(record, dict):
            return "not a JSON object"
        for name, value in record.items():
            if (is_right := _MEMBERS.get(name)) is not None:
                if not is_right(value):
                    return f"its {name} has a wrong type or value"
            elif value.__class__ in (dict, list):
                json.dumps(value)  # another program's value may be nested too deep to be shown
    except RecursionError:
        return "nested too deep"
    except ValueError:  # not UTF-8, not JSON, or a number with too many digits
        return "not a JSON object"
    if not record.keys() >= _REQUIRED:
        return f"it has no {' or '.join(sorted(_REQUIRED - record.keys()))}"
    position: int = record["position"]
    if block_of(position) != block:
        return f"position {position} is not of this block"
    if n_entries is not None and position >= n_entries:
        return f"position {position}, but the run has {n_entries} entries"
    return record


def is_count(value: object) -> TypeGuard[int]:
    """Whether *value* is a whole number from 0 on; JSON's `true` and `1.0` are not."""
    return type(value) is int and 0 <= value <= _LARGEST


def _is_number(value: object) -> bool:
    return type(value) is int and -_LARGEST <= value <= _LARGEST


def _is_seconds(value: object) -> bool:
    return (type(value) is float or type(value) is int) and -_LONGEST_S <= value <= _LONGEST_S


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_time(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_TIME and value.isascii() and value.isprintable()


def _are_outputs(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_output, value))


def _is_output(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("key"), str)
        and is_count(value.get("size_bytes"))
        and isinstance(value.get("sha256"), str)
        and (len(value) == 3 or not any(member.__class__ in (dict, list) for member in value.values()))
    )


def _is_result(value: object) -> bool:
    return isinstance(value, str) and value in _RESULTS


_MEMBERS: dict[str, Callable[[object], bool]] = {
    "position": is_count,
    "entry": _is_text,
    "result": _is_result,
    "message": _is_text,
    "exit_status": _is_number,
    "array_index": is_count,
    "attempt": is_count,
    "outputs": _are_outputs,
    "outputs_at": is_count,
    "stage_in_s": _is_seconds,
    "work_s": _is_seconds,
    "stage_out_s": _is_seconds,
    "cpu_s": _is_seconds,
    "peak_memory_bytes": is_count,
    "ended_at": _is_time,
}
"""Checks of members; `value`, and those that are not known here, may be anything."""


def counts_more(record: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether *record* counts in place of *known*: the first `done` does, or else the latest record."""
    is_done, was_done = (bool(one["result"] == EntryResult.DONE.value) for one in (record, known))
    if is_done is not was_done:
        return is_done
    ended_at: str = record.get("ended_at", "")
    known_ended_at: str = known.get("ended_at", "")
    return ended_at < known_ended_at if is_done else ended_at > known_ended_at
