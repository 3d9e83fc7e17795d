"""Words in braces in a command."""

import pytest

from htcjob.entries.placeholders import OURS, fill_in, values_of
from htcjob.entries.work_directories import WorkDirectory
from htcjob.manifest.entry import parse_entry


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("{a}", "1"),
        ("x{a}y{b}", "x1y{a}"),
        ("${a}", "${a}"),
        ("{print}", "{print}"),
        ("{}", "{}"),
        ("{ a }", "{ a }"),
        ("{{a}}", "{1}"),
    ],
)
def test_only_known_names_in_braces_are_filled_in(word, filled):
    """Once, so that a value in braces stays what it is; what belongs to a shell or to awk is left alone."""
    assert fill_in(word, {"a": "1", "b": "{a}"}) == filled


def test_an_entry_fills_in_our_names_and_its_own_members():
    """Ours win; a member that is no text is JSON."""
    entry = parse_entry(b'{"key":"p/a.jpg","size":[1,2],"input":"theirs"}', position=0, line_number=1)
    values = values_of(entry, "/w/p/a.jpg", WorkDirectory("/r"))
    assert {f"{{{name}}}" for name in values} == {*OURS, "{size}"}
    assert values["size"] == "[1, 2]"
    assert (values["input"], values["stem"], values["key"]) == ("/w/p/a.jpg", "a", "p/a.jpg")
    assert (values["entry"], values["output_dir"]) == (entry.text, "/r/output")
