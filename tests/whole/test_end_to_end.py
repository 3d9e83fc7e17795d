"""The whole: real arrays of the face tagger over real photos, from manifest to answer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import some_of

REPOSITORY = Path(__file__).parents[2]
TAGGER = (sys.executable, "-m", "reference_app.face_tagger")


def simulate(htcjob, task: Path, size: int, *arguments: str, options: tuple[str, ...] = ()):
    """Run an array over the project store of *htcjob* into the task store *task*."""
    variables = {k: v for k, v in htcjob.variables.items() if not k.startswith("HTCJOB_")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "htcjob", "simulate", "--array-size", str(size), "--json", *options),
            *("--project-store", htcjob.project, "--task-store", task, "--", *arguments),
        ],
        env=variables,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    return done, json.loads(done.stdout)


def results(task: Path) -> dict[str, bytes]:
    """Give the results in a task store, by key."""
    return {
        str(path.relative_to(task)): path.read_bytes()
        for path in task.rglob("*")
        if path.is_file() and path.relative_to(task).parts[0] != ".htcjob"
    }


def counts(task: Path) -> dict[str, int]:
    """Give the face count of every photo that has one."""
    return {
        key.removesuffix("_tagged.dat"): int(data.split(b"\n")[1])
        for key, data in results(task).items()
        if key.endswith("_tagged.dat")
    }


@pytest.fixture
def some_photos(htcjob, photos):
    """Ten photos in project storage, with a manifest."""
    chosen = some_of(photos, 10)
    for name, (path, _) in chosen.items():
        shutil.copy(path, htcjob.project / name)
    htcjob.manifest(*chosen)
    return {name: faces for name, (_, faces) in chosen.items()}


@pytest.mark.long
def test_the_counts_are_right_for_every_photo(htcjob, photos, tmp_path):
    """All of shared/images/dev, as an array of 8, each with the count of expected.csv."""
    for name, (path, _) in photos.items():
        shutil.copy(path, htcjob.project / name)
    htcjob.manifest(*photos)
    done, summary = simulate(htcjob, tmp_path / "task8", 8, "--manifest", "list.txt", "--", *TAGGER)
    assert done.returncode == 0, done.stderr
    assert summary["entries_done"] == len(photos) == 121
    assert counts(tmp_path / "task8") == {name: faces for name, (_, faces) in photos.items() if faces}


@pytest.mark.long
def test_any_array_size_gives_the_same_bytes(htcjob, some_photos, tmp_path):
    """Arrays of 1, 3, 7 and, more than there are entries, 16, by chunk or by entry: the same keys and results."""
    found = {}
    for size, arguments in (
        (1, ("--", *TAGGER)),
        (3, ("--", *TAGGER)),
        (7, ("--each", "--", *TAGGER, "{input}")),
        (16, ("--", *TAGGER)),
    ):
        task = tmp_path / f"task{size}"
        done, summary = simulate(htcjob, task, size, "--manifest", "list.txt", *arguments)
        assert done.returncode == 0, done.stderr
        assert (summary["jobs"], summary["entries_done"]) == (size, len(some_photos))
        found[size] = results(task)
    assert found[1] == found[3] == found[7] == found[16]
    assert counts(tmp_path / "task1") == {name: faces for name, faces in some_photos.items() if faces}


@pytest.mark.parametrize("way", ["each", "chunk"])
def test_bad_photos_are_failed_entries_with_a_reason(htcjob, some_photos, shared_images, tmp_path, way):
    """Truncated, empty, text and 16-bit files fail, with words; the good ones are done; the status is 65."""
    bad = {
        "trunc_50pc.jpg": "truncated JPEG",
        "empty.jpg": "empty file",
        "text.jpg": "not an image",
        "rgb16.png": "16-bit PNG",
        "html.jpg": "HTML",
        "bomb_40000x40000_1bit.png": "pixels",
    }
    for name in bad:
        shutil.copy(shared_images / "bad" / name, htcjob.project / name)
    good = dict(list(some_photos.items())[::3])  # the command is started for each of them, twice
    htcjob.manifest(*good, *bad, "absent.jpg")
    arguments = ("--each", "--", *TAGGER, "{input}") if way == "each" else ("--", *TAGGER)
    htcjob.task = tmp_path / "with-bad"
    done, summary = simulate(htcjob, htcjob.task, 2, "--manifest", "list.txt", *arguments)
    assert done.returncode == 65
    assert summary["entries_done"] == len(good)
    failed = {
        record["entry"]: record["message"] for record in htcjob.records() if record["result"] == "failed"
    }
    assert failed.keys() == {*bad, "absent.jpg"}
    for name, said in bad.items():
        assert said in failed[name], name
    assert counts(htcjob.task) == {name: faces for name, faces in good.items() if faces}

    done, _ = simulate(
        htcjob, tmp_path / "allowed", 2, "--manifest", "list.txt", "--max-failures", "7", *arguments
    )
    assert done.returncode == 0, done.stderr


def test_the_tutorials_variables_are_honoured(htcjob, some_photos):
    """IMG_OBJKEY_LIST with array variables, HTC_INPUT_IMAGE with a key: the tutorial's two ways to start."""
    variables = {
        "PATH": htcjob.variables["PATH"],
        "TMPDIR": str(htcjob.work),
        "PROJECT_SHARED_FOLDER": str(htcjob.project),
        "TASK_SHARED_FOLDER": str(htcjob.task),
    }
    one = next(name for name, faces in some_photos.items() if faces)
    command = [sys.executable, "-m", "reference_app.tutorial"]
    subprocess.run([*command, one], env={**variables, "HTC_INPUT_IMAGE": "true"}, cwd=REPOSITORY, check=True)
    assert counts(htcjob.task) == {one: some_photos[one]}
    for index in range(2):
        array = {
            "AWS_BATCH_JOB_ARRAY_INDEX": str(index),
            "BATCH_JOB_ARRAY_SIZE": "2",
            "IMG_OBJKEY_LIST": "list.txt",
        }
        subprocess.run(command, env={**variables, **array}, cwd=REPOSITORY, check=True)
    assert counts(htcjob.task) == {name: faces for name, faces in some_photos.items() if faces}


def test_removing_a_result_is_noticed_by_comparison(htcjob, some_photos, tmp_path):
    """The comparison of this file can fail: a missing output is seen."""
    simulate(htcjob, tmp_path / "t", 2, "--manifest", "list.txt", "--", *TAGGER)
    whole = results(tmp_path / "t")
    os.unlink(tmp_path / "t" / sorted(whole)[0])
    assert results(tmp_path / "t") != whole
