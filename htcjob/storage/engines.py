"""Which module serves a bucket or container: the fast lane, or the cloud's own SDK."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

from htcjob.errors import ConfigurationError
from htcjob.storage import sdks
from htcjob.storage.variables import check_variables

if TYPE_CHECKING:
    from htcjob.storage.access import Access
    from htcjob.storage.bucket import Bucket

ENGINES = ("auto", "fast", "sdk")

_opening = threading.Lock()
"""Guards the buckets of every `Access`."""


def open_bucket(scheme: str, container: str, access: Access) -> Bucket:
    """
    Return the bucket, or what the cloud calls it, opened once per *access*.

    Args:
        scheme: `s3`, `gs` or `az`.
        container: Name of the bucket; for Azure `account/container`.
        access: How it is reached.

    Raises:
        ConfigurationError: the engine that is asked for is not installed.
    """
    with _opening:
        bucket = cast("Bucket | None", access.buckets.get((scheme, container)))
        if bucket is None:
            bucket = access.buckets[scheme, container] = _open(scheme, container, access)
    return bucket


def _open(scheme: str, container: str, access: Access) -> Bucket:
    engine = access.engine
    if engine not in ENGINES:
        raise ConfigurationError(
            f"HTCJOB_STORAGE_ENGINE holds {engine!r}: expected one of {', '.join(ENGINES)}"
        )
    check_variables(scheme, access.environ, are_vended=access.credentials is not None)
    extra = sdks.extra_of(scheme)
    if engine != "sdk" and sdks.is_installed("obstore"):
        from htcjob.storage.fast.choice import why_not

        reason = why_not(scheme, container, access)
        if not reason:
            from htcjob.storage.fast.bucket import FastBucket

            return FastBucket(scheme, container, access)
        if not sdks.sdk_is_installed(scheme):
            raise ConfigurationError(f"{scheme}:// {reason}: {sdks.how_to_install(extra)}")
    elif engine == "fast":
        raise ConfigurationError(f"HTCJOB_STORAGE_ENGINE=fast needs an extra: {sdks.how_to_install('fast')}")
    if not sdks.sdk_is_installed(scheme):
        cure = sdks.how_to_install(extra)
        if engine != "sdk":
            cure = f"{sdks.how_to_install('fast')} ('.[{extra}]' is the cloud's own SDK)"
        raise ConfigurationError(f"{scheme}:// needs an extra: {cure}")
    return sdks.open_sdk_bucket(scheme, container, access)
