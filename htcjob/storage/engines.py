"""Which module serves a bucket or container: the fast lane, or the cloud's own SDK."""

from __future__ import annotations

import threading
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from htcjob.errors import ConfigurationError
from htcjob.storage.variables import check_variables

if TYPE_CHECKING:
    from htcjob.storage.access import Access
    from htcjob.storage.cloud import Bucket

ENGINES = ("auto", "fast", "sdk")

_SDK = {
    "s3": ("s3", "botocore"),
    "gs": ("gcs", "google.cloud.storage"),
    "az": ("azure", "azure.storage.blob"),
}
"""By scheme: our module, which is also the extra that installs what it needs, and what it imports."""
_lock = threading.Lock()


def open_bucket(scheme: str, container: str, access: Access) -> Bucket:
    """
    Give the bucket, or what the cloud calls it, opened once per *access*.

    Args:
        scheme: `s3`, `gs` or `az`.
        container: Name of the bucket; for Azure `account/container`.
        access: How it is reached.

    Raises:
        ConfigurationError: the engine that is asked for is not installed.
    """
    with _lock:
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
    module, package = _SDK[scheme]
    if engine != "sdk" and _is_installed("obstore"):
        fast = import_module("htcjob.storage.fast.bucket")
        why_not = fast.why_not(scheme, container, access)
        if not why_not:
            return cast("Bucket", fast.open_bucket(scheme, container, access))
        if not _is_installed(package):
            raise ConfigurationError(f"{scheme}:// {why_not}: pip install 'htcjob[{module}]'")
    elif engine == "fast":
        raise ConfigurationError("HTCJOB_STORAGE_ENGINE=fast needs an extra: pip install 'htcjob[fast]'")
    if not _is_installed(package):
        raise ConfigurationError(
            f"{scheme}:// needs an extra: pip install 'htcjob[fast]' (or 'htcjob[{module}]', the cloud's SDK)"
        )
    return open_sdk_bucket(scheme, container, access)


def open_sdk_bucket(scheme: str, container: str, access: Access) -> Bucket:
    """Give the bucket over the cloud's own SDK, which is installed."""
    from htcjob.storage.watch import install  # with urllib3, which every SDK has

    install()
    return cast(
        "Bucket", import_module(f"htcjob.storage.{_SDK[scheme][0]}.bucket").open_bucket(container, access)
    )


def sdk_is_installed(scheme: str) -> bool:
    """Tell whether the cloud's own SDK is there."""
    return _is_installed(_SDK[scheme][1])


def extra_of(scheme: str) -> str:
    """Give the name of the extra that installs the cloud's own SDK."""
    return _SDK[scheme][0]


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # a parent of it is missing
        return False
