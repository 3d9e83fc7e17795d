"""S3 over the SDK keeps the contract on Ceph RGW, and its own promises."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError

from htcjob import errors
from htcjob.logs.redact import Secret
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access, CloudCredentials
from htcjob.storage.s3.bucket import S3Bucket
from htcjob.storage.urls import open_store
from tests.storage.contract import StoreContract, files_below, keys_in
from tests.support.wire.wire import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from htcjob.storage.contract import Store
    from tests.support.servers.rgw import Rgw
    from tests.support.servers.tls import TlsFront

QUICK_RETRIES = RetryPolicy(retries=20, first_wait_s=0.05, longest_wait_s=0.5)
NO_RETRIES = RetryPolicy(retries=0)
ANSWERS = (
    (400, "ExpiredToken", errors.UnauthenticatedError, "ExpiredToken"),
    (400, "InvalidToken", errors.UnauthenticatedError, "InvalidToken"),
    (403, "InvalidAccessKeyId", errors.UnauthenticatedError, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch", errors.UnauthenticatedError, "SignatureDoesNotMatch"),
    (403, "RequestTimeTooSkewed", errors.TransientError, "RequestTimeTooSkewed"),
    (403, "InvalidObjectState", errors.PermanentError, "InvalidObjectState"),
    (403, "AccessDenied", errors.DeniedError, "access denied, or absent and the token may not list"),
    (404, "NoSuchKey", errors.AbsentError, "no such object"),
    (404, "NoSuchBucket", errors.AbsentError, "there is no bucket bucket-"),
    (400, "RequestTimeout", errors.TransientError, "RequestTimeout"),
    (400, "SomethingNew", errors.PermanentError, "SomethingNew: planned"),
    (409, "OperationAborted", errors.TransientError, "OperationAborted"),
    (429, "SomethingNew", errors.TransientError, "SomethingNew"),
    (501, "NotImplemented", errors.PermanentError, "NotImplemented"),
    (502, "SomethingNew", errors.TransientError, "SomethingNew"),
    (301, "MovedPermanently", errors.PermanentError, "http or https"),
    (400, "IllegalLocationConstraintException", errors.PermanentError, "another region or endpoint"),
)
"""Status and code, and what they are understood as."""


class Vended:
    """A source whose credentials last, for ever or until they are refused; counts how many it gave."""

    def __init__(self, *given: dict[str, Any]) -> None:
        self._all = [
            CloudCredentials(
                "AWS",
                {name: Secret(value) for name, value in each.items() if name != "expires_at"},
                each.get("expires_at"),
            )
            for each in given
        ]
        self._lock = threading.Lock()
        self.fetched = 1

    def current(self) -> CloudCredentials:
        with self._lock:
            return self._all[self.fetched - 1]

    def refused(self, credentials: CloudCredentials) -> bool:
        with self._lock:
            if credentials is self._all[self.fetched - 1]:
                if self.fetched == len(self._all):
                    return False
                self.fetched += 1
            return True


def access_to(rgw: Rgw, endpoint: str | None = None, **options: Any) -> Access:
    """Reach the server as the owner of everything."""
    owner = {"AWS_ACCESS_KEY_ID": rgw.access_key, "AWS_SECRET_ACCESS_KEY": rgw.secret_key}
    options = {"credentials": Vended(owner), "environ": {}, "retry": QUICK_RETRIES, **options}
    return Access(engine="sdk", endpoint=endpoint or rgw.endpoint, **options)


class TestS3(StoreContract):
    many = 1_100

    @pytest.fixture
    def new_store(self, rgw: Rgw) -> Callable[[], Store]:
        access = access_to(rgw)
        return lambda: open_store(f"s3://{rgw.new_bucket()}", access)


class TestS3OverTls(StoreContract):
    # Listings are no other over TLS.
    test_list_more_than_a_page = None
    test_list_order = None

    @pytest.fixture
    def new_store(self, rgw: Rgw, rgw_tls: TlsFront, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Store]:
        monkeypatch.setenv("AWS_CA_BUNDLE", rgw_tls.ca_file)
        access = access_to(rgw, rgw_tls.endpoint)
        return lambda: open_store(f"s3://{rgw.new_bucket()}", access)

    def test_large(self, store: Store, work: Path) -> None:
        """An object in parts arrives both ways, although the server takes no checksums behind the body."""
        there_and_back(store, work, 20_000_000)

    def test_server_refuses_appended_checksums(self, rgw: Rgw, rgw_tls: TlsFront) -> None:
        """This set-up shows what the SDK's default would do; without that the other tests say nothing."""
        client = boto3.client(
            "s3",
            endpoint_url=rgw_tls.endpoint,
            region_name=rgw.region,
            aws_access_key_id=rgw.access_key,
            aws_secret_access_key=rgw.secret_key,
            verify=rgw_tls.ca_file,
        )
        with pytest.raises(ClientError):
            client.put_object(Bucket=rgw.new_bucket(), Key="a", Body=b"x" * 100)

    def test_unknown_authority(self, rgw: Rgw, rgw_tls: TlsFront, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that nobody vouches for is a permanent error that names the cure."""
        monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
        store = open_store("s3://b", access_to(rgw, rgw_tls.endpoint))
        with pytest.raises(errors.PermanentError, match="AWS_CA_BUNDLE"):
            store.head("a")


@pytest.fixture(scope="module")
def far(rgw: Rgw) -> Iterator[FaultProxy]:
    """What may go wrong between us and the server."""
    server = urlsplit(rgw.endpoint)
    with FaultProxy(str(server.hostname), server.port) as proxy:
        yield proxy


@pytest.fixture
def proxy(far: FaultProxy) -> FaultProxy:
    """The same, with nothing planned and nothing counted."""
    far.faults.clear()
    far.struck.clear()
    far.requests = 0
    return far


@pytest.fixture(scope="module")
def far_access(rgw: Rgw, far: FaultProxy) -> Access:
    return access_to(rgw, far.url)


@pytest.fixture
def bucket(rgw: Rgw) -> str:
    return rgw.new_bucket()


@pytest.fixture(scope="session")
def owner(rgw: Rgw) -> Any:
    """A client that does as it is told."""
    return rgw.client()


@pytest.fixture
def store(bucket: str, proxy: FaultProxy, far_access: Access) -> Store:
    """A store behind the proxy."""
    return open_store(f"s3://{bucket}", far_access)


@pytest.fixture
def hasty_store(rgw: Rgw, bucket: str, proxy: FaultProxy) -> Store:
    """A store behind the proxy that tries no part again."""
    return open_store(f"s3://{bucket}", access_to(rgw, proxy.url, retry=NO_RETRIES))


def there_and_back(store: Store, work: Path, size_bytes: int) -> None:
    """Put a file and get it again."""
    data = os.urandom(size_bytes)
    (work / "in").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    put = store.put(str(work / "in"), "large", sha256=sha256)
    got = store.get("large", str(work / "out"))
    assert (work / "out").read_bytes() == data
    assert put.etag == got.etag == store.head("large").etag
    assert put.checksum == got.checksum == f"sha256:{sha256}"


def verbs_of(store: Store, work: Path) -> dict[str, Callable[[], object]]:
    (work / "small").write_bytes(b"x")
    return {
        "get": lambda: store.get("a", str(work / "out")),
        "read_range": lambda: store.read_range("a", 1, 3),
        "put": lambda: store.put(str(work / "small"), "b"),
        "put_bytes": lambda: store.put_bytes(b"x", "b"),
        "list": lambda: [*store.list()],
        "head": lambda: store.head("a"),
        "delete": lambda: store.delete("b"),
    }


class TestWire:
    def test_one_request_each(self, store: Store, proxy: FaultProxy, tmp_path: Path) -> None:
        """No verb is tried again by us or by the SDK; an unknown server error is transient."""
        proxy.faults.add("answer", status=500, code="InternalError")
        for number, (name, verb) in enumerate(verbs_of(store, tmp_path).items(), start=1):
            with pytest.raises(errors.TransientError) as raised:
                verb()
            assert raised.value.operation == name
            assert not raised.value.is_throttled
            assert proxy.requests == number

    def test_throttled(self, store: Store, proxy: FaultProxy, tmp_path: Path) -> None:
        """A server that has too much to do is told from others, with the time it asks for."""
        proxy.faults.add("answer", status=503, code="SlowDown", retry_after_s=7)
        for verb in verbs_of(store, tmp_path).values():
            with pytest.raises(errors.TransientError) as raised:
                verb()
            assert raised.value.is_throttled
            assert raised.value.retry_after_s == 7

    @pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer[0]}-{answer[1]}")
    def test_answers(self, store: Store, proxy: FaultProxy, tmp_path: Path, answer: Any) -> None:
        """What S3 answers is understood by its code, and told in one line."""
        status, code, error, text = answer
        proxy.faults.add("answer", status=status, code=code)
        with pytest.raises(error, match=text) as raised:
            store.get("a", str(tmp_path / "out"))
        assert type(raised.value) is error
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        ("status", "code", "error"),
        [
            (400, "ExpiredToken", errors.UnauthenticatedError),
            (400, "KMS.DisabledException", errors.PermanentError),
            (403, "AccessDenied", errors.DeniedError),
            (403, "RequestTimeTooSkewed", errors.TransientError),
            (404, "NoSuchKey", errors.AbsentError),
            (503, "SlowDown", errors.TransientError),
        ],
    )
    def test_answers_without_a_code(
        self, store: Store, proxy: FaultProxy, status: int, code: str, error: type[errors.StorageError]
    ) -> None:
        """The answer to a HEAD, which has a status only, is understood too: a GET is asked for the code."""
        proxy.faults.add("answer", status=status, code=code)
        with pytest.raises(error):
            store.head("a")

    @pytest.mark.parametrize("kind", ["drop", "lose"])
    def test_connection_lost(self, store: Store, proxy: FaultProxy, tmp_path: Path, kind: str) -> None:
        """A connection that breaks is transient for every verb."""
        store.put_bytes(b"0123456789", "a")
        proxy.faults.add(kind)
        for verb in verbs_of(store, tmp_path).values():
            with pytest.raises(errors.TransientError):
                verb()

    def test_refused_connection(self, store: Store, proxy: FaultProxy) -> None:
        """A server that is not there at the moment is transient."""
        with proxy.refusing(), pytest.raises(errors.TransientError, match="Could not connect"):
            store.head("a")

    @pytest.mark.parametrize("kind", ["reset", "truncate"])
    def test_body_that_breaks_off(self, store: Store, proxy: FaultProxy, tmp_path: Path, kind: str) -> None:
        """A body that ends early is transient, and leaves no file."""
        store.put_bytes(os.urandom(100_000), "a")
        proxy.faults.add(kind, method="GET", at=50_000)
        with pytest.raises(errors.TransientError):
            store.get("a", str(tmp_path / "out"))
        with pytest.raises(errors.TransientError):
            store.read_range("a", 10, 90_000)
        assert files_below(tmp_path) == {}

    def test_body_damaged_on_its_way_down(self, store: Store, proxy: FaultProxy, tmp_path: Path) -> None:
        """A byte that changes between the server and us is noticed."""
        store.put_bytes(os.urandom(100_000), "a")
        proxy.faults.add("corrupt", method="GET", at=50_000)
        with pytest.raises(errors.TransientError, match="md5:"):
            store.get("a", str(tmp_path / "out"))
        assert proxy.struck["corrupt"] == 1
        assert files_below(tmp_path) == {}

    def test_body_damaged_on_its_way_up(self, store: Store, proxy: FaultProxy, tmp_path: Path) -> None:
        """A byte that changes between us and the server is noticed there, and nothing is stored."""
        (tmp_path / "in").write_bytes(os.urandom(100_000))
        proxy.faults.add("corrupt_request", method="PUT", at=50_000)
        with pytest.raises(errors.TransientError):
            store.put(str(tmp_path / "in"), "a")
        assert proxy.struck["corrupt_request"] == 1
        assert keys_in(store) == []

    def test_conflicting_conditional_puts(self, store: Store, proxy: FaultProxy) -> None:
        """A conditional put that met another one is to be repeated; it is neither written nor refused."""
        proxy.faults.add("answer", status=409, code="ConditionalRequestConflict", times=1)
        with pytest.raises(errors.TransientError):
            store.put_bytes(b"x", "a", if_absent=True)
        assert store.put_bytes(b"x", "a", if_absent=True) is True

    def test_buckets_share_connections(self, far_access: Access) -> None:
        """Buckets of one access have one client, which is expensive to make."""
        clients = {
            open_store(f"s3://{name}", far_access)._bucket.connection.client() for name in ("x1", "x2")
        }
        assert len(clients) == 1

    def test_absent_bucket(self, rgw: Rgw) -> None:
        """A bucket that does not exist is named."""
        store = open_store("s3://no-such-bucket", access_to(rgw))
        for verb in (lambda: [*store.list()], lambda: store.put_bytes(b"", "a")):
            with pytest.raises(errors.AbsentError, match="there is no bucket no-such-bucket"):
                verb()


class TestLarge:
    def test_there_and_back(self, store: Store, owner: Any, bucket: str, tmp_path: Path) -> None:
        """A large file arrives both ways, and leaves no parts behind."""
        there_and_back(store, tmp_path, 30_000_001)
        assert owner.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []

    def test_parts_that_fail_are_tried_again(self, store: Store, proxy: FaultProxy, tmp_path: Path) -> None:
        """Failing parts do not keep a large file from arriving."""
        proxy.faults.add("answer", path="partNumber=", times=3)
        proxy.faults.add("reset", method="GET", path="/large", at=1_000_000, times=3)
        there_and_back(store, tmp_path, 30_000_000)
        assert proxy.struck == {"answer": 3, "reset": 3}

    def test_denied_part(
        self, store: Store, proxy: FaultProxy, owner: Any, bucket: str, tmp_path: Path
    ) -> None:
        """An upload that fails for good ends at once, shows no object and leaves no parts behind."""
        proxy.faults.add("answer", path="partNumber=3", status=403, code="AccessDenied")
        (tmp_path / "in").write_bytes(bytes(30_000_000))
        with pytest.raises(errors.DeniedError, match="AccessDenied: planned"):
            store.put(str(tmp_path / "in"), "large")
        assert proxy.struck["answer"] == 1
        assert keys_in(store) == []
        assert owner.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []

    @pytest.mark.parametrize(
        "fault", [{"kind": "lose"}, {"kind": "answer", "status": 200, "code": "InternalError"}]
    )
    def test_last_request_fails_once(
        self, store: Store, proxy: FaultProxy, owner: Any, bucket: str, tmp_path: Path, fault: dict[str, Any]
    ) -> None:
        """An upload whose last answer is lost, or is a 200 with an error in it, succeeds all the same."""
        proxy.faults.add(**fault, method="POST", path="uploadId=", times=1)
        there_and_back(store, tmp_path, 10_000_000)
        assert sum(proxy.struck.values()) == 1
        assert owner.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []

    def test_200_with_an_error(self, hasty_store: Store, proxy: FaultProxy, tmp_path: Path) -> None:
        """A 200 with an error in it is no success."""
        proxy.faults.add("answer", status=200, code="InternalError", method="POST", path="uploadId=")
        (tmp_path / "in").write_bytes(bytes(10_000_000))
        with pytest.raises(errors.TransientError, match="InternalError"):
            hasty_store.put(str(tmp_path / "in"), "large")
        assert keys_in(hasty_store) == []

    @pytest.mark.parametrize("is_replaced", [False, True])
    def test_upload_unknown_after_a_lost_answer(
        self, rgw: Rgw, proxy: FaultProxy, owner: Any, bucket: str, tmp_path: Path, is_replaced: bool
    ) -> None:
        """A server that forgets finished uploads is asked for the object: a success only if it is ours."""

        def wait(_seconds: float) -> bool:
            if is_replaced:
                owner.put_object(Bucket=bucket, Key="large", Body=b"intruder")
            return False

        access = access_to(rgw, proxy.url, retry=RetryPolicy(retries=2, sleep=wait))
        store = open_store(f"s3://{bucket}", access)
        proxy.faults.add("lose", method="POST", path="uploadId=", times=1)
        proxy.faults.add("answer", status=404, code="NoSuchUpload", method="POST", path="uploadId=")
        if not is_replaced:
            there_and_back(store, tmp_path, 10_000_000)
        else:
            (tmp_path / "in").write_bytes(bytes(10_000_000))
            with pytest.raises(errors.TransientError, match=r"large: .*NoSuchUpload"):
                store.put(str(tmp_path / "in"), "large")
            assert store.read_range("large", 0) == b"intruder"
        assert proxy.struck["lose"] == 1
        assert proxy.struck["answer"] >= 1

    def test_credentials_expire_between_parts(
        self, rgw: Rgw, proxy: FaultProxy, owner: Any, bucket: str, tmp_path: Path
    ) -> None:
        """A refused part makes the upload begin anew with new credentials; they remove the old parts too."""
        keys = {"AWS_ACCESS_KEY_ID": rgw.access_key, "AWS_SECRET_ACCESS_KEY": rgw.secret_key}
        source = Vended(keys, keys)
        store = open_store(f"s3://{bucket}", access_to(rgw, proxy.url, credentials=source))
        expired = {"status": 400, "code": "ExpiredToken", "times": 1}
        proxy.faults.add("answer", path="partNumber=2", **expired)
        proxy.faults.add("answer", method="DELETE", **expired)
        there_and_back(store, tmp_path, 20_000_000)
        assert proxy.struck["answer"] == 2
        assert source.fetched == 2
        assert owner.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []

    def test_file_that_shrinks(
        self, hasty_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that becomes shorter while it is sent is a transient error that names it."""
        (tmp_path / "in").write_bytes(bytes(20_000_000))
        send = S3Bucket._send_parts

        def shrink_and_send(*arguments: Any) -> Any:
            os.truncate(tmp_path / "in", 10_000_000)
            return send(*arguments)

        monkeypatch.setattr(S3Bucket, "_send_parts", shrink_and_send)
        with pytest.raises(errors.TransientError, match=f"{tmp_path}/in changed while it was read"):
            hasty_store.put(str(tmp_path / "in"), "large")
        assert keys_in(hasty_store) == []

    def test_replaced_while_it_is_read(
        self, hasty_store: Store, owner: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A large object replaced between two parts gives no file, and certainly no mixture."""
        owner.put_object(Bucket=bucket, Key="large", Body=b"1" * 20_000_000)
        get = S3Bucket.get

        def replace_and_get(self: S3Bucket, name: str, **options: Any) -> Any:
            if options:
                owner.put_object(Bucket=bucket, Key="large", Body=b"2" * 20_000_000)
            return get(self, name, **options)

        monkeypatch.setattr(S3Bucket, "get", replace_and_get)
        with pytest.raises(errors.TransientError, match="replaced meanwhile"):
            hasty_store.get("large", str(tmp_path / "out"))
        assert files_below(tmp_path) == {}


class TestChecksum:
    @pytest.mark.parametrize("value", ["0" * 64, "nonsense", ""])
    def test_wrong_metadata(self, store: Store, owner: Any, bucket: str, tmp_path: Path, value: str) -> None:
        """An object whose own digest says otherwise is never accepted, whoever made it."""
        owner.put_object(Bucket=bucket, Key="a", Body=b"content", Metadata={"htcjob-sha256": value})
        with pytest.raises(errors.TransientError, match="sha256:"):
            store.get("a", str(tmp_path / "out"))
        assert files_below(tmp_path) == {}

    def test_what_is_known(self, store: Store, owner: Any, bucket: str, tmp_path: Path) -> None:
        """The digest comes from our metadata, else from an ETag that is one, else from nowhere."""
        owner.put_object(Bucket=bucket, Key="a", Body=b"content")
        md5 = hashlib.md5(b"content").hexdigest()
        assert store.get("a", str(tmp_path / "out")).checksum == store.head("a").checksum == f"md5:{md5}"
        upload = owner.create_multipart_upload(Bucket=bucket, Key="p")["UploadId"]
        one = {"Bucket": bucket, "Key": "p", "UploadId": upload}
        part = owner.upload_part(**one, PartNumber=1, Body=b"content")
        parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
        owner.complete_multipart_upload(**one, MultipartUpload={"Parts": parts})
        assert store.get("p", str(tmp_path / "out")).checksum is None


class TestCredentials:
    def test_expiry_in_the_middle(self, rgw: Rgw, bucket: str, tmp_path: Path, wait_until: Any) -> None:
        """When the token expires all verbs of all threads go on, and new ones are fetched once."""
        short, long = (rgw.assume_role(bucket=bucket, seconds=seconds) for seconds in (5, 900))
        source = Vended(short, long)
        store = open_store(f"s3://{bucket}", access_to(rgw, credentials=source))
        store.put_bytes(b"0123456789", "a")
        probe = open_store(f"s3://{bucket}", access_to(rgw, credentials=Vended(short)))

        def is_over() -> bool:
            try:
                probe.head("a")
            except (errors.DeniedError, errors.UnauthenticatedError):
                return time.time() > short["expires_at"]
            return False

        wait_until(is_over)
        assert source.fetched == 1
        verbs = [*verbs_of(store, tmp_path).values()]
        with ThreadPoolExecutor(14) as pool:
            list(pool.map(lambda verb: verb(), verbs * 2))
        assert source.fetched == 2

    def test_policy(self, rgw: Rgw, bucket: str, owner: Any, tmp_path: Path) -> None:
        """What the token's policy does not allow is denied; what it allows works."""
        token = Vended(rgw.assume_role("mine/", bucket))
        access = access_to(rgw, credentials=token)
        mine = open_store(f"s3://{bucket}/mine", access)
        there_and_back(mine, tmp_path, 10_000_000)
        assert keys_in(mine) == ["large"]
        owner.put_object(Bucket=bucket, Key="others/a", Body=b"0123456789")
        for name, verb in verbs_of(open_store(f"s3://{bucket}/others", access), tmp_path).items():
            with pytest.raises(errors.DeniedError, match=f"{name} s3://{bucket}/others/"):
                verb()

    def test_wrong_secret(self, rgw: Rgw, bucket: str, tmp_path: Path) -> None:
        """A wrong secret is denied by every verb, as Ceph RGW says it (AWS: SignatureDoesNotMatch)."""
        wrong = Vended({"AWS_ACCESS_KEY_ID": rgw.access_key, "AWS_SECRET_ACCESS_KEY": "wrong" * 8})
        store = open_store(f"s3://{bucket}", access_to(rgw, credentials=wrong))
        for verb in verbs_of(store, tmp_path).values():
            with pytest.raises(errors.DeniedError):
                verb()

    def test_credentials_of_another_cloud(self, rgw: Rgw) -> None:
        """Credentials vended for another cloud are a clear error."""
        source = Vended({})
        source._all = [CloudCredentials("GCP", {"GCP_ACCESS_TOKEN": Secret("x")}, None)]
        with pytest.raises(errors.ConfigurationError, match="for GCP, not for AWS"):
            open_store("s3://b", access_to(rgw, credentials=source)).head("a")

    @pytest.fixture
    def bare(self, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
        """No credentials anywhere."""
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, os.devnull)
        return monkeypatch

    def test_chain(self, rgw: Rgw, bucket: str, bare: pytest.MonkeyPatch) -> None:
        """Without vended credentials the SDK's variables serve, for the endpoint too."""
        for name, value in rgw.environ().items():
            bare.setenv(name, value)
        store = open_store(f"s3://{bucket}", Access(engine="sdk", environ=os.environ))
        assert store.put_bytes(b"x", "a") is True
        assert keys_in(store) == ["a"]

    def test_none(self, rgw: Rgw, bare: pytest.MonkeyPatch) -> None:
        """With no credentials the error names what to set, and no server is asked."""
        bare.setenv("AWS_EC2_METADATA_DISABLED", "true")
        store = open_store("s3://b", Access(engine="sdk", endpoint="http://127.0.0.1:9", environ=os.environ))
        with pytest.raises(errors.UnauthenticatedError, match="AWS_ACCESS_KEY_ID"):
            store.head("a")

    def test_silent_metadata_service(self, proxy: FaultProxy, bare: pytest.MonkeyPatch) -> None:
        """A metadata service that never answers does not hold a job up for long."""
        proxy.faults.add("stall")
        bare.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", proxy.url)
        store = open_store("s3://b", Access(engine="sdk", endpoint="http://127.0.0.1:9", environ=os.environ))
        with pytest.raises(errors.UnauthenticatedError, match="AWS_ACCESS_KEY_ID"):
            store.head("a")
        assert 1 <= proxy.requests <= 2

    def test_endpoint_that_is_none(self, rgw: Rgw) -> None:
        """An endpoint that is no URL is a configuration error."""
        with pytest.raises(errors.ConfigurationError, match="Invalid endpoint"):
            open_store("s3://b", access_to(rgw, "no url")).head("a")
