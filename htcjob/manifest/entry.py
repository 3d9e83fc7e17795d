"""One line of a manifest: its key, its parameters, or what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from htcjob.errors import BadKeyError
from htcjob.logs.redact import shortened
from htcjob.storage.keys import check_key
from htcjob.storage.urls import is_url, split_object_url

LONGEST_LINE_BYTES = 64 * 1024
"""A longer line is a bad entry: a binary file given as manifest must not fill the memory."""

SHOWN_CHARACTERS = 201
"""Characters that a bad entry keeps of its line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of work."""

    position: int
    """Number among the entries, from 0; blank lines and comments do not count."""
    line_number: int
    """Number among all lines, from 1, as an editor shows it."""
    text: str
    """The line as it stands, without its line end."""
    key: str = ""
    """The object's key in project storage, or its full URL."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """The other members of a JSON line."""
    problem: str | None = None
    """Why this line cannot be worked on; such an entry fails, the others go on."""

    @property
    def is_url(self) -> bool:
        """Whether `key` is a full URL."""
        return is_url(self.key)


def parse_entry(line: bytes, *, position: int, line_number: int, where: str = "manifest line") -> Entry:
    """
    Return the entry of one manifest line.

    Never raises: what is wrong with the line becomes the entry's `problem`, which begins with *where* and the
    line number. A `./` before a key, as `find .` writes it, is left out of the key.
    """
    text = line.decode(errors="backslashreplace")

    def bad(reason: str) -> Entry:
        return Entry(
            position,
            line_number,
            shortened(text, SHOWN_CHARACTERS),
            problem=f"{where} {line_number}: {reason}",
        )

    if len(line) > LONGEST_LINE_BYTES:
        return bad(f"longer than {LONGEST_LINE_BYTES} bytes")
    try:
        line.decode()
    except UnicodeDecodeError:
        return bad("not valid UTF-8")
    key: object = text.removeprefix("./")
    parameters: dict[str, object] = {}
    if text.startswith("{"):
        try:
            parameters = json.loads(text)
            json.dumps(parameters, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return bad("has a lone surrogate, which is not a character")
        except (ValueError, RecursionError):
            return bad("begins with '{' but is not a JSON object")
        key = parameters.pop("key", None)
    if not isinstance(key, str):
        return bad('the JSON object has no "key" that is a string')
    try:
        if is_url(key):
            split_object_url(key)
        else:
            check_key(key)
    except BadKeyError as error:
        from htcjob.manifest.names import ENTRIES_HINT

        hint = f"; {ENTRIES_HINT}" if key.startswith(("/", "../")) else ""
        return bad(f"key: {error.reason}{hint}")
    return Entry(position, line_number, text, key, parameters)
