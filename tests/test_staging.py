"""Staging: whole files or none, nothing outside its directory, every error with its name."""

import os

import pytest

from htcjob.errors import AbsentError, BadKeyError, DeniedError, PermanentError, TransientError
from htcjob.manifest import parse_entry
from htcjob.retry import RetryPolicy
from htcjob.staging import Staging, each_in_parallel, find_outputs
from htcjob.storage.memory import MemoryStore


def entry(text: str):
    return parse_entry(text.encode(), position=0, line_number=1)


@pytest.fixture
def staging():
    return Staging(MemoryStore("stage-in"), MemoryStore("stage-out"), RetryPolicy(sleep=lambda _: False))


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "d"
    path.mkdir()
    return os.path.realpath(path)


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
    ("patterns", "found"),
    [
        ((), [".hidden", "a.dat", "a.jpg", "sub/b.dat", "sub/deep/c.dat"]),
        (("*.dat",), ["a.dat"]),
        (("**/*.dat",), ["a.dat", "sub/b.dat", "sub/deep/c.dat"]),
        (("*.jpg", "sub/*"), ["a.jpg", "sub/b.dat"]),
        (("sub",), []),
        (("**",), ["a.dat", "a.jpg", "sub/b.dat", "sub/deep/c.dat"]),
        (("sub/**/*.dat",), ["sub/b.dat", "sub/deep/c.dat"]),
        (("?.[dj]*", ".h*"), [".hidden", "a.dat", "a.jpg"]),
        (("none*",), []),
    ],
)
def test_outputs_are_what_the_globs_say(directory, patterns, found):
    """No glob means every file; folders themselves are no outputs."""
    write(directory, ".hidden", "a.dat", "a.jpg", "sub/b.dat", "sub/deep/c.dat")
    assert find_outputs(directory, patterns) == found


def test_outputs_never_lead_out_of_the_directory(directory, tmp_path):
    """A planted link to a secret, a link to a folder outside, a pattern with `..`: refused, nothing is put."""
    (tmp_path / "secret").write_text("s")
    for link, target in (
        ("out.dat", tmp_path / "secret"),
        ("folder", tmp_path),
        ("proc", "/proc/self/environ"),
    ):
        os.symlink(target, os.path.join(directory, link))
        with pytest.raises(BadKeyError, match="link"):
            find_outputs(directory, ["*"] if link != "folder" else ["folder/secret"])
        os.unlink(os.path.join(directory, link))
    assert find_outputs(directory, ["../secret"]) == []


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

    def disturbed(source, key):
        info = plain_put(source, key)
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
    with pytest.raises(BadKeyError, match="results"):
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
    """A pipe would block for ever; `.htcjob/` is the ledger's."""
    os.mkfifo(os.path.join(directory, "pipe"))
    with pytest.raises(BadKeyError, match="regular"):
        find_outputs(directory, [])
    os.unlink(os.path.join(directory, "pipe"))
    write(directory, ".htcjob/default/done/00000000/forged.jsonl")
    with pytest.raises(BadKeyError, match="htcjob"):
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


def test_parallel_results_keep_their_order():
    """The answer belongs to its question."""
    assert list(each_in_parallel(lambda n: n * n, range(100))) == [n * n for n in range(100)]
