"""The loader: every hostile or odd file is decoded, or refused in words."""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reference_app.face_tagger import find_faces
from reference_app.images import MAX_BYTES, UnreadableImageError, decode, read_image
from reference_app.opencv import MAX_PIXELS, cv2

_ONLY = "is not supported: only JPEG, PNG, WebP, BMP"
_TOO_MANY = "pixels is more than the 67108864 allowed"

# What a person would expect of every file in images/bad: its faces, or why it cannot be used.
OUTCOMES: dict[str, int | str] = {
    # Names are only names.
    "%03d.jpg": 1,
    "-rf.jpg": 1,
    "ok.jpg": 1,
    "png_as_jpg.jpg": 1,
    "quote'$(x) ;&.jpg": 1,
    "ünïcödé 图像 .jpg": 1,
    # Odd but whole pictures. Dithered to black and white, the face is not found.
    "1x1.jpg": 0,
    "20x20.jpg": 0,
    "30x30.jpg": 0,
    "3000x2.jpg": 0,
    "bomb_70000x10_claim.png": 0,
    "alpha.png": 1,
    "alpha0.png": 1,
    "anim.webp": 1,
    "bilevel.png": 0,
    "bmp.bmp": 1,
    "cmyk.jpg": 1,
    **{f"exif{orientation}.jpg": 1 for orientation in range(1, 9)},
    "gray8.jpg": 1,
    "palette.png": 1,
    "progressive.jpg": 1,
    "still.webp": 1,
    # Damage that the decoder cannot see, or that lies behind the picture.
    "corrupt_mid.jpg": 1,
    "jpeg_trailing.jpg": 1,
    # Too much.
    "gray16.png": "16-bit PNG: convert it to 8 bits first",
    "rgb16.png": "16-bit PNG: convert it to 8 bits first",
    "bomb_20000x20000_1bit.png": f"20000 x 20000 {_TOO_MANY}",
    "bomb_40000x40000_1bit.png": f"40000 x 40000 {_TOO_MANY}",
    "jpeg_claim30000.jpg": f"30000 x 30000 {_TOO_MANY}",
    "jpeg_claim65500.jpg": f"65500 x 65500 {_TOO_MANY}",
    # Too little.
    "empty.jpg": "empty file",
    "trunc_10pc.jpg": "truncated JPEG",
    "trunc_50pc.jpg": "truncated JPEG",
    "trunc_99pc.jpg": "truncated JPEG",
    "trunc_eoi.jpg": "truncated JPEG",
    "trunc_header.jpg": "truncated JPEG",
    "trunc_prog_50pc.jpg": "truncated JPEG",
    # Something else.
    "anim.gif": f"GIF {_ONLY}",
    "still.gif": f"GIF {_ONLY}",
    "avif.avif": f"AVIF {_ONLY}",
    "heic.jpg": f"HEIC {_ONLY}",
    "jp2.jp2": f"JPEG 2000 {_ONLY}",
    "multi.tiff": f"TIFF {_ONLY}",
    "tiff.tiff": f"TIFF {_ONLY}",
    "svg.jpg": f"SVG {_ONLY}",
    "html.jpg": "not an image (looks like HTML)",
    "text.jpg": "not an image (looks like text)",
}


def test_every_hostile_file_has_an_expected_outcome(shared_images: Path) -> None:
    """No file of images/bad is left out of the table."""
    assert sorted(os.listdir(shared_images / "bad")) == sorted(OUTCOMES)


@pytest.mark.parametrize(("name", "outcome"), OUTCOMES.items())
def test_hostile_file_ends_as_a_person_would_expect(
    shared_images: Path, name: str, outcome: int | str
) -> None:
    """A file of images/bad gives its faces, or exactly the stated reason."""
    path = str(shared_images / "bad" / name)
    if isinstance(outcome, int):
        picture = read_image(path)
        assert picture.dtype == np.uint8
        assert picture.shape[2:] == (3,)
        assert len(find_faces(picture)) == outcome
    else:
        with pytest.raises(UnreadableImageError) as caught:
            read_image(path)
        assert caught.value.reason == outcome
        assert str(caught.value) == f"{path}: {outcome}"


def test_orientation_is_applied(shared_images: Path) -> None:
    """The faces of a rotated photo are where those of the upright one are, within 5 %."""
    [upright] = find_faces(read_image(str(shared_images / "bad" / "ok.jpg")))
    for orientation in range(1, 9):
        [box] = find_faces(read_image(str(shared_images / "bad" / f"exif{orientation}.jpg")))
        assert np.allclose(box, upright, atol=0.05 * 512), orientation


@pytest.fixture(scope="module")
def small() -> dict[str, bytes]:
    """One small picture, as a file of each format."""
    pixels = np.random.default_rng(1).integers(0, 256, (12, 17, 3)).astype(np.uint8)
    return {
        name: cv2.imencode(extension, pixels)[1].tobytes()
        for name, extension in (
            ("JPEG", ".jpg"),
            ("PNG", ".png"),
            ("WebP", ".webp"),
            ("BMP", ".bmp"),
        )
    }


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "BMP"])
def test_no_beginning_of_a_file_is_taken_for_the_file(small: dict[str, bytes], name: str) -> None:
    """A file cut anywhere is refused, and behind its first bytes it is called truncated."""
    whole = small[name]
    assert decode(whole).shape == (12, 17, 3)
    for length in range(len(whole)):
        with pytest.raises(UnreadableImageError) as caught:
            decode(whole[:length])
        if length >= 16:
            assert caught.value.reason == f"truncated {name}", length


def test_damage_is_called_corrupt(small: dict[str, bytes]) -> None:
    """A whole PNG with a wrong byte in its pixels is refused as corrupt, not as truncated."""
    data = bytearray(small["PNG"])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UnreadableImageError, match="corrupt PNG"):
        decode(bytes(data))


def test_nothing_but_the_one_exception_is_raised(small: dict[str, bytes]) -> None:
    """A damaged file is decoded or refused; it raises nothing else, whatever byte is wrong."""
    dice = random.Random(1)
    for whole in small.values():
        for _ in range(200):
            data = bytearray(whole)
            for _ in range(dice.randint(1, 4)):
                # The sizes stay, or a lucky number would cost hundreds of MiB.
                data[dice.randrange(30, len(data))] = dice.randrange(256)
            try:
                picture = decode(bytes(data))
            except UnreadableImageError:
                continue
            assert picture.dtype == np.uint8


def _png(width: int, height: int, bits: int, pixels: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _jpeg(width: int, height: int, bits: int = 8) -> bytes:
    # A thumbnail in the metadata, a fill byte and a table come before the frame that counts.
    thumbnail = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 16, 16, 1) + b"\1\x11\0\xff\xd9"
    return (
        b"\xff\xd8\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
        + b"\xff\xff\xc4\x00\x03\x00"
        + b"\xff\xc2" + struct.pack(">HBHHB", 11, bits, height, width, 1) + b"\1\x11\0"
        + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00\xff\xd9"
    )  # fmt: skip


def _webp(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _bmp(header: bytes) -> bytes:
    return b"BM" + struct.pack("<IHHI", 14 + len(header), 0, 0, 14 + len(header)) + header


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (_png(20000, 20001, 1), "20000 x 20001"),
        (_jpeg(65500, 65400), "65500 x 65400"),
        (_webp(b"VP8X", bytes(4) + b"\xff\xff\xff\xfe\xff\xff"), "16777216 x 16777215"),
        (_webp(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(8)), "16384 x 16384"),
        (_webp(b"VP8 ", b"\x30\0\0\x9d\1\x2a\xff\x3f\xfe\x3f" + bytes(8)), "16383 x 16382"),
        (_bmp(struct.pack("<IiiHHIIiiII", 40, 60000, -50000, 1, 1, 0, 0, 0, 0, 0, 0)), "60000 x 50000"),
        (_bmp(struct.pack("<IHHHH", 12, 60000, 50000, 1, 24)), "60000 x 50000"),
    ],
    ids=["png", "jpeg", "webp-extended", "webp-lossless", "webp-lossy", "bmp", "bmp-os2"],
)  # fmt: skip
def test_too_many_pixels_are_refused_from_the_header(
    data: bytes, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of too many pixels never reaches the decoder, in any of the formats."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was called"))
    with pytest.raises(UnreadableImageError) as caught:
        decode(data)
    assert caught.value.reason == f"{size} {_TOO_MANY}"


def test_more_than_8_bits_are_refused() -> None:
    """A picture of 16 or 12 bits is refused with what to do, as the decoder would cut it silently."""
    deep = np.full((40, 40, 3), 40000, np.uint16)
    with pytest.raises(UnreadableImageError, match="16-bit PNG: convert it to 8 bits first"):
        decode(cv2.imencode(".png", deep)[1].tobytes())
    with pytest.raises(UnreadableImageError, match="12-bit JPEG: convert it to 8 bits first"):
        decode(_jpeg(40, 40, bits=12))


def test_a_bomb_costs_no_memory(tmp_path: Path, environment: dict[str, str]) -> None:
    """A PNG of 50 KB that unpacks to 1.1 GiB is refused within 8 MiB, by a process that lives on."""
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(2501 * 100)) for _ in range(200)) + packer.flush()
    (tmp_path / "bomb.png").write_bytes(_png(20000, 20000, 1, pixels))
    program = """
import re
from reference_app.images import UnreadableImageError, read_image
def peak_kib():
    # Not ru_maxrss: that begins with the peak of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak_kib()
try:
    read_image("bomb.png")
except UnreadableImageError as error:
    print(error)
print((peak_kib() - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    reason, growth_mib = done.stdout.splitlines()
    assert reason == f"bomb.png: 20000 x 20000 {_TOO_MANY}"
    assert int(growth_mib) < 8


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (bytes(5000), "not an image (only zero bytes)"),
        (b"\xff\xd8", "not an image"),
        (b"MM\0*" + bytes(20), f"TIFF {_ONLY}"),
        (b"\0\0\0\x1cftypmif1", f"HEIC {_ONLY}"),
        (b"\0\0\0\x1cftypisom", "not an image (looks like a video)"),
        (b"\xff\x0a" + bytes(20), f"JPEG XL {_ONLY}"),
        (b'<?xml version="1.0"?>\n<svg xmlns="">', f"SVG {_ONLY}"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey', "not an image (looks like XML)"),
        (b"\n <!DOCTYPE html><html>", "not an image (looks like HTML)"),
        (b'{"error": "expired"}', "not an image (looks like JSON)"),
        (b"version https://git-lfs.github.com", "not an image (looks like a Git LFS pointer)"),
        ("schön".encode() * 1000, "not an image (looks like text)"),
        ("schön".encode("latin-1"), "not an image"),
        (b"%PDF-1.7", "not an image (looks like PDF)"),
        (b"PK\3\4....", "not an image (looks like an archive)"),
        (random.Random(1).randbytes(3000), "not an image"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, reason: str) -> None:
    """A file of another kind is refused, and the person hears what it is."""
    with pytest.raises(UnreadableImageError) as caught:
        decode(data, name="photo.jpg")
    assert str(caught.value) == f"photo.jpg: {reason}"


def test_only_the_four_formats_reach_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not begin as one of the four formats is never given to OpenCV."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was called"))
    for magic in (b"GIF89a", b"II*\0", b"\0\0\0\x0cjP  \r\n\x87\n", b"v/1\1", b"#?RADIANCE", b"P6\n"):
        with pytest.raises(UnreadableImageError):
            decode(magic + bytes(100))


def test_names_that_are_not_utf8_survive(tmp_path: Path, two_faces: bytes) -> None:
    """A file whose name is not UTF-8 is read like any other."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9.jpg")
    with open(path, "wb") as file:
        file.write(two_faces)
    assert len(find_faces(read_image(path))) == 2


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes to, and a file of absurd size are refused at once."""
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for name, reason in (
        ("", "a directory"),
        ("pipe.jpg", "not a regular file"),
        ("huge.jpg", f"{MAX_BYTES + 1} bytes are more than an image can have"),
    ):
        with pytest.raises(UnreadableImageError, match=re.escape(reason)):
            read_image(str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        read_image(str(tmp_path / "absent.jpg"))


@pytest.mark.parametrize(
    ("value", "limit"),
    [(None, "67108864"), ("", "67108864"), ("1000000", "1000000"), ("2MB", "2097152")],
)
def test_the_decoder_has_the_same_limit(value: str | None, limit: str, environment: dict[str, str]) -> None:
    """OpenCV itself refuses what our header check lets pass, with our limit or the one given."""
    if value is not None:
        environment["OPENCV_IO_MAX_IMAGE_PIXELS"] = value
    program = f"""
import numpy as np
from reference_app.opencv import MAX_PIXELS, cv2
assert MAX_PIXELS == {limit}, MAX_PIXELS
bmp = np.zeros(54, np.uint8)
bmp[[0, 1, 10, 14, 26, 28]] = 66, 77, 54, 40, 1, 24
bmp[18:26] = np.array([2**19, {limit} // 2**19 + 1], "<i4").view(np.uint8)
try:
    cv2.imdecode(bmp, cv2.IMREAD_COLOR)
except cv2.error as error:
    print(error.err)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "pixels <= CV_IO_MAX_IMAGE_PIXELS"


@pytest.mark.parametrize("value", ["bogus", "0", "-1", " 7", "1e6", "64M", "9" * 20])
def test_a_limit_that_opencv_cannot_read_is_a_clear_error(
    value: str, photo: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A bad OPENCV_IO_MAX_IMAGE_PIXELS is named with status 78; OpenCV alone would abort."""
    done = run("face_tagger", photo, OPENCV_IO_MAX_IMAGE_PIXELS=value)
    assert done.returncode == 78
    assert done.stderr == (
        f"face_tagger: error: OPENCV_IO_MAX_IMAGE_PIXELS is {value!r}:"
        " expected a number of pixels such as 67108864\n"
    )


def test_the_limit_is_what_the_tests_think() -> None:
    """The reasons above state the limit that is in force."""
    assert MAX_PIXELS == 67108864
