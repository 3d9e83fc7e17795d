"""Globs mean what a shell means by them."""

import pytest

from htcjob.transfer.globs import file_pattern, glob_pattern


@pytest.mark.parametrize(
    ("glob", "matches", "others"),
    [
        ("*.jpg", ["a.jpg", "ü é.jpg"], ["a/b.jpg", ".a.jpg", "a.jpg2"]),
        ("a/*", ["a/b"], ["a", "a/b/c", "a/.b"]),
        ("**/*.jpg", ["a.jpg", "b/a.jpg", "c/b/a.jpg"], [".b/a.jpg", "b/.a.jpg"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "a/.b", "a/b/.c", "ab/c"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a/.b/z", "b/a/z"]),
        (".h*/x", [".htc/x"], ["htc/x"]),
        ("x[1-3].j?g", ["x1.jpg", "x3.jxg"], ["x4.jpg", "x[1-3].jpg", "x1.j/g"]),
        ("x[!1]", ["x2"], ["x1", "x/"]),
        ("x[", ["x["], ["x"]),
        ("a+b(c)$*", ["a+b(c)$d"], ["aab(c)$d"]),
        ("a\nb*", ["a\nbc"], []),
    ],
)
def test_globs_are_a_shells(glob, matches, others):
    """A wildcard stays within its part, `**` does not, and a leading dot wants to be named."""
    pattern = glob_pattern(glob)

    def does_match(key):
        match = pattern.match(key)
        return bool(match and not match[2])

    assert [key for key in [*matches, *others] if does_match(key)] == matches


@pytest.mark.parametrize(
    ("glob", "matches", "others"),
    [
        ("*", ["a"], ["a/b", ".a"]),
        ("a/", ["a/b", "a/.b/c"], ["a", "ab/c", ".a/b"]),
        ("**/", ["a", "a/b", ".a/b"], []),
        ("**/a/", ["a/b", "b/a/c", "a/a/.b"], ["a", ".b/a/c"]),
        ("a/**", ["a", "a/b", "a/b/c"], ["a/.b", "ab"]),
        ("a/**/**", ["a", "a/b"], ["b"]),
        ("**/.*", [".a", "b/.a"], ["a", ".b/.a"]),
    ],
)
def test_globs_of_files_may_end_in_a_folder(glob, matches, others):
    """With a slash at the end they mean everything in it; without one, a folder is nothing."""
    pattern = file_pattern(glob.split("/"))
    assert [path for path in [*matches, *others] if pattern.match(path)] == matches
