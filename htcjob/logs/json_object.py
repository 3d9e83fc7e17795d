"""JSON of other programs: one object, or an error in words; and JSON that can always be written."""

from __future__ import annotations

import json

DEEPEST = 100
"""Levels. No interface that we read nests deeper, and Python's own limit is not far."""


def parse_object(data: bytes) -> dict[str, object]:
    """
    Return the JSON object that *data* is, in UTF-8, with a byte order mark or without.

    Where a name comes twice, the last value counts. Strings may hold anything, lone surrogates too.

    Raises:
        ValueError: it is none; the message says what it is instead, without a word of it.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"))
        is_deep = _is_deeper(value, DEEPEST)
    except RecursionError:
        is_deep = True
    except ValueError:  # no UTF-8, no JSON, or a number with too many digits
        raise ValueError("no JSON") from None
    if is_deep:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    if not isinstance(value, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - to its caller all are the same
    return value


def _is_deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        return levels == 0 or any(_is_deeper(member, levels - 1) for member in value.values())
    if isinstance(value, list):
        return levels == 0 or any(_is_deeper(member, levels - 1) for member in value)
    return False


def json_line(value: object) -> str:
    """
    Return *value* as JSON that can always be written, on one line.

    Bytes of the environment or of a name that are not UTF-8 (lone surrogates in Python) stay as escapes.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace").decode()
