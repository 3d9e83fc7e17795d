"""Copies of a manifest and of its index on this machine, for commands that read many places of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from htcjob.manifest.index import Index
from htcjob.manifest.index_format import SUFFIX
from htcjob.manifest.manifest import Manifest
from htcjob.storage.local.store import LocalStore

if TYPE_CHECKING:
    from htcjob.retry import RetryPolicy
    from htcjob.transfer.locations import Location
    from htcjob.transfer.transfers import Transfers

_NAME = "list"
"""Name of the copy of the manifest and, with its suffix, of the index."""


class LocalCopy:
    """
    Copies the manifest and its index, each when it is asked for.

    Args:
        location: The manifest.
        transfers: Makes the requests.
        retry: How a transient failure of reading the copies is met.
        folder: A directory of this machine for the copies.
    """

    def __init__(self, location: Location, *, transfers: Transfers, retry: RetryPolicy, folder: str) -> None:
        self._location = location
        self._transfers = transfers
        self._retry = retry
        self._folder = folder
        self._here = LocalStore(folder)

    def index(self) -> Index:
        """
        Copy the index, and open the copy.

        Raises:
            AbsentError: there is none.
            StorageError: it cannot be read, or the copy not be written.
            UnusableIndexError: it cannot be trusted.
        """
        self._copy(SUFFIX)
        return Index(self._here, _NAME, self._retry)

    def manifest(self) -> Manifest:
        """
        Copy the manifest, and open the copy, which is read whole.

        Raises:
            StorageError: it cannot be read, or the copy not be written.
        """
        self._copy("")
        return Manifest(self._here, _NAME, self._retry)

    def _copy(self, suffix: str) -> None:
        store, key = self._location.store, self._location.key
        self._transfers.get(store, key + suffix, os.path.join(self._folder, _NAME + suffix))
