"""From the key of a manifest to the entries of one job."""

from __future__ import annotations

import logging
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
from htcjob.manifest.chunk import chunk_bounds
from htcjob.manifest.index import Index
from htcjob.manifest.index_format import SUFFIX
from htcjob.manifest.manifest import Manifest

if TYPE_CHECKING:
    from htcjob.manifest.chunk import Share
    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import Store

log = logging.getLogger(__name__)


def open_chunk(store: Store, key: str, share: Share, retry: RetryPolicy) -> tuple[Manifest, range]:
    """
    Give the manifest *key* of *store*, and the positions of a job's share of it.

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
    chunk = chunk_bounds(
        array_index=share.array_index, array_size=share.array_size, n_entries=manifest.n_entries
    )
    return manifest, chunk
