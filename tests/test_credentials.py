"""The bearer token: each way to be wrong has its own words, and none shows the token."""

import base64
import http.server
import json
import os
import threading
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from htcjob.credentials import LEEWAY_S, decode_token
from htcjob.errors import TokenError
from htcjob.redact import Secret

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


def test_a_key_set_is_read_from_a_url(keys):
    """The platform publishes its keys at a URL; a wrong key and a dead server are told apart."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(key_set(keys[0]).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/jwks.json"
    try:
        assert decode_token(signed(keys[0]), jwks=url, now=NOW).is_verified
        with pytest.raises(TokenError, match="does not have"):
            decode_token(signed(keys[1], kid="k2"), jwks=url, now=NOW)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(TokenError, match="cannot be read"):
        decode_token(signed(keys[0]), jwks=url, now=NOW)


def test_repr_shows_neither_token_nor_claims(keys):
    """A token in a log line or traceback tells nothing."""
    secret = signed(keys[0])
    shown = repr(decode_token(secret, now=time.time()))
    assert secret.reveal() not in shown
    assert "planted-claim" not in shown
