"""Names of blobs that Azure would take for another blob's."""

from __future__ import annotations

from htcjob.errors import BadKeyError


def check_name(name: str) -> None:
    r"""
    Refuse names that would silently become another blob's.

    Azure stores `a\b` as `a/b` (versity/versitygw#845) and `a.` as `a` (Azure/azure-sdk-for-java#36674), and
    no part of a name should end in a dot
    (learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata).
    HTTP libraries take `a/./b` for `a/b`.

    Raises:
        BadKeyError: it has a backslash, or one of its parts between slashes ends in a dot.
    """
    if "\\" in name:
        raise BadKeyError(name, "Azure turns a backslash into '/'")
    if name.endswith(".") or "./" in name:
        raise BadKeyError(name, "Azure drops a dot at the end of a name or before '/'")


def could_begin_a_name(prefix: str) -> bool:
    """Whether the name of a blob can begin with *prefix*."""
    return "\\" not in prefix and "./" not in prefix
