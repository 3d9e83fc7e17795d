"""The bearer token: each way to be wrong has its own words, and none shows the token."""

import base64
import contextlib
import errno
import http.server
import json
import os
import threading
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from htcjob.errors import TokenError, TransientError
from htcjob.htc_api import key_set as key_set_module
from htcjob.htc_api.bearer_token import LEEWAY_S, decode_token, expiry_hint
from htcjob.logs.redact import Secret
from htcjob.retry import RetryPolicy

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def keys():
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]


@pytest.fixture
def jwks(keys, tmp_path):
    path = tmp_path / "jwks.json"
    path.write_text(key_set(keys[0]))
    return str(path)


def key_set(key, kid="k1") -> str:
    return json.dumps({"keys": [{**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": kid}]})


def signed(key, claims=None, kid="k1", algorithm="RS256") -> Secret:
    claims = {"exp": NOW + 3600, "sub": "me", "marker": "planted-claim"} | (claims or {})
    return Secret(jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid}))


def test_a_token_is_decoded_without_a_key_set_and_verified_with_one(keys, jwks):
    """`is_verified` says which."""
    assert not decode_token(signed(keys[1]), now=NOW).is_verified
    token = decode_token(signed(keys[0]), jwks=jwks, now=NOW)
    assert token.is_verified
    assert token.expires_at == NOW + 3600


def test_user_defined_claims_come_without_their_prefix(keys):
    """Those and no others, values as text."""
    token = decode_token(signed(keys[0], {"userDefined_team": "blue", "userDefined_n": 3}), now=NOW)
    assert token.user_claims() == {"team": "blue", "n": "3"}


def unsigned() -> Secret:
    def part(value) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return Secret(
        f"{part({'alg': 'none', 'typ': 'JWT'})}.{part({'exp': NOW + 99, 'marker': 'planted-claim'})}."
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda keys: Secret("not-a-token-at-all"), "malformed"),
        (lambda keys: Secret("a.b.c"), "malformed"),
        (lambda keys: Secret(signed(keys[0]).reveal()[:-40]), "signed|malformed"),
        (lambda keys: Secret('"' + signed(keys[0]).reveal() + '"'), "malformed"),
        (lambda keys: unsigned(), "'none'"),
        (lambda keys: signed("symmetric-secret-0123456789-0123456789", algorithm="HS256"), "'HS256'"),
        (lambda keys: signed(keys[1]), "not signed by a key"),
        (lambda keys: signed(keys[0], kid="other"), "names a key that HTCJOB_JWKS does not have"),
        (lambda keys: signed(keys[0], {"exp": NOW - 3600}), "expired 3600 s ago"),
        (lambda keys: signed(keys[0], {"nbf": NOW + 3600}), "valid only in 3600 s"),
        (lambda keys: signed(keys[0], {"exp": "soon"}), "malformed"),
        (lambda keys: signed(keys[0], {"exp": float("nan")}), "malformed"),
        (lambda keys: signed(keys[0], {"exp": 10**400}), "malformed"),
    ],
)
def test_each_wrong_token_has_its_own_words_and_is_not_shown(keys, jwks, make, said):
    """The message says what is wrong and holds neither the token nor its claims."""
    secret = make(keys)
    with pytest.raises(TokenError, match=said) as caught:
        decode_token(secret, jwks=jwks, now=NOW)
    message = "".join(str(e) for e in (caught.value, caught.value.__cause__))
    assert secret.reveal() not in message
    assert "planted-claim" not in message


def test_expiry_counts_without_a_key_set_too(keys):
    """A token that nobody can verify is still useless once it has expired."""
    with pytest.raises(TokenError, match="expired"):
        decode_token(signed(keys[1], {"exp": NOW - LEEWAY_S - 1}), now=NOW)
    decode_token(signed(keys[1], {"exp": NOW - LEEWAY_S + 1}), now=NOW)


def test_a_key_set_that_cannot_be_read_is_named(keys, tmp_path):
    """File missing, not JSON, no keys: the message names HTCJOB_JWKS."""
    (tmp_path / "bad").write_text("not json")
    (tmp_path / "empty").write_text('{"keys": []}')
    for n, text in enumerate(("[]", "5", "null")):
        (tmp_path / f"odd{n}").write_text(text)
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent", "bad", "empty", "odd0", "odd1", "odd2", "pipe"):
        with pytest.raises(TokenError, match="HTCJOB_JWKS"):
            decode_token(signed(keys[0]), jwks=str(tmp_path / name), now=NOW)


class KeyServer:
    """Gives its answers one after the other, and the last one for ever."""

    def __init__(self, *answers) -> None:
        self.asked = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler):  # noqa: N805
                status, body = answers[min(self.asked, len(answers) - 1)]
                self.asked += 1
                handler.send_response(status)
                handler.send_header("Location", "http://127.0.0.1:1/elsewhere?sig=planted")
                handler.end_headers()
                handler.wfile.write(body if isinstance(body, bytes) else body.encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json?site=1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


AT_ONCE = RetryPolicy(retries=3, sleep=lambda _: False)


def test_a_key_set_is_read_from_a_url(keys):
    """The platform publishes its keys at a URL."""
    with KeyServer((200, key_set(keys[0]))) as server:
        assert decode_token(signed(keys[0]), jwks=server.url, now=NOW).is_verified
        assert server.asked == 1
        with pytest.raises(TokenError, match="not signed by"):
            decode_token(signed(keys[1]), jwks=server.url, now=NOW)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_key_server_that_is_down_for_a_moment_is_asked_again(keys, status):
    """And one that stays down is passing trouble, no verdict on the token."""
    with KeyServer((status, "down"), (status, "down"), (200, key_set(keys[0]))) as server:
        assert decode_token(signed(keys[0]), jwks=server.url, retry=AT_ONCE, now=NOW).is_verified
        assert server.asked == 3
    with KeyServer((status, "down")) as server, pytest.raises(TransientError, match="HTCJOB_JWKS"):
        decode_token(signed(keys[0]), jwks=server.url, retry=AT_ONCE, now=NOW)
    with pytest.raises(TransientError, match="refused"):
        decode_token(signed(keys[0]), jwks=server.url, retry=AT_ONCE, now=NOW)


def test_a_key_that_is_not_in_the_set_is_looked_for_once_more(keys):
    """The platform may just have changed its keys; one that is not there then is not the platform's."""
    old, new = key_set(keys[0]), key_set(keys[1], "k2")
    with KeyServer((200, old), (200, new)) as server:
        assert decode_token(signed(keys[1], kid="k2"), jwks=server.url, now=NOW).is_verified
        assert server.asked == 2
    with KeyServer((200, old)) as server:
        with pytest.raises(TokenError, match="does not have"):
            decode_token(signed(keys[1], kid="k2"), jwks=server.url, now=NOW)
        assert server.asked == 2


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_a_key_set_on_a_disk_in_trouble_is_read_again(keys, jwks, monkeypatch, code):
    """A moment's trouble of this machine is no verdict on the token."""
    failures = [OSError(code, os.strerror(code))]

    def read(path, largest_bytes, read_whole=key_set_module.read_whole):
        if failures:
            raise failures.pop()
        return read_whole(path, largest_bytes)

    monkeypatch.setattr(key_set_module, "read_whole", read)
    assert decode_token(signed(keys[0]), jwks=jwks, retry=AT_ONCE, now=NOW).is_verified
    failures.append(OSError(code, os.strerror(code)))
    with pytest.raises(TransientError, match="HTCJOB_JWKS"):
        decode_token(signed(keys[0]), jwks=jwks, now=NOW)


ODD_SETS = (
    ("", "no JSON"),
    ("<html>log in</html>", "no JSON"),
    (b"\xff\xfe", "no JSON"),
    ("[]", "no JSON object"),
    ("null", "no JSON object"),
    ("{}", "no keys"),
    ('{"keys": {}}', "no keys"),
    ('{"keys": "k1"}', "no keys"),
    ("[" * 100_000, "nested"),
    ('{"keys":' + "[" * 5000 + "]" * 5000 + "}", "nested"),
)


@pytest.mark.parametrize(("body", "said"), ODD_SETS)
@pytest.mark.parametrize("place", ["file", "url"])
def test_what_is_no_key_set_is_said_on_one_line(keys, tmp_path, body, said, place):
    """A captive portal, a wrong file: the token cannot be trusted, and nothing is tried again."""
    with KeyServer((200, body)) as server:
        path = tmp_path / "set"
        path.write_bytes(body if isinstance(body, bytes) else body.encode())
        jwks = str(path) if place == "file" else server.url
        with pytest.raises(TokenError, match=f"HTCJOB_JWKS.* cannot be read: .*{said}") as caught:
            decode_token(signed(keys[0]), jwks=jwks, retry=AT_ONCE, now=NOW)
        assert str(caught.value).isprintable()
        assert server.asked == (place == "url")


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 204])
def test_a_key_server_with_another_answer_is_refused(keys, status):
    """It is asked once; a redirect is not followed, and its query not shown."""
    body = b"" if status == 204 else key_set(keys[0])
    with KeyServer((status, body)) as server:
        with pytest.raises(TokenError, match=f"HTCJOB_JWKS.* cannot be read: HTTP {status}") as caught:
            decode_token(signed(keys[0]), jwks=server.url, retry=AT_ONCE, now=NOW)
        assert server.asked == 1
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    "odd",
    [
        None,
        5,
        "k1",
        [],
        {},
        {"kty": "RSA"},
        {"kty": "RSA", "n": 5, "e": []},
        {"kty": "RSA", "n": "AQ", "e": "AQ"},
        {"kty": ["RSA"]},
        {"kty": 5},
        {"kty": "oct", "k": "c3ltbWV0cmlj"},
        {"kty": "EC", "crv": "P-999", "x": "AQ", "y": "AQ"},
        {"kty": "EC", "crv": {}, "x": "AQ", "y": "AQ"},
        {"kty": "OKP", "crv": "X448", "x": "AQ"},
        {"kty": "RSA", "alg": "none", "n": "AQ", "e": "AQAB"},
        {"kty": "RSA", "alg": ["RS256"], "n": "\ud800", "e": "AQAB"},
    ],
)
def test_an_odd_key_is_not_the_one_and_hides_no_other(keys, tmp_path, odd):
    """Whatever stands in the set beside the platform's key, that one is found; the odd one verifies nothing."""
    good = json.loads(key_set(keys[0]))["keys"]
    named = {**odd, "kid": "k1"} if isinstance(odd, dict) else odd
    path = tmp_path / "set"
    path.write_text(json.dumps({"keys": [named, *good]}))
    assert decode_token(signed(keys[0]), jwks=str(path), now=NOW).is_verified
    path.write_text(json.dumps({"keys": [named]}))
    with pytest.raises(TokenError, match="HTCJOB_JWKS"):
        decode_token(signed(keys[0]), jwks=str(path), now=NOW)


@pytest.mark.parametrize("value", [None, 5, 1.5, True, "", "me", [], ["a", 5], {}, {"a": None}, NOW + 99999])
@pytest.mark.parametrize("name", ["sub", "jti", "aud", "iat", "iss", "auth_time", "userDefined_x"])
def test_other_claims_may_be_what_the_platform_made_them(keys, jwks, name, value):
    """Only the signature and the token's times are relied upon."""
    token = Secret(unchecked(keys[0], {"exp": NOW + 99, name: value}))
    assert decode_token(token, jwks=jwks, now=NOW).is_verified
    assert not decode_token(token, now=NOW).is_verified


def unchecked(key, claims) -> str:
    """Sign claims that PyJWT would not."""
    return jwt.api_jws.encode(json.dumps(claims).encode(), key, algorithm="RS256", headers={"kid": "k1"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "exp", "nbf", "sub", "userDefined_a"])


@settings(max_examples=60)
@given(
    header=st.dictionaries(NAMES, JSON | st.sampled_from(["RS256", "none", "HS256", "k1"])),
    claims=st.dictionaries(NAMES, JSON) | JSON,
    keys=st.lists(st.dictionaries(st.sampled_from(["kty", "kid", "n", "e", "alg", "crv", "x", "use"]), JSON)),
)
def test_no_token_and_no_key_set_is_a_bug_of_ours(tmp_path_factory, header, claims, keys):
    """Whatever their JSON holds, the token is decoded or it is refused with a `TokenError`."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    token = Secret(b".".join([*parts, b"c2ln"]).decode())
    path = tmp_path_factory.getbasetemp() / "fuzzed-set"
    path.write_text(json.dumps({"keys": [*keys, {"kid": "k1"}]}))
    for jwks in (None, str(path)):
        with contextlib.suppress(TokenError):
            decode_token(token, jwks=jwks, now=NOW).user_claims()
    expiry_hint(token)


def test_repr_shows_neither_token_nor_claims(keys):
    """A token in a log line or traceback tells nothing."""
    secret = signed(keys[0])
    shown = repr(decode_token(secret, now=time.time()))
    assert secret.reveal() not in shown
    assert "planted-claim" not in shown
