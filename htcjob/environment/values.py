"""Numbers and moments as variables hold them, and how a value is shown in a message."""

from __future__ import annotations

from typing import NamedTuple

from htcjob.errors import ConfigurationError
from htcjob.logs.redact import redact, shortened

_MOST_DIGITS = 18
"""More would pass 64 bits, in which others may read our records."""
_LAST_MOMENT = 9_999_999_999
"""In the year 2286; a present moment in milliseconds is later."""
_LONGEST_SHOWN = 80
"""Characters."""


class Found(NamedTuple):
    """A number, and where it was found."""

    number: int
    """As we count: indices from 0, attempts from 1."""
    name: str
    """The variable or flag."""
    held: str
    """`NAME='value'`, for messages."""


def whole_number(name: str, text: str, *, lowest: int | None = 0, held: str | None = None) -> int:
    """
    Return the number that *text* is, in plain decimal digits.

    `int` would also take `" 3 "`, `+3`, `1_000` and other scripts' digits: signs that something
    else went wrong on the way.

    Args:
        name: The variable or flag, for the message.
        text: What to read; at most 18 digits.
        lowest: Smallest number allowed; None: any, with a minus sign if need be.
        held: All that the variable holds, where *text* is a part of it.

    Raises:
        ConfigurationError: *text* is anything else.
    """
    digits = text[1:] if lowest is None and text.startswith("-") else text
    if digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS:
        number = int(text)
        if lowest is None or number >= lowest:
            return number
    bound = "" if lowest is None else f", {lowest} or more"
    raise ConfigurationError(
        f"{name} holds {shown(text if held is None else held)}: "
        f"expected a whole number{bound}, in at most {_MOST_DIGITS} digits"
    )


def moment(name: str, text: str) -> Found:
    """
    Return the moment that *text* is, in whole seconds since the epoch.

    Raises:
        ConfigurationError: *text* is anything else, milliseconds say.
    """
    seconds = whole_number(name, text, lowest=1)
    if seconds > _LAST_MOMENT:
        raise ConfigurationError(f"{name} holds {shown(text)}: expected seconds since 1970, not milliseconds")
    return Found(seconds, name, f"{name}={shown(text)}")


def shown(text: str) -> str:
    """Return *text* for a message: quoted, on one line, without secrets, at most 80 characters."""
    return shortened(repr(redact(text)), _LONGEST_SHOWN)
