"""Servers that speak S3's protocol in their own way, and how they are named: both engines do the same."""

from __future__ import annotations

import pytest

from htcjob import errors
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access
from htcjob.storage.bucket import PART_BYTES
from htcjob.storage.urls import open_store
from tests.support.servers.quirky_s3 import quirky_s3

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
LARGE = bytes(range(256)) * (2 * PART_BYTES // 256) + b"end"


@pytest.fixture(params=["fast", "sdk"])
def engine(request):
    return request.param


@pytest.fixture
def s3():
    with quirky_s3() as s3:
        yield s3


@pytest.fixture
def access(engine, monkeypatch, tmp_path):
    """Make an access from variables, which the SDK reads by itself."""

    def make(**variables: str) -> Access:
        environ = {"HOME": str(tmp_path), **variables}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return Access(engine=engine, environ=environ, retry=RetryPolicy(retries=1, first_wait_s=0.01))

    return make


@pytest.fixture
def store(s3, access):
    return open_store("s3://b", access(**KEYS, AWS_ENDPOINT_URL=s3.url))


@pytest.mark.parametrize("etag", ["md5", "kms", "dsse", "customer", "multipart", "crc64", "weak"])
@pytest.mark.parametrize("content", [b"", b"one", LARGE], ids=["empty", "small", "in parts"])
def test_etags_that_are_no_checksums(s3, store, tmp_path, etag, content):
    """What is there arrives, whatever the server makes its ETag of, whole and in parts."""
    s3.etag, s3.objects["/b/k"] = etag, content
    assert store.get("k", str(tmp_path / "out")).size_bytes == len(content)
    assert (tmp_path / "out").read_bytes() == content
    assert store.read_range("k", 0) == content


@pytest.mark.parametrize("content", [b"one", LARGE], ids=["small", "in parts"])
def test_etags_that_are_checksums(s3, store, tmp_path, content):
    """An ETag that is an MD5, as nothing says otherwise, is compared; what does not have it never arrives."""
    s3.etag, s3.objects["/b/k"] = "wrong", content
    with pytest.raises(errors.TransientError, match="does not have its checksum md5:"):
        store.get("k", str(tmp_path / "out"))
    with pytest.raises(errors.TransientError, match="does not have its checksum md5:"):
        store.read_range("k", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quirk", ["ignores ranges", "other range", "other total", "changes"])
def test_parts_of_something_else(s3, store, tmp_path, quirk):
    """Parts of another range, another length or another version are never put together."""
    s3.objects["/b/k"], s3.quirk, s3.etag = LARGE, quirk, "multipart"
    with pytest.raises(errors.StorageError) as raised:
        store.get("k", str(tmp_path / "out"))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert len(s3.requests) < 20


@pytest.mark.parametrize(
    ("files", "variables"),
    [
        ({".aws/config": "[default]\nendpoint_url = URL\n"}, {}),
        ({".aws/config": "[default]\nservices = x\n[services x]\ns3 =\n  endpoint_url = URL\n"}, {}),
        ({".aws/config": "[profile p]\nendpoint_url = URL\n"}, {"AWS_PROFILE": "p"}),
        ({"elsewhere": "[default]\nendpoint_url = URL\n"}, {"AWS_CONFIG_FILE": "HOME/elsewhere"}),
        ({".aws/credentials": "[default]\nendpoint_url = URL\n"}, {}),
        (
            {"creds": "[p]\nendpoint_url=URL\n"},
            {"AWS_PROFILE": "p", "AWS_SHARED_CREDENTIALS_FILE": "HOME/creds"},
        ),
        ({".aws/config": "[default]\nendpoint_url = http://127.0.0.1:9\n"}, {"AWS_ENDPOINT_URL": "URL"}),
        (
            {".aws/config": "[default]\ns3 =\n  addressing_style = path\n"},
            {"AWS_ENDPOINT_URL_S3": "URL", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        ),
    ],
)
def test_endpoints_of_files(s3, access, tmp_path, files, variables):
    """The endpoint that AWS's shared files or variables name is the one that is asked, with either engine."""
    s3.objects["/b/k"] = b"one"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text.replace("URL", s3.url))
    said = {
        name: value.replace("URL", s3.url).replace("HOME", str(tmp_path)) for name, value in variables.items()
    }
    assert open_store("s3://b", access(**KEYS, **said)).read_range("k", 0) == b"one"


def test_region_of_files(s3, access, tmp_path):
    """The region of a profile is the one that requests are signed for."""
    s3.objects["/b/k"] = b"one"
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text("[default]\nregion = eu-west-7\noutput = json\n")
    keys = {name: value for name, value in KEYS.items() if name != "AWS_REGION"}
    open_store("s3://b", access(**keys, AWS_ENDPOINT_URL=s3.url)).read_range("k", 0)
    assert "/eu-west-7/s3/" in s3.requests[-1][2].get(
        "authorization", s3.requests[-1][2].get("Authorization")
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ACCESS_KEY_ID", "k\n"),
        ("AWS_ACCESS_KEY_ID", " k"),
        ("AWS_ACCESS_KEY_ID", "k\r\n"),
        ("AWS_SECRET_ACCESS_KEY", "s\n"),
        ("AWS_SECRET_ACCESS_KEY", "s\ns"),
        ("AWS_SESSION_TOKEN", "t\n"),
        ("AWS_SESSION_TOKEN", "t\u20ac"),
        ("AWS_REGION", "eu-west-1\n"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9\n"),
        ("AWS_ENDPOINT_URL_S3", " http://127.0.0.1:9"),
        ("AWS_ENDPOINT_URL_S3", ""),
        ("AZURE_STORAGE_KEY", "a2V5\n"),
        ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=x\n"),
        ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=account;AccountKey=a2V5\n"),
        ("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9 "),
        ("STORAGE_EMULATOR_HOST", "127.0.0.1:9\n"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/key.json\n"),
        ("AWS_PROFILE", "p\n"),
    ],
)
def test_line_breaks(access, name, value):
    """A space or a line break around a key, token or endpoint is told at once, by the variable's name alone."""
    place = {"AW": "s3://b", "AZ": "az://account/c", "ST": "gs://b", "GO": "gs://b"}[name[:2]]
    with pytest.raises(errors.ConfigurationError, match=name) as raised:
        open_store(place, access(**{**KEYS, name: value}))
    assert "\n" not in str(raised.value)


def test_token_file_with_a_line_break(access, tmp_path):
    """So is one in the file that holds the container's token."""
    (tmp_path / "token").write_text("token\n")
    variables = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
    }
    with pytest.raises(errors.ConfigurationError, match="AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        open_store("s3://b", access(**variables))


@pytest.mark.parametrize(
    ("variables", "is_direct"),
    [
        ({"NO_PROXY": "localhost:PORT"}, True),
        ({"NO_PROXY": "localhost"}, True),
        ({"no_proxy": "example.com, localhost"}, True),
        ({"NO_PROXY": "*"}, True),
        ({"NO_PROXY": "localhost:1"}, False),
        ({}, False),
    ],
)
def test_proxies(s3, access, variables, is_direct):
    """The proxy of the variables is asked, or not, as NO_PROXY says, which may name a port."""
    s3.objects["/b/k"] = b"one"
    port = s3.url.rpartition(":")[2]
    said = {name: value.replace("PORT", port) for name, value in variables.items()}
    endpoint = f"http://localhost:{port}"
    store = open_store(
        "s3://b", access(**KEYS, AWS_ENDPOINT_URL=endpoint, http_proxy="http://127.0.0.1:9", **said)
    )
    if is_direct:
        assert store.read_range("k", 0) == b"one"
    else:
        with pytest.raises(errors.TransientError):
            store.read_range("k", 0)
        assert s3.requests == []


@pytest.mark.parametrize(
    ("code", "kind", "word"),
    [
        ("InternalError", errors.TransientError, "InternalError"),
        ("SlowDown", errors.TransientError, "throttled"),
    ],
)
def test_uploads_that_fail_with_success(s3, store, tmp_path, code, kind, word):
    """The error that stands in the body of a success, as when parts are put together, is one."""
    s3.quirk = code
    (tmp_path / "in").write_bytes(LARGE)
    with pytest.raises(kind, match=word):
        store.put(str(tmp_path / "in"), "k")
    assert "/b/k" not in s3.objects


def test_no_credentials(s3, access):
    """Where there are none, and no machine to ask, that is told at once; unsigned requests need none."""
    s3.objects["/b/k"] = b"one"
    variables = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": s3.url, "AWS_REGION": "us-east-1"}
    with pytest.raises(errors.UnauthenticatedError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        open_store("s3://b", access(**variables)).read_range("k", 0)
    assert s3.requests == []
    unsigned = open_store("s3://b", access(**variables, AWS_SKIP_SIGNATURE="true"))
    assert unsigned.read_range("k", 0) == b"one"
    assert not any("authorization" in map(str.lower, headers) for _, _, headers in s3.requests)
