"""
Imports in a warm worker: the user's code finds what it would find without us, and we the standard library.

For any Python from 3.8.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Library:
    """
    The standard library, beside modules of the user's that have its names.

    Args:
        at_start: Modules that Python itself had imported; no module of the user's can take their place.
        path: `sys.path` as Python made it.
        folders: The entries of it that are the standard library's.
    """

    def __init__(self, at_start: frozenset[str], path: list[str], folders: list[str]) -> None:
        self._at_start = at_start
        self._path = path
        self._folders = folders

    def open_to_user(self) -> None:
        """Let `sys.path` begin where we were started, as for a program that lies there."""
        try:
            here = [os.getcwd()]
        except FileNotFoundError:
            here = []  # it has been removed
        if getattr(sys.flags, "safe_path", False) or sys.flags.isolated:
            sys.path[:] = self._path + here  # a module that is named is found there, and hides none
        else:
            sys.path[:] = here + self._path[1:]  # in place of the folder of `program.py`
        self._give_way(sys.modules.keys() - self._at_start)

    def module(self, name: str) -> Any:
        """Return a module of the standard library."""
        path, known = sys.path[:], dict(sys.modules)
        hidden = {one: module for one, module in known.items() if self._hides_one(one, module)}
        try:
            sys.path[:] = self._folders or path
            for one in hidden:
                del sys.modules[one]
            __import__(name)
            return sys.modules[name]
        finally:
            sys.path[:] = path
            self._give_way(sys.modules.keys() - known.keys())
            sys.modules.update(hidden)

    def _give_way(self, names: Iterable[str]) -> None:
        """Forget those of our modules in favour of which the user's code would import others."""
        first = min((sys.path.index(one) for one in self._folders if one in sys.path), default=0)
        find = sys.modules["_frozen_importlib_external"].PathFinder.find_spec
        tops = {name.partition(".")[0] for name in names} - self._at_start
        specs = {top: find(top, sys.path[:first]) for top in tops}
        for name in names:
            spec = specs.get(name.partition(".")[0])
            if spec is not None and spec.loader is not None:  # without a loader, it is but a folder
                sys.modules.pop(name, None)

    def _hides_one(self, name: str, module: object) -> bool:
        top = name.partition(".")[0]
        if top in self._at_start or top not in getattr(sys, "stdlib_module_names", ()):
            return False
        origin = getattr(module, "__file__", None)
        return origin is not None and not any(origin.startswith(one + os.sep) for one in self._folders)
