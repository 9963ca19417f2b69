"""NV12 as BGR: OpenCV's levels to the bit, the other matrices by their definition, and what is
converted while it is resized equals what is converted first."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pixel_host import PixelHost, compile_host

from dedos_deploy import _native

Plane = NDArray[np.uint8]


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> PixelHost:
    return compile_host(tmp_path_factory.mktemp("pixel_host"))


def _planes(height: int, width: int, seed: int = 0) -> tuple[Plane, Plane]:
    rng = np.random.default_rng(seed)
    luma = rng.integers(0, 256, (height, width), np.uint8)
    return luma, rng.integers(0, 256, (height // 2, width), np.uint8)


def _converted(luma: Plane, chroma: Plane, matrix: int) -> Plane:
    bgr = np.empty((*luma.shape, 3), np.uint8)
    _native.nv12_to_bgr(luma, chroma, bgr, matrix)
    return bgr


def _every_colour() -> tuple[Plane, Plane]:
    """All pairs of chroma with 64 levels of luma, the ends of its range among them."""
    ends = [15, 16, 17, 235, 236]
    levels = np.unique([*np.linspace(0, 255, 59).astype(int), *ends]).astype(np.uint8)
    levels = np.resize(levels, 64).reshape(16, 4)
    u, v = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    chroma = np.stack([u, v], axis=2).reshape(256, 512)
    luma = np.concatenate([np.tile(four.reshape(2, 2), (256, 256)) for four in levels])
    return luma, np.tile(chroma, (16, 1))


def test_bt601_is_opencv_s_conversion() -> None:
    luma, chroma = _every_colour()
    pairs = chroma.reshape(*chroma.shape[:1], -1, 2)
    wanted = cv2.cvtColorTwoPlane(luma, pairs, cv2.COLOR_YUV2BGR_NV12)
    np.testing.assert_array_equal(_converted(luma, chroma, 0), wanted)


@pytest.mark.parametrize(
    ("matrix", "red", "blue", "full"),
    [
        (0, 0.299, 0.114, False),
        (1, 0.299, 0.114, True),
        (2, 0.2126, 0.0722, False),
        (3, 0.2126, 0.0722, True),
    ],
)
def test_every_matrix_is_that_of_its_standard(
    matrix: int, red: float, blue: float, full: bool
) -> None:
    luma, chroma = (plane[: len(plane) // 4] for plane in _every_colour())
    y = luma.astype(float)[::2, ::2]
    u, v = chroma.astype(float)[:, ::2] - 128, chroma.astype(float)[:, 1::2] - 128
    if not full:
        y, u, v = np.maximum(y - 16, 0) * 255 / 219, u * 255 / 224, v * 255 / 224
    b, r = y + 2 * (1 - blue) * u, y + 2 * (1 - red) * v
    green = (2 * (1 - blue) * blue * u + 2 * (1 - red) * red * v) / (1 - red - blue)
    wanted = np.clip(np.stack([b, y - green, r], axis=2), 0, 255)
    found = _converted(luma, chroma, matrix)[::2, ::2]
    # OpenCV's weights of BT.601 have three digits.
    assert np.abs(found - wanted).max() <= (0.75 if matrix == 0 else 0.51)


@pytest.mark.parametrize("matrix", range(4))
@pytest.mark.parametrize("size_hw", [(17, 23), (48, 30), (60, 90), (24, 36)])
def test_resized_on_the_way_equals_converted_first(
    host: PixelHost, matrix: int, size_hw: tuple[int, int]
) -> None:
    luma, chroma = _planes(48, 72, seed=matrix)
    wanted = host.resize(_converted(luma, chroma, matrix), size_hw)
    np.testing.assert_array_equal(host.resize_nv12(luma, chroma, size_hw, matrix=matrix), wanted)


def test_rows_may_be_apart(host: PixelHost) -> None:
    luma, chroma = _planes(24, 64)
    planes = luma[:, :40], chroma[:, :40]
    wanted = _converted(*map(np.ascontiguousarray, planes), 0)
    np.testing.assert_array_equal(_converted(*planes, 0), wanted)
    found = host.resize_nv12(*planes, (24, 40), matrix=0)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("view", ["rgb", "planar", "padded", "upside down", "with alpha"])
def test_a_picture_of_any_strides_is_resized_like_its_copy(host: PixelHost, view: str) -> None:
    rng = np.random.default_rng(3)
    plain = rng.integers(0, 256, (40, 56, 3), np.uint8)
    frame = {
        "rgb": plain[:, :, ::-1],
        "planar": rng.integers(0, 256, (3, 40, 56), np.uint8).transpose(1, 2, 0),
        "padded": plain[:, 5:31],
        "upside down": plain[::-1],
        "with alpha": rng.integers(0, 256, (40, 56, 4), np.uint8)[:, :, :3],
    }[view]
    for size_hw in ((16, 20), (70, 90)):
        wanted = host.resize(np.ascontiguousarray(frame), size_hw)
        np.testing.assert_array_equal(host.resize(frame, size_hw), wanted)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chroma": np.zeros((12, 64), np.uint8)}, r"\[12, 64\], but uint8 \[12, 40\] is needed"),
        ({"luma": np.zeros((24, 40), np.int8)}, "luma has dtype int8"),
        ({"luma": np.zeros((24, 80), np.uint8)[:, ::2]}, "luma has pixels apart"),
        ({"bgr": np.zeros((23, 40, 3), np.uint8)}, "even sizes only"),
        ({"matrix": 4}, "matrix is 4, but 0 to 3"),
    ],
)
def test_what_does_not_fit_is_said(change: dict[str, object], says: str) -> None:
    luma, chroma = _planes(24, 40)
    given = {"luma": luma, "chroma": chroma, "bgr": np.zeros((24, 40, 3), np.uint8), "matrix": 0}
    with pytest.raises(ValueError, match=says):
        _native.nv12_to_bgr(**{**given, **change})  # type: ignore[arg-type]
