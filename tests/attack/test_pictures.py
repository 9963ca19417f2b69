"""Pictures made to cost more than they show: refused in bounded time, and cameras go on."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from dedos_deploy.errors import BadInputError, UnfinishedError
from dedos_deploy.runtime.serving.decoder import Limits, PictureDecoder

MOST = 1000 * 1000
LIMITS = Limits(cpu_s=2, wall_s=8.0, memory=128 * 2**20)
LONGEST_S = 12.0
FAKE_FRAME = b"\xff\xc0\x00\x11\x08\x00\x08\x00\x08\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
"""The frame header of a JPEG of 8x8 pixels."""


@pytest.fixture(scope="module")
def decoder() -> Iterator[PictureDecoder]:
    with PictureDecoder(most_pixels=MOST, limits=LIMITS) as opened:
        yield opened


def _encoded(suffix: str, height: int, width: int, *options: int) -> bytes:
    picture = np.zeros((height, width, 3), np.uint8)
    return bytes(cv2.imencode(suffix, picture, list(options))[1].tobytes())


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _header(width: int, height: int) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def _png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b"")


def _hidden_behind(start: bytes, jpeg: bytes) -> bytes:
    """Return `jpeg` behind comments with a small frame header where a careless reader looks."""
    landing = 2 + 2 + 0xFFFE
    first = b"\xff\xfe" + struct.pack(">H", 60_000) + b"\0" * 59_998
    at = 4 + len(first)
    filling = b"\0" * (landing - at - 4) + FAKE_FRAME
    second = b"\xff\xfe" + struct.pack(">H", len(filling) + 2 + 10) + filling + b"\0" * 10
    return b"\xff\xd8" + start + first + second + jpeg[2:]


def _many_scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again."""
    jpeg = _encoded(".jpg", 1000, 1000, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * count + b"\xff\xd9"


def _without_height(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xc0")
    return jpeg[: at + 5] + b"\0\0" + jpeg[at + 7 :]


LARGE = _encoded(".jpg", 2000, 2000)
SMALL = _encoded(".png", 8, 8)
ROWS = {
    "one pixel too many": _encoded(".png", 1001, 1000),
    "large": LARGE,
    "large behind TEM": _hidden_behind(b"\xff\x01", LARGE),
    "large behind fill bytes": _hidden_behind(b"\xff\xff", LARGE),
    "height of 0": _without_height(LARGE),
    "100,000 scans": _many_scans(100_000),
    "second header": _png(_header(8, 8), _header(20_000, 20_000), _chunk(b"IDAT", b"")),
    "negative size": _png(_header(2**31, 0)),
    "no size": _png(_header(0, 0)),
    "one column": _png(_header(1, 2**24), _chunk(b"IDAT", zlib.compress(bytes(2**26)))),
    "one row": _png(_header(2**24, 1), _chunk(b"IDAT", zlib.compress(bytes(3 * 2**24 + 1)))),
    "size without pixels": _png(_header(60_000, 60_000)),
    "half": _encoded(".png", 100, 100)[:60],
    "a TIFF": _encoded(".tiff", 8, 8),
    "a BMP": _encoded(".bmp", 8, 8),
    "an EXR": b"\x76\x2f\x31\x01" + bytes(100),
    "nothing": b"",
    "JPEG start alone": b"\xff\xd8\xff\xe0",
}


@pytest.mark.parametrize("name", ROWS)
def test_a_picture_that_costs_too_much(decoder: PictureDecoder, name: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(BadInputError, match="make it smaller|send ") as caught:
        decoder.decode(ROWS[name])
    assert time.monotonic() - began_s < LONGEST_S and "\n" not in str(caught.value)
    # The next one finds a decoder.
    assert decoder.decode(SMALL).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "profile of 1:1000",
            _png(
                _header(8, 8),
                _chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**28))),
                _chunk(b"IDAT", zlib.compress(bytes(8 * 25))),
            ),
        ),
        (
            "text of 1:1000",
            _png(
                _header(8, 8),
                _chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**28))),
                _chunk(b"IDAT", zlib.compress(bytes(8 * 25))),
            ),
        ),
        (
            "a million frames",
            _png(
                _header(8, 8),
                _chunk(b"acTL", struct.pack(">II", 1_000_000, 0)),
                _chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 1, 0, 0)),
                _chunk(b"IDAT", zlib.compress(bytes(8 * 25))),
            ),
        ),
    ],
)
def test_what_stands_beside_the_pixels_costs_nothing(
    decoder: PictureDecoder, name: str, content: bytes
) -> None:
    began_s = time.monotonic()
    # Some versions of OpenCV refuse it.
    with contextlib.suppress(BadInputError):
        assert decoder.decode(content).shape == (8, 8, 3)
    assert time.monotonic() - began_s < LONGEST_S


def test_sizes_are_those_of_the_decoder() -> None:
    jpeg = _encoded(".jpg", 20, 30)
    with PictureDecoder(most_pixels=599, limits=LIMITS) as small:
        with pytest.raises(BadInputError, match="more than 599 pixels"):
            small.decode(jpeg)
    with PictureDecoder(most_pixels=600, limits=LIMITS) as large:
        assert large.decode(jpeg).shape == (20, 30, 3)


def test_pictures_come_out_as_they_are(decoder: PictureDecoder) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)
    assert np.array_equal(decoder.decode(cv2.imencode(".png", picture)[1].tobytes()), picture)
    grey = decoder.decode(cv2.imencode(".png", picture[..., 0])[1].tobytes())
    assert np.array_equal(grey, picture[..., :1].repeat(3, axis=2))
    deep = np.dstack([picture, picture[..., 0]]).astype(np.uint16) * 257
    assert np.array_equal(decoder.decode(cv2.imencode(".png", deep)[1].tobytes()), picture)
    jpeg = cv2.imencode(".jpg", picture)[1]
    assert np.array_equal(decoder.decode(jpeg.tobytes()), cv2.imdecode(jpeg, cv2.IMREAD_COLOR))


@pytest.mark.parametrize(
    "limits", [Limits(cpu_s=1, wall_s=120.0), Limits(cpu_s=60, wall_s=2.0)], ids=["cpu", "wall"]
)
def test_good_pictures_pass_beside_bad_ones(limits: Limits) -> None:
    """One decoder is held up at most; two at once are all there are."""
    refused: list[str] = []

    def attack(decoder: PictureDecoder) -> None:
        try:
            decoder.decode(ROWS["100,000 scans"])
        except BadInputError as error:
            refused.append(str(error))

    with PictureDecoder(most_pixels=MOST, limits=limits) as decoder:
        attacker = threading.Thread(target=attack, args=(decoder,))
        attacker.start()
        for _ in range(5):
            assert decoder.decode(SMALL).shape == (8, 8, 3)
        was_busy = attacker.is_alive()
        attacker.join(60)
        assert was_busy and not attacker.is_alive()
    assert refused == ["the picture takes too long to decode; send a simpler one"]


def test_a_size_is_refused_before_memory_is_taken_for_it() -> None:
    jpeg = _encoded(".jpg", 6000, 6000)
    with PictureDecoder(most_pixels=MOST, limits=Limits(memory=2**30)) as one:
        with pytest.raises(BadInputError, match="make it smaller"):
            one.decode(jpeg)
        (pid,) = (worker._process.pid for worker in one._all)
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            (peak_kb,) = (int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    # The picture alone would be 108 MB.
    assert peak_kb < 100_000


def test_a_decoder_has_few_rights_and_ends_with_its_owner() -> None:
    os.environ["A_CAMERAS_PASSWORD"] = "secret"
    try:
        with PictureDecoder(most_pixels=MOST, limits=LIMITS) as one:
            one.decode(SMALL)
            (pid,) = (worker._process.pid for worker in one._all)
            with open(f"/proc/{pid}/environ", "rb") as file:
                assert b"secret" not in file.read()
            with open(f"/proc/{pid}/limits", encoding="ascii") as file:
                limits = {line[:25].strip(): line[25:].split()[0] for line in file}
            assert int(limits["Max address space"]) < 2**31
            assert limits["Max file size"] == limits["Max core file size"] == "0"
        assert not os.path.exists(f"/proc/{pid}")
        one.close()
    finally:
        del os.environ["A_CAMERAS_PASSWORD"]


def test_nothing_is_started_before_it_is_needed() -> None:
    with PictureDecoder(most_pixels=MOST) as one:
        with pytest.raises(BadInputError, match="is no JPEG or PNG"):
            one.decode(b"GIF89a")
        assert not one._all


def test_memory_is_limited_where_pixels_are_few() -> None:
    little = Limits(cpu_s=2, wall_s=8.0, memory=2**20)
    with PictureDecoder(most_pixels=MOST, limits=little) as one:
        with pytest.raises(BadInputError, match="too much memory|cannot be decoded|damaged"):
            one.decode(_encoded(".jpg", 1000, 1000, cv2.IMWRITE_JPEG_PROGRESSIVE, 1))
        assert one.decode(SMALL).shape == (8, 8, 3)


def test_a_process_that_was_ended_is_not_the_fault_of_the_next_picture() -> None:
    """The system ends processes when memory is short."""
    with PictureDecoder(most_pixels=MOST, limits=LIMITS) as one:
        for _ in range(3):
            assert one.decode(SMALL).shape == (8, 8, 3)
            (worker,) = one._all
            os.kill(worker._process.pid, signal.SIGKILL)
            os.waitid(os.P_PID, worker._process.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("program", ["/bin/false", "/does/not/exist"])
def test_a_process_that_does_not_start_is_no_fault_of_the_picture(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PictureDecoder(most_pixels=MOST, limits=LIMITS) as one:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", program)
            with pytest.raises(UnfinishedError, match="does not start; ask again in a second"):
                one.decode(SMALL)
        assert one.decode(SMALL).shape == (8, 8, 3)
