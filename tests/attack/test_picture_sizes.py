"""Pictures in files and recordings that state more pixels than they have: refused before decoding."""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from memory_rise import peak_mb
from PIL import Image

from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.label_files import read_label_values
from dedos_deploy.picture_sizes import MOST_PIXELS, stated_pixels
from dedos_deploy.pictures import open_picture, read_picture
from dedos_deploy.runtime import open_source
from dedos_deploy.runtime.sources.bag_images import ImageMessage, decode_image

HEIGHT, WIDTH = 24, 40
LARGE = (40_000, 30_000)
"""Height and width, of which 3 bytes each would be 3.6 GB."""


def encoded(suffix: str, *options: int) -> bytes:
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return bytes(cv2.imencode(suffix, picture, list(options))[1].tobytes())


def larger_jpeg(content: bytes, height: int, width: int) -> bytes:
    at = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2")) + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def tiff(height: int, width: int, order: str = "<", *, big: bool = False, kind: int = 4) -> bytes:
    """Return the head of a TIFF whose size is of the given type of number."""
    letter, size = {3: ("H", 2), 4: ("I", 4), 9: ("i", 4), 16: ("Q", 8)}[kind]
    slot = 8 if big else 4
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    start += struct.pack(order + ("HHQ" if big else "I"), *((8, 0, 16) if big else (8,)))
    head = start + struct.pack(order + ("Q" if big else "H"), 2)
    after = len(head) + 2 * (4 + 2 * slot)
    entries, behind = b"", b""
    for tag, value in ((256, width), (257, height)):
        number = struct.pack(order + letter, value)
        if size > slot:
            number, behind = struct.pack(order + "I", after + len(behind)), behind + number
        entries += struct.pack(order + "HH" + ("Q" if big else "I"), tag, kind, 1)
        entries += number.ljust(slot, b"\0")
    return head + entries + behind


def large_pictures() -> dict[str, bytes]:
    height, width = LARGE
    jpeg = encoded(".jpg")
    png = encoded(".png")
    bmp = encoded(".bmp")
    comment = (
        b"\xff\xfe" + struct.pack(">H", 60_000) + b"\xff\xc0\x00\x11\x08\x00\x08\x00\x08" * 6666
    )
    large = larger_jpeg(jpeg, height, width)
    return {
        "plain.jpg": large,
        "progressive.jpg": larger_jpeg(
            encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), height, width
        ),
        "bare marker.jpg": large[:2] + b"\xff\x01" + comment.ljust(60_002, b"\0") + large[2:],
        "filling.jpg": large[:2] + b"\xff" * 5 + comment.ljust(60_002, b"\0")[1:] + large[2:],
        "rubbish.jpg": large[:2] + b"\xff\xd0 \xff\0 rubbish " + large[2:],
        "size.png": png[:16] + struct.pack(">II", width, height) + png[24:],
        "size.bmp": bmp[:18] + struct.pack("<ii", width, -height) + bmp[26:],
        "little.tiff": tiff(height, width),
        "big endian.tiff": tiff(height, width, ">"),
        "short.tiff": tiff(height, width, kind=3),
        "signed.tiff": tiff(height, width, kind=9),
        "long.tiff": tiff(height, width, kind=16),
        "big.tiff": tiff(height, width, big=True, kind=16),
    }


@pytest.mark.parametrize("name", sorted(large_pictures()))
def test_too_many_pixels_are_refused_before_they_are_decoded(name: str, tmp_path: Path) -> None:
    content = large_pictures()[name]
    assert stated_pixels(content) == LARGE[0] * LARGE[1]
    path = tmp_path / name
    path.write_bytes(content)
    sentence = f"1200000000 pixels, at most {MOST_PIXELS} are read; make it smaller"
    for read in (read_label_values, open_picture, read_picture):
        with pytest.raises(BadInputError, match=sentence) as caught:
            read(path)
        assert name in str(caught.value)
    with open_source(str(path)) as source, pytest.raises(SourceError, match=sentence):
        list(source)
    with pytest.raises(SourceError, match=f"its compressed picture has {sentence}"):
        decode_image(ImageMessage(content))


def test_a_large_picture_in_a_folder_is_skipped_and_said(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(large_pictures()["plain.jpg"])
    (tmp_path / "2.jpg").write_bytes(encoded(".jpg"))
    with open_source(str(tmp_path)) as source:
        assert len(list(source)) == 1
        first, second = source.warnings
    assert "1 of 2 images could not be read" in first and "1200000000 pixels" in second


@pytest.mark.timeout(120)
def test_a_large_picture_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(larger_jpeg(encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), *LARGE))
    assert peak_mb(path, limit_gb=6)[0] < 200


MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "I;16", "P", "1"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "RGBA", "L", "CMYK", "I;16", "F", "P", "1"),
    "WEBP": ("RGB", "RGBA"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, one) for kind in MODES for one in MODES[kind]])
def test_ordinary_pictures_state_their_size(kind: str, mode: str) -> None:
    stream = io.BytesIO()
    Image.new(mode, (WIDTH, HEIGHT)).save(stream, kind)
    expected = 0 if kind == "WEBP" else HEIGHT * WIDTH
    assert stated_pixels(stream.getvalue()) == expected


def test_one_column_of_a_jpeg_as_high_as_there_can_be(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture = np.full((65_500, 1, 3), 128, np.uint8)
    path.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    assert open_picture(path).shape == (65_500, 1, 3)


@pytest.mark.parametrize("chunk", [b"IDAT", b"tEXt", b"iCCP", b"zzzz"])
@pytest.mark.parametrize("length", [2**31 - 1, 2**32 - 1])
def test_chunks_of_a_png_that_are_not_there(chunk: bytes, length: int, tmp_path: Path) -> None:
    content = encoded(".png")
    path = tmp_path / "a.png"
    path.write_bytes(content[:33] + struct.pack(">I", length) + chunk + content[41:])
    assert peak_mb(path, limit_gb=6)[0] < 200
    path.write_bytes(content[:33] + struct.pack(">I", 1 << 25) + chunk + content[41:])
    assert stated_pixels(path.read_bytes()) == HEIGHT * WIDTH


@pytest.mark.timeout(60)
@pytest.mark.parametrize("filling", [b"\xff", b"\xff\x01", b"\xff\xfe\0\2", b"\xff\0", b"a"])
def test_markers_without_end_take_no_time(filling: bytes) -> None:
    start_s = time.monotonic()
    assert not stated_pixels(b"\xff\xd8\xff" + filling * (1 << 22))
    assert time.monotonic() - start_s < 10


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
def test_every_beginning_of_a_picture(suffix: str) -> None:
    content = encoded(suffix)
    for end in range(min(len(content), 400)):
        assert stated_pixels(content[:end]) in (None, 0, HEIGHT * WIDTH)


@pytest.mark.parametrize(
    "content", [b"", b"P5 40000 40000 255\n", b"GIF89a", b"\x76\x2f\x31\x01", b"#?RADIANCE\n"]
)
def test_other_formats_are_not_decoded(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert read_picture(tmp_path / "a.png") is None
