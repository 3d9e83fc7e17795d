import pytest

from htcjob.retry import RetryPolicy
from htcjob.transfer.transfers import Transfers
from tests.transfer.stores import Stores


@pytest.fixture
def stores():
    return Stores()


@pytest.fixture
def transfers():
    with Transfers(RetryPolicy(sleep=lambda _: False)) as transfers:
        yield transfers
