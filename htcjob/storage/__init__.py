"""Where objects are: the `Store` contract and one module per kind of storage."""

from htcjob.storage.contract import ObjectInfo, Store

__all__ = ["ObjectInfo", "Store"]
