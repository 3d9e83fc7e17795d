"""The templates of `examples/` are built and run, as a user would."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.servers.docker import TAG

EXAMPLES = {path.parent.name: path for path in sorted((REPOSITORY / "examples").glob("*/Dockerfile"))}


@pytest.fixture
def build(docker, base_image, tmp_path: Path):
    """Build an example on this clone's base image, and give its name."""

    def build(name: str) -> str:
        dockerfile = tmp_path / "Dockerfile"
        dockerfile.write_text(
            re.sub(r"^FROM htcjob-base\b", f"FROM {base_image}", EXAMPLES[name].read_text(), flags=re.M)
        )
        return docker.build(dockerfile, f"htcjob-example-{name}:{TAG}", context=EXAMPLES[name].parent)

    return build


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_counts_words(docker, build, htcjob, stores, name):
    """Built on this clone's base image, run on a local store with nothing but the platform's variables."""
    image = build(name)
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


def test_it_is_tried_as_the_page_says(build, htcjob, tmp_path: Path):
    """The command that follows `docker build`, for the image that this builds."""
    page = (REPOSITORY / "docs" / "images.md").read_text()
    folder, command = re.search(
        r"^docker build -t my-words (\S+)\n(htcjob simulate .*)$", page, re.M
    ).groups()
    (tmp_path / "in").mkdir()
    for name, text in {"a.txt": "one\n", "b.txt": "two words\n", "list.txt": "a.txt\nb.txt\n"}.items():
        (tmp_path / "in" / name).write_text(text)
    command = command.replace("my-words", build(Path(folder).name))
    variables = {**htcjob.variables, "HTCJOB_PROJECT_STORE": "", "HTCJOB_TASK_STORE": ""}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = {path.name: int(path.read_text()) for path in (tmp_path / "words").glob("*.count")}
    assert counts == {"a.txt.count": 1, "b.txt.count": 2}


def test_the_examples_are_listed():
    """Each with a line in the README of the folder."""
    listed = re.findall(r"^\| \[(\w+)\]\(\1\)", (REPOSITORY / "examples" / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted(EXAMPLES)


@pytest.mark.parametrize("page", ["README.md", "docs/images.md"])
def test_a_page_shows_one_of_them(page):
    """Its Dockerfile is that of the Python function."""
    shown = re.findall(r"^```dockerfile\n(.*?)^```$", (REPOSITORY / page).read_text(), re.M | re.S)
    assert shown == [EXAMPLES["python"].read_text()]
