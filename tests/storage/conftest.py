"""Servers that the storage tests use; those that others use too are in the conftest above."""

from __future__ import annotations

from tests.support.servers.azurite import azurite  # noqa: F401
from tests.support.servers.fake_gcs import _fake_gcs_of_all, fake_gcs  # noqa: F401
from tests.support.servers.gcs import gcs_emulator  # noqa: F401
from tests.support.servers.tls import rgw_tls  # noqa: F401
