"""Servers that the storage tests use; those that others use too are in the conftest above."""

from __future__ import annotations

from tests.support.azurite import azurite  # noqa: F401
from tests.support.fake_gcs import _fake_gcs_of_all, fake_gcs  # noqa: F401
from tests.support.gcs import gcs_emulator  # noqa: F401
from tests.support.tls import rgw_tls  # noqa: F401
