"""TLS in front of a server on this machine: nginx from Debian's packages, and a certificate authority."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.servers.shared import tied
from tests.support.skipping import skip_or_fail

from .debian import InstallError, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .rgw import Rgw

_START_S = 30

# Bytes are passed on as they are: what is tested is the server behind it.
_CONF = """
load_module {root}/usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
stream {{
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        tcp_nodelay on;
        proxy_pass {server};
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class TlsFront:
    """Where a server is reached by TLS."""

    endpoint: str
    """`https://127.0.0.1:PORT`"""
    ca_file: str
    """PEM file of the authority that vouches for it."""


@contextmanager
def tls_in_front_of(directory: Path, endpoint: str) -> Iterator[TlsFront]:
    """
    Let the server at the URL *endpoint* be reached by TLS too.

    Raises:
        InstallError: nginx cannot be had, or does not start here.
    """
    root = unpacked("nginx", "nginx", "libnginx-mod-stream")
    directory.mkdir(parents=True, exist_ok=True)
    _write_certificates(directory)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    conf = _CONF.format(root=root, folder=directory, port=port, server=urlsplit(endpoint).netloc)
    (directory / "nginx.conf").write_text(conf)
    log = directory / "nginx.log"
    command = tied(str(root / "usr/sbin/nginx"), "-p", str(directory), "-e", str(log), "-c", "nginx.conf")
    nginx = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + _START_S
        while not _answers(port):
            if nginx.poll() is not None or time.monotonic() > until:
                raise InstallError(f"nginx does not answer: {log.read_text()[-1500:]}")
            time.sleep(0.05)
        yield TlsFront(f"https://127.0.0.1:{port}", str(directory / "ca.pem"))
    finally:
        nginx.kill()
        nginx.wait(timeout=30)


@pytest.fixture(scope="session")
def rgw_tls(rgw: Rgw, shared: Callable[..., TlsFront]) -> TlsFront:
    """TLS in front of the S3 server `rgw`."""
    try:
        return shared(tls_in_front_of, rgw.endpoint)
    except InstallError as error:
        skip_or_fail("HTCJOB_REQUIRE_SERVERS", f"no TLS: {error}")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _write_certificates(folder: Path) -> None:
    """Write `ca.pem`, `server.pem` and `server.key`, good for 127.0.0.1 and localhost."""
    now = datetime.now(timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name.from_rfc4514_string("CN=htcjob test authority")

    def certificate(
        name: x509.Name, public_key: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=7))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    unused = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    usage = x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **unused)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    is_authority = x509.BasicConstraints(ca=True, path_length=None)
    (folder / "ca.pem").write_bytes(certificate(ca_name, ca_key.public_key(), is_authority, usage))
    is_server = x509.BasicConstraints(ca=False, path_length=None)
    name = x509.Name.from_rfc4514_string("CN=localhost")
    alternatives = x509.SubjectAlternativeName(names)
    (folder / "server.pem").write_bytes(
        certificate(name, key.public_key(), is_server, alternatives, authority)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.key").write_bytes(private)
