"""The drawn photos have exactly the faces that they claim."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reference_app import face_tagger
from reference_app.face_tagger import find_faces
from reference_app.images import read_image
from reference_app.synthetic import make_photo

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_counts_are_exact(tmp_path: Path, run: Run) -> None:
    """expected.csv has each photo with as many faces as the tagger finds, from none to five."""
    done = run("synthetic", "photos", "--count", "24", "--seed", "1")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "photos" / "expected.csv").open(newline="") as table:
        rows = csv.DictReader(table)
        expected = {row["image"]: int(row["faces"]) for row in rows}
        assert rows.fieldnames == ["image", "faces"]
    assert len(expected) == 24
    assert sorted(os.listdir(tmp_path / "photos")) == ["expected.csv", *sorted(expected)]
    assert set(expected.values()) == {0, 1, 2, 3, 4, 5}
    for image, faces in expected.items():
        assert len(find_faces(read_image(str(tmp_path / "photos" / image)))) == faces, image


def test_the_seed_decides(tmp_path: Path, run: Run) -> None:
    """The same seed gives the same bytes in another process, another seed gives others."""
    for folder, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        run("synthetic", folder, "--count", "3", "--seed", seed)
    photos = {
        folder: [path.read_bytes() for path in sorted((tmp_path / folder).iterdir())] for folder in "abc"
    }
    assert len(photos["a"]) == 4
    assert photos["a"] == photos["b"]
    assert photos["a"][1:] != photos["c"][1:]
    assert make_photo(faces=1, seed=1) == make_photo(faces=1, seed=1)


def test_a_photo_with_another_count_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo in which the detector counts wrong is never given; after twenty it is an error."""
    first = make_photo(faces=2, seed=1)
    counts = iter([3, 2])
    monkeypatch.setattr(face_tagger, "find_faces", lambda _: [None] * next(counts))
    assert make_photo(faces=2, seed=1) != first
    assert next(counts, None) is None
    monkeypatch.setattr(face_tagger, "find_faces", lambda _: [])
    with pytest.raises(RuntimeError, match="no photo with 2 faces in 20 tries"):
        make_photo(faces=2, seed=1)


def test_a_folder_that_cannot_be_made_is_74(photo: Path, run: Run) -> None:
    """A failure to write is one line."""
    done = run("synthetic", "photo.jpg/sub", "--count", "1")
    assert done.returncode == 74
    assert done.stderr == "synthetic: error: photo.jpg/sub: Not a directory\n"
