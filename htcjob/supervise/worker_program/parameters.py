"""The arguments of a function, from a request. For any Python from 3.8."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .library import Library

NAMES = ("input", "output_dir", "entry", "key", "params")
"""Parameters that are always given, where the function has them."""

_VARARGS, _VARKEYWORDS = 0x04, 0x08
"""Bits of `co_flags`; `inspect` has them too, for 5 ms."""


class Parameters:
    """
    The parameters of *function*.

    Each gets what is always given, or the member of the JSON line, that has its name. The first one of all
    gets the path of the input where its name is none of these, and so does `*args` where there is no other.

    Args:
        function: Anything that can be called.
        library: Where our own modules come from.
    """

    def __init__(self, function: Any, library: Library) -> None:
        self._by_place: list[tuple[str, tuple[object, ...]]] = []
        """Those without a name for a caller: name, and the default if there is one."""
        self._by_name: list[str] = []
        self._first = ""
        """Gets the path where nothing else has its name."""
        self._is_path_alone = False
        """The path is given without a name."""
        self._takes_more = False
        """All other members of the JSON line are given too."""
        if not self._read_code(function):
            self._read_signature(function, library.module("inspect"))

    def _read_code(self, function: Any) -> bool:
        """Read those of a plain function; False: it is none, or not that plain."""
        plain = getattr(function, "__func__", function)
        if (
            type(plain) is not type(_plain)
            or hasattr(plain, "__wrapped__")
            or hasattr(plain, "__signature__")
        ):
            return False
        code, is_bound = plain.__code__, plain is not function
        positional = code.co_varnames[is_bound : code.co_argcount]
        by_name = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        if code.co_posonlyargcount or code.co_argcount < is_bound or (by_name and not positional):
            return False
        self._by_name = [*positional, *by_name]
        self._first = positional[0] if positional else ""
        self._is_path_alone = not positional and bool(code.co_flags & _VARARGS)
        self._takes_more = bool(code.co_flags & _VARKEYWORDS)
        return True

    def _read_signature(self, function: Any, inspect: Any) -> None:
        try:
            found = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # written in C, and does not tell
            self._is_path_alone = True
            return
        positional = [one for one in found if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        by_name = [one for one in found if one.kind is one.KEYWORD_ONLY]
        kinds = {one.kind for one in found}
        self._by_place = [
            (one.name, () if one.default is one.empty else (one.default,))
            for one in positional
            if one.kind is one.POSITIONAL_ONLY
        ]
        self._by_name = [one.name for one in (*positional[len(self._by_place) :], *by_name)]
        self._is_path_alone = not positional and inspect.Parameter.VAR_POSITIONAL in kinds
        if not self._is_path_alone:
            needed = [one for one in by_name if one.default is one.empty]
            self._first = next((one.name for one in (*positional, *needed, *by_name)), "")
        self._takes_more = inspect.Parameter.VAR_KEYWORD in kinds

    def of(self, request: Mapping[str, Any]) -> tuple[list[object], dict[str, object]]:
        """
        Return the function's arguments, by place and by name.

        Raises:
            TypeError: one that can be given by place only is missing. For others, Python raises it itself.
        """
        params = request["params"]
        given = {**params, **{name: request[name] for name in NAMES if name in request}}
        if self._first:
            given.setdefault(self._first, given.get("input"))
        places: list[object] = [given.get("input")] if self._is_path_alone else []
        for name, default in self._by_place:
            if name not in given and not default:
                raise TypeError(f"missing 1 required positional argument: {name!r}")
            places.append(given[name] if name in given else default[0])
        names = {name: given[name] for name in self._by_name if name in given}
        if self._takes_more:
            placed = {name for name, _ in self._by_place}
            names = {**{name: value for name, value in params.items() if name not in placed}, **names}
        return places, names


def _plain() -> None:
    """Serve as an example of a plain function."""
