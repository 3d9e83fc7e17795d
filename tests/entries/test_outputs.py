"""Outputs: what the globs name, nothing outside the directory, and nothing left out in silence."""

import io
import json
import os

import pytest

from htcjob.entries.outputs import OutputPatterns
from htcjob.errors import OutputError, UsageError
from htcjob.logs import events as logs
from tests.support.outputs import find_outputs, write

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
