"""
Image files -> 8-bit BGR pictures, or one sentence that says why not.

JPEG, PNG, WebP and BMP, told apart by their first bytes and never by name. The allow-list keeps
OpenCV's rarer decoders out of reach: CVE-2025-53644 was a heap write in JPEG 2000, found by content
whatever the file was called.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from reference_app.opencv import MAX_PIXELS, cv2

if TYPE_CHECKING:
    from collections.abc import Callable

Picture = npt.NDArray[np.uint8]
"""height x width x 3: blue, green, red, 0 to 255 each."""

MAX_BYTES = 4 * MAX_PIXELS + 1024 * 1024
"""Largest file read: an uncompressed picture of the most pixels allowed, and room for metadata."""


class UnreadableImageError(ValueError):
    """An image file that cannot be used."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        """The file, as the caller calls it."""
        self.reason = reason
        """The cause, as a person would say it."""

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_image(path: str) -> Picture:
    """
    Read and decode the image file at *path*.

    The file is opened here, not by `cv2.imread`, which crashes on names that are not UTF-8.

    Raises:
        UnreadableImageError: It is not a regular file, or `decode` refuses what it holds.
        OSError: The file is absent or cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UnreadableImageError(path, kind)
    if status.st_size > MAX_BYTES:
        raise UnreadableImageError(path, f"{status.st_size} bytes are more than an image can have")
    with open(path, "rb") as file:
        return decode(file.read(), name=path)


def decode(data: bytes, *, name: str = "image") -> Picture:
    """
    Decode one whole image file.

    Alpha is dropped, EXIF orientation applied, and of an animation the first frame is taken. Too
    many pixels are refused from the header alone, before memory is spent. Damage inside a JPEG that
    leaves its end in place is not noticed here; checksums at stage-in are there for that.

    Args:
        data: The file's bytes.
        name: What to call the image in the error.

    Raises:
        UnreadableImageError: *data* is not an image of 8 bits in one of the four formats, or is
            truncated, corrupt, or has more than `MAX_PIXELS`.
        cv2.error: The image may be good, but there is not enough memory for it.
    """
    if not data:
        raise UnreadableImageError(name, "empty file")
    form = next((each for each in _FORMATS if each.magic.match(data)), None)
    if form is None:
        raise UnreadableImageError(name, _why_not(data))
    header = _header(form, data)
    if header is not None and header.bits > 8:
        reason = f"{header.bits}-bit {form.name}: convert it to 8 bits first"
        raise UnreadableImageError(name, reason)
    if header is not None and header.width * header.height > MAX_PIXELS:
        reason = f"{header.width} x {header.height} pixels is more than the {MAX_PIXELS} allowed"
        raise UnreadableImageError(name, reason)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise
        picture = None
    if picture is None:
        state = "truncated" if form.is_truncated(data) else "corrupt"
        raise UnreadableImageError(name, f"{state} {form.name}")
    return np.asarray(picture, np.uint8)


class _Header(NamedTuple):
    width: int
    height: int
    bits: int
    """Of one sample."""


class _Format(NamedTuple):
    name: str
    magic: re.Pattern[bytes]
    header: Callable[[bytes], _Header | None]
    """Reads the header; fails with `struct.error` where the data ends before."""
    is_truncated: Callable[[bytes], bool]
    """Says of data that did not decode whether its end is missing."""


def _header(form: _Format, data: bytes) -> _Header | None:
    """Read the header, or give None where it makes no sense: the decoder then decides."""
    try:
        return form.header(data)
    except struct.error:
        return None


_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])")
_JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length: TEM, RST0 to RST7, SOI."""
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15; the three left out are tables."""


def _jpeg_header(data: bytes) -> _Header | None:
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker in _JPEG_FRAMES:
            bits, height, width = struct.unpack_from(">xxBHH", data, position)
            return _Header(width, height, bits)
        if marker not in _JPEG_BARE_MARKERS:
            position += struct.unpack_from(">H", data, position)[0]
    return None


def _png_header(data: bytes) -> _Header | None:
    kind, width, height, bits = struct.unpack_from(">12x4sIIB", data)
    return _Header(width, height, bits) if kind == b"IHDR" else None


def _webp_header(data: bytes) -> _Header | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width_low, width_high, height_low, height_high = struct.unpack_from("<HBHB", data, 24)
        return _Header((width_high << 16) + width_low + 1, (height_high << 16) + height_low + 1, 8)
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        return _Header((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, 8)
    width, height = struct.unpack_from("<HH", data, 26)
    return _Header(width & 0x3FFF, height & 0x3FFF, 8)


def _bmp_header(data: bytes) -> _Header | None:
    is_old = struct.unpack_from("<I", data, 14) == (12,)
    width, height = struct.unpack_from("<HH" if is_old else "<ii", data, 18)
    # A negative height means that rows run from the top.
    return _Header(abs(width), abs(height), 8)


def _ends_before(length_at: int, excess: int) -> Callable[[bytes], bool]:
    """Compare what is there with the length that the file states, 32 bits, plus *excess*."""

    def is_short(data: bytes) -> bool:
        stated = data[length_at : length_at + 4]
        return len(stated) < 4 or int.from_bytes(stated, "little") + excess > len(data)

    return is_short


_FORMATS = (
    # Whole where an end marker follows the last start of a scan.
    _Format(
        "JPEG",
        re.compile(rb"\xff\xd8\xff"),
        _jpeg_header,
        lambda data: data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"),
    ),
    # Whole where the closing chunk is there, with its checksum.
    _Format(
        "PNG",
        re.compile(rb"\x89PNG\r\n\x1a\n"),
        _png_header,
        lambda data: b"IEND\xae\x42\x60\x82" not in data,
    ),
    _Format("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), _webp_header, _ends_before(4, 8)),
    _Format("BMP", re.compile(rb"BM"), _bmp_header, _ends_before(2, 0)),
)

_OTHER_IMAGES = (
    (re.compile(rb"GIF8"), "GIF"),
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), "TIFF"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"\x00\x00\x00\x0cJXL |\xff\x0a"), "JPEG XL"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "AVIF"),
    (re.compile(rb"....ftyp(?:he[iv][cmsx]|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"v/1\x01"), "OpenEXR"),
    (re.compile(rb"8BPS"), "Photoshop"),
    (re.compile(rb"\s*(?:<\?xml.{,400}|<!--.{,400})?<svg", re.DOTALL | re.IGNORECASE), "SVG"),
)

_OTHER_FILES = (
    (re.compile(rb"%PDF"), "PDF"),
    (re.compile(rb"....ftyp", re.DOTALL), "a video"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b"), "an archive"),
    (re.compile(rb"\s*<(?:!doctype html|html|head|body)", re.IGNORECASE), "HTML"),
    (re.compile(rb"\s*<\?xml|\s*<Error>"), "XML"),
    (re.compile(rb"\s*[{\[]\s*[\"{}\]]"), "JSON"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer"),
)


def _why_not(data: bytes) -> str:
    """Say what the data is instead of one of our formats."""
    head = data[:1024]
    for pattern, name in _OTHER_IMAGES:
        if pattern.match(head):
            return f"{name} is not supported: only JPEG, PNG, WebP, BMP"
    for pattern, name in _OTHER_FILES:
        if pattern.match(head):
            return f"not an image (looks like {name})"
    if _is_text(head):
        return "not an image (looks like text)"
    if data.count(0) == len(data):
        return "not an image (only zero bytes)"
    return "not an image"


def _is_text(head: bytes) -> bool:
    try:
        # Incremental, because the last character may be cut.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(character >= " " or character in "\t\n\r\f" for character in text)
