"""Globs, as in a shell."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from htcjob.storage.contract import LeftOut

GLOB = re.compile(r"[*?\[]")
"""Where the literal beginning of a glob ends."""


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


def glob_pattern(glob: str) -> re.Pattern[str]:
    """
    Give the expression whose group 1 is what *glob* matches, and group 2 what follows in its folder.

    `*`, `?` and `[…]` stay within a part, `**` is any number of folders (as the last part: any name below),
    and a name with a leading dot matches only where the glob has that dot, as in a shell.
    """
    parts = glob.split("/")
    expressions = []
    for n, part in enumerate(parts):
        is_last = n == len(parts) - 1
        if part == "**":
            name = r"(?!\.)[^/]+"
            expressions.append(rf"{name}(?:/{name})*" if is_last else rf"(?:{name}/)*")
            continue
        dot = "" if part.startswith(".") else r"(?!\.)"
        expressions.append(dot + _part_pattern(part) + ("" if is_last else "/"))
    return re.compile(rf"({''.join(expressions)})(/.*)?\Z", re.DOTALL)


def _part_pattern(part: str) -> str:
    """Give the expression of one part of a glob: as `fnmatch` has it, but no wildcard is a `/`."""
    pieces = []
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
