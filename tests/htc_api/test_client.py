"""The client of the HTC API: each answer has its own meaning, and the token goes nowhere else."""

from __future__ import annotations

import datetime as dt
import json
import ssl
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from htcjob.errors import (
    AbsentError,
    ConfigurationError,
    DeniedError,
    PermanentError,
    TransientError,
    UnauthenticatedError,
)
from htcjob.htc_api.client import HtcApi, token_in
from htcjob.htc_api.web import LARGEST_ANSWER_BYTES
from htcjob.logs.redact import Secret
from tests.support.servers.htc_api import PROJECT, REFRESH_TOKEN, htc_api_fixture  # noqa: F401

ROUTE = ("htc", "projects", PROJECT, "storage", "token")


def get(api, *route, token=None, **options):
    """Ask the fake API with a good token."""
    client = HtcApi(api.url, environ=options.pop("environ", {}), **options)
    return client.get(*(route or ROUTE), scheme="Bearer", secret=Secret(token or api.new_token()))


def test_an_answer(htc_api):
    """The JSON object is given, and the token went into the Authorization header, on the mount of the URL."""
    token = htc_api.new_token()
    answer = get(htc_api, token=token)
    assert answer.body["projectId"] == PROJECT
    assert answer.url == f"{htc_api.url}/htc/projects/{PROJECT}/storage/token"
    assert abs(answer.clock_ahead_s) < 60
    assert [(r.authorization, r.mount) for r in htc_api.requests] == [(f"Bearer {token}", "/api/v1")]


def test_both_mount_points(htc_api):
    """Without `/api/v1` the same routes answer."""
    htc_api.bearer_tokens["t" * 20] = time.time() + 60
    client = HtcApi(htc_api.url.removesuffix("/api/v1"), environ={})
    assert client.get(*ROUTE, scheme="Bearer", secret=Secret("t" * 20)).body
    assert htc_api.requests[0].mount == "/"


def test_segments_are_escaped(htc_api):
    """An id with a slash or a query stays one segment."""
    with pytest.raises(AbsentError):
        get(htc_api, "htc", "projects", "a/../b?x=1#y é")
    assert htc_api.paths() == ["/htc/projects/a%2F..%2Fb%3Fx%3D1%23y%20%C3%A9"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, PermanentError),
        (401, UnauthenticatedError),
        (403, DeniedError),
        (404, AbsentError),
        (405, PermanentError),
        (408, TransientError),
        (415, PermanentError),
        (429, TransientError),
        (500, TransientError),
        (502, TransientError),
        (503, TransientError),
        (504, TransientError),
        (599, TransientError),
        (204, PermanentError),
    ],
)
def test_each_status(htc_api, status, kind):
    """A status becomes the error that says what to do; only 429 is a throttling."""
    htc_api.fail_next(status=status, body=b"" if status == 204 else b'{"errorDescription":"because"}')
    with pytest.raises(kind) as caught:
        get(htc_api)
    error = caught.value
    assert type(error) is kind
    assert error.operation == "GET"
    assert error.url == f"{htc_api.url}/htc/projects/{PROJECT}/storage/token"
    assert f"HTTP {status}" in error.reason
    assert status == 204 or "because" in error.reason
    assert getattr(error, "is_throttled", False) == (status == 429)
    assert getattr(error, "retry_after_s", None) is None
    assert len(htc_api.requests) == 1, "it was tried again"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("held", "seconds"),
    [("7", 7.0), (" 0 ", 0.0), ("soon", None), ("-3", None), ("1e3", None), ("9" * 40, None)],
)
def test_retry_after_in_seconds(htc_api, status, held, seconds):
    """Whole seconds count; what is no number counts for nothing."""
    htc_api.fail_next(status=status, headers={"Retry-After": held})
    with pytest.raises(TransientError) as caught:
        get(htc_api)
    assert caught.value.retry_after_s == seconds


def test_retry_after_as_a_date(htc_api):
    """A date counts from the API's own clock, however wrong ours is; a past one means now."""
    htc_api.clock_ahead_s = -5000.0
    for in_s, least_s, most_s in ((40, 38, 42), (-40, 0, 0)):
        date = formatdate(time.time() + htc_api.clock_ahead_s + in_s, usegmt=True)
        htc_api.fail_next(status=503, headers={"Retry-After": date})
        with pytest.raises(TransientError) as caught:
            get(htc_api)
        assert least_s <= caught.value.retry_after_s <= most_s


def test_the_reason_is_one_short_line_without_secrets(htc_api):
    """Whatever the API says: line breaks are folded, length is cut, an echoed token is hidden."""
    token = htc_api.new_token()
    words = f"first\n\tsecond \x1b[31m {token} " + "x" * 5000
    htc_api.fail_next(status=400, body=json.dumps({"errorDescription": words}).encode())
    with pytest.raises(PermanentError) as caught:
        get(htc_api, token=token)
    reason = caught.value.reason
    assert reason.startswith("HTTP 400: first second")
    assert reason.isprintable()
    assert len(reason) < 250
    assert token[:40] not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Service</html>",
        b"",
        b"[1]",
        b'"text"',
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\xed\xa0\x80"}',
        '{"a":1}'.encode("utf-16"),
        b"null",
    ],
)
def test_garbage(htc_api, body):
    """What is no JSON object is permanent: a wrong URL shows at once, with a hint."""
    htc_api.fail_next(status=200, body=body, headers={"Content-Type": "text/html"})
    with pytest.raises(PermanentError, match="HTCJOB_API_URL"):
        get(htc_api)


@pytest.mark.parametrize(
    "body", [b'\xef\xbb\xbf{"a":1}', b'{"a":0,"a":1}', b' {"a":1,"b":NaN,"c":-Infinity,"d":1e999}\n']
)
def test_odd_json_that_is_an_object_all_the_same(htc_api, body):
    """A byte order mark, a name that comes twice, numbers that are none: no reason to fail a job."""
    htc_api.fail_next(status=200, body=body)
    assert get(htc_api).body["a"] == 1


def test_an_html_page_with_an_error_status_says_the_status(htc_api):
    """A gateway's page is not repeated."""
    htc_api.fail_next(status=502, body=b"<html><h1>Bad\ngateway</h1></html>")
    with pytest.raises(TransientError) as caught:
        get(htc_api)
    assert caught.value.reason == "HTTP 502: Bad Gateway"


def test_a_huge_answer_is_not_read_to_its_end(htc_api):
    """Above the limit it is given up."""
    htc_api.fail_next(status=200, body=b" " * (LARGEST_ANSWER_BYTES * 8))
    with pytest.raises(PermanentError, match="more than"):
        get(htc_api)


def test_a_truncated_answer(htc_api):
    """Less than Content-Length is transient."""
    htc_api.fail_next(status=200, body=b'{"a":1}', headers={"Content-Length": "100"})
    with pytest.raises(TransientError, match="before its end"):
        get(htc_api)


def test_a_lost_connection(htc_api):
    """Closed without an answer, or nobody there: transient."""
    htc_api.fail_next(status=0)
    with pytest.raises(TransientError, match="RemoteDisconnected"):
        get(htc_api)
    with pytest.raises(TransientError, match="refused"):
        HtcApi("http://127.0.0.1:1", environ={}).get("x", scheme="Bearer", secret=Secret("t" * 20))


def test_no_answer_in_time(htc_api):
    """A silent server is transient, after the time-out."""
    htc_api.fail_next(delay_s=1.0)
    with pytest.raises(TransientError, match=r"no answer within 0\.1 s"):
        get(htc_api, timeout_s=0.1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(htc_api, status):
    """The token does not go to the other place, whose query is not shown."""
    place = f"{htc_api.url}/stolen?sig=planted"
    htc_api.fail_next(status=status, headers={"Location": place})
    with pytest.raises(PermanentError, match="redirects are not followed") as caught:
        get(htc_api)
    assert len(htc_api.requests) == 1
    assert f"{htc_api.port}" in str(caught.value)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:planted@host/api",
        "https://host/api?token=planted",
        "https://host/#planted",
        "https://",
        "https://host:port",
        "ftp://host",
        "https://ho st/planted",
        "https://[::1/planted",
    ],
)
def test_a_malformed_url(url):
    """It is refused before a token is sent, and not repeated: it may hold a password."""
    with pytest.raises(ConfigurationError, match="HTCJOB_API_URL") as caught:
        HtcApi(url, environ={})
    assert "planted" not in str(caught.value)


class Proxy(BaseHTTPRequestHandler):
    """Answers for everyone, and remembers what it was asked."""

    asked: list

    def do_GET(self):
        self.asked.append((self.command, self.path, self.headers.get("Proxy-Authorization")))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_CONNECT(self):
        self.asked.append((self.command, self.path, self.headers.get("Proxy-Authorization")))
        assert self.headers.get("Authorization") is None
        self.send_error(403)

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy():
    with Serving(type("P", (Proxy,), {"asked": []})) as server:
        yield server


class Serving:
    def __init__(self, handler, context=None):
        self.server = HTTPServer(("127.0.0.1", 0), handler)
        self.server.asked = getattr(handler, "asked", None)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.server.handle_error = lambda *_: None
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self):
        self.thread.start()
        return self.server

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class TestProxy:
    @pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
    def test_http(self, proxy, name):
        """The whole URL goes to the proxy, with its own password."""
        environ = {name: f"http://me:p%40ss@127.0.0.1:{proxy.server_port}"}
        client = HtcApi("http://api.invalid/api/v1", environ=environ)
        assert client.get("x", scheme="Bearer", secret=Secret("t" * 20)).body == {}
        assert proxy.asked == [("GET", "http://api.invalid/api/v1/x", "Basic bWU6cEBzcw==")]

    def test_https(self, proxy):
        """A tunnel is asked for; the token is inside of it only. A proxy that refuses is transient."""
        environ = {"HTTPS_PROXY": f"127.0.0.1:{proxy.server_port}"}
        client = HtcApi("https://api.invalid/api/v1", environ=environ)
        with pytest.raises(TransientError, match="Tunnel connection failed: 403"):
            client.get("x", scheme="Bearer", secret=Secret("t" * 20))
        assert proxy.asked == [("CONNECT", "api.invalid:443", None)]

    @pytest.mark.parametrize("exempt", ["*", "127.0.0.1", "x.org, 127.0.0.1"])
    def test_no_proxy(self, proxy, htc_api, exempt):
        """What NO_PROXY names is asked directly."""
        environ = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.server_port}", "NO_PROXY": exempt}
        get(htc_api, environ=environ)
        assert proxy.asked == []

    def test_malformed(self):
        """It is named, and not shown: it may hold a password."""
        with pytest.raises(ConfigurationError, match="HTTPS_PROXY") as caught:
            HtcApi("https://api.invalid", environ={"HTTPS_PROXY": "socks5://u:planted@h:1"})
        assert "planted" not in str(caught.value)


class Greeter(Proxy):
    asked: list = []  # noqa: RUF012 - one for the test


def self_signed(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = folder / "both.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    return path


def test_certificates_are_verified(tmp_path, monkeypatch):
    """One that nobody vouches for is refused at once; SSL_CERT_FILE names an authority; names are compared."""
    path = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with Serving(Greeter, context) as server:
        url = f"https://localhost:{server.server_port}"
        secret = Secret("planted-token-0123456789")
        with pytest.raises(PermanentError, match="SSL_CERT_FILE"):
            HtcApi(url, environ={}).get("x", scheme="Bearer", secret=secret)
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert HtcApi(url, environ={}).get("x", scheme="Bearer", secret=secret).body == {}
        other = HtcApi(url.replace("localhost", "127.0.0.1"), environ={})
        with pytest.raises(PermanentError, match="not trusted"):
            other.get("x", scheme="Bearer", secret=secret)
        assert len(Greeter.asked) == 1


def test_importing_it_costs_nothing(tmp_path):
    """http.client comes with the first request."""
    import subprocess

    code = "import sys, htcjob.job_stores, htcjob.htc_api.vended_storage; print({'http', 'ssl', 'jwt', 'urllib.request'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_refresh_scheme(htc_api):
    """The refresh token goes to /auth/token under its own scheme."""
    client = HtcApi(htc_api.url, environ={})
    answer = client.get("auth", "token", scheme="Refresh", secret=Secret(REFRESH_TOKEN))
    assert answer.body["expiresIn"] == 21600


@pytest.mark.parametrize("value", [None, 5, [], {}, "", "line\nbreak", "é", "two words", "\ud800"])
def test_what_no_header_could_hold_is_no_token(htc_api, value):
    """The HTTP client's complaint would show it, and be a bug of ours."""
    htc_api.fail_next(status=200, body=json.dumps({"tokenValue": value}).encode())
    assert token_in(get(htc_api)) is None
