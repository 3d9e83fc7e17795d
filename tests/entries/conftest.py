"""A directory, and what stages files between it and stores in memory."""

import os

import pytest

from htcjob.entries.staging import Staging
from htcjob.retry import RetryPolicy
from htcjob.storage.memory.store import MemoryStore
from htcjob.storage.urls import open_store
from htcjob.transfer.transfers import Transfers


@pytest.fixture
def staging():
    with Transfers(RetryPolicy(sleep=lambda _: False)) as transfers:
        yield Staging(
            MemoryStore("stage-in"), MemoryStore("stage-out"), transfers, lambda url, _key: open_store(url)
        )


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "d"
    path.mkdir()
    return os.path.realpath(path)
