"""The face tagger: the right counts, exact results, one bad image never stops the others."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from reference_app import face_tagger
from reference_app.face_tagger import Box, OutputError, draw, find_faces, tag
from reference_app.images import decode, read_image
from reference_app.synthetic import make_photo

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _files(folder: Path) -> list[str]:
    """Every file below the folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- the function


def test_counts_are_those_of_the_reference(shared_images: Path) -> None:
    """
    A third of the 121 real photos have the number of faces that was measured for OpenCV 4.14.

    tests/whole/test_end_to_end.py counts those of all, with the whole program.
    """
    with (shared_images / "dev" / "expected.csv").open(newline="") as table:
        expected = {row["image"]: int(row["faces_cv4140_1thread"]) for row in csv.DictReader(table)}
    assert len(expected) == 121
    some = dict(sorted(expected.items())[::3])
    found = {image: len(find_faces(read_image(str(shared_images / "dev" / image)))) for image in some}
    assert found == some


def test_boxes_are_sorted_and_the_same_in_every_thread() -> None:
    """The boxes of one picture are sorted, and equal in four threads that work at the same time."""
    picture = decode(make_photo(faces=5, seed=2))
    boxes = find_faces(picture)
    assert len(boxes) == 5
    assert boxes == sorted(boxes)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(find_faces, [picture] * 12)) == [boxes] * 12


def test_boxes_are_sorted_whatever_the_detector_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order in which the detector reports does not show."""

    class Backwards:
        def detectMultiScale(self, *_: object, **__: object) -> np.ndarray:  # noqa: N802
            return np.array([[50, 1, 40, 40], [3, 9, 30, 30], [3, 2, 30, 30]], np.int32)

    monkeypatch.setattr(face_tagger, "_classifier", Backwards)
    boxes = find_faces(np.zeros((100, 100, 3), np.uint8))
    assert boxes == [Box(3, 2, 30, 30), Box(3, 9, 30, 30), Box(50, 1, 40, 40)]
    assert {type(number) for box in boxes for number in box} == {int}


def test_the_cascade_is_loaded_once_per_thread() -> None:
    """A thread keeps its detector, and another thread does not get it."""
    ours = face_tagger._classifier()
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(face_tagger._classifier).result()
        assert pool.submit(face_tagger._classifier).result() is theirs
    assert theirs is not ours
    assert face_tagger._classifier() is ours


def test_the_frame_has_the_width_and_the_height_of_the_box() -> None:
    """The frame is green, 2 pixels wide, ends at x + width and y + height; the original is kept."""
    picture = np.zeros((100, 100, 3), np.uint8)
    drawn = draw(picture, [Box(x=10, y=20, width=30, height=50)])
    assert not picture.any()
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert (columns.min(), columns.max()) in {(9, 40), (10, 41), (9, 41)}
    assert (rows.min(), rows.max()) in {(19, 70), (20, 71), (19, 71)}
    for x, y in ((10, 45), (40, 45), (25, 20), (25, 70)):
        assert drawn[y, x].tolist() == [0, 255, 0]
    assert not drawn[23:67, 13:37].any()


# -- the results


def test_the_results_lie_beside_the_image(photo: Path) -> None:
    """`<image>_tagged.dat` holds exactly face_cnt, newline, number; the picture has its size."""
    boxes = tag(str(photo))
    assert len(boxes) == 2
    assert _files(photo.parent) == ["photo.jpg", "photo.jpg_tagged.dat", "photo.jpg_tagged.jpg"]
    assert (photo.parent / "photo.jpg_tagged.dat").read_bytes() == b"face_cnt\n2"
    tagged = read_image(f"{photo}_tagged.jpg")
    assert tagged.shape == read_image(str(photo)).shape
    x, y = boxes[0].x, boxes[0].y + boxes[0].height // 2
    blue, green, red = tagged[y, x].astype(int)
    assert green > 180
    assert max(blue, red) < 120


def test_without_faces_nothing_is_written(photo: Path, no_face: bytes) -> None:
    """An image without a face leaves no file."""
    photo.write_bytes(no_face)
    assert tag(str(photo)) == []
    assert _files(photo.parent) == ["photo.jpg"]


def test_a_result_appears_whole_or_not_at_all(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a result cannot get its final name, neither half a file nor a temporary one is left."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"photo\.jpg_tagged\.jpg: No space left on device"):
        tag(str(photo))
    assert _files(photo.parent) == ["photo.jpg"]


def test_the_picture_is_written_before_the_count(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a count is, its picture is: the picture gets its name first."""
    names = []
    really = os.replace

    def replace(source: str, target: str) -> None:
        assert os.path.dirname(source) == os.path.dirname(target)
        names.append(os.path.basename(target))
        really(source, target)

    monkeypatch.setattr(os, "replace", replace)
    tag(str(photo))
    assert names == ["photo.jpg_tagged.jpg", "photo.jpg_tagged.dat"]


# -- the command line


def test_one_line_per_image(photo: Path, no_face: bytes, tmp_path: Path, run: Run) -> None:
    """Each image has its line with faces and seconds, in the order given, and nothing is on stderr."""
    (tmp_path / "none.jpg").write_bytes(no_face)
    (tmp_path / "one.jpg").write_bytes(make_photo(faces=1, seed=1))
    done = run("face_tagger", "photo.jpg", "one.jpg", "none.jpg")
    assert done.stderr == ""
    assert done.returncode == 0
    lines = [line.rsplit(" in ", 1) for line in done.stdout.splitlines()]
    assert [what for what, _ in lines] == ["photo.jpg: 2 faces", "one.jpg: 1 face", "none.jpg: 0 faces"]  # fmt: skip
    for _, duration in lines:
        assert duration.endswith(" s")
        float(duration.removesuffix(" s"))


def test_a_bad_image_does_not_stop_the_others(photo: Path, tmp_path: Path, run: Run) -> None:
    """After an unreadable image the next one is tagged; the status is 65, and the reason is told."""
    (tmp_path / "half.jpg").write_bytes(photo.read_bytes()[:-2])
    (tmp_path / "empty.jpg").touch()
    done = run("face_tagger", "half.jpg", "empty.jpg", "photo.jpg", HTCJOB_MESSAGE_FILE="message")
    assert done.returncode == 65
    assert done.stdout.startswith("photo.jpg: 2 faces")
    assert done.stderr == (
        "face_tagger: error: half.jpg: truncated JPEG\nface_tagger: error: empty.jpg: empty file\n"
    )
    message = (tmp_path / "message").read_text()
    assert message == "half.jpg: truncated JPEG; empty.jpg: empty file\n"


def test_an_absent_file_is_66(photo: Path, run: Run) -> None:
    """A file that is not there gives 66, and the others are tagged."""
    done = run("face_tagger", "absent.jpg", "photo.jpg")
    assert done.returncode == 66
    assert done.stderr == "face_tagger: error: absent.jpg: no such file\n"
    assert done.stdout.startswith("photo.jpg: 2 faces")


def test_a_result_that_cannot_be_written_is_74(photo: Path, run: Run) -> None:
    """An output folder that cannot be made gives 74 and names the file."""
    done = run("face_tagger", "--output-dir", "photo.jpg/sub", "photo.jpg")
    assert done.returncode == 74
    assert done.stderr == (
        "face_tagger: error: photo.jpg: cannot write photo.jpg/sub/photo.jpg_tagged.jpg: Not a directory\n"
    )


def test_the_highest_status_is_given(photo: Path, tmp_path: Path, run: Run) -> None:
    """With an unreadable and an absent image the status is 66, in either order."""
    (tmp_path / "empty.jpg").touch()
    assert run("face_tagger", "empty.jpg", "absent.jpg").returncode == 66
    assert run("face_tagger", "absent.jpg", "empty.jpg").returncode == 66


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "no IMAGE given, and HTCJOB_ENTRIES_FILE is not set"),
        (["--bogus"], "No such option"),
        (["--output-dir", "out", "photo.jpg", "a/photo.jpg"], "would write the same"),
    ],
)
def test_usage_errors_are_64(photo: Path, run: Run, arguments: list[str], reason: str) -> None:
    """A command line that makes no sense gives 64 and a reason, before any image."""
    (photo.parent / "a").mkdir()
    (photo.parent / "a" / "photo.jpg").write_bytes(photo.read_bytes())
    done = run("face_tagger", *arguments, HTCJOB_MESSAGE_FILE="message")
    assert done.returncode == 64
    assert done.stdout == ""
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert reason in (photo.parent / "message").read_text()


def test_too_little_memory_is_not_the_image_s_fault(
    photo: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """An image that does not fit into memory gives 71, is not called corrupt, and the next is done."""
    (tmp_path / "big.bmp").write_bytes(
        b"BM" + np.array([54 + 75_000_000, 0, 54, 40, 5000, 5000], "<u4").tobytes()
        + np.array([1, 24], "<u2").tobytes() + bytes(24 + 75_000_000)
    )  # fmt: skip
    program = """
import re, resource
from reference_app import face_tagger, console, images
face_tagger._classifier()
face_tagger.tag("photo.jpg", "warm")
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 100 * 2**20,) * 2)
console.run(face_tagger.tagger)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "big.bmp", "photo.jpg"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == "face_tagger: error: big.bmp: not enough memory\n"
    assert done.returncode == 71
    assert done.stdout.startswith("photo.jpg: 2 faces")


def test_a_long_side_is_a_clear_error(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that has a face but is too wide for a JPEG is refused, and nothing is written."""
    from reference_app.images import UnreadableImageError

    wide = np.full((40, 65501, 3), 200, np.uint8)
    monkeypatch.setattr("reference_app.images.read_image", lambda _: wide)
    monkeypatch.setattr(face_tagger, "find_faces", lambda _: [Box(1, 1, 30, 30)])
    with pytest.raises(UnreadableImageError, match="65501 x 40 pixels is too large for a tagged"):
        tag(str(photo))
    assert _files(tmp_path) == ["photo.jpg"]


# -- where results go


def test_output_dir_is_by_option_then_variable(photo: Path, tmp_path: Path, run: Run) -> None:
    """Results go to --output-dir, else to HTCJOB_OUTPUT_DIR, by the base name of the image."""
    run("face_tagger", "--output-dir", "a/b", photo, HTCJOB_OUTPUT_DIR="c")
    run("face_tagger", photo, HTCJOB_OUTPUT_DIR="c")
    assert _files(tmp_path) == [
        "a/b/photo.jpg_tagged.dat",
        "a/b/photo.jpg_tagged.jpg",
        "c/photo.jpg_tagged.dat",
        "c/photo.jpg_tagged.jpg",
        "photo.jpg",
    ]


def test_results_keep_the_folder_below_the_work_directory(photo: Path, tmp_path: Path, run: Run) -> None:
    """Two images of one name in two folders of the work directory keep two results."""
    for folder in ("work/x", "work/y/z", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "photo.jpg").write_bytes(photo.read_bytes())
    (tmp_path / "work" / "link.jpg").symlink_to(photo)
    images = ["work/x/photo.jpg", "work/y/z/photo.jpg", "work/link.jpg", "elsewhere/photo.jpg"]
    done = run(
        "face_tagger",
        *(tmp_path / image for image in images),
        HTCJOB_OUTPUT_DIR="out",
        HTCJOB_WORK_DIR=tmp_path / "work",
    )
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "x/photo.jpg",
        "y/z/photo.jpg",
        "link.jpg",
        f"{tmp_path}/elsewhere/photo.jpg",
    ]
    assert [file for file in _files(tmp_path / "out") if file.endswith(".dat")] == [
        "link.jpg_tagged.dat",
        "photo.jpg_tagged.dat",
        "x/photo.jpg_tagged.dat",
        "y/z/photo.jpg_tagged.dat",
    ]


def test_odd_names_work(photo: Path, tmp_path: Path, run: Run) -> None:
    """Names with spaces, quotes, newlines, a leading dash, undecodable bytes: tagged and shown."""
    names = ["-rf.jpg", "a b'$(x);.jpg", "two\nlines.jpg", "图.jpg", "no\udcff.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(photo.read_bytes())
    done = run("face_tagger", "--output-dir", "out", "--", *names, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [
        "-rf.jpg", "a b'$(x);.jpg", "two\\nlines.jpg", "\\u56fe.jpg", "no\\udcff.jpg",
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        f"{name}_tagged.{kind}" for name in names for kind in ("dat", "jpg")
    )


# -- what the runtime hands over


def test_the_entries_file_is_read_when_no_image_is_given(photo: Path, tmp_path: Path, run: Run) -> None:
    """Plain paths, JSON entries and blank lines of HTCJOB_ENTRIES_FILE are understood, in order."""
    for name in ("a.jpg", 'b "c".jpg', "d\udcff.jpg"):
        (tmp_path / name).write_bytes(photo.read_bytes())
    lines = [
        os.fsencode(tmp_path / "a.jpg"),
        b"",
        json.dumps({"key": "b", "input": str(tmp_path / 'b "c".jpg'), "x": 1}).encode(),
        os.fsencode(tmp_path / "d\udcff.jpg"),
    ]
    (tmp_path / "entries").write_bytes(b"\n".join(lines))
    variables = {"HTCJOB_ENTRIES_FILE": "entries", "HTCJOB_WORK_DIR": str(tmp_path)}
    done = run("face_tagger", **variables)
    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [
        "a.jpg", 'b "c".jpg', "d\\udcff.jpg",
    ]  # fmt: skip
    done = run("face_tagger", "photo.jpg", **variables)
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == ["photo.jpg"]


def test_an_empty_entries_file_is_an_empty_chunk(tmp_path: Path, run: Run) -> None:
    """No entries is success without a word."""
    (tmp_path / "entries").touch()
    done = run("face_tagger", HTCJOB_ENTRIES_FILE="entries")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"key": "a"}', 'entries line 2: expected a path, or JSON with "input"'),
        (b'{"input": 7}', 'entries line 2: expected a path, or JSON with "input"'),
        (b'{"input": "a\\u0000b"}', 'entries line 2: expected a path, or JSON with "input"'),
        (b'{"input": ', "entries line 2: bad JSON: Expecting value"),
        (b'{"input": "\xff"}', "entries line 2: bad JSON: "),
    ],
)
def test_a_bad_line_of_the_entries_file_is_named(photo: Path, run: Run, line: bytes, reason: str) -> None:
    """An entries file that makes no sense gives 78 with its line, before any image."""
    (photo.parent / "entries").write_bytes(b"photo.jpg\n" + line + b"\n")
    done = run("face_tagger", HTCJOB_ENTRIES_FILE="entries")
    assert done.returncode == 78
    assert done.stderr.startswith(f"face_tagger: error: {reason}")
    assert done.stdout == ""


def test_an_absent_entries_file_is_66(run: Run) -> None:
    """An entries file that is not there is named."""
    done = run("face_tagger", HTCJOB_ENTRIES_FILE="entries")
    assert done.returncode == 66
    assert done.stderr == "face_tagger: error: entries: No such file or directory\n"


def test_the_message_of_many_failures_is_short(tmp_path: Path, run: Run) -> None:
    """Of many failures the message file has the first three and the number of the others."""
    names = [f"absent{number}.jpg" for number in range(40)]
    run("face_tagger", *names, HTCJOB_MESSAGE_FILE="message")
    assert (tmp_path / "message").read_text() == (
        "absent0.jpg: no such file; absent1.jpg: no such file; absent2.jpg: no such file; and 37 more\n"
    )


def test_a_message_file_that_cannot_be_written_changes_nothing(run: Run) -> None:
    """The status is still that of the failure, and a warning tells about the message file."""
    done = run("face_tagger", "absent.jpg", HTCJOB_MESSAGE_FILE="nowhere/message")
    assert done.returncode == 66
    assert "face_tagger: warning: nowhere/message: No such file or directory" in done.stderr


def test_success_writes_no_message(photo: Path, run: Run) -> None:
    """The message file is for failures only."""
    run("face_tagger", photo, HTCJOB_MESSAGE_FILE="message")
    assert not (photo.parent / "message").exists()


# -- the process


def test_help_does_not_load_opencv(environment: dict[str, str]) -> None:
    """`--help` imports neither OpenCV nor numpy."""
    program = """
import sys
from click.testing import CliRunner
from reference_app.face_tagger import tagger
assert CliRunner().invoke(tagger, ["--help"]).exit_code == 0
assert not {"cv2", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_nothing_here_imports_htcjob(environment: dict[str, str]) -> None:
    """No module of the reference application loads htcjob."""
    program = """
import importlib, pkgutil, sys
import reference_app
for module in pkgutil.iter_modules(reference_app.__path__):
    importlib.import_module(f"reference_app.{module.name}")
assert "reference_app.tutorial" in sys.modules
assert not [name for name in sys.modules if name.split(".")[0] == "htcjob"]
"""
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        ("class data: haarcascades = ''\n__version__ = '5.0.0'", "OpenCV 5.0.0 has no Haar face"),
        (
            "class data: haarcascades = ''\n__version__ = '5.0.0'\nclass CascadeClassifier: pass",
            "OpenCV 5.0.0 has no Haar face detector: pip install 'opencv-python-headless>=4.14,<5'",
        ),
        (
            "raise ImportError('libGL.so.1: cannot open shared object file')",
            "OpenCV cannot be imported (libGL.so.1: cannot open shared object file)",
        ),
    ],
)
def test_an_unusable_opencv_is_one_clear_message(
    photo: Path, environment: dict[str, str], run: Run, fake: str, reason: str
) -> None:
    """An OpenCV without the detector, its cascade or its libraries gives 78 and says what to do."""
    folder = photo.parent / "fake" / "cv2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(fake)
    (folder / "data.py").write_text("haarcascades = ''")
    path = f"{folder.parent}:{environment['PYTHONPATH']}"
    done = run("face_tagger", photo, photo, PYTHONPATH=path)
    assert done.returncode == 78
    assert done.stderr.startswith(f"face_tagger: error: {reason}")
    assert done.stderr.count("\n") == 1


def test_sigterm_ends_it(photo: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """SIGTERM in the middle of the work ends the process by that signal."""
    names = [f"{number}.jpg" for number in range(400)]
    for name in names:
        (tmp_path / name).hardlink_to(photo)
    with subprocess.Popen(
        [sys.executable, "-m", "reference_app.face_tagger", "--output-dir", "out", *names],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline().startswith("0.jpg: 2 faces")
        process.terminate()
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_a_job_of_the_tutorial_s_size_fits_its_memory(tmp_path: Path, environment: dict[str, str]) -> None:
    """Twenty photos in one process stay below the 128 MiB that the tutorial's job asks for."""
    names = [f"{number}.jpg" for number in range(20)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(make_photo(faces=number % 6, seed=number))
    program = """
import re, sys
from click.testing import CliRunner
from reference_app.face_tagger import tagger
assert CliRunner().invoke(tagger, sys.argv[1:]).exit_code == 0
# Not ru_maxrss: that begins with the peak of the process that started this one.
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "--output-dir", "out", *names],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 128 * 1024
