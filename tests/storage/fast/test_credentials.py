"""The fast lane gets its credentials where the SDK would, renews them in time, and shows none."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest

from htcjob.errors import TransientError, UnauthenticatedError
from htcjob.logs.redact import Secret
from htcjob.storage.access import Access, CloudCredentials
from htcjob.storage.fast.choice import why_not
from htcjob.storage.fast.clients import AskingProvider
from htcjob.storage.urls import open_store
from tests.storage.contract import keys_in
from tests.storage.fast.support import MB, error_of, proxy_before, sleep_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from htcjob.storage.contract import Store
    from tests.support.servers.azurite import Azurite
    from tests.support.servers.fake_gcs import FakeGcs
    from tests.support.servers.rgw import Rgw


class Source:
    """Vends credentials; renews them only when they were refused, or *eagerly* before their end."""

    def __init__(self, fetch: Callable[[], CloudCredentials], *, is_eager: bool = False) -> None:
        self._fetch = fetch
        self._is_eager = is_eager
        self._lock = threading.Lock()
        self._credentials: CloudCredentials | None = None
        self.fetched = 0
        self.failure: Exception | None = None

    def current(self) -> CloudCredentials:
        with self._lock:
            if self.failure is not None:
                raise self.failure
            is_over = self._is_eager and self._credentials and self._credentials.expires_at < time.time() + 1
            if self._credentials is None or is_over:
                self._credentials = self._fetch()
                self.fetched += 1
            return self._credentials

    def refused(self, credentials: CloudCredentials) -> bool:
        with self._lock:
            if credentials is self._credentials:
                self._credentials = None
            return True


def _credentials(
    provider: Literal["AWS", "GCP", "AZURE"], expires_at: float | None, **values: str
) -> CloudCredentials:
    return CloudCredentials(
        provider, {name: Secret(value) for name, value in values.items()}, expires_at=expires_at
    )


def _exercise(store: Store, folder: Path, *, size_bytes: int = 1000) -> None:
    """Use every verb."""
    data = os.urandom(size_bytes)
    (folder / "in").write_bytes(data)
    store.put(str(folder / "in"), "a")
    store.get("a", str(folder / "out"))
    assert (folder / "out").read_bytes() == data
    assert store.read_range("a", 3, 7) == data[3:7]
    store.put_bytes(b"x", "b")
    assert keys_in(store) == ["a", "b"]
    assert store.head("a").size_bytes == size_bytes
    store.delete("b")


class TestCredentials:
    def test_session_tokens_of_s3(self, rgw: Rgw, tmp_path: Path) -> None:
        """Session tokens that live 5 s are renewed once when they end, in every verb and for uploads."""
        bucket = rgw.new_bucket()

        def fetch() -> CloudCredentials:
            return _credentials("AWS", **rgw.assume_role(bucket=bucket, seconds=5))

        for is_eager in (False, True):
            source = Source(fetch, is_eager=is_eager)
            store = open_store(
                f"s3://{bucket}", Access(engine="fast", endpoint=rgw.endpoint, credentials=source, environ={})
            )
            began = time.monotonic()
            _exercise(store, tmp_path)
            sleep_until(source.current().expires_at + 1)
            _exercise(store, tmp_path, size_bytes=20 * MB)
            assert (
                2 <= source.fetched <= 2 + (time.monotonic() - began) / 4
            )  # whole seconds, and asked for ahead

    def test_long_work_with_short_tokens(self, rgw: Rgw, tmp_path: Path) -> None:
        """Many threads work on while tokens of 5 s come and go; nobody asks more than is needed."""
        began = time.monotonic()
        bucket = rgw.new_bucket()
        source = Source(lambda: _credentials("AWS", **rgw.assume_role(bucket=bucket, seconds=5)))
        store = open_store(
            f"s3://{bucket}", Access(engine="fast", endpoint=rgw.endpoint, credentials=source, environ={})
        )
        is_over = threading.Event()

        def work(number: int) -> None:
            while not is_over.is_set():
                store.put_bytes(b"x" * 1000, f"{number}")
                store.get(f"{number}", str(tmp_path / f"{number}"))
                time.sleep(0.05)

        with ThreadPoolExecutor(8) as pool:
            workers = [pool.submit(work, number) for number in range(8)]
            sleep_until(time.time() + 12)
            is_over.set()
            for worker in workers:
                worker.result()
        assert source.fetched <= 2 + (time.monotonic() - began) / 4  # whole seconds, and asked for ahead

    def test_sas_of_azure(self, azurite: Azurite, tmp_path: Path) -> None:
        """A SAS that has expired is replaced once, in every verb and for uploads."""
        container = azurite.new_container()

        def fetch() -> CloudCredentials:
            end = int(time.time()) + 3
            sas = azurite.sas(container, seconds=end - time.time() + 0.5)
            return _credentials("AZURE", end, AZURE_STORAGE_SAS_TOKEN=sas)

        source = Source(fetch)
        access = Access(engine="fast", endpoint=azurite.endpoint, credentials=source, environ={})
        store = open_store(f"az://{azurite.account}/{container}", access)
        began = time.monotonic()
        _exercise(store, tmp_path)
        sleep_until(source.current().expires_at + 1.5)
        _exercise(store, tmp_path, size_bytes=20 * MB)
        assert 2 <= source.fetched <= 2 + (time.monotonic() - began) / 2  # whole seconds

    def test_tokens_of_gcs(self, fake_gcs: FakeGcs, tmp_path: Path) -> None:
        """A token that GCS does not accept any more is replaced once, in every verb and for uploads."""
        tokens = iter(("one", "two", "three", "four"))
        source = Source(lambda: _credentials("GCP", None, GCP_ACCESS_TOKEN=next(tokens)))
        access = Access(engine="fast", endpoint=fake_gcs.endpoint, credentials=source, environ={})
        store = open_store(f"gs://{fake_gcs.new_bucket()}", access)
        fake_gcs.valid_tokens = {"two"}
        _exercise(store, tmp_path)
        assert source.fetched == 2
        fake_gcs.valid_tokens = {"three"}
        _exercise(store, tmp_path, size_bytes=20 * MB)
        assert source.fetched == 3
        fake_gcs.valid_tokens = set()
        for call in (lambda: store.head("a"), lambda: keys_in(store)):
            with pytest.raises(UnauthenticatedError):
                call()
            break

    def test_service_account_of_gcs(self, fake_gcs: FakeGcs, tmp_path: Path) -> None:
        """A service account's JSON text is used as it is vended."""
        account = {"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": True}
        text = json.dumps({"type": "service_account", **account})
        source = Source(lambda: _credentials("GCP", None, GCP_APPLICATION_CREDENTIALS=text))
        access = Access(engine="fast", endpoint=fake_gcs.endpoint, credentials=source, environ={})
        _exercise(open_store(f"gs://{fake_gcs.new_bucket()}", access), tmp_path, size_bytes=10 * MB)

    def test_failures_of_the_source(self, fake_gcs: FakeGcs, tmp_path: Path) -> None:
        """What the source of credentials raises is what the caller gets, from every verb."""
        source = Source(lambda: _credentials("GCP", None, GCP_ACCESS_TOKEN="one"))
        access = Access(engine="fast", endpoint=fake_gcs.endpoint, credentials=source, environ={})
        store = open_store(f"gs://{fake_gcs.new_bucket()}", access)
        _exercise(store, tmp_path, size_bytes=9 << 20)
        source.failure = TransientError("vend", "https://api/token", "503", retry_after_s=7)
        for call in (
            lambda: store.get("a", str(tmp_path / "out")),
            lambda: store.put(str(tmp_path / "in"), "a"),
            lambda: keys_in(store),
        ):
            with pytest.raises(TransientError) as raised:
                call()
            assert raised.value is source.failure

    def test_failure_in_the_middle_of_an_upload(self, fake_gcs: FakeGcs, tmp_path: Path) -> None:
        """What the source raises while an upload asks it again is what the caller gets."""
        failure = TransientError("vend", "https://api/token", "503")
        soon = _credentials("GCP", time.time() + 60, GCP_ACCESS_TOKEN="one")

        class Failing(Source):
            def current(self) -> CloudCredentials:
                if threading.current_thread() is not threading.main_thread() or _is_asked_by_obstore():
                    raise failure
                return soon

        access = Access(
            engine="fast", endpoint=fake_gcs.endpoint, credentials=Failing(lambda: soon), environ={}
        )
        (tmp_path / "in").write_bytes(b"x" * 20 * MB)
        with pytest.raises(TransientError) as raised:
            open_store(f"gs://{fake_gcs.new_bucket()}", access).put(str(tmp_path / "in"), "a")
        assert raised.value is failure

    def test_no_secret_in_messages(self, azurite: Azurite, rgw: Rgw, tmp_path: Path) -> None:
        """No signature and no token is in the text of an error, nor in those of its causes."""
        container = azurite.new_container()
        sas = azurite.sas(container, permissions="r", seconds=60)
        signature = sas.partition("sig=")[2].partition("&")[0]
        source = Source(lambda: _credentials("AZURE", None, AZURE_STORAGE_SAS_TOKEN=sas))
        with proxy_before(azurite.endpoint) as proxy:
            endpoint = f"{proxy.url}/{azurite.account}"
            access = Access(engine="fast", endpoint=endpoint, credentials=source, environ={})
            store = open_store(f"az://{azurite.account}/{container}", access)
            errors = [error_of(lambda: store.put_bytes(b"", "a")), error_of(lambda: keys_in(store))]
            proxy.faults.add("reset", at=0)
            errors.append(error_of(lambda: store.head("a")))
            proxy.faults.clear()
            with proxy.refusing():
                errors.append(error_of(lambda: store.get("a", str(tmp_path / "out"))))
        given = rgw.assume_role(seconds=60)
        wrong = {**given, "AWS_SECRET_ACCESS_KEY": "not-the-right-secret"}
        source = Source(lambda: _credentials("AWS", **wrong))
        access = Access(engine="fast", endpoint=rgw.endpoint, credentials=source, environ={})
        errors.append(error_of(lambda: open_store(f"s3://{rgw.new_bucket()}", access).head("a")))
        for error in errors:
            while error is not None:
                for secret in (signature, given["AWS_SESSION_TOKEN"], "not-the-right-secret"):
                    assert secret not in f"{error!r} {error}"
                error = error.__cause__

    def test_provider_keeps_what_was_raised(self) -> None:
        """The error of the source is kept, and forgotten at the next success."""
        source = Source(lambda: _credentials("GCP", 2e9, GCP_ACCESS_TOKEN="one"))
        provider = AskingProvider(source)
        source.failure = TransientError("vend", "https://api/token", "503")
        with pytest.raises(TransientError):
            provider()
        assert provider.failure is source.failure
        source.failure = None
        assert provider()["expires_at"].utcoffset() == timedelta(0)
        assert provider.failure is None


_S3 = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}


class TestChain:
    @pytest.mark.parametrize(
        ("scheme", "environ", "files", "can"),
        [
            ("s3", _S3, (), True),
            ("s3", {**_S3, "AWS_PROFILE": "p"}, (".aws/credentials",), True),
            ("s3", {"AWS_PROFILE": "p"}, (), False),
            ("s3", {"AWS_DEFAULT_PROFILE": "p"}, (), False),
            ("s3", {}, (".aws/credentials",), False),
            ("s3", {}, (".aws/config",), False),
            ("s3", {"AWS_SHARED_CREDENTIALS_FILE": "HOME/elsewhere"}, ("elsewhere",), False),
            ("s3", {"AWS_WEB_IDENTITY_TOKEN_FILE": "f", "AWS_ROLE_ARN": "r"}, (".aws/config",), True),
            ("s3", {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"}, (), True),
            ("s3", {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"}, (".aws/config",), False),
            ("s3", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x"}, (), False),
            (
                "s3",
                {
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x",
                    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "f",
                },
                (),
                True,
            ),
            ("s3", {}, (), True),
            ("s3", {"AWS_EC2_METADATA_DISABLED": "true"}, (), False),
            ("gs", {}, (), True),
            ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "HOME/service_account"}, ("service_account",), True),
            ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "HOME/external_account"}, ("external_account",), False),
            ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "HOME/nowhere"}, (), False),
            ("gs", {"STORAGE_EMULATOR_HOST": "http://x"}, (), True),
            ("gs", {}, (".config/gcloud/application_default_credentials.json",), False),
            ("az", {}, (), True),
            ("az", {"AZURE_STORAGE_ACCOUNT_NAME": "bucket"}, (), True),
            ("az", {"AZURE_STORAGE_ACCOUNT_NAME": "another"}, (), False),
            ("az", {"AZURE_STORAGE_ACCOUNT": "another"}, (), False),
            ("az", {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=another;AccountKey=eA=="}, (), False),
            (
                "s3",
                {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": ""},
                (),
                False,
            ),
        ],
    )
    def test_can_serve(
        self, tmp_path: Path, scheme: str, environ: dict[str, str], files: tuple[str, ...], can: bool
    ) -> None:
        """Fast is chosen only where object_store finds the credentials that the SDK would find."""
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_text(json.dumps({"type": name}))
        variables = {name: value.replace("HOME", str(tmp_path)) for name, value in environ.items()}
        access = Access(environ={"HOME": str(tmp_path), **variables})
        assert (not why_not(scheme, "bucket", access)) is can
        source = Source(lambda: _credentials("AWS", None))
        assert not why_not(scheme, "bucket", Access(environ=access.environ, credentials=source))

    @pytest.mark.timeout(100)  # object_store's own patience is three minutes
    def test_no_credentials(self, rgw: Rgw, environ, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where no metadata server answers, the error says soon that there are no credentials."""
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://169.254.169.254:1")
        store = open_store("s3://bucket", Access(engine="fast", endpoint=rgw.endpoint, environ={}))
        with pytest.raises(UnauthenticatedError, match="no credentials: set AWS_ACCESS_KEY_ID"):
            store.head("a")

    def test_connection_string_of_azure(self, azurite: Azurite, tmp_path: Path) -> None:
        """A connection string says where an account is and what opens it, by key or by SAS."""
        container = azurite.new_container()
        sas = f"BlobEndpoint={azurite.endpoint};SharedAccessSignature={azurite.sas(container)}"
        for text in (azurite.connection_string, sas):
            environ = {"AZURE_STORAGE_CONNECTION_STRING": text}
            store = open_store(f"az://{azurite.account}/{container}", Access(engine="fast", environ=environ))
            _exercise(store, tmp_path)


def _is_asked_by_obstore() -> bool:
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_code is AskingProvider.__call__.__code__:
            return True
        frame = frame.f_back
    return False
