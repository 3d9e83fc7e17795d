"""A server on loopback that lists as all three clouds do, in the order and with the faults it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.servers.loopback import QuietHandler, served


class ListingServer:
    """What the server lists, and how; may be changed between two listings."""

    def __init__(self) -> None:
        self.keys: Sequence[str] = ()
        """In the order of the server."""
        self.page_keys = 1000
        self.knows_start_after = True
        self.knows_prefix = True
        self.gives_token = True
        """Otherwise pages that are not the last say only that they are not."""
        self.circles_at: int | None = None
        """Position from which the listing begins again from there, for ever."""
        self.empty_for_ever = False
        """Every page behind the first has nothing but a token."""
        self.same_token = False
        self.ends_with_error = False
        """The second page is an error with status 200."""
        self.requests: list[dict[str, str]] = []
        """Queries of listings."""
        self.url = ""

    def answer(self, path: str, query: dict[str, str]) -> str:
        """Return the answer to a listing, as the cloud has it that was asked."""
        if "session" in query:
            return _SESSION
        self.requests.append(query)
        prefix = query.get("prefix", "") if self.knows_prefix else ""
        keys = [key for key in self.keys if key.startswith(prefix)]
        token = query.get("continuation-token") or query.get("marker") or query.get("pageToken")
        begin = int(token.split("-")[0]) if token else 0
        after = query.get("start-after") or query.get("startOffset")
        if self.knows_start_after and after and not token:
            behind = [key for key in keys if key > after or ("startOffset" in query and key == after)]
            if sorted(keys) == keys:
                begin = len(keys) - len(behind)
            else:
                keys = behind
        if self.ends_with_error and begin:
            return "<Error><Code>InternalError</Code><Message>planned</Message></Error>"
        is_empty = self.empty_for_ever and begin > 0
        end = begin + self.page_keys
        found = [] if is_empty else keys[begin:end]
        if self.circles_at is not None and end >= len(keys):
            end = self.circles_at
        is_truncated = is_empty or end < len(keys)
        more = f"{end}-{0 if self.same_token else len(self.requests)}"
        given = more if is_truncated and self.gives_token else ""
        if "comp" in query:
            return _azure(found, given, prefix)
        if path.startswith("/storage/v1/"):
            return _google(found, given)
        return _amazon(found, given, is_truncated=is_truncated, is_quoted=query.get("encoding-type") == "url")


_SESSION = (
    "<CreateSessionResult><Credentials><SessionToken>t</SessionToken><SecretAccessKey>s</SecretAccessKey>"
    "<AccessKeyId>k</AccessKeyId><Expiration>2126-01-01T00:00:00Z</Expiration></Credentials>"
    "</CreateSessionResult>"
)


def _amazon(keys: Sequence[str], token: str, *, is_truncated: bool, is_quoted: bool) -> str:
    contents = "".join(
        f"<Contents><Key>{(quote if is_quoted else escape)(key)}</Key>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        "<ETag>&quot;e&quot;</ETag><Size>4</Size></Contents>"
        for key in keys
    )
    return (
        f"<ListBucketResult><Name>b</Name><IsTruncated>{str(is_truncated).lower()}</IsTruncated>"
        f"{f'<NextContinuationToken>{token}</NextContinuationToken>' if token else ''}"
        f"{'<EncodingType>url</EncodingType>' if is_quoted else ''}{contents}</ListBucketResult>"
    )


def _azure(keys: Sequence[str], token: str, prefix: str) -> str:
    blobs = "".join(
        f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT"
        "</Last-Modified><Etag>e</Etag><Content-Length>4</Content-Length><Content-Type>a/b</Content-Type>"
        "<BlobType>BlockBlob</BlobType></Properties><Metadata/></Blob>"
        for key in keys
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="c">'
        f"<Prefix>{escape(prefix)}</Prefix><Blobs>{blobs}</Blobs><NextMarker>{token}</NextMarker></EnumerationResults>"
    )


def _google(keys: Sequence[str], token: str) -> str:
    items = [{"name": key, "size": "4", "generation": "1", "updated": "2026-01-01T00:00:00Z"} for key in keys]
    return json.dumps({"items": items} | ({"nextPageToken": token} if token else {}))


@contextmanager
def listing_server() -> Iterator[ListingServer]:
    """Serve until the context ends."""
    told = ListingServer()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {
                name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()
            }
            self._answer(200, told.answer(parts.path, query).encode())

        def do_HEAD(self) -> None:
            _, _, key = unquote(urlsplit(self.path).path)[1:].partition("/")
            self._answer(200 if key in told.keys else 404, b"")

        def _answer(self, status: int, body: bytes) -> None:
            kind = "application/json" if self.path.startswith("/storage/v1/") else "application/xml"
            facts = {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            self.send(status, body, {"Content-Type": kind, **facts})

    with served(Handler) as told.url:
        yield told
