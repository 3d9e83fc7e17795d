"""Entries given on the command line stand in for a manifest."""

from htcjob.manifest.entry_list import EntryList


def test_entries_of_the_command_line_have_a_run_of_their_own():
    """Trying one entry by hand does not clash with the run of the whole manifest, nor with another entry."""
    one, other = EntryList(["a.jpg"]), EntryList(["b.jpg"])
    assert [entry.key for entry in one.entries(range(1))] == ["a.jpg"]
    assert one.default_run != other.default_run
    assert one.default_run == EntryList(["a.jpg"]).default_run
