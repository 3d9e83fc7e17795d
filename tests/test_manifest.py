"""Manifests: the entries at the right positions, whatever the lines look like."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob import manifest as module
from htcjob.errors import AbsentError, RunMismatchError
from htcjob.manifest import EntryList, Manifest, parse_entry
from htcjob.storage.memory import MemoryStore


def manifest_of(data: bytes) -> Manifest:
    store = MemoryStore("manifest")
    store.put_bytes(data, "list.txt")
    return Manifest(store, "list.txt")


def reference(data: bytes) -> list[tuple[int, bytes]]:
    """The definition in ten lines: (line number, line) of every entry."""
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    entries = []
    for number, line in enumerate(lines, 1):
        line = line[:-1] if line.endswith(b"\r") else line
        if line.strip() and not line.startswith(b"#"):
            entries.append((number, line))
    return entries


LINES = st.lists(
    st.sampled_from(
        [
            b"a.jpg",
            b"",
            b"  ",
            b"# note",
            b"x/\xc3\xa9\xe2\x82\xac.png",
            b"b c",
            b'{"key":"k"}',
            b"#",
            b"z" * 50,
        ]
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(
    lines=LINES,
    end=st.sampled_from([b"\n", b"\r\n"]),
    bom=st.booleans(),
    last_newline=st.booleans(),
    block=st.integers(1, 40),
    data=st.data(),
)
def test_chunks_are_those_of_the_definition(lines, end, bom, last_newline, block, data):
    """For any line ends, comments, byte order mark and block size, each chunk has the right entries."""
    text = (b"\xef\xbb\xbf" if bom else b"") + end.join(lines) + (end if last_newline and lines else b"")
    before, module.BLOCK_BYTES = module.BLOCK_BYTES, block
    try:
        manifest = manifest_of(text)
        expected = reference(text)
        assert manifest.n_entries == len(expected)
        start = data.draw(st.integers(0, len(expected)))
        stop = data.draw(st.integers(start, len(expected)))
        found = list(manifest.entries(range(start, stop)))
    finally:
        module.BLOCK_BYTES = before
    assert [entry.position for entry in found] == list(range(start, stop))
    assert [(entry.line_number, entry.text.encode()) for entry in found] == expected[start:stop]


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


def test_an_absent_manifest_is_absent():
    """Not an empty one."""
    with pytest.raises(AbsentError):
        Manifest(MemoryStore("nothing-here"), "list.txt")


def test_an_empty_manifest_has_no_entries():
    """Zero bytes are zero entries."""
    assert manifest_of(b"").n_entries == 0
    assert list(manifest_of(b"").entries(range(0))) == []


def test_memory_does_not_grow_with_a_line_that_never_ends():
    """A binary file given as manifest is one bad entry, however long it is."""
    before, module.BLOCK_BYTES = module.BLOCK_BYTES, 64 * 1024
    try:
        manifest = manifest_of(b"\1" * 3_000_000 + b"\nb.jpg\n")
        bad, good = manifest.entries(range(2))
    finally:
        module.BLOCK_BYTES = before
    assert "longer than" in bad.problem
    assert (good.key, good.line_number) == ("b.jpg", 2)


def test_a_chunk_is_read_from_the_bookmark_before_it():
    """After the count, the last entry costs about a block, not the manifest again."""
    before, module.BLOCK_BYTES = module.BLOCK_BYTES, 1000
    try:
        manifest = manifest_of(b"".join(b"%09d\n" % n for n in range(10_000)))
        starts = []
        read_range = manifest._store.read_range
        manifest._store.read_range = lambda key, start, stop=None: (
            starts.append(start),
            read_range(key, start, stop),
        )[1]
        assert [entry.key for entry in manifest.entries(range(9_999, 10_000))] == ["000009999"]
    finally:
        module.BLOCK_BYTES = before
    assert len(starts) <= 2


def test_entries_of_the_command_line_have_a_run_of_their_own():
    """Trying one entry by hand does not clash with the run of the whole manifest, nor with another entry."""
    one, other = EntryList(["a.jpg"]), EntryList(["b.jpg"])
    assert [entry.key for entry in one.entries(range(1))] == ["a.jpg"]
    assert one.default_run != other.default_run
    assert one.default_run == EntryList(["a.jpg"]).default_run


def test_a_manifest_that_changes_while_it_is_read_is_noticed():
    """An entry must not be lost because another list took the old one's name."""
    before, module.BLOCK_BYTES = module.BLOCK_BYTES, 8
    try:
        manifest = manifest_of(b"a.jpg\nb.jpg\nc.jpg\n")
        entries = manifest.entries(range(3))
        assert next(entries).key == "a.jpg"
        manifest._store.put_bytes(b"a.jpg\nX.jpg\nc.jpg\n", "list.txt")
        with pytest.raises(RunMismatchError, match="changed"):
            list(entries)
    finally:
        module.BLOCK_BYTES = before
