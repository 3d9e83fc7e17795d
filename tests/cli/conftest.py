"""Servers that the tests of commands use."""

from __future__ import annotations

from tests.support.htc_api import htc_api_fixture  # noqa: F401
from tests.support.rgw import rgw  # noqa: F401
