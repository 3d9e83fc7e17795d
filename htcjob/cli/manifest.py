"""`htcjob manifest`: make, check and preview lists of entries."""

from __future__ import annotations

import json

import click

from htcjob.cli.endings import printable
from htcjob.cli.options import look_table
from htcjob.cli.places import Stores
from htcjob.errors import BadKeyError, UsageError
from htcjob.locations import Location, is_local, parse
from htcjob.progress import size_in_words
from htcjob.retry import RetryPolicy
from htcjob.storage.keys import check_key


@click.group(name="manifest")
def manifest() -> None:
    """Make, check and preview lists of entries."""


@manifest.command(epilog=look_table())
@click.argument("key", metavar="KEY|URL")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs.")
def index(key: str, as_json: bool) -> None:
    """
    Make the index of a manifest, beside it under its name and .idx.

    With it a job reads its own part of the manifest only, however long that is. KEY is a key of project
    storage. Make it again when the manifest has changed: an index of another version is not used.

    \b
    Example:
      htcjob manifest index list.txt
    """
    from htcjob.manifest_index import SUFFIX
    from htcjob.manifest_writer import make_index

    place = place_of(key, Stores())
    made = make_index(place.store, place.key, RetryPolicy())
    if as_json:
        members = made._asdict() | {"index": place.store.url_of(place.key + SUFFIX)}
        click.echo(json.dumps(members))
        return
    click.echo(
        f"{printable(key)}{SUFFIX}: {made.n_entries} entries, {size_in_words(made.index_bytes)} "
        f"for a manifest of {size_in_words(made.manifest_bytes)}"
    )


def place_of(key: str, stores: Stores) -> Location:
    """
    Give where a manifest is: a key of project storage, as `--manifest` takes it, or a LOCATION.

    Raises:
        UsageError: it is neither.
    """
    if not is_local(key):
        return parse(key, stores)
    key = key.removeprefix("./")
    try:
        check_key(key)
    except BadKeyError as error:
        raise UsageError(str(error)) from None
    return Location(key, stores.project, key)
