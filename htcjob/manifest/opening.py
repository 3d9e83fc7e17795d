"""From the name of a manifest, a key or a URL, to a job's chunk of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from htcjob.errors import (
    AbsentError,
    BadKeyError,
    ConfigurationError,
    DeniedError,
    RunMismatchError,
    UnusableIndexError,
)
from htcjob.logs.events import event
from htcjob.manifest.index import Index
from htcjob.manifest.index_format import SUFFIX
from htcjob.manifest.manifest import Manifest
from htcjob.storage.keys import check_key
from htcjob.storage.urls import is_url, split_object_url

if TYPE_CHECKING:
    from htcjob.manifest.chunk import Share
    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import Store

log = logging.getLogger(__name__)


def open_manifest(
    url_or_key: str,
    share: Share,
    *,
    project: Store,
    retry: RetryPolicy,
    open_url: Callable[[str, str], Store],
) -> tuple[Manifest, range]:
    """
    Open a manifest, named by a key of project storage or a full URL, and find a job's share of it.

    Args:
        url_or_key: Its name, as given.
        share: The job's share.
        project: Project storage.
        retry: How a transient failure is met.
        open_url: Opens the store of a full URL for a key in it (`JobStores.open`).

    Returns:
        The manifest, and the positions of the job's entries.

    Raises:
        AbsentError: there is no such manifest.
        ConfigurationError: the name is no key and no URL of an object; or as of `open_chunk`.
    """
    store, key = project, url_or_key.removeprefix("./")
    try:
        if is_url(url_or_key):
            store_url, key = split_object_url(url_or_key)
            store = open_url(store_url, key)
        else:
            check_key(key)
        return open_chunk(store, key, share, retry=retry)
    except BadKeyError as error:
        from htcjob.manifest.names import why_no_key

        what = str(error) if is_url(url_or_key) else why_no_key(url_or_key, error.reason, project.url)
        raise ConfigurationError(f"--manifest (HTCJOB_MANIFEST) {what}") from None
    except AbsentError as error:
        # The answer to a HEAD has no text; a listing tells when it is the whole bucket that is not there.
        retry.call(lambda: next(store.list(key), None))
        raise AbsentError(
            "manifest",
            error.url,
            f"{error.reason}; --manifest (HTCJOB_MANIFEST) is a key of project storage, or a URL",
        ) from error


def open_chunk(store: Store, key: str, share: Share, *, retry: RetryPolicy) -> tuple[Manifest, range]:
    """
    Return the manifest *key* of *store*, and the positions of a job's share of it.

    With an index that takes three requests for a chunk of up to 4 MiB, and one more when it is larger: the
    index's head, its pages at both ends, and the chunk, whose first 4 MiB are kept. Without one, or with one
    that is not of this version of the manifest, the whole manifest is read.

    Raises:
        AbsentError: there is no such manifest.
        ConfigurationError: the share is of bytes, and no index tells the sizes of the entries.
    """
    url = store.url_of(key + SUFFIX)
    try:
        index = Index(store, key, retry)
        chunk = index.chunk(share)
        manifest = Manifest(store, key, retry, index=index)
        manifest.check(chunk)
        return manifest, chunk
    except (AbsentError, DeniedError):  # of the manifest too: then what follows says so
        cause = "it is not there"
    except RunMismatchError:
        cause = "it is of another version of the manifest"
    except UnusableIndexError as error:
        cause = str(error)
    except BadKeyError as error:
        cause = error.reason
    if share.is_weighted:
        retry.call(partial(store.head, key))
        raise ConfigurationError(
            f"--balance bytes (HTCJOB_BALANCE) needs the sizes of all entries from index {url}: {cause}; "
            "make list and index with htcjob manifest build"
        )
    if cause != "it is not there":
        event(log, logging.WARNING, "index_not_used", index=url, cause=cause)
    manifest = Manifest(store, key, retry)
    return manifest, share.by_number(manifest.n_entries)
