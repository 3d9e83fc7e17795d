"""The clouds' own SDKs: which of them is installed, and the bucket over one."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from htcjob.storage.access import Access
    from htcjob.storage.bucket import Bucket

_SDK = {
    "s3": ("s3", "botocore"),
    "gs": ("gcs", "google.cloud.storage"),
    "az": ("azure", "azure.storage.blob"),
}
"""By scheme: our module, which is also the extra that installs what it needs, and what it imports."""


def open_sdk_bucket(scheme: str, container: str, access: Access) -> Bucket:
    """Return the bucket over the cloud's own SDK, which is installed."""
    from htcjob.storage.watch import install  # with urllib3, which every SDK has

    install()
    return cast(
        "Bucket", import_module(f"htcjob.storage.{_SDK[scheme][0]}.bucket").open_bucket(container, access)
    )


def sdk_is_installed(scheme: str) -> bool:
    """Whether the cloud's own SDK is installed."""
    return is_installed(_SDK[scheme][1])


def extra_of(scheme: str) -> str:
    """Return the name of the extra that installs the cloud's own SDK."""
    return _SDK[scheme][0]


def how_to_install(extra: str) -> str:
    """Return how *extra* is installed: from a clone, because no package index has htcjob."""
    stores = "fast" if extra == "fast" else "all"
    return f"in a clone of htcjob, pip install '.[{extra}]' or, for an image, make image STORES={stores}"


def is_installed(package: str) -> bool:
    """Whether *package* can be imported."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # a parent of it is missing
        return False
