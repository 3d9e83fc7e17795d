"""One line of a manifest: an entry, or what is wrong with it."""

import pytest

from htcjob.manifest.entry import parse_entry


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"../../etc/passwd", "'..'"),
        (b"a/../b", "'..'"),
        (b"/etc/passwd", "absolute"),
        (b"a\0b", "NUL"),
        (b"\xff\xfe.jpg", "UTF-8"),
        (b"a\rb", "line break"),
        (b"x" * 1025, "1025 bytes"),
        (b"x" * 70_000, "longer than"),
        (b"{", "not a JSON object"),
        (b'{"key": 3}', '"key"'),
        (b'{"name": "x"}', '"key"'),
        (b'{"key": "../x"}', "'..'"),
        (b'{"key": "a\\u0000b"}', "NUL"),
        (b"http://host/x.jpg", "no such kind of storage"),
        (b"s3://bucket", ""),
        (b"file:///a/../../etc/passwd", "'..'"),
        (b"[" * 60_000, "1024"),
        (b'{"key":' + b"[" * 60_000, "not a JSON object"),
        (b'{"key": "b", "x": "\\ud800"}', "surrogate"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_bad_line_is_reported_with_its_number_and_does_not_raise(line, said):
    """The line fails as an entry; the chunk goes on."""
    entry = parse_entry(line, position=4, line_number=7)
    assert entry.problem
    assert entry.problem.startswith("manifest line 7: ")
    assert said in entry.problem
    assert len(entry.problem) < 400
    assert len(entry.text) <= 201


@pytest.mark.parametrize(
    "key",
    ["a b.jpg", "ä/ö.jpg", "-rf.jpg", "%03d.jpg", "quote'$(x) ;&.jpg", " leading", "a#b", "x:y", "a..b"],
)
def test_odd_names_are_entries(key):
    """Spaces, quotes, dashes and percent signs are part of a name."""
    entry = parse_entry(key.encode(), position=0, line_number=1)
    assert (entry.problem, entry.key, entry.is_url) == (None, key, False)


def test_members_of_a_json_line_are_parameters():
    """All members but the key are handed to the command."""
    entry = parse_entry(b'{"key": "a.jpg", "scale": 1.5, "name": "x"}', position=0, line_number=1)
    assert (entry.key, dict(entry.parameters)) == ("a.jpg", {"scale": 1.5, "name": "x"})
