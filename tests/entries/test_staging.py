"""Staging: whole files or none, nothing outside its directory, every error with its name."""

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcjob.entries.staging import Staging, lie_apart
from htcjob.errors import AbsentError, DeniedError, PermanentError, TransientError
from htcjob.logs import events as logs
from htcjob.manifest.entry import parse_entry
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore
from htcjob.transfer.transfers import Transfers
from tests.support.outputs import find_outputs, write


def entry(text: str):
    return parse_entry(text.encode(), position=0, line_number=1)


def test_an_input_lies_under_its_key(staging, directory):
    """Folders of the key are kept."""
    staging.project.put_bytes(b"x", "a/b c/d.jpg")
    path = staging.stage_in(entry("a/b c/d.jpg"), directory)
    assert path == os.path.join(directory, "a/b c/d.jpg")
    with open(path, "rb") as file:
        assert file.read() == b"x"


def test_an_entry_that_is_a_url_comes_from_its_own_store(staging, directory, tmp_path):
    """It need not be in project storage."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jpg").write_bytes(b"far")
    path = staging.stage_in(entry(f"file://{tmp_path}/elsewhere/x.jpg"), directory)
    assert path.startswith(directory)
    assert path.endswith("elsewhere/x.jpg")
    with open(path, "rb") as file:
        assert file.read() == b"far"


def test_stores_of_urls_are_opened_as_told(directory):
    """The caller knows the credentials and the engine, and is told the key too."""
    far, opened = MemoryStore("far"), []
    far.put_bytes(b"1", "a/b")

    def open_store(url, key):
        opened.append((url, key))
        return far

    with Transfers(RetryPolicy()) as transfers:
        staging = Staging(MemoryStore("in"), MemoryStore("out"), transfers, open_store)
        staging.stage_in(entry("s3://bucket/a/b"), directory)
    assert opened == [("s3://bucket/", "a/b")]


def test_progress_is_shown_while_a_stage_lasts(staging, directory, monkeypatch):
    """And not before or after it."""
    lines = io.StringIO()
    logs.set_up(log_format="text", level="info", stream=lines)
    monkeypatch.setattr("htcjob.transfer.progress.LOG_EVERY_S", 0.0)
    write(directory, "a", "b")
    with staging.shown("stage_out", 2):
        staging.stage_out(directory, ["a", "b"])
    assert "transfer_progress what=stage_out objects=2 objects_in_all=2 size_bytes=2" in lines.getvalue()
    shown = lines.getvalue()
    staging.stage_out(directory, ["a", "b"])
    assert lines.getvalue() == shown


def test_a_transient_failure_is_retried_and_an_absence_is_not(staging, directory):
    """Throttling passes; what is not there is not there."""
    staging.project.put_bytes(b"x", "a")
    staging.project.faults.add(verb="get", nth=1)
    staging.stage_in(entry("a"), directory)
    with pytest.raises(AbsentError):
        staging.stage_in(entry("b"), directory)
    assert os.listdir(directory) == ["a"]


def test_a_truncated_input_never_gets_its_name(staging, directory):
    """Cut at byte 3 each time: an error, and no file."""
    staging.project.put_bytes(b"0123456789", "a")
    staging.project.faults.add(verb="get", cut=3, every=1)
    with pytest.raises(TransientError):
        staging.stage_in(entry("a"), directory)
    assert os.listdir(directory) == []


def test_keys_that_lie_across_each_other_are_refused(staging, directory):
    """`a` and `a/b` cannot both be files; the second is an error that names it."""
    staging.project.put_bytes(b"1", "a")
    staging.project.put_bytes(b"2", "a/b")
    staging.stage_in(entry("a"), directory)
    with pytest.raises(PermanentError, match="a/b"):
        staging.stage_in(entry("a/b"), directory)


@pytest.mark.parametrize(
    "keys",
    [
        ["a", "a/b"],
        ["a/b/c/d", "a", "a/b", "b", "a/b/c", "a"],
        ["apart", "a", "a/b", "apart_/1/a/b"],
        ["s3://b/a/c", "s3://b/a", "s3://b/c", "x", "x/"],
        ["ab", "a", "a.b/c", "a-/b"],
    ],
)
def test_inputs_named_like_folders_of_each_other_all_have_a_place(directory, keys):
    """Each has one file, and entries of one object have the same; what is in nobody's way keeps its place."""
    entries = [parse_entry(key.encode(), position=n, line_number=n) for n, key in enumerate(keys)]
    apart = lie_apart(entries)
    key_of = {}
    for n, key in enumerate(keys):
        place = apart.get(n, "") + key.replace("//", "/").rstrip("/")
        assert key_of.setdefault(place, key) == key
        assert (n in apart) == any(key.startswith(f"{other}/") for other in keys)
    write(directory, *key_of)


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "apart", "apart_", "1"]), min_size=1, max_size=4), max_size=12
    )
)
def test_no_place_of_an_input_is_a_folder_of_another(paths):
    """Whatever the keys are."""
    keys = ["/".join(path) for path in paths]
    apart = lie_apart(parse_entry(key.encode(), position=n, line_number=n) for n, key in enumerate(keys))
    places = {apart.get(n, "") + key: key for n, key in enumerate(keys)}
    assert len(places) == len(set(keys))
    for place in places:
        assert not any(other.startswith(f"{place}/") for other in places)


def test_an_output_that_is_still_written_to_is_not_recorded_with_a_wrong_checksum(staging, directory):
    """What changes between hashing and putting is put again; when it never rests, that is an error."""
    write(directory, "big")
    path = os.path.join(directory, "big")
    plain_put = staging.task.put

    def disturbed(source, key, **options):
        info = plain_put(source, key, **options)
        with open(path, "a") as file:
            file.write("more")
        return info

    staging.task.put = disturbed
    with pytest.raises(TransientError, match="written to"):
        staging.stage_out(directory, ["big"])


def test_outputs_carry_size_and_checksum(staging, directory):
    """What the record says of an output is true of the object."""
    import hashlib

    write(directory, "a.dat", "b/c.dat")
    outputs = staging.stage_out(directory, find_outputs(directory, []))
    assert [output.key for output in outputs] == ["a.dat", "b/c.dat"]
    for output in outputs:
        data = staging.task.read_range(output.key, 0)
        assert output.size_bytes == len(data)
        assert output.sha256 == hashlib.sha256(data).hexdigest()


def test_one_output_that_cannot_be_put_is_an_error(staging, directory):
    """Not a shorter list."""
    write(directory, "a", "b", "c")
    staging.task.faults.add(verb="put", nth=2, error=DeniedError)
    with pytest.raises(DeniedError):
        staging.stage_out(directory, ["a", "b", "c"])
