"""
The keys of a run's ledger in task storage, which no other module spells.

    .htcjob/<run>/run.json                          which manifest and command this run is of
    .htcjob/<run>/done/<block>/<writer>-<number>.jsonl
        a part: commit records, written once and never changed; a block is 1,000 consecutive positions
    .htcjob/<run>/done/<block>/m<generation>-<writer>-<number>.jsonl
        a part that replaces others, with all their records
    .htcjob/<run>/attempts/<index>-<attempt>.json   the exit record of an attempt, written last
    .htcjob/<run>/attempts/<index>-2-<writer>.json  of a later one, where the platform tells no number
"""

from __future__ import annotations

import re

from htcjob.errors import ConfigurationError
from htcjob.storage.keys import LAST_CHARACTER

RESERVED_FOLDER = ".htcjob"
RESERVED_PREFIX = f"{RESERVED_FOLDER}/"
"""Keys of the ledger; no output may take one, in whatever spelling: some file systems ignore case."""

BLOCK_ENTRIES = 1000
"""Consecutive positions whose records lie together, so that a job lists only what it overlaps."""

PART = re.compile(r"(\d{8})/(?:m(\d{6})-)?[0-9A-Za-z_][0-9A-Za-z._-]*\.jsonl", re.ASCII)
"""The key of a part behind `done_prefix`: its block, and its generation where it replaces others. Names that
begin with a dot are not ours."""


def is_run_name(name: str) -> bool:
    """
    Whether *name* can be a part of keys: at most 100 of letters, digits, `.`, `_` and `-`.

    It has a letter or digit, and does not begin with a dot.
    """
    plain = name.replace(".", "").replace("_", "").replace("-", "")
    return plain.isascii() and plain.isalnum() and len(name) <= 100 and not name.startswith(".")


def check_run_name(name: str) -> None:
    """
    Refuse a name that no run can have.

    Raises:
        ConfigurationError: *name* is not as `is_run_name` describes.
    """
    if not is_run_name(name):
        raise ConfigurationError(
            f"run name {name!r}: it must be at most 100 letters, digits, '.', '_' and '-', "
            "with a letter or digit, and must not begin with '.'"
        )


def run_key(run: str) -> str:
    """Return the key of the object that tells which manifest and command *run* is of."""
    return f"{RESERVED_PREFIX}{run}/run.json"


def done_prefix(run: str) -> str:
    """Return the beginning of the keys of all parts of *run*."""
    return f"{RESERVED_PREFIX}{run}/done/"


def block_of(position: int) -> int:
    """Return the block that the entry at *position* belongs to."""
    return position // BLOCK_ENTRIES


def block_prefix(run: str, block: int) -> str:
    """Return the beginning of the keys of the parts of *block*."""
    return f"{done_prefix(run)}{block:08d}/"


def part_key(run: str, block: int, name: str, generation: int = 0) -> str:
    """Return the key of the part *name*; it sorts behind those of all earlier generations."""
    put_together = f"m{generation:06d}-" if generation else ""
    return f"{block_prefix(run, block)}{put_together}{name}.jsonl"


def exit_record_key(run: str, array_index: object, attempt: object) -> str:
    """Return the key of the exit record of an attempt."""
    return f"{RESERVED_PREFIX}{run}/attempts/{array_index}-{attempt}.json"


def later_exit_record_key(run: str, array_index: object, writer: str) -> str:
    """Return the key of the exit record of a later attempt, where the platform tells no number."""
    return f"{RESERVED_PREFIX}{run}/attempts/{array_index}-2-{writer}.json"


def run_in(key: str) -> tuple[str, str]:
    """
    Return the name of the run that *key* belongs to, or "", and a name that sorts behind all its keys.

    Args:
        key: A key that begins with `RESERVED_PREFIX`.
    """
    name, _, rest = key.removeprefix(RESERVED_PREFIX).partition("/")
    is_run = bool(rest) and is_run_name(name)
    return name if is_run else "", max(key, f"{RESERVED_PREFIX}{name}/{LAST_CHARACTER}")


def trial_key(name: str) -> str:
    """Return a key that belongs to no run, to try whether task storage can be written."""
    return f"{RESERVED_PREFIX}check-{name}"
