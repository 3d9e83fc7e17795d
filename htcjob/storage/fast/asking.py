"""Questions to a server whose answers object_store keeps to itself. No redirection is followed."""

from __future__ import annotations

import re
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from htcjob.storage.answers import Answer

_TIMEOUT_S = 10
_LONGEST_BODY_BYTES = 1 << 16
_ENCRYPTION = "x-amz-server-side-encryption"
_ELEMENT = re.compile(r"<(Code|Message|Region)>([^<]*)</")


def ask_without_credentials(scheme: str, url: str) -> Answer:
    """Return the redirection that a server answers with; an empty one when it does not redirect."""
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


def is_encrypted(url: str) -> bool:
    """
    Whether S3 says at *url*, which is signed, that another key than its own encrypts the object.

    Its ETag is no MD5 then: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class Staying(HTTPRedirectHandler):
        def redirect_request(self, *_: object, **__: object) -> None:
            return None

    try:
        with build_opener(Staying).open(Request(url, method="HEAD"), timeout=_TIMEOUT_S) as answer:  # noqa: S310
            headers = answer.headers
    except (OSError, HTTPException):
        return False
    return headers.get(_ENCRYPTION, "AES256") != "AES256" or f"{_ENCRYPTION}-customer-algorithm" in headers
