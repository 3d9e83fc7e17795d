"""
Ceph RGW, a real S3 server with session tokens (STS), from Debian's packages; the data are in memory.

`python -m tests.support.servers.rgw` starts one, prints the variables to reach it and runs until Ctrl-C.
"""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.servers.shared import tied
from tests.support.skipping import skip_or_fail

from .debian import InstallError, unpacked
from .htc_api import Vended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_S = 90
"""Seconds that a start may take; 2 are usual on two idle cores."""

# Every daemon in the foreground, one OSD whose objects are in memory, no authentication inside of it.
_CONF = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
run dir = {folder}
crash dir = {folder}
admin socket =
pid file =
log file = {logs}/$name.log
osd class dir = {libraries}/rados-classes
erasure code dir = {libraries}/ceph/erasure-code
plugin dir = {libraries}/ceph
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
# The map has the OSD's place already; asking for one while the monitor starts may wait for ever.
osd crush update on start = false
osd class update on start = false
osd objectstore = memstore
memstore device bytes = {memory_bytes}
mon allow pool size one = true
mon data avail crit = 1
mon cluster log to file = false
# A start makes some ten changes to the cluster's maps; each would wait a second.
paxos propose interval = 0.05
paxos min wait = 0.01
mon max pg per osd = 1000
rgw gc obj min wait = 5
rgw gc processor period = 10
rgw dynamic resharding = false
[mon]
mon data = {folder}/mon
mon initial members = a
[osd]
osd data = {folder}/osd
[client.rgw.a]
# Without tcp_nodelay every answer waits for the client's delayed acknowledgement.
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 64
rgw sts key = abcdefghijklmnop
rgw s3 auth use sts = true
rgw sts min session duration = 5
debug rgw = 0
"""
_ROLE = "Vend"
_USER_MAY_ASSUME = {
    "Effect": "Allow",
    "Principal": {"AWS": ["arn:aws:iam:::user/test"]},
    "Action": ["sts:AssumeRole"],
}


class StartError(Exception):
    """The server did not start; the text has the end of its logs."""


class Rgw:
    """A running server."""

    access_key = "testkey"
    secret_key = "testsecret"
    region = "us-east-1"

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        """`http://127.0.0.1:PORT`"""
        self._clients: dict[str, Any] = {}
        """Our own, by service: making one takes much longer than a request."""

    def client(self, service: str = "s3") -> Any:
        """Return a boto3 client of the owner of everything."""
        # Imported here, as nothing but the tests of S3 needs it.
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            # Session tokens of less than 900 s are not for botocore to refuse.
            config=Config(parameter_validation=False, s3={"addressing_style": "path"}),
        )

    def new_bucket(self) -> str:
        """Make an empty bucket and give its name."""
        name = f"bucket-{uuid.uuid4().hex}"
        self._client("s3").create_bucket(Bucket=name)
        return name

    def assume_role(
        self, prefix: str | None = None, bucket: str | None = None, seconds: int = 3600
    ) -> dict[str, Any]:
        """
        Return temporary credentials, as `AWS_…` variables, and `expires_at` in seconds since the epoch.

        Args:
            prefix: Start of the only object names they are good for; needs *bucket*.
            bucket: The only bucket they are good for.
            seconds: How long they live, from 5.
        """
        statements: list[dict[str, Any]] = [
            {
                "Effect": "Allow",
                "Action": ["s3:*"],
                "Resource": [f"arn:aws:s3:::{bucket or ''}{'/' if bucket else ''}{prefix or ''}*"],
            }
        ]
        if bucket is not None:
            listing: dict[str, Any] = {
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
            }
            if prefix is not None:
                listing["Condition"] = {"StringLike": {"s3:prefix": [f"{prefix}*"]}}
            statements.append(listing)
        given = self._client("sts").assume_role(
            RoleArn=f"arn:aws:iam:::role/{_ROLE}",
            RoleSessionName="test",
            DurationSeconds=seconds,
            Policy=_document(*statements),
        )["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
            "expires_at": given["Expiration"].timestamp(),
        }

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = self.client(service)
        return self._clients[service]

    def vend(self, bucket: str, *, seconds: int = 3600) -> Vended:
        """Return what an HTC API vends: credentials that live so long, and `project/` and `task/` of *bucket*."""
        given = self.assume_role(bucket=bucket, seconds=seconds)
        expires_at = given.pop("expires_at")
        return Vended(
            {**given, "AWS_ENDPOINT_URL_S3": self.endpoint},
            project=f"s3://{bucket}/project/",
            task=f"s3://{bucket}/task/",
            expires_at=expires_at,
        )

    def environ(self) -> dict[str, str]:
        """Return the variables with which a process reaches the server as the owner."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }


@contextmanager
def running_rgw(directory: Path, *, memory_bytes: int = 1 << 30) -> Iterator[Rgw]:
    """
    Start a server and stop it at the end; it also dies with the thread that calls this.

    Args:
        directory: For its logs and few data; made if missing.
        memory_bytes: Most that its objects take.

    Raises:
        InstallError: the packages cannot be had.
        StartError: they do not start here.
    """
    root = unpacked("ceph", "radosgw", "ceph-mon", "ceph-osd")
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="data-", dir=directory) as data:
        daemons = _Daemons(root, Path(data), directory, memory_bytes)
        stack.callback(daemons.stop)
        daemons.start()
        yield Rgw(f"http://127.0.0.1:{daemons.port}")


@pytest.fixture(scope="session")
def rgw(shared: Callable[..., Rgw]) -> Rgw:
    """A running server, one for all tests."""
    try:
        return shared(running_rgw)
    except (InstallError, StartError) as error:
        skip_or_fail("HTCJOB_REQUIRE_SERVERS", f"no Ceph RGW: {error}")


class _Daemons:
    """Monitor, object store and gateway, in the order they are started."""

    def __init__(self, root: Path, data: Path, logs: Path, memory_bytes: int) -> None:
        self._data = data
        self._logs = logs
        self._running: list[subprocess.Popen[bytes]] = []
        self._until = time.monotonic() + START_S
        self.port, mon_port = _free_ports(2)
        libraries = next(root.glob("usr/lib/*-linux-gnu"))
        self._fsid = str(uuid.uuid4())
        self._mon = f"v1:127.0.0.1:{mon_port}"
        conf = _CONF.format(
            fsid=self._fsid,
            mon_port=mon_port,
            port=self.port,
            folder=data,
            logs=logs,
            libraries=libraries,
            memory_bytes=memory_bytes,
        )
        (data / "ceph.conf").write_text(conf)
        self._bin = root / "usr/bin"
        self._environ = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C",
            "CEPH_CONF": str(data / "ceph.conf"),
            "LD_LIBRARY_PATH": f"{libraries}:{libraries}/ceph:{root}/lib/{libraries.name}",
        }

    def start(self) -> None:
        data = self._data
        (data / "osd").mkdir()
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", self._mon, data / "monmap")
        # A map that has the one OSD already: else the `ceph` command, a Python program, would have to add it.
        self._run("osdmaptool", "--createsimple", 1, data / "osdmap")
        maps = ("--monmap", data / "monmap", "--osdmap", data / "osdmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", *maps)
        self._launch("ceph-mon", "-f", "-i", "a")
        self._run("ceph-osd", "--mkfs", "-i", 0)
        self._launch("ceph-osd", "-f", "-i", 0)
        self._launch("radosgw", "-f", "-n", "client.rgw.a")
        user = ("--access-key", Rgw.access_key, "--secret-key", Rgw.secret_key)
        names = ("--uid=test", "--display-name=test", "--max-buckets=100000")
        self._run("radosgw-admin", "user", "create", *names, *user)
        role = f"--role-name={_ROLE}"
        policy = _document(_USER_MAY_ASSUME)
        self._run("radosgw-admin", "role", "create", role, "--path=/", f"--assume-role-policy-doc={policy}")
        policy = _document({"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]})
        self._run("radosgw-admin", "role-policy", "put", role, "--policy-name=P", f"--policy-doc={policy}")
        self._wait_for_answer()

    def stop(self) -> None:
        # Nothing is to be kept, and a monitor may wait long for an OSD that is gone.
        for daemon in reversed(self._running):
            daemon.kill()
        for daemon in reversed(self._running):
            daemon.wait(timeout=30)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._bin / program), *map(str, arguments)]
        seconds = max(self._until - time.monotonic(), 1)
        try:
            with self._log(program) as log:
                subprocess.run(
                    command,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=seconds,
                    check=True,
                )
        except (subprocess.SubprocessError, OSError) as error:
            raise self._failed(f"{program}: {error}") from None

    def _launch(self, program: str, *arguments: object) -> None:
        command = tied(str(self._bin / program), *map(str, arguments))
        try:
            with self._log(program) as log:
                self._running.append(
                    subprocess.Popen(
                        command, env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                )
        except OSError as error:
            raise self._failed(f"{program}: {error}") from None

    def _log(self, program: str) -> Any:
        return (self._logs / f"{program}.out").open("ab")

    def _wait_for_answer(self) -> None:
        while True:
            for daemon in self._running:
                if daemon.poll() is not None:
                    raise self._failed(f"{daemon.args[3]} ended with {daemon.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5).close()
            except urllib.error.HTTPError:
                return
            except OSError:
                if time.monotonic() > self._until:
                    raise self._failed(f"no answer in {START_S} s") from None
                time.sleep(0.1)
            else:
                return

    def _failed(self, reason: str) -> StartError:
        logs = [*sorted(self._logs.glob("*.out")), *sorted(self._logs.glob("*.log"))]
        tails = [f"{log.name}:\n{log.read_text(errors='replace')[-1500:]}" for log in logs]
        return StartError("\n".join((reason, *tails)))


def _document(*statements: dict[str, Any]) -> str:
    # Without spaces: RGW takes the `+` of an encoded form for itself.
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, running_rgw(Path(folder), memory_bytes=4 << 30) as server:
        for name, value in server.environ().items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
