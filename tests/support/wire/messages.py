"""Where the HTTP/1.1 messages of one direction of a connection begin and end."""

from __future__ import annotations

import re
from collections.abc import Iterator


class Messages:
    """Takes the HTTP/1.1 messages of one direction apart; bodies are counted, not read."""

    def __init__(self) -> None:
        self.method = ""
        """Of the request that the next answer is for: HEAD's has no body."""
        self.offset = 0
        """Of the piece of a body, as it comes over the wire."""
        self._head = self._line = b""
        self._left: float = 0
        """Bytes until the body, or this chunk of it, ends."""
        self._is_in_body = self._is_chunked = self._is_trailer = False

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Give `head`s, pieces of a `body`, an empty `end` after each message, and `interim` answers."""
        while data:
            if self._is_in_body:
                n = self._in_body(data)
                piece, data = data[:n], data[n:]
                yield "body", piece
                self.offset += n
            else:
                self._head += data
                end = self._head.find(b"\r\n\r\n") + 4
                if end < 4:
                    return
                head, data, self._head = self._head[:end], self._head[end:], b""
                if head.startswith(b"HTTP/1.1 1"):
                    yield "interim", head
                    continue
                self._begin_body(head)
                yield "head", head
            if not (self._left or self._is_chunked):
                self._is_in_body = False
                yield "end", b""

    def _begin_body(self, head: bytes) -> None:
        self.offset, self._is_in_body, self._is_trailer = 0, True, False
        is_answer = head.startswith(b"HTTP/")
        has_none = is_answer and (self.method == "HEAD" or head[9:12] in (b"204", b"304"))
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        self._is_chunked = not has_none and b"\r\ntransfer-encoding: chunked" in head.lower()
        if has_none or self._is_chunked:
            self._left = 0
        else:
            self._left = int(length[1]) if length else float("inf") if is_answer else 0

    def _in_body(self, data: bytes) -> int:
        """Give how many bytes of *data* belong to this body."""
        at = 0
        while at < len(data) and (self._left or self._is_chunked):
            if self._left:
                n = int(min(self._left, len(data) - at))
                self._left -= n
                at += n
                continue
            end = data.find(b"\n", at) + 1 or len(data)  # a line with a chunk's size, or of the trailer
            self._line += data[at:end]
            at = end
            if self._line.endswith(b"\n"):
                line, self._line = self._line.strip(), b""
                if self._is_trailer:
                    self._is_chunked = bool(line)
                else:
                    size = int(line.split(b";")[0], 16)
                    self._is_trailer = size == 0
                    self._left = size + 2 if size else 0  # with its line break
        return at
