"""Servers that the storage tests use; those that others use too are in the conftest above."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.servers.azurite import azurite  # noqa: F401
from tests.support.servers.fake_gcs import _fake_gcs_of_all, fake_gcs  # noqa: F401
from tests.support.servers.gcs import gcs_emulator  # noqa: F401
from tests.support.servers.tls import rgw_tls  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def _botocore_reads_its_files_once() -> Iterator[None]:
    """Each of its sessions would parse megabytes of JSON again, and most of these tests have one of their own."""
    from botocore.loaders import Loader

    begin = Loader.__init__
    kept: dict[tuple[str, ...], dict[Any, Any]] = {}

    def begin_with_what_is_known(self: Loader, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self._cache = kept.setdefault(tuple(self.search_paths), {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "__init__", begin_with_what_is_known)
        yield
