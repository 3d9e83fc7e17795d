"""The templates of `examples/` are built and run, as a user would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.docker import TAG

EXAMPLES = {path.parent.name: path for path in sorted((REPOSITORY / "examples").glob("*/Dockerfile"))}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_counts_words(docker, base_image, htcjob, stores, tmp_path: Path, name):
    """Built on this clone's base image, run on a local store with nothing but the platform's variables."""
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        re.sub(r"^FROM htcjob-base\b", f"FROM {base_image}", EXAMPLES[name].read_text(), flags=re.M)
    )
    image = docker.build(dockerfile, f"htcjob-example-{name}:{TAG}", context=EXAMPLES[name].parent)
    htcjob.entries("a.txt", "b.txt", "c.txt")
    (htcjob.project / "b.txt").write_text("two words\n")
    (htcjob.project / "c.txt").write_text("")
    for index in ("0", "1"):
        array = ("--env", f"AWS_BATCH_JOB_ARRAY_INDEX={index}", "--env", "BATCH_JOB_ARRAY_SIZE=2")
        done = docker.run(*stores, *array, "--env", "HTCJOB_MANIFEST=list.txt", image)
        assert done.returncode == 0, done.stderr
    assert {key: int(count) for key, count in htcjob.outputs().items()} == {
        "a.txt.count": 1,
        "b.txt.count": 2,
        "c.txt.count": 0,
    }


def test_the_examples_are_listed():
    """Each with a line in the README of the folder."""
    listed = re.findall(r"^\| \[(\w+)\]\(\1\)", (REPOSITORY / "examples" / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted(EXAMPLES)


def test_the_readme_shows_one_of_them():
    """Its Dockerfile is that of the Python function."""
    shown = re.findall(r"^```dockerfile\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.M | re.S)
    assert shown == [EXAMPLES["python"].read_text()]
