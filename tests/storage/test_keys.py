"""Keys stay in their store, and two keys never mean one file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.errors import BadKeyError
from htcjob.storage.keys import check_key, local_path
from tests.storage.contract import KEYS, REFUSED_KEYS

if TYPE_CHECKING:
    from pathlib import Path

_anything = st.text(max_size=30) | st.lists(
    st.sampled_from(["", ".", "..", "...", "a", "~", "-", "\\", "\0", "\n", "é", "\udc80"]), max_size=5
).map("/".join)


@pytest.mark.parametrize("key", [*KEYS, "a//b", "a/", "a/./b", "a/..b", "..a", "...", "k" * 1024])
def test_accepted(key: str) -> None:
    """Unusual keys that storage can hold are keys."""
    check_key(key)


@pytest.mark.parametrize("key", REFUSED_KEYS)
def test_refused(key: str) -> None:
    """Keys that reach outside, or that no store takes, are refused everywhere, with a short reason."""
    for check in (check_key, lambda key: local_path("/no/such/root", key)):
        with pytest.raises(BadKeyError) as raised:
            check(key)
        assert len(str(raised.value)) < 150
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["a//b", "a/", "./a", "a/.", "a/./b", "."])
def test_keys_without_a_file(key: str) -> None:
    """A key that would mean another key's file, or none, has no local path."""
    check_key(key)
    with pytest.raises(BadKeyError, match=r"empty or '\.' part"):
        local_path("/no/such/root", key)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(_anything)
def test_a_path_is_below_the_root_and_belongs_to_one_key(key: str) -> None:
    """Whatever text is given as a key, it is refused or names exactly its own file below the root."""
    try:
        path = local_path("/no/such/root", key)
    except BadKeyError:
        return
    assert os.path.normpath(path) == path
    assert os.path.relpath(path, "/no/such/root") == key


def test_root_directory() -> None:
    """The root of the file system is a root like another."""
    assert local_path("/", "a/b") == "/a/b"


@pytest.mark.parametrize("link", ["out", "d/out", "d/e/out"])
@pytest.mark.parametrize("target", ["/", "..", ".", "nothing", "out", "d", "/etc/passwd"])
@pytest.mark.parametrize("below", ["", "/x", "/x/y"])
def test_links(tmp_path: Path, link: str, target: str, below: str) -> None:
    """A symbolic link at any level refuses the key: to elsewhere, inside, nowhere or itself."""
    root = os.path.realpath(tmp_path)
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / link).symlink_to(target)
    with pytest.raises(BadKeyError, match="a symbolic link lies on its path"):
        local_path(root, link + below)
    assert local_path(root, f"{link}2{below}") == f"{root}/{link}2{below}"


def test_links_above_the_root(tmp_path: Path) -> None:
    """Only the key's own part of the path is looked at: the root is the operator's choice."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert local_path(str(tmp_path / "link"), "a") == str(tmp_path / "link" / "a")
