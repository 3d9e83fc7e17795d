"""The aggregate: the photo with the most faces, ties named, nothing malformed ignored."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of four images, the ledger beside them."""
    folder = tmp_path / "results"
    for image, count in (("b/two.jpg", 2), ("a/one.jpg", 1), ("b/five.jpg", 5), ("a/five.png", 5)):
        path = folder / f"{image}_tagged.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"face_cnt\n%d" % count)
        path.with_name(path.name.replace(".dat", ".jpg")).touch()
    (folder / ".htcjob" / "run").mkdir(parents=True)
    (folder / ".htcjob" / "run" / "trap_tagged.dat").write_bytes(b"face_cnt\n99")
    (folder / "image_list.dat").write_bytes(b"not a result")
    return folder


def test_the_image_with_the_most_faces_is_named(results: Path, run: Run) -> None:
    """The winner, those who tie with it, its picture and the totals are told; the ledger is not read."""
    done = run("aggregate", "results")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "most faces:        5 in a/five.png",
        "  as many in:      b/five.jpg",
        "tagged picture:    results/a/five.png_tagged.jpg",
        "images with faces: 4",
        "total faces:       13",
    ]


def test_the_json_says_the_same(results: Path, run: Run) -> None:
    """--json prints one object with the same facts."""
    (results / "a" / "five.png_tagged.jpg").unlink()
    assert json.loads(run("aggregate", "results", "--json").stdout) == {
        "winner": "a/five.png",
        "most_faces": 5,
        "tagged_picture": None,
        "ties": ["b/five.jpg"],
        "images_with_faces": 4,
        "total_faces": 13,
    }
    assert "tagged picture:    absent" in run("aggregate", "results").stdout


def test_it_reads_what_the_tagger_writes(photo: Path, run: Run) -> None:
    """The results of the face tagger itself are understood."""
    run("face_tagger", "--output-dir", "out", photo)
    facts = json.loads(run("aggregate", "out", "--json").stdout)
    assert (facts["winner"], facts["most_faces"]) == ("photo.jpg", 2)
    assert facts["tagged_picture"] == os.path.join("out", "photo.jpg_tagged.jpg")


@pytest.mark.parametrize(
    "content",
    [b"", b"face_cnt", b"face_cnt\n", b"face_cnt\n-1", b"face_cnt\n0", b"face_cnt\nx", b"5",
     b"face_cnt\n5\n5", b"face_cnt\n\xd9\xa5", b"face_cnt\n" + b"9" * 5000, b"face_cnt\r\n5"],
)  # fmt: skip
def test_a_malformed_result_is_an_error(results: Path, run: Run, content: bytes) -> None:
    """A result that does not hold a count gives 65 and is named; it is not left out."""
    (results / "b" / "bad.jpg_tagged.dat").write_bytes(content)
    done = run("aggregate", "results")
    assert done.returncode == 65
    assert done.stdout == ""
    assert done.stderr == (
        "aggregate: error: results/b/bad.jpg_tagged.dat: expected face_cnt, a newline and a number\n"
    )


def test_of_many_malformed_results_a_few_are_named(results: Path, run: Run) -> None:
    """With ten bad results three are named and seven counted."""
    for number in range(10):
        (results / f"{number}_tagged.dat").touch()
    done = run("aggregate", "results")
    assert done.stderr.count("expected face_cnt") == 3
    assert "aggregate: error: 7 more malformed results\n" in done.stderr


def test_nothing_to_read_is_66(tmp_path: Path, run: Run) -> None:
    """A folder without results, an absent folder and a file give 66 and say so."""
    (tmp_path / "empty" / ".htcjob").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name, reason in (
        ("empty", "no *_tagged.dat below empty: no results, or no faces in any image"),
        ("absent", "absent: No such file or directory"),
        ("file", "file: Not a directory"),
    ):
        done = run("aggregate", name)
        assert done.returncode == 66
        assert done.stderr == f"aggregate: error: {reason}\n"
