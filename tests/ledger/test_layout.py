"""Keys of the ledger are spelled in one module, and read back as they were written."""

from pathlib import Path

import pytest

import htcjob
from htcjob.errors import ConfigurationError
from htcjob.ledger import layout
from htcjob.ledger.ledger import Ledger
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore

PACKAGE = Path(htcjob.__file__).parent


def test_no_other_module_spells_a_key_of_the_ledger():
    """Names of htcjob's temporary files, `.htcjob-tmp-…`, are no keys."""
    spelling = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if ".htcjob" in path.read_text().replace(".htcjob-tmp-", "")
    }
    assert spelling == {"ledger/layout.py"}


@pytest.mark.parametrize(("block", "generation"), [(0, 0), (0, 1), (99_999_999, 999_999)])
def test_the_key_of_a_part_is_recognised_as_one(block, generation):
    """Its block and its generation are read from it."""
    key = layout.part_key("r", block, "0a-000001", generation)
    assert key.startswith(layout.block_prefix("r", block))
    found = layout.PART.fullmatch(key, len(layout.done_prefix("r")))
    assert found is not None
    assert (int(found[1]), int(found[2] or 0)) == (block, generation)


def test_a_part_of_a_later_generation_comes_behind_all_earlier_ones():
    """Readers that list forward meet an old part where it still is, and else the new one."""
    keys = [
        layout.part_key("r", 7, "ff", 0),
        layout.part_key("r", 7, "00", 1),
        layout.part_key("r", 7, "00", 2),
    ]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    "key",
    [
        layout.run_key("a.b"),
        layout.done_prefix("a.b"),
        layout.part_key("a.b", 12, "x"),
        layout.exit_record_key("a.b", 3, 1),
        layout.later_exit_record_key("a.b", 3, "0a"),
    ],
)
def test_a_key_of_a_run_tells_the_run_and_what_lies_behind_it(key):
    """A listing that goes on there misses no other run, and meets none of this one again."""
    name, behind = layout.run_in(key)
    assert name == "a.b"
    assert key < behind < layout.run_key("a.b0")


@pytest.mark.parametrize(
    "key", [layout.trial_key("1f"), ".htcjob/x.json", ".htcjob/.DS_Store/x", ".htcjob//x"]
)
def test_what_belongs_to_no_run_names_none(key):
    """It is passed over, and the listing goes on behind it."""
    name, behind = layout.run_in(key)
    assert name == ""
    assert behind >= key


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 101, "ä", "a\n"])
def test_a_run_name_is_a_plain_word(name):
    """It becomes part of keys, so nothing else is let in."""
    with pytest.raises(ConfigurationError):
        Ledger(MemoryStore("layout"), name, RetryPolicy())
