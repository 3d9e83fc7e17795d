"""Supervision is tested as PID 1 and as any other process."""

import pytest

from tests.support.supervision import need_namespaces


@pytest.fixture(params=["under an init", "as PID 1"])
def as_pid_1(request) -> bool:
    if request.param == "as PID 1":
        need_namespaces()
    return request.param == "as PID 1"
