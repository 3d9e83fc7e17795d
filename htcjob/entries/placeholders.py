"""Words in braces in a command that runs once per entry, filled in with the members of the entry."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from htcjob.entries.work_directories import WorkDirectory
    from htcjob.manifest.entry import Entry


OURS = ("{entry}", "{key}", "{input}", "{stem}", "{output_dir}")
"""Placeholders that every entry fills in."""


def fill_in(word: str, values: Mapping[str, str]) -> str:
    """
    Return *word* with its placeholders filled in.

    `{name}` is replaced when *values* has that name; anything else in braces, such as `${name}` of a shell
    or `{print}` of awk, is left as it is.
    """
    if "{" not in word:
        return word
    return re.sub(r"(?<!\$)\{(\w+)\}", lambda match: values.get(match[1], match[0]), word)


def values_of(entry: Entry, path: str, directory: WorkDirectory) -> dict[str, str]:
    """Return the values of the placeholders: the members of a JSON line, and our own names, which win."""
    members = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in entry.parameters.items()
    }
    return {
        **members,
        "entry": entry.text,
        "key": entry.key,
        "input": path,
        "stem": os.path.splitext(os.path.basename(path))[0],
        "output_dir": directory.outputs,
    }
