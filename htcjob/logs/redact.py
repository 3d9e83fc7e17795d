"""
Secrets that cannot print themselves, and the second line of defence: taking them out of what people read.

Values are redacted before they become text of a format (JSON, a table), and only in words for people:
messages, fields of log lines, the command as a run's record shows it. Everything that is compared, counted or
read back (manifest lines, keys, results of functions) passes through unchanged.

Known secrets are those of `Secret` and `hide`. One that could be an ordinary word or a part of a path
(`minioadmin`) is taken out where it is the whole value; one that is long or unusual, wherever it stands and
however it is spelled (quoted, percent-encoded, in base64). The access key id of the environment is no secret.
Text that looks like a credential is taken out too: see `secret_shapes.py`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

REDACTED = "<redacted>"

_SHORTEST = 8
"""Characters. Shorter values are hidden by `Secret` alone: in a text they are most often something else."""

_LONG = 20
"""Characters. A shorter secret is hidden inside of other words only if it is unusual for a word."""

LONGEST_SAID = 200
"""Characters of another program's words in a message."""

_known: set[str] = set()


class Secret:
    """
    A string that shows itself only to `reveal()`.

    `str`, `repr` and `format` give `<redacted>`; it cannot be pickled or serialised as JSON. Its value is
    also removed from all text that passes through `redact`.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        hide(value)

    def reveal(self) -> str:
        """Return the secret itself; call it only where that is used."""
        return self._value

    def __repr__(self) -> str:
        return REDACTED

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return REDACTED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")


def hide(value: str) -> None:
    """Treat *value* as a secret from now on. Cheap: the first `redact` finds out how it may be spelled."""
    value = value.strip()
    if len(value) >= _SHORTEST:
        _known.add(value)


def redact(text: str) -> str:
    """Return *text*, words for people, without the known secrets and without what looks like a credential."""
    if not text:
        return text
    if text in _known:
        return REDACTED
    for spelling in _spellings(frozenset(_known)) if _known else ():
        if spelling in text:
            text = text.replace(spelling, REDACTED)
    from htcjob.logs.secret_shapes import without_credentials

    return without_credentials(text, REDACTED)


def redact_words(words: Sequence[str]) -> list[str]:
    """
    Return the *words* of a command without secrets, and as many: `--token VALUE` are two.

    The same words always become the same; words that differ in nothing but a credential do, too.
    """
    # No argument holds a NUL.
    return redact("\0".join(REDACTED if word in _known else word for word in words)).split("\0")


def redact_value(value: object) -> object:
    """Return *value* with the strings in it, a list or a mapping redacted; other things as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redact_value(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_value(member) for member in value]
    return value


def one_line(text: str, limit: int | None = LONGEST_SAID) -> str:
    """
    Return *text*, the words of another program or of a user, as one printable line without secrets.

    Line breaks, colours of a terminal and all other characters that cannot be printed become a space.

    Args:
        text: The words.
        limit: Characters of the line, at most (`shortened`). None: it is not cut.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in redact(text)).split())
    return line if limit is None else shortened(line, limit)


def shortened(text: str, limit: int) -> str:
    """Return *text* in at most *limit* characters, of which the last is `…` where something is cut off."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


@lru_cache(maxsize=1)
def _spellings(known: frozenset[str]) -> list[str]:
    """Return the spellings of all secrets that are hidden inside of other words too, longest first."""
    from htcjob.logs.secret_shapes import secret_parts, spellings

    every = {part for value in known for part in (value, *secret_parts(value))}
    found = {spelling for value in every if _is_unusual(value) for spelling in spellings(value)}
    return sorted(found, key=len, reverse=True)


def _is_unusual(value: str) -> bool:
    """Whether *value* cannot be an ordinary word or a part of a path."""
    if len(value) < _SHORTEST:
        return False
    plain = value.translate(dict.fromkeys(map(ord, "._-/")))
    if len(value) >= _LONG or not (plain.isascii() and plain.isalnum()):
        return True
    kinds = (str.isupper, str.islower, str.isdigit)
    return all(any(map(is_kind, plain)) for is_kind in kinds)
