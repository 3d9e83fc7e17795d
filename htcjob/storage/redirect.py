"""What a server says that sends us elsewhere, asked without credentials and without going there."""

from __future__ import annotations

import re
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from htcjob.storage.answers import Answer

_TIMEOUT_S = 10
_LONGEST_BODY_BYTES = 1 << 16
_ELEMENT = re.compile(r"<(Code|Message|Region)>([^<]*)</")


def ask_without_credentials(scheme: str, url: str) -> Answer:
    """Give the redirection that a server answers with; one that says nothing when it does not redirect."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        body = response.read(_LONGEST_BODY_BYTES).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return Answer(scheme, 301)
    finally:
        connection.close()
    if not 300 <= response.status < 400:
        return Answer(scheme, 301)
    said = {name.lower(): text for name, text in _ELEMENT.findall(body)}
    said.setdefault("region", response.headers.get("x-amz-bucket-region", ""))
    return Answer(scheme, response.status, **said)
