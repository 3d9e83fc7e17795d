"""Which names object_store can express, and what the names in its listings stand for."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore import ObjectMeta

PROBES = 16
"""Empty objects of one listing that are asked for by name; for more of them the SDK's listing is cheaper."""
_BAD_PARTS = re.compile(r"(?:^|/)\.?(?:/|$)|[\x00-\x1f\x7f\ud800-\udfff]")


class InexpressibleError(Exception):
    """Only the SDK can express this name, or give this listing."""


def is_expressible(name: str) -> bool:
    """
    Whether object_store leaves *name* as it is.

    https://docs.rs/object_store/latest/object_store/path/struct.Path.html
    """
    return _BAD_PARTS.search(name) is None


def expressible_start(name: str) -> str:
    """Return the longest start of *name*, in whole parts, that is expressible; empty: there is none."""
    return "/".join(takewhile(is_expressible, name.split("/")))


def just_below(prefix: str) -> str:
    """Return a text that sorts before all names that begin with *prefix*, with few names between."""
    if not prefix or prefix.endswith("/"):
        return ""  # object_store asks for the folder itself
    code = ord(prefix[-1]) - 1
    return prefix[:-1] + chr(0xD7FF if 0xD800 <= code <= 0xDFFF else code) + "\U0010fffd"


class Names:
    """
    Finds the names of listed objects, whose `/` at the end object_store drops.

    Args:
        prefix: How all wanted names begin.
        start_after: The first value of the attribute.
        is_there: Whether an object has a name, asked with a request.
        is_installed: Whether the SDK can be asked instead.
    """

    def __init__(
        self, prefix: str, start_after: str, is_there: Callable[[str], bool], *, is_installed: bool
    ) -> None:
        self._prefix = prefix
        self.start_after = start_after
        """No name before it needs to be told exactly."""
        self._is_there = is_there
        self._sdk_is_installed = is_installed
        self._probes = 0

    def of(self, meta: ObjectMeta, previous: str, *, in_order: bool) -> str:
        """
        Return the name of an object that is listed behind *previous*.

        Raises:
            InexpressibleError: it is cheaper to ask the SDK.
        """
        name = meta["path"]
        marker = f"{name}/"
        if marker == self._prefix:
            return marker
        if not name.startswith(self._prefix):
            return name
        if name <= previous < marker:
            # Only `name/` can stand there, unless the order is another one, or the object is listed twice.
            if not self._sdk_is_installed:
                return marker
            if name == previous or (not in_order and self._is_there(name)):
                raise InexpressibleError
            return name if self._is_there(name) else marker
        if not meta["size"] and name > max(self.start_after, previous if in_order else ""):
            self._probes += 1
            if self._probes > PROBES and self._sdk_is_installed:
                raise InexpressibleError
            if not self._is_there(name):
                return marker
        return name
