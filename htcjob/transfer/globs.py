"""
Globs, as in a shell: of objects in storage, and of a command's outputs.

`*`, `?` and `[…]` stay within a part of a path, `**` is any number of folders (as the last part: any name
below), and a name with a leading dot matches only where the glob has that dot. Python's `glob` follows links,
without end; its `fnmatch` has no parts.
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from htcjob.storage.contract import LeftOut

GLOB = re.compile(r"[*?\[]")
"""Where the literal beginning of a glob ends."""


_NAME = r"(?!\.)[^/]+"
_NAMES_BELOW = rf"{_NAME}(?:/{_NAME})*"


def glob_pattern(glob: str) -> re.Pattern[str]:
    """Return the expression whose group 1 is what *glob* matches, and group 2 what follows in its folder."""
    return re.compile(rf"({_expression(glob.split('/'))})(/.*)?\Z", re.DOTALL)


def file_pattern(parts: Sequence[str]) -> re.Pattern[str]:
    """Return the expression of the files that a glob in *parts* names; an empty last one: all in a folder."""
    return re.compile(_of_file(parts) + r"\Z", re.DOTALL)


def may_mean(glob: str, left_out: LeftOut, *, is_recursive: bool = True) -> bool:
    """
    Return whether *glob* means what is left out, or may mean something in it.

    Args:
        glob: What is wanted.
        left_out: What is no object.
        is_recursive: A folder means all that is in it.
    """
    key, parts = left_out.key, glob.split("/")
    if not key.endswith("/"):
        match = glob_pattern(glob).match(key)
        return match is not None and (is_recursive or not match[2])
    depth = key.count("/")
    if depth >= len(parts) and not is_recursive and "**" not in parts:
        return False
    above = parts[:depth]
    if "**" in above:
        above = above[: above.index("**")]
    return not above or glob_pattern("/".join(above)).match(key[:-1]) is not None


def _of_file(parts: Sequence[str]) -> str:
    *folders, last = parts
    if not last:
        return _above(folders) + ".+"
    if last == "**" and folders:  # it may stand for nothing, too: `a/**` names the file `a`
        return f"(?:{_expression(parts)}|{_of_file(folders)})"
    return _expression(parts)


def _expression(parts: Sequence[str]) -> str:
    *folders, last = parts
    return _above(folders) + (_NAMES_BELOW if last == "**" else _part_pattern(last))


def _above(folders: Sequence[str]) -> str:
    return "".join(rf"(?:{_NAME}/)*" if part == "**" else _part_pattern(part) + "/" for part in folders)


def _part_pattern(part: str) -> str:
    """Return the expression of one part of a glob: as `fnmatch` has it, but no wildcard is a `/`."""
    pieces = ["" if part.startswith(".") else r"(?!\.)"]
    for piece in re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", part):
        if piece.startswith("*"):
            pieces.append("[^/]*")
        elif piece == "?":
            pieces.append("[^/]")
        elif piece.startswith("[") and piece.endswith("]"):
            pieces.append("(?!/)" + fnmatch.translate(piece)[: -len(r"\Z")])
        else:
            pieces.append(re.escape(piece))
    return "".join(pieces)
