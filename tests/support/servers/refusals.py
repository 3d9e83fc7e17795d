"""A server that refuses every request in the words that it is told, as S3, Google or Azure would say them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.servers.loopback import QuietHandler, served

if TYPE_CHECKING:
    from collections.abc import Iterator


class Refusals:
    """What is answered, and what was asked."""

    def __init__(self) -> None:
        self.status = 403
        self.code = ""
        self.headers: dict[str, str] = {}
        self.body: bytes | None = None
        """Instead of an error in the cloud's own form."""
        self.requests: list[str] = []
        """Method, path and headers of each request, as one text."""
        self.url = ""

    def say(
        self, status: int, code: str = "", *, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """Answer so from now on."""
        self.status, self.code, self.body, self.headers = status, code, body, headers or {}

    def body_for(self, path: str) -> bytes:
        """Return the error in the form of the API that *path* belongs to."""
        if self.body is not None:
            return self.body
        if path.startswith(("/storage/v1", "/upload/", "/download/")):
            errors = [{"reason": self.code, "message": "planned"}] if self.code else []
            return json.dumps(
                {"error": {"code": self.status, "message": "planned", "errors": errors}}
            ).encode()
        code = f"<Code>{self.code}</Code>" if self.code else ""
        return f"<?xml version='1.0'?><Error>{code}<Message>planned</Message></Error>".encode()


@contextmanager
def refusing_server() -> Iterator[Refusals]:
    """Run such a server on a port of its own."""
    refusals = Refusals()

    class Handler(QuietHandler):
        def answer(self) -> None:
            refusals.requests.append(f"{self.command} {self.path}\n{self.headers}")
            self.body()
            body = refusals.body_for(self.path)
            headers = dict(refusals.headers)
            if refusals.code and "x-ms-version" in self.headers:
                headers["x-ms-error-code"] = refusals.code
            headers["Content-Type"] = "application/json" if body.startswith(b"{") else "application/xml"
            self.send(refusals.status, body, headers)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    with served(Handler) as refusals.url:
        yield refusals
