"""Staging: whole files or none, nothing outside its directory, every error with its name."""

import io
import json
import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcjob.entries.outputs import OutputPatterns
from htcjob.entries.pipeline import Pipeline
from htcjob.entries.staging import Staging, lie_apart
from htcjob.entries.whole_chunk import WholeChunk
from htcjob.entries.work_directories import WorkDirectory
from htcjob.errors import AbsentError, DeniedError, OutputError, PermanentError, TransientError, UsageError
from htcjob.logs import events as logs
from htcjob.manifest.entry import parse_entry
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore
from htcjob.storage.urls import open_store
from htcjob.transfer.transfers import Transfers


def entry(text: str):
    return parse_entry(text.encode(), position=0, line_number=1)


@pytest.fixture
def staging():
    with Transfers(RetryPolicy(sleep=lambda _: False)) as transfers:
        yield Staging(
            MemoryStore("stage-in"), MemoryStore("stage-out"), transfers, lambda url, _key: open_store(url)
        )


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "d"
    path.mkdir()
    return os.path.realpath(path)


def find_outputs(directory, patterns):
    return OutputPatterns(patterns).find(directory)


def write(directory, *names):
    for name in names:
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(name)


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


def test_a_stop_signal_ends_the_stage_in_of_a_chunk(staging, tmp_path):
    """No further input is fetched; those that are on their way arrive."""
    keys = [f"k{n:04d}" for n in range(2000)]
    for key in keys:
        staging.project.put_bytes(b"x", key)
    signals = SimpleNamespace(stop_signal=None)
    plain_get = staging.project.get

    def get(key, path):
        if key == "k0100":
            signals.stop_signal = 15
        return plain_get(key, path)

    staging.project.get = get
    members = dict.fromkeys(
        ("context", "options", "ledger", "facts", "environ", "variables", "patterns", "writers")
    )
    pipeline = Pipeline(**members, staging=staging, signals=signals, scratch=str(tmp_path))
    entries = [parse_entry(key.encode(), position=n, line_number=n) for n, key in enumerate(keys)]
    directory = WorkDirectory.make(str(tmp_path / "chunk"))
    inputs = WholeChunk(pipeline)._stage_in(entries, directory)
    assert sorted(map(os.path.basename, inputs.values())) == sorted(os.listdir(directory.inputs))
    assert 100 < len(inputs) < 500


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


EVERYTHING = [".hidden", "a.dat", "a.jpg", "sub/b.dat", "sub/deep/.c", "sub/deep/c.dat"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ((), EVERYTHING),
        (("*.dat",), ["a.dat"]),
        (("**/*.dat",), ["a.dat", "sub/b.dat", "sub/deep/c.dat"]),
        (("*.jpg", "sub/*"), ["a.jpg", "sub/b.dat"]),
        (("sub",), []),
        (("**",), ["a.dat", "a.jpg", "sub/b.dat", "sub/deep/c.dat"]),
        (("sub/**/*.dat",), ["sub/b.dat", "sub/deep/c.dat"]),
        (("?.[dj]*", ".h*"), [".hidden", "a.dat", "a.jpg"]),
        (("none*",), []),
        (("./*.dat",), ["a.dat"]),
        (("././sub//./b.dat",), ["sub/b.dat"]),
        (("sub/",), ["sub/b.dat", "sub/deep/.c", "sub/deep/c.dat"]),
        (("./sub/./",), ["sub/b.dat", "sub/deep/.c", "sub/deep/c.dat"]),
        (("*/deep/",), ["sub/deep/.c", "sub/deep/c.dat"]),
        (("sub/**/",), ["sub/b.dat", "sub/deep/.c", "sub/deep/c.dat"]),
        (("sub/**/**/c.dat",), ["sub/deep/c.dat"]),
        ((".",), EVERYTHING),
        (("./",), EVERYTHING),
        (("**/",), EVERYTHING),
    ],
)
def test_outputs_are_what_the_globs_say(directory, patterns, found):
    """No glob means every file; folders themselves are no outputs."""
    write(directory, *EVERYTHING)
    assert find_outputs(directory, patterns) == found


@pytest.mark.parametrize(
    "pattern",
    ["", "/", "/x", "..", "../x", "a/../b", "a\nb", "a\0b", "\udcff", "x" * 1025, ".htcjob/x", "./.HTCJOB/"],
)
def test_a_pattern_that_can_match_nothing_is_refused(pattern):
    """What no output can be called is a mistake of the command line, not an empty result."""
    with pytest.raises(UsageError, match="--output"):
        OutputPatterns(["*.dat", pattern])


@pytest.mark.parametrize(
    ("patterns", "unmatched"),
    [
        (("*.dat",), None),
        (("*.txt",), ["*.txt"]),
        (("**/*.dat", "out/"), ["out/"]),
        (("*.txt", "a.*", "x?"), ["*.txt", "x?"]),
        (("x", "**/*", "**/.*"), None),
        ((), None),
    ],
)
def test_patterns_that_matched_nothing_are_named_once(directory, patterns, unmatched):
    """With a few names of what was left out; where nothing was left out, they may well be needless."""
    lines = io.StringIO()
    logs.set_up(log_format="json", level="info", stream=lines)
    write(directory, *EVERYTHING)
    found = OutputPatterns(patterns)
    found.find(directory)
    found.find(directory)
    found.warn()
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["event"] for line in said] == ["output_matched_nothing"] * (unmatched is not None)
    for line in said:
        assert line["patterns"] == unmatched
        assert 0 < len(line["left_out"]) <= 3
        assert set(line["left_out"]) <= set(EVERYTHING)


def test_outputs_never_lead_out_of_the_directory(directory, tmp_path):
    """A planted link to a secret, a link to a folder outside, a pattern with `..`: refused, nothing is put."""
    (tmp_path / "secret").write_text("s")
    for link, target in (
        ("out.dat", tmp_path / "secret"),
        ("folder", tmp_path),
        ("proc", "/proc/self/environ"),
    ):
        os.symlink(target, os.path.join(directory, link))
        with pytest.raises(OutputError, match="link"):
            find_outputs(directory, ["*"] if link != "folder" else ["folder/secret"])
        os.unlink(os.path.join(directory, link))
    with pytest.raises(UsageError, match="below the output directory"):
        find_outputs(directory, ["../secret"])


def test_links_in_a_circle_end(directory):
    """Two links to the folder itself make endless paths; they are not followed."""
    write(directory, "r")
    for link in ("x", "y"):
        os.symlink(".", os.path.join(directory, link))
    assert find_outputs(directory, ["**"]) == find_outputs(directory, ["**/r"]) == ["r"]


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


def test_a_folder_that_is_a_link_out_is_not_silently_left_out(directory, tmp_path):
    """With no glob at all, a result folder that was moved away and linked is an error, not an empty result."""
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "result").write_text("r")
    os.symlink(tmp_path / "big", os.path.join(directory, "results"))
    with pytest.raises(OutputError, match="results"):
        find_outputs(directory, [])


def test_a_folder_that_is_a_link_inside_is_listed_once(directory):
    """`latest -> run-1` adds nothing to what run-1 holds."""
    write(directory, "run-1/result")
    os.symlink("run-1", os.path.join(directory, "latest"))
    assert find_outputs(directory, []) == ["run-1/result"]


def test_a_link_inside_the_directory_is_a_file_like_another(directory):
    """`latest -> result-1` is what programs do."""
    write(directory, "result-1")
    os.symlink("result-1", os.path.join(directory, "latest"))
    assert find_outputs(directory, []) == ["latest", "result-1"]


def test_special_files_and_ledger_names_are_refused(directory):
    """A pipe would block for ever; `.htcjob/` is the ledger's, and so it is in the spelling of another case."""
    os.mkfifo(os.path.join(directory, "pipe"))
    with pytest.raises(OutputError, match="regular"):
        find_outputs(directory, [])
    os.unlink(os.path.join(directory, "pipe"))
    write(directory, ".htcjob/default/done/00000000/forged.jsonl")
    with pytest.raises(OutputError, match="htcjob"):
        find_outputs(directory, [])
    os.rename(os.path.join(directory, ".htcjob"), os.path.join(directory, ".HTCjob"))
    with pytest.raises(OutputError, match="htcjob"):
        find_outputs(directory, [])


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
