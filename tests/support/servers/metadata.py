"""A metadata server for tests, as strict as those of Amazon and Google, that can be told to give notice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

from tests.support.servers.loopback import QuietHandler, served

NOTICE = {"action": "terminate", "time": "2026-01-01T00:02:00Z"}


class MetadataServer:
    """Notices of both clouds, and what was asked."""

    def __init__(self, url: str) -> None:
        self.host = url.removeprefix("http://")
        self.requests: list[str] = []
        """Method and path with query, in order."""
        self.tokens: set[str] = set()
        """Of Amazon's version 2, that are good."""
        self.is_broken = False
        """Every answer is status 500."""
        self._has_notice = threading.Event()

    def environ(self, cloud: str) -> dict[str, str]:
        """Return the variable that leads a cloud's clients here."""
        if cloud == "aws":
            return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{self.host}/"}
        return {"GCE_METADATA_HOST": self.host}

    def give_notice(self) -> None:
        """The machine is about to be taken away."""
        self._has_notice.set()

    def answer(self, method: str, path: str, headers) -> tuple[int, str, dict[str, str]]:
        parts = urlsplit(path)
        if self.is_broken:
            return 500, "", {}
        if method == "PUT" and parts.path == "/latest/api/token":
            if not 1 <= int(headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600:
                return 400, "", {}
            token = f"token-{len(self.requests)}=="
            self.tokens.add(token)
            return 200, token, {}
        if method == "GET" and parts.path == "/latest/meta-data/spot/instance-action":
            if headers["X-aws-ec2-metadata-token"] not in self.tokens:
                return 401, "", {}
            return (200, json.dumps(NOTICE), {}) if self._has_notice.is_set() else (404, "", {})
        if method == "GET" and parts.path == "/computeMetadata/v1/instance/preempted":
            if headers["Metadata-Flavor"] != "Google":
                return 403, "", {}
            asked = parse_qs(parts.query)
            etag = "b2" if self._has_notice.is_set() else "a1"
            if asked.get("wait_for_change") == ["true"] and asked.get("last_etag", [etag]) == [etag]:
                self._has_notice.wait(float(asked["timeout_sec"][0]))
            is_set = self._has_notice.is_set()
            etag = {"ETag": "b2" if is_set else "a1", "Metadata-Flavor": "Google"}
            return 200, "TRUE" if is_set else "FALSE", etag
        return 404, "", {}


@contextmanager
def metadata_server() -> Iterator[MetadataServer]:
    """Run one."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            server.requests.append(f"{self.command} {self.path}")
            status, body, headers = server.answer(self.command, self.path, self.headers)
            self.send(status, body.encode(), headers)

        do_PUT = do_GET

    with served(Handler) as url:
        server = MetadataServer(url)
        try:
            yield server
        finally:
            server.give_notice()  # so that nobody waits for it
