"""What the stores of all clouds have in common, over a bucket that does as it is told."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from hashlib import md5, sha256
from typing import TYPE_CHECKING, Any

import pytest

from htcjob import errors
from htcjob.retry import RetryPolicy
from htcjob.storage import cloud, multipart
from htcjob.storage.access import Access, CloudCredentials
from htcjob.storage.bucket import SHA256_METADATA, Body, Bucket
from htcjob.storage.cloud import CloudStore
from htcjob.storage.contract import ObjectInfo
from tests.storage.contract import files_below, files_limited_to, keys_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
PART_BYTES = 1 << 17


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cloud, multipart):
        monkeypatch.setattr(module, "PART_BYTES", PART_BYTES)


class SdkError(Exception):
    """What the scripted SDK raises; its argument is the class of ours that it means, None for a bug."""


class ScriptedBucket(Bucket):
    """A bucket in memory whose requests can be made to fail."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.checksum: str | None = None
        self.script: Callable[..., object] = lambda *_: None
        """Called with the verb, its arguments, before anything is done; may raise."""
        self.pieces: Callable[[int, bytes], Iterator[bytes]] = lambda _, data: iter([data])
        """Makes the pieces of a body of its start and its bytes."""
        self.requests: list[tuple[Any, ...]] = []
        self.closed = 0
        self.renewed = 0
        self.metadata: Mapping[str, str] = {}

    def _begin(self, *request: Any) -> None:
        self.requests.append(request)
        self.script(*request)

    def _info(self, name: str) -> ObjectInfo:
        if name not in self.objects:
            raise SdkError(errors.AbsentError)
        data = self.objects[name]
        return ObjectInfo(name, len(data), md5(data).hexdigest(), NOW, self.checksum)

    def get(self, name: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Body:
        self._begin("get", name, start, stop)
        info = self._info(name)
        if etag not in (None, info.etag):
            raise SdkError(errors.TransientError)
        if start and start >= info.size_bytes:
            raise SdkError(errors.PermanentError)
        end = info.size_bytes if stop is None else min(stop, info.size_bytes)
        pieces = self.pieces(start, self.objects[name][start:end])
        return Body(info, start, end, pieces, self._close)

    def _close(self) -> None:
        self.closed += 1

    def put(self, name: str, data: bytes, *, if_absent: bool, metadata: Mapping[str, str]) -> str | None:
        self._begin("put", name)
        if if_absent and name in self.objects:
            return None
        self.objects[name], self.metadata = data, metadata
        return "etag"

    def upload(self, name: str, path: str, size_bytes: int, *, metadata: Mapping[str, str]) -> str:
        self._begin("upload", name)
        with open(path, "rb") as file:
            self.objects[name], self.metadata = file.read(), metadata
        return "etag"

    def list(self, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        self._begin("list", prefix, start_after)
        for name in sorted(self.objects):
            if name.startswith(prefix) and (start_after is None or name > start_after):
                self.script("entry", name)
                yield self._info(name)

    def head(self, name: str) -> ObjectInfo:
        self._begin("head", name)
        return self._info(name)

    def delete(self, name: str) -> None:
        self._begin("delete", name)
        if self.objects.pop(name, None) is None:
            raise SdkError(errors.AbsentError)

    def error(self, operation: str, url: str, error: Exception) -> errors.StorageError | None:
        if not isinstance(error, SdkError) or error.args[0] is None:
            return None
        return error.args[0](operation, url, "scripted")

    def credentials_renewed(self) -> None:
        self.renewed += 1


class ScriptedSource:
    """Vends numbered credentials."""

    def __init__(self, *, expires_at: float | None = None, others: int = 100) -> None:
        self._expires_at = expires_at
        self._others = others
        self._lock = threading.Lock()
        self.now = self._next()
        self.refusals = 0

    def _next(self) -> CloudCredentials:
        return CloudCredentials("AWS", {}, self._expires_at)

    def current(self) -> CloudCredentials:
        return self.now

    def refused(self, credentials: CloudCredentials) -> bool:
        with self._lock:
            self.refusals += 1
            if credentials is self.now:
                if not self._others:
                    return False
                self._others -= 1
                self.now = self._next()
            return True


@pytest.fixture
def bucket() -> ScriptedBucket:
    return ScriptedBucket()


@pytest.fixture
def store(bucket: ScriptedBucket) -> CloudStore:
    return _store(bucket)


def _store(bucket: ScriptedBucket, source: ScriptedSource | None = None, prefix: str = "") -> CloudStore:
    retry = RetryPolicy(retries=3, first_wait_s=0, longest_wait_s=0)
    return CloudStore("s3://bucket", bucket, prefix, Access(credentials=source, retry=retry, environ={}))


def _failing(
    times: int, error: type[errors.StorageError] | None, verb: str | None = None
) -> Callable[..., None]:
    """Return a script that fails so often."""
    left = [times]
    lock = threading.Lock()

    def script(*request: Any) -> None:
        with lock:
            if request[0] != "entry" and verb in (None, request[0]) and left[0]:
                left[0] -= 1
                raise SdkError(error)

    return script


def _verbs(store: CloudStore, folder: Path) -> dict[str, Callable[[], object]]:
    (folder / "in").write_bytes(b"content")
    return {
        "get": lambda: store.get("a", str(folder / "out")),
        "read_range": lambda: store.read_range("a", 1, 3),
        "put": lambda: store.put(str(folder / "in"), "a"),
        "put_bytes": lambda: store.put_bytes(b"x", "a"),
        "list": lambda: keys_in(store),
        "head": lambda: store.head("a"),
        "delete": lambda: store.delete("a"),
    }


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [errors.TransientError, errors.DeniedError, errors.UnauthenticatedError, errors.PermanentError],
    )
    def test_meaning(
        self, bucket: ScriptedBucket, store: CloudStore, tmp_path: Path, error: type[errors.StorageError]
    ) -> None:
        """The SDK's error is ours with the verb and the object, after one request, caused by the SDK's."""
        for verb, call in _verbs(store, tmp_path).items():
            bucket.objects["a"] = b"content"
            bucket.requests.clear()
            bucket.script = _failing(100, error)
            with pytest.raises(error) as raised:
                call()
            assert (raised.value.operation, len(bucket.requests)) == (verb, 1)
            assert raised.value.url.startswith("s3://bucket/")
            assert isinstance(raised.value.__cause__, SdkError)

    def test_bugs_stay_what_they_are(self, bucket: ScriptedBucket, store: CloudStore, tmp_path: Path) -> None:
        """What is no error of the SDK is raised as it is."""
        bucket.objects["a"] = b"content"
        for call in _verbs(store, tmp_path).values():
            bucket.script = _failing(1, None)
            with pytest.raises(SdkError):
                call()

    def test_range_at_the_end(self, bucket: ScriptedBucket, store: CloudStore) -> None:
        """The empty range at the end is no error, although storage refuses it; one behind the end is."""
        bucket.objects["a"] = b"0123"
        assert store.read_range("a", 4) == b""
        assert store.read_range("a", 4, 4) == b""
        for start in (5, 6):
            with pytest.raises(errors.PermanentError):
                store.read_range("a", start)


class TestCredentials:
    def test_renewed_once(self, bucket: ScriptedBucket, tmp_path: Path) -> None:
        """A refused request is made once more with new credentials, in every verb."""
        source = ScriptedSource()
        for verb, call in _verbs(_store(bucket, source), tmp_path).items():
            bucket.objects["a"] = b"content"
            bucket.script = _failing(1, errors.UnauthenticatedError)
            before = bucket.renewed
            call()
            assert bucket.renewed == before + 1, verb

    def test_renewed_credentials_are_refused_too(self, bucket: ScriptedBucket, tmp_path: Path) -> None:
        """When new credentials do not help either, that is said after the second request."""
        source = ScriptedSource()
        bucket.objects["a"] = b"content"
        for verb, call in _verbs(_store(bucket, source), tmp_path).items():
            bucket.requests.clear()
            bucket.script = _failing(100, errors.UnauthenticatedError)
            with pytest.raises(errors.UnauthenticatedError) as raised:
                call()
            assert (raised.value.operation, len(bucket.requests)) == (verb, 2)

    def test_no_others_to_be_had(self, bucket: ScriptedBucket, tmp_path: Path) -> None:
        """Where the source has no other credentials the request is not made again."""
        bucket.objects["a"] = b"content"
        for call in _verbs(_store(bucket, ScriptedSource(others=0)), tmp_path).values():
            bucket.requests.clear()
            bucket.script = _failing(100, errors.UnauthenticatedError)
            with pytest.raises(errors.UnauthenticatedError):
                call()
            assert len(bucket.requests) == 1
        assert bucket.renewed == 0

    @pytest.mark.parametrize(("lives_s", "is_renewed"), [(-1, True), (1, True), (60, False), (None, False)])
    def test_denied_near_the_end(
        self, bucket: ScriptedBucket, tmp_path: Path, lives_s: float | None, is_renewed: bool
    ) -> None:
        """Denied means expired when the credentials' life is over, as some stores say it so; else denied."""
        expires_at = None if lives_s is None else time.time() + lives_s
        bucket.objects["a"] = b"content"
        store = _store(bucket, ScriptedSource(expires_at=expires_at))
        for call in _verbs(store, tmp_path).values():
            bucket.objects["a"] = b"content"
            bucket.script = _failing(1, errors.DeniedError)
            if is_renewed:
                call()
            else:
                with pytest.raises(errors.DeniedError):
                    call()

    def test_listing_goes_on(self, bucket: ScriptedBucket) -> None:
        """A listing whose credentials end goes on behind the last key, as often as they end."""
        keys = [f"p/{number:02}" for number in range(30)]
        bucket.objects = dict.fromkeys(keys, b"")
        ends = {"p/10", "p/20"}

        def script(verb: str, *request: Any) -> None:
            if verb == "entry" and request[0] in ends:
                ends.remove(request[0])
                raise SdkError(errors.UnauthenticatedError)

        bucket.script = script
        assert keys_in(_store(bucket, ScriptedSource(), "p/")) == [key[2:] for key in keys]
        assert bucket.requests == [("list", "p/", None), ("list", "p/", "p/09"), ("list", "p/", "p/19")]

    def test_listing_gives_up(self, bucket: ScriptedBucket) -> None:
        """A listing that new credentials bring no further ends with the refusal."""
        bucket.objects = dict.fromkeys("abc", b"")

        def script(verb: str, *request: Any) -> None:
            if verb == "entry" and request[0] == "b":
                raise SdkError(errors.UnauthenticatedError)

        bucket.script = script
        seen = []
        with pytest.raises(errors.UnauthenticatedError):
            seen.extend(info.key for info in _store(bucket, ScriptedSource()).list())
        assert (seen, len(bucket.requests)) == (["a"], 2)

    def test_abandoned_listing(self, bucket: ScriptedBucket) -> None:
        """A listing may be left in the middle."""
        bucket.objects = dict.fromkeys("abc", b"")
        listing = _store(bucket, ScriptedSource()).list()
        assert next(listing).key == "a"
        listing.close()


class TestContent:
    def test_digest_is_kept(self, bucket: ScriptedBucket, store: CloudStore, tmp_path: Path) -> None:
        """The digest of a put goes into the metadata, in one request and in parts."""
        for size_bytes in (10, PART_BYTES + 1):
            (tmp_path / "in").write_bytes(b"x" * size_bytes)
            info = store.put(str(tmp_path / "in"), "a", sha256="ab")
            assert bucket.metadata == {SHA256_METADATA: "ab"}
            assert (info.checksum, info.etag, info.key) == ("sha256:ab", "etag", "a")
            store.put(str(tmp_path / "in"), "a")
            assert bucket.metadata == {}

    @pytest.mark.parametrize("size_bytes", [1000, 3 * PART_BYTES])
    def test_checksums(
        self, bucket: ScriptedBucket, store: CloudStore, tmp_path: Path, size_bytes: int
    ) -> None:
        """What is not as its checksum says is transient and leaves nothing; unknown checksums are ignored."""
        data = bucket.objects["a"] = bytes(range(250)) * (size_bytes // 250)
        good = (f"sha256:{sha256(data).hexdigest()}", f"md5:{md5(data).hexdigest()}", "crc99:00", None)
        for bucket.checksum in good:
            store.get("a", str(tmp_path / "good"))
            assert (tmp_path / "good").read_bytes() == data
        for bucket.checksum in ("sha256:00", "md5:00"):
            with pytest.raises(errors.TransientError, match="checksum"):
                store.get("a", str(tmp_path / "out" / "bad"))
            assert files_below(tmp_path / "out") == {}

    @pytest.mark.parametrize("n_bytes", [-1, 1])
    def test_wrong_length(
        self, bucket: ScriptedBucket, store: CloudStore, tmp_path: Path, n_bytes: int
    ) -> None:
        """An answer that is shorter, or longer, than it said is transient and leaves nothing."""
        bucket.objects["a"] = b"x" * 1000
        bucket.pieces = lambda _, data: iter([b"x" * (len(data) + n_bytes)])
        with pytest.raises(errors.TransientError, match=f"{1000 + n_bytes} of 1000"):
            store.get("a", str(tmp_path / "out"))
        for start, stop in ((0, None), (10, 20)):
            with pytest.raises(errors.TransientError):
                store.read_range("a", start, stop)
        assert files_below(tmp_path) == {}
        assert bucket.closed == 3

    def test_file_that_grows_while_it_is_put(
        self, bucket: ScriptedBucket, store: CloudStore, tmp_path: Path
    ) -> None:
        """A file that changes while its parts are read is a transient error that names it."""
        (tmp_path / "in").write_bytes(b"x" * (PART_BYTES + 1))

        def script(*_: Any) -> None:
            with (tmp_path / "in").open("ab") as file:
                file.write(b"more")

        bucket.script = script
        with pytest.raises(errors.TransientError, match="in changed"):
            store.put(str(tmp_path / "in"), "a")


class TestParts:
    N = 5
    SIZE = 4 * PART_BYTES + 17

    @pytest.fixture
    def data(self, bucket: ScriptedBucket) -> bytes:
        bucket.objects["a"] = b"".join(bytes([n]) * PART_BYTES for n in range(self.N))[: self.SIZE]
        return bucket.objects["a"]

    def _starts(self, bucket: ScriptedBucket) -> list[int]:
        return sorted(request[2] // PART_BYTES for request in bucket.requests)

    def test_one_request_each(
        self, bucket: ScriptedBucket, store: CloudStore, data: bytes, tmp_path: Path
    ) -> None:
        """Each part is one request, the first one is the object's own; all are closed."""
        info = store.get("a", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == data
        assert (info.key, info.size_bytes) == ("a", self.SIZE)
        assert self._starts(bucket) == [0, 1, 2, 3, 4]
        assert bucket.requests[0] == ("get", "a", 0, None)
        assert bucket.closed >= self.N

    @pytest.mark.parametrize("part", range(N))
    def test_tried_again_by_itself(
        self, bucket: ScriptedBucket, store: CloudStore, data: bytes, tmp_path: Path, part: int
    ) -> None:
        """A part that is cut short twice is asked for three times; the others once."""
        left = [2]

        def pieces(start: int, content: bytes) -> Iterator[bytes]:
            if start // PART_BYTES == part and left[0]:
                left[0] -= 1
                yield content[:10]
                raise SdkError(errors.TransientError)
            for at in range(0, len(content), 1 << 14):
                yield content[at : at + (1 << 14)]

        bucket.pieces = pieces
        store.get("a", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == data
        assert self._starts(bucket) == sorted([0, 1, 2, 3, 4, part, part])

    def test_too_short_without_an_error(
        self, bucket: ScriptedBucket, store: CloudStore, data: bytes, tmp_path: Path
    ) -> None:
        """A part that ends early, silently, is never taken for whole."""
        bucket.pieces = lambda start, content: iter([content[:-1] if start else content])
        with pytest.raises(errors.TransientError, match="ended after"):
            store.get("a", str(tmp_path / "out"))
        assert files_below(tmp_path) == {}

    def test_replaced_between_parts(
        self, bucket: ScriptedBucket, store: CloudStore, data: bytes, tmp_path: Path
    ) -> None:
        """An object that is replaced while it arrives is transient; no mixture of both gets the name."""

        def script(_: str, __: str, start: int, ___: object) -> None:
            if start:
                bucket.objects["a"] = b"y" * self.SIZE

        bucket.script = script
        with pytest.raises(errors.TransientError):
            store.get("a", str(tmp_path / "out"))
        assert files_below(tmp_path) == {}
        store.get("a", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == b"y" * self.SIZE

    def test_credentials_end_between_parts(self, bucket: ScriptedBucket, data: bytes, tmp_path: Path) -> None:
        """Credentials that end while parts arrive are renewed for all of them together."""
        source = ScriptedSource()
        first = source.now

        def script(_: str, __: str, start: int, ___: object) -> None:
            if start and source.now is first:
                raise SdkError(errors.UnauthenticatedError)

        bucket.script = script
        _store(bucket, source).get("a", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == data
        assert source.now is not first

    def test_nobody_writes_after_a_failure(
        self, bucket: ScriptedBucket, store: CloudStore, data: bytes, tmp_path: Path
    ) -> None:
        """When one part fails for good the others stop, and no thread writes once the call has ended."""
        is_ended, late = threading.Event(), []
        has_failed = threading.Event()

        def pieces(start: int, content: bytes) -> Iterator[bytes]:
            if start // PART_BYTES == 1:
                has_failed.set()
                raise SdkError(errors.PermanentError)
            for at in range(0, len(content), 1 << 12):
                has_failed.wait()
                if is_ended.is_set():
                    late.append(start)
                yield content[at : at + (1 << 12)]

        bucket.pieces = pieces
        with pytest.raises(errors.PermanentError):
            store.get("a", str(tmp_path / "out"))
        is_ended.set()
        assert late == []
        assert files_below(tmp_path) == {}

    def test_full_disk(self, bucket: ScriptedBucket, store: CloudStore, data: bytes, tmp_path: Path) -> None:
        """Parts that find no room are a permanent error that names the file; nothing is left."""
        with files_limited_to(2 * PART_BYTES), pytest.raises(errors.PermanentError, match="out"):
            store.get("a", str(tmp_path / "out"))
        assert files_below(tmp_path) == {}

    def test_many_large_objects_at_once(
        self, bucket: ScriptedBucket, store: CloudStore, data: bytes, tmp_path: Path
    ) -> None:
        """More large objects than there are threads for parts all arrive."""
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda number: store.get("a", str(tmp_path / f"{number}")), range(12)))
        for number in range(12):
            assert (tmp_path / f"{number}").read_bytes() == data
