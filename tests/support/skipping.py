"""A test that cannot run here."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_or_fail(variable: str, reason: str) -> NoReturn:
    """Skip a test that cannot run here; where *variable* is 1, as in the gate, that is a failure."""
    if os.environ.get(variable) == "1":
        pytest.fail(reason)
    pytest.skip(reason)
