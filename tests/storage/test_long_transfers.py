"""Large objects whose transfer takes longer than the credentials live, on a real server with real tokens."""

from __future__ import annotations

import os
import time

import pytest

from htcjob.logs.redact import Secret
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access, CloudCredentials
from htcjob.storage.bucket import PART_BYTES
from htcjob.storage.urls import open_store
from tests.support.wire.wire import FaultProxy

LIFE_S = 10
"""Shorter than an upload of four round trips: its beginning, two of parts, its end."""
AHEAD_S = 5
"""What a token has left when it is used last: a request is on its way for half a round trip, and longer on a busy machine."""
ROUND_TRIP_S = 3.0
"""So that the first parts come with one token, and the last ones when it is no longer valid."""
SIZE_BYTES = 12 * PART_BYTES + 1
"""Parts go 8 at once: 12 of them take at least two round trips."""


class Source:
    """Vends real session tokens of the server, each for a few seconds."""

    def __init__(self, rgw, bucket: str) -> None:
        self.fetches = 0
        self._rgw = rgw
        self._bucket = bucket
        self._current: CloudCredentials | None = None

    def current(self) -> CloudCredentials:
        if self._current is None or time.time() > (self._current.expires_at or 0) - AHEAD_S:
            self.refused(self._current)
        assert self._current is not None
        return self._current

    def refused(self, credentials: CloudCredentials | None) -> bool:
        if credentials is self._current:
            given = self._rgw.assume_role(bucket=self._bucket, seconds=LIFE_S)
            expires_at = given.pop("expires_at")
            values = {name: Secret(value) for name, value in given.items()}
            self._current = CloudCredentials("AWS", values, expires_at)
            self.fetches += 1
        return True


@pytest.mark.long
@pytest.mark.parametrize("engine", ["fast", "sdk"])
def test_a_large_object_outlives_the_credentials(rgw, tmp_path, engine):
    """Up and down, in parts, while the token that it began with ends: whole, and the same bytes."""
    bucket = rgw.new_bucket()
    source = Source(rgw, bucket)
    data = os.urandom(SIZE_BYTES)
    (tmp_path / "in").write_bytes(data)
    with FaultProxy("127.0.0.1", int(rgw.endpoint.rpartition(":")[2]), round_trip_s=ROUND_TRIP_S) as line:
        access = Access(
            engine=engine,
            credentials=source,
            endpoint=line.url,
            region=rgw.region,
            retry=RetryPolicy(first_wait_s=0.05),
            environ={},
        )
        store = open_store(f"s3://{bucket}/x", access)
        store.put(str(tmp_path / "in"), "large", sha256=None)
        after_put = source.fetches
        store.get("large", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == data
    assert after_put >= 2, "one token was enough: this test shows nothing"
    assert source.fetches > after_put
