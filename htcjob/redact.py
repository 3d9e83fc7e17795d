"""Secrets that cannot print themselves, and the second fence: removing them from any text."""

from __future__ import annotations

import re
from typing import NoReturn

REDACTED = "<redacted>"

_known: set[str] = set()
_SHORTEST_REMOVED = 8
"""Characters. Shorter values would blank out ordinary words; they are still hidden by `Secret`."""

_PATTERNS = (
    # A JSON web token: header and claims are base64 of JSON, so they begin with `{"`.
    r"()eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
    # Signatures and tokens in a URL's query: S3 and GCS presigned URLs, Azure SAS.
    r"(?i)((?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|sig|access_token|refresh_token)=)[^&\s\"']+",
    # User information in a URL.
    r"(\w://)[^/@\s]+(?=@)",
)
"""`re` compiles them at their first use and keeps them: many a job shows no text at all."""


class Secret:
    """
    A string that shows itself only to `reveal()`.

    `str`, `repr` and `format` give `<redacted>`; it cannot be pickled or serialised as JSON. Its value is
    also removed from all text that passes through `redact`.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        if len(value) >= _SHORTEST_REMOVED:
            _known.update((value, repr(value)[1:-1]))  # as an exception's text may quote it

    def reveal(self) -> str:
        """Give the secret itself; call it only where it is used."""
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


def redact(text: str) -> str:
    """Give *text* without the known secrets, JSON web tokens, URL signatures and URL passwords."""
    for value in sorted(_known, key=len, reverse=True):
        if value in text:
            text = text.replace(value, REDACTED)
    for pattern in _PATTERNS:
        text = re.sub(pattern, rf"\1{REDACTED}", text)
    return text
