"""
Preemption notices: a cloud's metadata server says that this machine is about to be taken away.

Imported only where it is asked for. A notice stops the attempt as SIGTERM does, and earlier. Trouble with the
server never fails a job that would go on without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from htcjob.errors import ConfigurationError, HtcjobError
from htcjob.htc_api.web import Host, split_url
from htcjob.logs.events import event
from htcjob.logs.json_object import parse_object
from htcjob.logs.redact import one_line

if TYPE_CHECKING:
    from urllib.parse import SplitResult

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
"""Seconds for the connection and for each wait for bytes: the server is on this machine's own network."""

WHOLE_ANSWER_S = 10.0
"""Seconds for one question as a whole, not counting the wait that the server is asked for."""

TROUBLE_PAUSE_S = 60.0
"""Seconds until the next try, where the server cannot be reached."""


class _OddAnswerError(ValueError):
    """The server's answer is not that of a metadata server."""


class Cloud(Protocol):
    """How one cloud's metadata server is asked."""

    pause_s: float
    """Seconds between two questions."""

    def ask(self) -> str | None:
        """
        Return the notice, in words; None: there is none.

        Raises:
            HtcjobError, ValueError: the server cannot be reached or understood.
        """


class Notices:
    """
    Asks for notices from `__enter__` to `__exit__`, in a thread of its own.

    Args:
        name: The cloud's name: `aws` or `google`.
        endpoint: Variable and base URL of its metadata server.
        on_notice: Called once, in that thread, when there is a notice.

    Raises:
        ConfigurationError: the URL is malformed.
    """

    def __init__(self, name: str, endpoint: tuple[str, str], on_notice: Callable[[], None]) -> None:
        server = _server(*endpoint)
        self._name = name
        self._cloud: Cloud = Aws(server) if name == "aws" else Google(server)
        self._on_notice = on_notice
        self._over = threading.Event()
        self._lock = threading.Lock()
        """Held while a notice is acted upon, so that none is when the context has ended."""
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Notices:
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread is left
            event(log, logging.WARNING, "no_preemption_notices", cloud=self._name, cause=str(error))
        return self

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._over.set()  # the thread may still wait for an answer; it is not joined

    def _watch(self) -> None:
        pause_s, is_warned = 0.0, False
        while not self._over.wait(pause_s):
            try:
                notice = self._cloud.ask()
            except (HtcjobError, ValueError) as error:
                if not is_warned and not self._over.is_set():
                    is_warned = True
                    cause = str(error) or type(error).__name__
                    event(log, logging.WARNING, "no_preemption_notices", cloud=self._name, cause=cause)
                pause_s = TROUBLE_PAUSE_S
                continue
            if notice is not None:
                with self._lock:
                    if not self._over.is_set():
                        self._on_notice()  # first: no line is worth an entry that begins meanwhile
                        event(log, logging.WARNING, "preemption_notice", cloud=self._name, notice=notice)
                return
            pause_s = self._cloud.pause_s


class Aws:
    """
    A spot instance's interruption notice, two minutes ahead.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html; only version 2
    of the metadata service, which needs a hop limit of 2 where a container has a network of its own.
    """

    pause_s = 5.0
    """Amazon recommends five seconds."""

    TOKEN_LIFE_S = 21600
    """Seconds; the longest that the server grants."""

    def __init__(self, server: SplitResult) -> None:
        self._server = server
        self._token = ""
        self._renew_at = 0.0

    def ask(self) -> str | None:
        """Return action and time of an interruption, if there is one."""
        if not self._token or time.monotonic() >= self._renew_at:
            life = {"X-aws-ec2-metadata-token-ttl-seconds": str(self.TOKEN_LIFE_S)}
            status, token, _ = _request(self._server, "PUT", "/latest/api/token", life)
            if status != 200:
                raise _OddAnswerError(f"HTTP status {status} for a token")
            self._token, self._renew_at = token, time.monotonic() + self.TOKEN_LIFE_S / 2
        asked_with = {"X-aws-ec2-metadata-token": self._token}
        status, body, _ = _request(self._server, "GET", "/latest/meta-data/spot/instance-action", asked_with)
        if status == 404:
            return None
        if status == 401:
            self._token = ""  # it has ended: the next question gets another one
            return None
        if status != 200:
            raise _OddAnswerError(f"HTTP status {status}")
        said = parse_object(body.encode())
        if "action" not in said:
            raise _OddAnswerError("the answer is no notice")
        return one_line(f"{said['action']} at {said.get('time')}")


class Google:
    """
    A spot or preemptible machine's notice, 30 seconds ahead.

    https://cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption; the server answers when
    the value differs from the one whose ETag we have seen, or after the timeout that it was given.
    """

    pause_s = 1.0
    """Seconds after an answer that came at once; normally it is the server that waits."""

    WAIT_S = 60.0

    def __init__(self, server: SplitResult) -> None:
        self._server = server
        self._seen = ""

    def ask(self) -> str | None:
        """Return "preempted" once the server says so."""
        path, wait_s = "/computeMetadata/v1/instance/preempted", 0.0
        if self._seen:
            wait_s = self.WAIT_S
            path += f"?wait_for_change=true&timeout_sec={wait_s:.0f}&last_etag={self._seen}"
        flavor = {"Metadata-Flavor": "Google"}
        status, body, headers = _request(self._server, "GET", path, flavor, wait_s=wait_s)
        if status != 200 or headers.get("metadata-flavor") != "Google":
            raise _OddAnswerError(f"HTTP status {status}, and not of Google's metadata server")
        etag = headers.get("etag", "")
        self._seen = etag if etag.isalnum() else ""
        return "preempted" if body.strip() == "TRUE" else None


def _request(
    server: SplitResult, method: str, path: str, headers: Mapping[str, str], *, wait_s: float = 0.0
) -> tuple[int, str, dict[str, str]]:
    """Return status, body and headers (lower-case names); redirections and proxies are not followed."""
    host = Host(server, {}, timeout_s=TIMEOUT_S + wait_s, whole_s=WHOLE_ANSWER_S + wait_s)
    response = host.ask(path, headers, method=method)
    body = response.data.decode("ascii", errors="replace")
    return response.status, body, {name.lower(): value for name, value in response.headers.items()}


def _server(variable: str, url: str) -> SplitResult:
    """Return the parts of a metadata server's base URL."""
    try:
        parts = split_url(variable, url, schemes=("http",))
    except ConfigurationError:
        parts = None
    if parts is None or parts.path.strip("/") or "@" in parts.netloc:
        raise ConfigurationError(f"{variable}: expected a metadata server such as 169.254.169.254, over http")
    return parts
