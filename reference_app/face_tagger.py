"""
Finds the faces of one image, draws them, counts them; and the command line for a list of images.

OpenCV is imported when the first image needs it, so `--help` and usage errors are quick.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from reference_app.console import CommandError, complain, run, shown

if TYPE_CHECKING:
    from types import ModuleType

    import cv2

    from reference_app.images import Picture

_NAME = "face_tagger"

# As in the tutorial; any other value changes the counts.
_SCALE_FACTOR = 1.2
_MIN_NEIGHBORS = 5
_MIN_SIZE = (30, 30)
_GREEN = (0, 255, 0)
_LINE_WIDTH = 2

_UNUSABLE_IMAGE = (os.EX_DATAERR, os.EX_NOINPUT)
"""Statuses that are about one image and not about this machine."""

_thread = threading.local()


class Box(NamedTuple):
    """A face, in pixels of the picture as it is seen (EXIF orientation applied)."""

    x: int
    """Left edge, from 0."""
    y: int
    """Top edge, from 0."""
    width: int
    height: int


class OutputError(OSError):
    """A result could not be written; says which and why."""


def find_faces(picture: Picture) -> list[Box]:
    """
    Give the faces in *picture*, sorted, left to right.

    Nothing but the pixels decides: the answer is the same on every machine and in every thread.
    """
    from reference_app.opencv import cv2

    # Decoding to gray directly gives other pixels, and other counts on some photos.
    gray = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    found = _classifier().detectMultiScale(
        gray, scaleFactor=_SCALE_FACTOR, minNeighbors=_MIN_NEIGHBORS, minSize=_MIN_SIZE
    )
    return sorted(Box(*map(int, box)) for box in found)


def draw(picture: Picture, boxes: list[Box]) -> Picture:
    """Give a copy of *picture* with a green frame, 2 pixels wide, around each of *boxes*."""
    from reference_app.opencv import cv2

    drawn: Picture = picture.copy()
    for x, y, width, height in boxes:
        cv2.rectangle(drawn, (x, y), (x + width, y + height), _GREEN, _LINE_WIDTH)
    return drawn


def tag(image: str, base: str | None = None) -> list[Box]:
    """
    Find the faces of the image file and write the results, when there are any.

    `<base>_tagged.jpg` is the picture with its faces framed; `<base>_tagged.dat` holds `face_cnt`,
    a newline and the number. Each appears whole or not at all, the picture first. Without a face
    nothing is written.

    Args:
        image: Path of the image file.
        base: Path that the results' names begin with; default: *image*, with its extension.

    Returns:
        The faces, sorted.

    Raises:
        UnreadableImageError: The file is there but is no image that can be used.
        OutputError: A result could not be written.
        OSError: The file is absent or cannot be read.
    """
    from reference_app.images import UnreadableImageError, read_image
    from reference_app.opencv import cv2

    picture = read_image(image)
    boxes = find_faces(picture)
    if boxes:
        is_encoded, jpeg = cv2.imencode(".jpg", draw(picture, boxes))
        if not is_encoded:
            height, width = picture.shape[:2]
            reason = f"{width} x {height} pixels is too large for a tagged JPEG (65500 a side)"
            raise UnreadableImageError(image, reason)
        if base is None:
            base = image
        _write_whole(f"{base}_tagged.jpg", jpeg.tobytes())
        _write_whole(f"{base}_tagged.dat", f"face_cnt\n{len(boxes)}".encode())
    return boxes


def tag_entry(input: str, output_dir: str, key: str) -> dict[str, int]:  # noqa: A002 - the runtime's word
    """
    Tag one image for a runtime that keeps this module loaded.

    Args:
        input: Path of the image file.
        output_dir: Where results go.
        key: Name of the image, with its folders; results are named after it.

    Returns:
        The number of faces, as `faces`.

    Raises:
        UnreadableImageError, OutputError, OSError: as `tag` does.
    """
    return {"faces": len(tag(input, os.path.join(output_dir, key)))}


def _classifier() -> cv2.CascadeClassifier:
    """Give this thread's detector: one cannot serve two threads, and loading it takes 9 ms."""
    from reference_app.opencv import CASCADE, OpenCVUnusableError, cv2

    classifier: cv2.CascadeClassifier | None = getattr(_thread, "classifier", None)
    if classifier is None:
        classifier = cv2.CascadeClassifier(CASCADE)
        if classifier.empty():
            raise OpenCVUnusableError(f"OpenCV cannot load its face detector from {CASCADE}")
        _thread.classifier = classifier
    return classifier


def _write_whole(path: str, data: bytes) -> None:
    """Write beside the target under another name, then rename."""
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".{_NAME}-{secrets.token_hex(8)}.tmp")
    try:
        if folder:
            os.makedirs(folder, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise OutputError(f"cannot write {shown(path)}: {error.strerror}") from error


@click.command(
    _NAME,
    epilog="""
    \b
    Exit status:
      0   every image was read, with or without faces
      64  usage
      65  an image is unreadable; the others are done
      66  a file is absent or may not be read
      70  an unexpected failure (a bug here)
      71  not enough memory for an image
      74  a result cannot be written
      78  OpenCV, or a variable, is not usable
    Of several, the highest is given.

    \b
    Example:
      python -m reference_app.face_tagger --output-dir results photo.jpg
    """,
)
@click.option(
    "--output-dir",
    envvar="HTCJOB_OUTPUT_DIR",
    show_envvar=True,
    type=click.Path(file_okay=False),
    help="Where results go; made when absent.  [default: beside each image]",
)
@click.option(
    "--work-dir",
    envvar="HTCJOB_WORK_DIR",
    show_envvar=True,
    type=click.Path(),
    help="An IMAGE below this folder keeps its subfolder below the output directory.",
)
@click.option(
    "--entries-file",
    envvar="HTCJOB_ENTRIES_FILE",
    show_envvar=True,
    type=click.Path(),
    help='Images to tag when no IMAGE is given: one path, or JSON object with "input", per line.',
)
@click.option(
    "--failures-file",
    envvar="HTCJOB_FAILURES_FILE",
    show_envvar=True,
    type=click.Path(),
    help="Report unusable images here, as JSON lines, and count the rest as success.",
)
@click.argument("images", metavar="[IMAGE]...", nargs=-1, type=click.Path())
def tagger(
    images: tuple[str, ...],
    output_dir: str | None,
    work_dir: str | None,
    entries_file: str | None,
    failures_file: str | None,
) -> int:
    """
    Find the faces of each IMAGE (JPEG, PNG, WebP, BMP).

    Where there are any, IMAGE_tagged.jpg shows them and IMAGE_tagged.dat holds their number. A bad
    image does not stop the others.
    """
    if not images:
        if entries_file is None:
            raise click.UsageError("no IMAGE given, and HTCJOB_ENTRIES_FILE is not set")
        images = read_entries(entries_file)
    if not images:
        return 0
    bases = _bases(images, output_dir=output_dir, work_dir=work_dir)
    cv2_error = _usable_opencv().error
    failures = []
    for image, base in bases.items():
        name = shown(_below(image, work_dir) or image)
        started = time.perf_counter()
        try:
            count = len(tag(image, base))
        except (OSError, ValueError, MemoryError, cv2_error) as error:
            status, reason = _verdict(error)
            complain(_NAME, f"{name}: {reason}")
            if failures_file is not None and status in _UNUSABLE_IMAGE:
                _report_failure(failures_file, image, reason)
            else:
                failures.append((status, f"{name}: {reason}"))
        else:
            elapsed_s = time.perf_counter() - started
            faces = "1 face" if count == 1 else f"{count} faces"
            click.echo(f"{name}: {faces} in {elapsed_s:.2f} s")
    if failures:
        worst = max(status for status, _ in failures)
        raise CommandError(worst, *(reason for _, reason in failures), is_told=True)
    return 0


def read_entries(path: str) -> tuple[str, ...]:
    """
    Give the image paths that the runtime listed in the file at *path*.

    One entry per line: a local path, or a JSON object (the line starts with a brace) with the path
    as its member `input`.

    Raises:
        CommandError: The file cannot be read (66), or a line holds no path (78); says which.
    """
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        raise CommandError(os.EX_NOINPUT, f"{shown(path)}: {error.strerror}") from error
    return tuple(
        _entry(line, where=f"{shown(path)} line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )


def _entry(line: bytes, *, where: str) -> str:
    image: object = os.fsdecode(line)
    if line.startswith(b"{"):
        try:
            image = json.loads(line).get("input")
        except ValueError as error:
            raise CommandError(os.EX_CONFIG, f"{where}: bad JSON: {error}") from error
    if not isinstance(image, str) or not image or "\0" in image:
        raise CommandError(os.EX_CONFIG, f'{where}: expected a path, or JSON with "input"')
    return image


def _report_failure(path: str, image: str, reason: str) -> None:
    """Add one JSON line to the file at *path*: the image as it was given, and the reason."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"input": image, "message": shown(reason)}) + "\n")
    except OSError as error:
        raise CommandError(os.EX_IOERR, f"{shown(path)}: {error.strerror}") from error


def _below(image: str, work_dir: str | None) -> str | None:
    """Give the path of *image* relative to *work_dir*, or None where it lies elsewhere."""
    if work_dir is None:
        return None
    # Names, not where links lead: a staged image may be a link into a cache.
    relative = os.path.relpath(os.path.abspath(image), os.path.abspath(work_dir))
    return None if relative.split(os.sep)[0] == os.pardir else relative


def _bases(images: tuple[str, ...], *, output_dir: str | None, work_dir: str | None) -> dict[str, str]:
    """Say for each image what the names of its results begin with; no two may be the same."""
    if output_dir is None:
        return {image: image for image in images}
    bases: dict[str, str] = {}
    owners: dict[str, str] = {}
    for image in images:
        base = os.path.join(output_dir, _below(image, work_dir) or os.path.basename(image))
        owner = owners.setdefault(base, image)
        if owner != image:
            raise click.UsageError(
                f"{shown(owner)} and {shown(image)} would write the same {shown(base)}_tagged.*"
            )
        bases[image] = base
    return bases


def _usable_opencv() -> ModuleType:
    """Give OpenCV, or end with one clear message before any image when it cannot do this."""
    try:
        _classifier()
        from reference_app.opencv import cv2
    except ImportError as error:
        raise CommandError(os.EX_CONFIG, str(error)) from error
    return cv2


def _verdict(error: Exception) -> tuple[int, str]:
    """Give the exit status and the reason for an image that failed."""
    from reference_app.images import UnreadableImageError
    from reference_app.opencv import cv2

    if isinstance(error, UnreadableImageError):
        return os.EX_DATAERR, error.reason
    if isinstance(error, OutputError):
        return os.EX_IOERR, str(error)
    if isinstance(error, FileNotFoundError):
        return os.EX_NOINPUT, "no such file"
    if isinstance(error, OSError):
        return os.EX_NOINPUT, f"cannot read: {error.strerror}"
    if isinstance(error, MemoryError) or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem):
        return os.EX_OSERR, "not enough memory"
    return os.EX_SOFTWARE, f"unexpected {type(error).__name__}: {error}"


if __name__ == "__main__":
    run(tagger)
