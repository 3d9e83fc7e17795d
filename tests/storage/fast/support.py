"""Helpers of the tests of the fast lane."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from htcjob.errors import StorageError
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access
from htcjob.storage.urls import open_store
from tests.support.wire.wire import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from htcjob.storage.contract import Store
    from tests.support.servers.rgw import Rgw


MB = 1_000_000
QUICK = RetryPolicy(retries=4, total_s=20, first_wait_s=0.01, longest_wait_s=0.05)


def proxy_before(endpoint: str) -> FaultProxy:
    parts = urlsplit(endpoint)
    return FaultProxy(parts.hostname, parts.port)


def store_behind(proxy: FaultProxy, rgw: Rgw, environ) -> Store:
    variables = environ({**rgw.environ(), "AWS_ENDPOINT_URL_S3": proxy.url})
    return open_store(f"s3://{rgw.new_bucket()}", Access(engine="fast", environ=variables, retry=QUICK))


def error_of(call: Callable[[], object]) -> BaseException:
    with pytest.raises(StorageError) as raised:
        call()
    return raised.value


def sleep_until(moment: float) -> None:
    """Wait for the clock, which decides when a token expires."""
    while (left := moment - time.time()) > 0:
        time.sleep(left)
