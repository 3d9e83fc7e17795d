"""
Makes photos with a known number of faces, for where real photos are absent.

The faces are drawn by procedure, no photo is used. Each photo is checked with the detector while it
is made and drawn again when the count differs, so the counts are exact. The same seed gives the same
bytes on the same machine; another OpenCV version or CPU may encode them otherwise.
"""

from __future__ import annotations

import csv
import os
from typing import TYPE_CHECKING

import click

from reference_app.console import CommandError, run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from reference_app.images import Picture

    Plane = npt.NDArray[np.float64]

_MOST_FACES = 5
_SIZES = (48, 110)
"""Pixels, the side of the box that the detector reports. Below 44 it begins to miss faces."""
_TRIES = 20
"""Photos drawn at most until the count is right; the first one nearly always is."""


def make_photo(*, faces: int, seed: int) -> bytes:
    """
    Give a JPEG with exactly *faces* faces, as the detector counts.

    Args:
        faces: 0 to 5.
        seed: The same number gives the same photo.
    """
    import numpy as np

    from reference_app.face_tagger import find_faces
    from reference_app.images import decode
    from reference_app.opencv import cv2

    for attempt in range(_TRIES):
        rng = np.random.default_rng((seed, faces, attempt))
        picture = _draw_photo(rng, faces)
        quality = int(rng.integers(80, 96))
        jpeg = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()
        if len(find_faces(decode(jpeg))) == faces:
            return jpeg
    raise RuntimeError(f"no photo with {faces} faces in {_TRIES} tries (seed {seed})")


@click.command(
    "synthetic",
    epilog="""
    \b
    Example:
      python -m reference_app.synthetic photos --count 24 --seed 1
    """,
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--count", type=click.IntRange(min=1), default=24, show_default=True, help="Photos.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def synthetic(folder: str, count: int, seed: int) -> int:
    """Write COUNT photos with 0 to 5 faces each to DIR, and expected.csv that says how many."""
    import numpy as np

    rng = np.random.default_rng(seed)
    try:
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "expected.csv"), "w", newline="") as table:
            rows = csv.writer(table, lineterminator="\n")
            rows.writerow(("image", "faces"))
            for number in range(count):
                name = f"photo_{number:04d}.jpg"
                faces = int(rng.integers(_MOST_FACES + 1))
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(make_photo(faces=faces, seed=int(rng.integers(2**32))))
                rows.writerow((name, faces))
    except OSError as error:
        raise CommandError(os.EX_IOERR, f"{error.filename}: {error.strerror}") from error
    click.echo(f"{count} photos and expected.csv in {folder}")
    return 0


def _draw_photo(rng: np.random.Generator, faces: int) -> Picture:
    """Put faces of several sizes on a light background, each in a cell of its own."""
    import numpy as np

    height, width = int(rng.integers(360, 481)), int(rng.integers(560, 641))
    slope = np.linspace(0, rng.uniform(-25, 25), width)[None, :, None]
    photo = rng.uniform(195, 235, 3) + slope + np.zeros((height, width, 3))
    columns, rows = 3, 2
    cell_width, cell_height = width // columns, height // rows
    for cell in rng.permutation(columns * rows)[:faces]:
        # A face with its hair takes 1.6 times the box; the largest just fits its cell.
        side = round(1.6 * int(rng.integers(*_SIZES)))
        x = int(cell % columns * cell_width + rng.integers(2, cell_width - side - 1))
        y = int(cell // columns * cell_height + rng.integers(2, cell_height - side - 1))
        gray, alpha = _draw_face(rng, side)
        tint = np.array([0.75, 0.97, 1.15]) * rng.uniform(0.97, 1.03, 3)
        patch = photo[y : y + side, x : x + side]
        patch += alpha[..., None] * (gray[..., None] * tint - patch)
    photo += rng.normal(0, rng.uniform(1, 4), photo.shape)
    return np.clip(photo, 0, 255).astype(np.uint8)


def _draw_face(rng: np.random.Generator, side: int) -> tuple[Plane, Plane]:
    """Give gray values and alpha (0 to 1) of one face, *side* x *side* pixels, 1.6 boxes wide."""
    import numpy as np

    from reference_app.opencv import cv2

    # Coordinates in boxes: 0 to 1 is what the detector frames.
    line = (np.arange(side) + 0.5) / side * 1.6 - 0.3
    u, v = np.meshgrid(line, line)

    def about(value: float) -> float:
        return value * float(rng.uniform(0.94, 1.06))

    def distance(x: float, y: float, width: float, height: float) -> Plane:
        """Squared, 1 on the edge of an ellipse."""
        result: Plane = ((u - x) / about(width)) ** 2 + ((v - y) / about(height)) ** 2
        return result

    skin = distance(0.5, 0.52, 0.43, 0.60) < 1
    gray: Plane = np.full((side, side), about(185))
    gray += (about(125) - gray) * np.clip(np.abs(u - 0.5) / 0.43, 0, 1) ** 4
    left, right = 0.5 - about(0.185), 0.5 + about(0.185)
    for x, y, width, height, value, weight in (
        (0.5, 0.20, 0.30, 0.11, 205, 0.9),  # forehead
        (0.29, 0.57, 0.13, 0.11, 205, 0.9),  # cheeks
        (0.71, 0.57, 0.13, 0.11, 205, 0.9),
        (left, 0.385, 0.17, 0.10, 110, 0.85),  # eye sockets
        (right, 0.385, 0.17, 0.10, 110, 0.85),
        (0.5, 0.46, 0.05, 0.16, 225, 0.9),  # bridge of the nose
    ):
        shade = weight * np.exp(-distance(x, y, width, height) / 2)
        gray += (about(value) - gray) * shade
    for x, y, width, height, value in (
        (left, 0.385, 0.115, 0.055, 45),  # eyes
        (right, 0.385, 0.115, 0.055, 45),
        (left, 0.30, 0.13, 0.028, 70),  # brows
        (right, 0.30, 0.13, 0.028, 70),
        (0.445, 0.62, 0.03, 0.02, 100),  # nostrils
        (0.555, 0.62, 0.03, 0.02, 100),
        (0.5, 0.755, 0.16, 0.035, 85),  # mouth
    ):
        gray[distance(x, y, width, height) < 1] = about(value)
    fringe = v < 0.16 + 1.1 * (u - 0.5) ** 2
    hair = (distance(0.5, 0.49, 0.49, 0.66) < 1) & (fringe | (~skin & (v < 0.62)))
    gray[hair] = about(55)
    sigma = 0.02 * side / 1.6
    alpha = (skin | hair).astype(np.float64)
    return (
        np.asarray(cv2.GaussianBlur(gray, (0, 0), sigma), np.float64),
        np.asarray(cv2.GaussianBlur(alpha, (0, 0), sigma), np.float64),
    )


if __name__ == "__main__":
    run(synthetic)
