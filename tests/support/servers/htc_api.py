"""
An HTC API of our own, for tests: tokens and storage tokens over HTTP, as docs/htc-api.md has them.

It checks the Authorization header of each request, keeps a log of them, and can be told to fail.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from htcjob.logs.events import utc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PROJECT = "5b8bd0c6-0000-4000-8000-000000000001"
TASK = "96db154e-0000-4000-8000-000000000002"
REFRESH_TOKEN = "planted-refresh-0123456789"
API_KEY = "planted-api-key-0123456789"


@dataclass(frozen=True)
class Vended:
    """What the API is to vend."""

    credentials: Mapping[str, str]
    project: str | None = None
    """URL of project storage."""
    task: str | None = None
    """URL of task storage."""
    expires_at: float | None = None
    """Seconds since the epoch."""
    provider: str = "AWS"


@dataclass(frozen=True)
class Request:
    """A request as it came, and what was answered."""

    path: str
    """Without `/api/v1`."""
    authorization: str
    status: int
    mount: str


@dataclass
class _Fault:
    left: int
    status: int
    headers: Mapping[str, str]
    body: bytes
    delay_s: float
    only: str


@dataclass
class HtcApiServer:
    """A running server."""

    port: int
    vend: Callable[[str, str | None, str], Vended]
    """Project id, task id (None: for project storage alone) and region -> what is vended."""
    regions: list[str] = field(default_factory=lambda: ["AWS_EU_WEST_1"])
    """Those with storage; the first is the default."""
    off: set[str] = field(default_factory=set)
    """Last words of routes that are not there (404)."""
    denied: set[str] = field(default_factory=set)
    """Last words of routes that job tokens may not use (403)."""
    token_life_s: float = 21600
    bearer_tokens: dict[str, float] = field(default_factory=dict)
    """Valid ones, with their end."""
    clock_ahead_s: float = 0.0
    """The server's clock against ours, in Date and in `expiration`."""
    requests: list[Request] = field(default_factory=list)
    _faults: list[_Fault] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1"

    def environ(self) -> dict[str, str]:
        """Return what the platform would inject."""
        return {
            "HTCJOB_API_URL": self.url,
            "RESCALE_HTC_BEARER_TOKEN": self.new_token(),
            "RESCALE_HTC_REFRESH_TOKEN": REFRESH_TOKEN,
            "RESCALE_HTC_PROJECT_ID": PROJECT,
            "RESCALE_HTC_TASK_ID": TASK,
            "RESCALE_HTC_REGION": self.regions[0],
        }

    def new_token(self, life_s: float | None = None) -> str:
        """Return a bearer token, in the form of a JWT, that is valid from now on."""
        expires_at = time.time() + (self.token_life_s if life_s is None else life_s)
        with self._lock:
            claims = {"exp": expires_at, "number": next(self._numbers), "taskId": TASK}
            parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims)]
            parts.append(b"planted-signature-0123456789")
            token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
            self.bearer_tokens[token] = expires_at
        return token

    def fail_next(
        self,
        n: int = 1,
        status: int = 503,
        headers: Mapping[str, str] | None = None,
        *,
        body: bytes = b'{"error":"X","errorDescription":"told to fail"}',
        delay_s: float = 0.0,
        only: str = "",
    ) -> None:
        """
        Answer the next *n* requests so, before anything about them is checked.

        Args:
            n: How many.
            status: 0: close the connection without an answer.
            headers: Of the answer, beside those it has anyway; these win.
            body: Of the answer.
            delay_s: Wait so long first.
            only: A part of the paths that are meant.
        """
        with self._lock:
            self._faults.append(_Fault(n, status, headers or {}, body, delay_s, only))

    def paths(self) -> list[str]:
        """Return the paths asked for so far."""
        with self._lock:
            return [request.path for request in self.requests]

    def _fault(self, path: str) -> _Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.left and fault.only in path:
                    fault.left -= 1
                    return fault
        return None

    def answer(self, path: str, authorization: str) -> tuple[int, object]:
        """Return status and body."""
        scheme, _, secret = authorization.partition(" ")
        parts = [part for part in path.split("/") if part]
        if parts == ["auth", "token"]:
            if (scheme, secret) not in (("Refresh", REFRESH_TOKEN), ("Token", API_KEY)):
                return _error(401, "UNAUTHORIZED", f"{scheme} credential {secret} is not known")
            return 200, {"tokenValue": self.new_token(), "expiresIn": self.token_life_s}
        if scheme != "Bearer" or self.bearer_tokens.get(secret, 0.0) < time.time():
            return _error(
                401, "UNAUTHORIZED", f"bearer token {secret} is not valid"
            )  # an echo, to be redacted
        if any(part in self.denied for part in parts):
            return _error(403, "FORBIDDEN", "job tokens may not do this")
        if parts[:3] != ["htc", "projects", PROJECT] or any(part in self.off for part in parts):
            return _error(404, "NOT_FOUND", "no such thing")
        match parts[3:]:
            case ["storage", *rest]:
                return self._storage(None, rest)
            case ["tasks", task, "storage", *rest] if task == TASK:
                return self._storage(task, rest)
        return _error(404, "NOT_FOUND", "no such task")

    def _storage(self, task: str | None, rest: list[str]) -> tuple[int, object]:
        match rest:
            case ["token"]:
                return 200, self._token(task, self.regions[0])
            case ["token", region]:
                if region in self.regions:
                    return 200, self._token(task, region)
                if not region.startswith(("AWS_", "GCP_", "AZURE_")):
                    return _error(400, "INVALID_REQUEST", "no such region")
                return _error(404, "NOT_FOUND", "no storage in this region")
            case ["tokens"]:
                stores = [self._token(task, region) for region in self.regions]
                return 200, {"defaultRegion": self.regions[0], "regionStores": stores}
            case ["regional-storage"] if task is not None:
                stores = [self._regional(task, region) for region in self.regions]
                return 200, {"rescaleRegion": self.regions[0], "regionalStores": stores}
        return _error(404, "NOT_FOUND", "no such route")

    def _token(self, task: str | None, region: str) -> dict[str, object]:
        vended = self.vend(PROJECT, task, region)
        token = {
            "projectId": PROJECT,
            "storageName": "sim-1",
            "region": region,
            "provider": vended.provider,
            "user": "qWoUF",
            "projectSharedStoragePath": vended.project,
            "credentials": dict(vended.credentials),
            "expiration": self._expiration(vended),
        }
        if task is not None:
            token |= {"taskId": task, "storagePath": vended.task}
        return {name: value for name, value in token.items() if value is not None}

    def _regional(self, task: str, region: str) -> dict[str, object]:
        vended = self.vend(PROJECT, task, region)
        store = {
            "region": region,
            "provider": vended.provider,
            "projectPath": vended.project,
            "taskPath": vended.task,
            "credentials": dict(vended.credentials),
            "expiration": self._expiration(vended),
        }
        return {name: value for name, value in store.items() if value is not None}

    def _expiration(self, vended: Vended) -> str | None:
        return None if vended.expires_at is None else utc(vended.expires_at + self.clock_ahead_s)


def _error(status: int, error: str, description: str) -> tuple[int, object]:
    body = {"error": error, "errorType": error, "errorDescription": description, "message": None}
    return status, body


class _Handler(BaseHTTPRequestHandler):
    api: HtcApiServer
    timeout = 30

    def do_GET(self) -> None:
        path, mount = self.path.partition("?")[0], "/"
        if path.startswith("/api/v1/"):
            path, mount = path.removeprefix("/api/v1"), "/api/v1"
        authorization = self.headers.get("Authorization", "")
        headers: dict[str, str] = {"Content-Type": "application/json"}
        fault = self.api._fault(path)
        if fault is not None:
            time.sleep(fault.delay_s)
            status, body = fault.status, fault.body
            headers |= fault.headers
        else:
            status, answer = self.api.answer(path, authorization)
            body = json.dumps(answer).encode()
        with self.api._lock:
            self.api.requests.append(Request(path, authorization, status, mount))
        if status == 0:
            self.close_connection = True
            return
        self.send_response_only(status)
        headers = {"Date": formatdate(time.time() + self.api.clock_ahead_s, usegmt=True)} | headers
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Tests look at `requests`."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined at the end: no thread writes into a later test
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


def planted(project: str, task: str | None, region: str) -> Vended:
    """Vend what tests can look for in all that is written."""
    return Vended(
        {
            "AWS_ACCESS_KEY_ID": "planted-key-id-0123456789",
            "AWS_SECRET_ACCESS_KEY": "planted-secret-key-0123456789",
            "AWS_SESSION_TOKEN": f"planted-session-{time.monotonic_ns()}",
        },
        project=f"s3://sim-{region.lower()}/projects/{project}/shared/",
        task=f"s3://sim-{region.lower()}/projects/{project}/tasks/{task}" if task else None,
        expires_at=time.time() + 3600,
    )


@contextmanager
def running_htc_api(vend: Callable[[str, str | None, str], Vended] = planted) -> Iterator[HtcApiServer]:
    """Start a server and stop it at the end."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        api = handler.api = HtcApiServer(server.server_address[1], vend)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(name="htc_api")
def htc_api_fixture() -> Iterator[HtcApiServer]:
    """A running API that vends `planted` credentials."""
    with running_htc_api() as api:
        yield api
