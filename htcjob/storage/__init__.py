"""Where objects are: the `Store` contract and one package per kind of storage."""

from htcjob.storage.contract import ObjectInfo, Store

__all__ = ["ObjectInfo", "Store"]
