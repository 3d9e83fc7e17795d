"""Listings over obstore: in the order of the store and, where that order allows it, seen to be whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import PermissionDeniedError

from htcjob.errors import DisorderError, TransientError
from htcjob.storage import bounds
from htcjob.storage.bounds import within
from htcjob.storage.bucket import bare_etag
from htcjob.storage.contract import ObjectInfo
from htcjob.storage.fast.names import (
    InexpressibleError,
    Names,
    expressible_start,
    is_expressible,
    just_below,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from obstore import ObjectMeta
    from obstore.store import ObjectStore

_PAGE_KEYS = 1000


class Listing:
    """
    The objects of a bucket whose name begins with a prefix.

    Args:
        client: Returns the client with the credentials of the moment.
        url: What is listed, for messages.
        prefix: How the names begin.
        is_ordered: Whether the store lists by the UTF-8 bytes of the names.
        has_sdk: Whether the cloud's SDK can be asked instead.
    """

    def __init__(
        self, client: Callable[[], ObjectStore], url: str, prefix: str, *, is_ordered: bool, has_sdk: bool
    ) -> None:
        self._client = client
        self._url = url
        self._prefix = prefix
        self._is_ordered = is_ordered
        self._has_sdk = has_sdk

    def objects(self, start_after: str) -> Iterator[ObjectInfo]:
        """
        Yield the objects in the order of the store, some before *start_after* among them.

        object_store believes a listing that ends too early: any answer without a token ends it, an error with
        status 200 too. So where the order allows that, the end is asked for again, from just before the last
        name on: it must come again, and nothing behind it.
        """
        prefix = self._prefix
        folder = prefix.rpartition("/")[0]  # object_store lists folders only
        if folder and not is_expressible(folder):
            raise InexpressibleError
        begin = max(start_after, just_below(prefix)) if self._is_ordered else ""
        names = Names(prefix, start_after, self._is_there, is_installed=self._has_sdk)
        last = ""
        while True:
            previous = offset = expressible_start(begin)
            is_last_there = has_more = False
            for page in self._pages(folder, offset):
                for number, meta in enumerate(page):
                    name = names.of(meta, previous, in_order=self._is_ordered)
                    if not name.startswith(prefix):
                        if name < prefix or not self._is_ordered:
                            continue
                        if any(other["path"].startswith(prefix) for other in page[number:]):
                            raise DisorderError("list", prefix, name, prefix)
                        return
                    if name <= previous and self._is_ordered:
                        if previous != offset or not offset:
                            raise DisorderError("list", prefix, previous, name)
                        if last:  # it begins at the beginning, wherever it is asked to
                            raise self._unsure()
                        continue
                    previous = name
                    is_last_there = is_last_there or name == last
                    if name > last or not self._is_ordered:
                        has_more = True
                        yield ObjectInfo(name, meta["size"], bare_etag(meta["e_tag"]), meta["last_modified"])
            if not self._is_ordered or (not last and not has_more):
                return
            if not has_more and is_last_there:
                return
            if not has_more:
                raise self._unsure()
            last, begin = previous, just_below(previous.rstrip("/"))
            names.start_after = begin if last.endswith("/") else last

    def _unsure(self) -> Exception:
        """Return what to raise where only the SDK can tell whether that was all."""
        if self._has_sdk:
            return InexpressibleError()
        return TransientError("list", self._url, "nobody can tell whether the listing ended too early")

    def _pages(self, folder: str, offset: str) -> Iterator[Sequence[ObjectMeta]]:
        """Yield what object_store lists, within bounds: it would read answers without a key for ever."""
        pages = obstore.list(self._client(), folder or None, offset=offset or None, chunk_size=_PAGE_KEYS)
        while page := within(bounds.LISTING_S, lambda: next(pages, None), "list", self._url):
            yield page

    def _is_there(self, name: str) -> bool:
        try:
            obstore.head(self._client(), name)
        except FileNotFoundError:
            return False
        except PermissionDeniedError:
            pass  # a token that may list but not read: S3 would say absent, if it were
        return True
