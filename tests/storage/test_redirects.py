"""Who is sent elsewhere takes nothing secret along: two real servers, of which the first sends to the second."""

from __future__ import annotations

import pytest

from htcjob.errors import PermanentError, StorageError
from htcjob.logs.redact import Secret
from htcjob.storage.access import Access, CloudCredentials
from htcjob.storage.urls import open_store
from tests.support.servers.refusals import refusing_server
from tests.support.servers.tls import tls_in_front_of

# urllib3 leaves a connection to the garbage collector when it stumbles over a 303 (`s3/errors.py`).
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PLANTED = "planted0123456789"
SAS = f"sv=2023-11-03&se=2999-01-01T00:00:00Z&sp=rwdl&sig={PLANTED}"
AWS = {"AWS_ACCESS_KEY_ID": f"AKIA{PLANTED}", "AWS_SECRET_ACCESS_KEY": f"secret-{PLANTED}"}
STATUSES = (301, 302, 303, 307, 308)
PLACES = {"AWS": "s3://b/", "GCP": "gs://b/", "AZURE": "az://account/c/"}


class Vending:
    """A source of credentials that are never renewed."""

    def __init__(self, provider: str, **values: str) -> None:
        self._credentials = CloudCredentials(
            provider, {name: Secret(value) for name, value in values.items()}, None
        )

    def current(self) -> CloudCredentials:
        return self._credentials

    def refused(self, _credentials: CloudCredentials) -> bool:
        return False


VENDED = {
    "AWS": Vending("AWS", **AWS, AWS_SESSION_TOKEN=f"session-{PLANTED}"),
    "GCP": Vending("GCP", GCP_ACCESS_TOKEN=f"ya29.{PLANTED}"),
    "AZURE": Vending("AZURE", AZURE_STORAGE_SAS_TOKEN=SAS),
}


@pytest.fixture(params=["fast", "sdk"])
def engine(request):
    return request.param


@pytest.fixture
def first():
    with refusing_server() as server:
        yield server


@pytest.fixture
def second():
    """The stranger: whatever is asked is there."""
    with refusing_server() as server:
        tags = {"ETag": '"0123"', "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT"}
        server.say(200, body=b"not yours", headers=tags)
        yield server


def verbs_of(store, tmp_path):
    (tmp_path / "in").write_bytes(b"x")
    return (
        lambda: store.get("k", str(tmp_path / "out")),
        lambda: store.read_range("k", 0, 4),
        lambda: store.head("k"),
        lambda: store.put(str(tmp_path / "in"), "k"),
        lambda: store.put_bytes(b"x", "k", if_absent=True),
        lambda: list(store.list("")),
        lambda: store.delete("k"),
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("provider", PLACES)
def test_vended_credentials_stay(first, second, engine, provider, host, tmp_path):
    """Neither token nor signature goes to another port or host, with any status, in any verb of either engine."""
    endpoint = first.url + ("/account" if provider == "AZURE" else "")
    access = Access(engine=engine, credentials=VENDED[provider], endpoint=endpoint, environ={})
    store = open_store(PLACES[provider], access)
    elsewhere = second.url.replace("127.0.0.1", host)
    for status in STATUSES:
        first.say(status, headers={"Location": f"{elsewhere}/b/k"})
        for verb in verbs_of(store, tmp_path):
            if host == "localhost" or engine == "sdk" or provider != "GCP":
                with pytest.raises(PermanentError, match="redirected") as raised:
                    verb()
                assert "\n" not in str(raised.value)
                continue
            try:  # the fast lane goes to another port of the host, without the header that holds the token
                verb()
            except StorageError:
                pass
    assert PLANTED in "".join(first.requests)
    assert PLANTED not in "".join(second.requests)
    if host == "localhost" or engine == "sdk" or provider != "GCP":
        assert second.requests == []


@pytest.mark.parametrize(
    ("scheme", "environ"),
    [
        ("AWS", {**AWS, "AWS_SESSION_TOKEN": f"session-{PLANTED}", "AWS_ENDPOINT_URL": "FIRST"}),
        ("AWS", {**AWS, "AWS_ENDPOINT_URL_S3": "FIRST"}),
        ("AZURE", {"AZURE_STORAGE_SAS_TOKEN": SAS, "AZURE_STORAGE_ENDPOINT": "FIRST/account"}),
        (
            "AZURE",
            {"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint=FIRST/account;SharedAccessSignature={SAS}"},
        ),
        (
            "AZURE",
            {"AZURE_STORAGE_KEY": "cGxhbnRlZDAxMjM0NTY3ODk=", "AZURE_STORAGE_ENDPOINT": "FIRST/account"},
        ),
    ],
)
def test_credentials_of_variables_stay(first, second, engine, scheme, environ, monkeypatch, tmp_path):
    """The same for those that the environment holds: no key, token, signature or SAS is seen by the second."""
    environ = {name: value.replace("FIRST", first.url) for name, value in environ.items()}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    store = open_store(PLACES[scheme], Access(engine=engine, environ=environ))
    for host in ("127.0.0.1", "localhost"):
        elsewhere = second.url.replace("127.0.0.1", host)
        for status in STATUSES:
            first.say(status, headers={"Location": f"{elsewhere}/b/k"})
            for verb in verbs_of(store, tmp_path):
                if host == "localhost":
                    with pytest.raises(PermanentError, match="redirected"):
                        verb()
                else:
                    try:
                        verb()
                    except StorageError:
                        pass
    seen = "".join(second.requests).lower()
    for secret in (PLANTED, "authorization", "x-amz-security-token", "signature", "sig="):
        assert secret not in seen


def test_from_tls_to_none(first, second, engine, monkeypatch, tmp_path):
    """From https nothing goes to http, not even to the same host."""
    first.say(302, headers={"Location": f"{second.url}/b/k"})
    with tls_in_front_of(tmp_path, first.url) as front:
        for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, front.ca_file)
        environ = {**AWS, "AWS_ENDPOINT_URL": front.endpoint, "AWS_CA_BUNDLE": front.ca_file}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://b/", Access(engine=engine, environ=environ))
        for verb in verbs_of(store, tmp_path):
            with pytest.raises(PermanentError, match="redirected"):
                verb()
    assert second.requests == []
