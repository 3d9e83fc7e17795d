"""What tests of the fast lane start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from htcjob.storage.access import Access
from htcjob.storage.urls import open_store
from tests.storage.fast.support import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from htcjob.storage.contract import Store


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], Mapping[str, str]]:
    """Return a function that sets variables, which the SDKs read themselves, and gives them back."""

    def set_all(variables: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return variables

    return set_all


@pytest.fixture(params=["s3", "az", "gs"])
def cloud_store(request: pytest.FixtureRequest, environ) -> Store:
    if request.param == "s3":
        rgw = request.getfixturevalue("rgw")
        access = Access(engine="fast", environ=environ(rgw.environ()), retry=QUICK)
        return open_store(f"s3://{rgw.new_bucket()}", access)
    if request.param == "az":
        azurite = request.getfixturevalue("azurite")
        access = Access(engine="fast", environ=environ(azurite.environ()), retry=QUICK)
        return open_store(f"az://{azurite.account}/{azurite.new_container()}", access)
    fake_gcs = request.getfixturevalue("fake_gcs")
    variables = environ({"STORAGE_EMULATOR_HOST": fake_gcs.endpoint})
    return open_store(f"gs://{fake_gcs.new_bucket()}", Access(engine="fast", environ=variables, retry=QUICK))
