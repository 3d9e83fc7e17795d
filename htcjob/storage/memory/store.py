"""A store in memory, for tests: keeps every promise of the contract, and fails when told to."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from htcjob.errors import AbsentError, ConfigurationError, PermanentError
from htcjob.storage.contract import ObjectInfo, Store
from htcjob.storage.keys import check_key
from htcjob.storage.local.errors import Blame
from htcjob.storage.local.files import NewFile, open_regular, read_all
from htcjob.storage.memory.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from htcjob.storage.memory.faults import Fault

_PAGE_KEYS = 1000


@dataclass(frozen=True)
class _Object:
    data: bytes
    info: ObjectInfo


class MemoryStore(Store):
    """
    Objects in this process; gone when it ends.

    Args:
        name: Shown in messages. Two stores made with one name are two stores; `named` gives the same one.
    """

    def __init__(self, name: str) -> None:
        self.url = f"memory:{name}/"
        self.faults = Faults()
        self._lock = threading.Lock()
        self._objects: dict[bytes, _Object] = {}
        self._keys: list[bytes] = []
        """The keys, in order."""
        self._writes = 0

    @classmethod
    def named(cls, name: str) -> MemoryStore:
        """Return this process's store *name*, as the URL `memory:name` does; made when first asked for."""
        if not name or "/" in name:
            raise ConfigurationError(f"memory:{name}: expected memory: and a name without '/'")
        with _named_lock:
            return _named.setdefault(name, cls(name))

    def get(self, key: str, path: str) -> ObjectInfo:
        """Copy the object to the file *path*, whole or not at all."""
        fault = self._begin("get", key)
        found = self._find("get", key)
        with NewFile(path, Blame("get", self.url_of(key), file=path)) as new:
            if fault is not None and fault.cut is not None:
                new.write(found.data[: fault.cut])
                reason = f"ended after {fault.cut} of {found.info.size_bytes} bytes"
                raise fault.error("get", self.url_of(key), reason)
            new.write(found.data)
            new.complete(found.info.size_bytes)
            new.take_name_of_copy()
        self._end("get", key, fault)
        return found.info

    def read_range(self, key: str, start: int, stop: int | None = None) -> bytes:
        """Return the bytes from *start* up to, not including, *stop*."""
        fault = self._begin("read_range", key)
        found = self._find("read_range", key)
        end = found.info.size_bytes if stop is None else stop
        if not 0 <= start <= end <= found.info.size_bytes:
            reason = f"no bytes {start} to {end}, it has {found.info.size_bytes}"
            raise PermanentError("read_range", self.url_of(key), reason)
        self._end("read_range", key, fault)
        return found.data[start:end]

    def read_part(self, key: str, start: int, stop: int) -> tuple[bytes, ObjectInfo]:
        """Return the bytes from *start* up to *stop* or the end, and the facts about the object."""
        fault = self._begin("read_range", key)
        found = self._find("read_range", key)
        if not 0 <= start < min(stop, found.info.size_bytes):
            reason = f"no bytes {start} to {stop}, it has {found.info.size_bytes}"
            raise PermanentError("read_range", self.url_of(key), reason)
        self._end("read_range", key, fault)
        return found.data[start:stop], found.info

    def put(self, path: str, key: str, *, sha256: str | None = None) -> ObjectInfo:
        """Copy the file *path* to *key*, atomically."""
        fault = self._begin("put", key)
        reading = Blame("put", self.url_of(key), file=path)
        with open_regular(path, reading, follow_link=True) as (descriptor, status):
            data = read_all(descriptor, status, reading)
        info, _ = self._store(key, data)
        self._end("put", key, fault)
        return info

    def put_bytes(self, data: bytes, key: str, *, if_absent: bool = False) -> bool:
        """Write *data* as the object *key*, atomically; True when it was written."""
        fault = self._begin("put_bytes", key)
        _, is_written = self._store(key, bytes(data), if_absent=if_absent)
        self._end("put_bytes", key, fault)
        return is_written

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with *prefix*, in order, a page at a time."""
        fault = self._begin("list", prefix, is_key=False)
        beginning = prefix.encode("utf-8", "surrogatepass")
        after = (start_after or "").encode("utf-8", "surrogatepass")
        given = 0
        while page := self._page(beginning, after):
            for info in page:
                if fault is not None and given == fault.cut:
                    raise fault.error("list", self.url_of(prefix), f"ended after {given} entries")
                yield info
                given += 1
            after = page[-1].key.encode()
        self._end("list", prefix, fault)

    def head(self, key: str) -> ObjectInfo:
        """Return the object's size, ETag and time of change."""
        fault = self._begin("head", key)
        found = self._find("head", key)
        self._end("head", key, fault)
        return found.info

    def delete(self, key: str) -> None:
        """Remove the object."""
        fault = self._begin("delete", key)
        with self._lock:
            if self._objects.pop(key.encode(), None) is not None:
                del self._keys[bisect_left(self._keys, key.encode())]
        self._end("delete", key, fault)

    def _begin(self, verb: str, key: str, *, is_key: bool = True) -> Fault | None:
        if is_key:
            check_key(key)
        fault = self.faults.due(verb, key)
        if fault is not None and fault.cut is None and not fault.is_late:
            raise fault.error(verb, self.url_of(key), "planned fault")
        return fault

    def _end(self, verb: str, key: str, fault: Fault | None) -> None:
        if fault is not None:
            raise fault.error(verb, self.url_of(key), "planned fault, the answer was lost")

    def _find(self, verb: str, key: str) -> _Object:
        with self._lock:
            found = self._objects.get(key.encode())
        if found is None:
            raise AbsentError(verb, self.url_of(key), "no such object")
        return found

    def _store(self, key: str, data: bytes, *, if_absent: bool = False) -> tuple[ObjectInfo, bool]:
        """Return what is there now, and whether *data* was written."""
        encoded = key.encode()
        with self._lock:
            found = self._objects.get(encoded)
            if found is None:
                insort(self._keys, encoded)
            elif if_absent:
                return found.info, False
            self._writes += 1
            now = datetime.now(timezone.utc)
            info = ObjectInfo(key, len(data), etag=f"{self._writes}", last_modified=now)
            self._objects[encoded] = _Object(data, info)
        return info, True

    def _page(self, beginning: bytes, after: bytes) -> _Page:
        """Return the next keys that start with *beginning* and come after *after*."""
        with self._lock:
            start = max(bisect_left(self._keys, beginning), bisect_right(self._keys, after))
            page = self._keys[start : start + _PAGE_KEYS]
            return [self._objects[key].info for key in page if key.startswith(beginning)]


_Page = list[ObjectInfo]  # inside the class, `list` is the verb

_named: dict[str, MemoryStore] = {}
_named_lock = threading.Lock()
