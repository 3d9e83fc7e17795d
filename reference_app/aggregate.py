"""Reads the results of a run and names the image with the most faces."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, NamedTuple

import click

from reference_app.console import CommandError, run, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNT_SUFFIX = "_tagged.dat"
_PICTURE_SUFFIX = "_tagged.jpg"
_LEDGER_FOLDER = ".htcjob"
_COUNT = re.compile(rb"face_cnt\n([1-9][0-9]{0,8})")
_NAMED = 3
"""Malformed results named in full; the others are counted."""


class Summary(NamedTuple):
    """What a run found."""

    winners: list[str]
    """Images with the most faces, sorted by name; paths below the folder."""
    most_faces: int
    """In each of the winners."""
    images_with_faces: int
    total_faces: int


def summarise(folder: str) -> Summary:
    """
    Read every `*_tagged.dat` below *folder*, the ledger's own folder left out.

    Raises:
        CommandError: There is no result (66), or one is malformed (65); names the first few.
    """
    counts = {}
    malformed = []
    for image in _images(folder):
        path = os.path.join(folder, image) + _COUNT_SUFFIX
        with open(path, "rb") as file:
            # A few bytes more than a count can have: no need to read what cannot be one.
            match = _COUNT.fullmatch(file.read(64))
        if match is None:
            malformed.append(f"{shown(path)}: expected face_cnt, a newline and a number")
        else:
            counts[image] = int(match[1])
    if malformed:
        untold = len(malformed) - _NAMED
        more = [f"{untold} more malformed results"] if untold > 0 else []
        raise CommandError(os.EX_DATAERR, *malformed[:_NAMED], *more)
    if not counts:
        reason = f"no *{_COUNT_SUFFIX} below {shown(folder)}: no results, or no faces in any image"
        raise CommandError(os.EX_NOINPUT, reason)
    most = max(counts.values())
    return Summary(
        winners=sorted(image for image, count in counts.items() if count == most),
        most_faces=most,
        images_with_faces=len(counts),
        total_faces=sum(counts.values()),
    )


@click.command(
    "aggregate",
    epilog="""
    \b
    Exit status:
      0   there is an image with faces
      64  usage
      65  a result is malformed
      66  DIR is absent, or holds no results

    \b
    Example:
      python -m reference_app.aggregate results
    """,
)
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def aggregate(folder: str, *, as_json: bool) -> int:
    """Name the image with the most faces among the results below DIR, a task storage folder."""
    summary = summarise(folder)
    winner = summary.winners[0]
    picture = os.path.join(folder, winner) + _PICTURE_SUFFIX
    is_there = os.path.exists(picture)
    if as_json:
        facts = {
            "winner": winner,
            "most_faces": summary.most_faces,
            "tagged_picture": picture if is_there else None,
            "ties": summary.winners[1:],
            "images_with_faces": summary.images_with_faces,
            "total_faces": summary.total_faces,
        }
        click.echo(json.dumps(facts))
        return 0
    click.echo(f"most faces:        {summary.most_faces} in {shown(winner)}")
    for image in summary.winners[1:]:
        click.echo(f"  as many in:      {shown(image)}")
    click.echo(f"tagged picture:    {shown(picture) if is_there else 'absent'}")
    click.echo(f"images with faces: {summary.images_with_faces}")
    click.echo(f"total faces:       {summary.total_faces}")
    return 0


def _images(folder: str) -> Iterator[str]:
    """Give the images that have a result, as paths below *folder*."""

    def refuse(error: OSError) -> None:
        raise CommandError(os.EX_NOINPUT, f"{shown(str(error.filename))}: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [each for each in folders if each != _LEDGER_FOLDER]
        for name in files:
            if name.endswith(_COUNT_SUFFIX):
                path = os.path.relpath(os.path.join(parent, name), folder)
                yield path.removesuffix(_COUNT_SUFFIX)


if __name__ == "__main__":
    run(aggregate)
