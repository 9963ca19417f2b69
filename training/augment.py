"""Random scale, crop, flip and colour of one labelled image, by numpy and OpenCV.

Scale 1 is the geometry of deployment: the whole frame resized to the network size, whatever its
aspect. Augmentation varies around what the engine will really see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class AugmentSettings:
    """How far images are varied.

    scale: range of the zoom against the deployed geometry; aspect: largest ratio by which width
    and height are stretched apart; flip: probability of a mirror image; brightness, contrast,
    saturation: largest relative change; hue: largest shift in degrees.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    aspect: float = 1.15
    flip: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 9.0


def augment(
    image_bgr: Image,
    labels: Labels,
    size_hw: tuple[int, int],
    settings: AugmentSettings,
    random: np.random.Generator,
    *,
    outside: int,
) -> tuple[Image, Labels]:
    """Return a varied crop: uint8 BGR [H, W, 3] and int64 [H, W].

    Where the crop reaches outside the image, labels are `outside` and pixels the mean colour.
    """
    zoom = float(np.exp(random.uniform(*np.log(settings.scale))))
    stretch = float(np.exp(random.uniform(-1, 1) * np.log(settings.aspect) / 2))
    windows = [
        _window(side, target, factor, random)
        for side, target, factor in zip(
            labels.shape, size_hw, (zoom * stretch, zoom / stretch), strict=True
        )
    ]
    image, labels = crop_resize(image_bgr, labels, size_hw, (windows[0], windows[1]), outside)
    if random.random() < settings.flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return jitter_colour(np.ascontiguousarray(image), settings, random), labels.copy()


@dataclass(frozen=True)
class Window:
    """Along one axis: source pixels [start, start + length) land on [at, at + extent)."""

    start: int
    length: int
    at: int
    extent: int


def _window(side: int, target: int, zoom: float, random: np.random.Generator) -> Window:
    if zoom >= 1.0:
        length = min(max(round(side / zoom), 1), side)
        return Window(int(random.integers(side - length + 1)), length, 0, target)
    extent = min(max(round(target * zoom), 1), target)
    return Window(0, side, int(random.integers(target - extent + 1)), extent)


def crop_resize(
    image: Image, labels: Labels, size_hw: tuple[int, int], windows: tuple[Window, Window],
    outside: int,
) -> tuple[Image, Labels]:  # fmt: skip
    """Return the crop that `windows` (rows, columns) describe, at `size_hw`."""
    import cv2

    rows, columns = windows
    source = (slice(rows.start, rows.start + rows.length),
              slice(columns.start, columns.start + columns.length))  # fmt: skip
    size_wh = (columns.extent, rows.extent)
    shrinks = rows.length > rows.extent and columns.length > columns.extent
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    crop = cv2.resize(image[source], size_wh, interpolation=method)
    # OpenCV's plain nearest takes the cell's corner and would shift labels by half a pixel.
    ids = cv2.resize(
        labels[source].astype(np.int32), size_wh, interpolation=cv2.INTER_NEAREST_EXACT
    )
    if (rows.extent, columns.extent) == size_hw:
        return np.asarray(crop, dtype=np.uint8), ids.astype(np.int64)
    canvas = np.empty((*size_hw, 3), np.uint8)
    canvas[:] = image.reshape(-1, 3)[::97].mean(0).astype(np.uint8)
    full = np.full(size_hw, outside, np.int64)
    target = (slice(rows.at, rows.at + rows.extent),
              slice(columns.at, columns.at + columns.extent))  # fmt: skip
    canvas[target], full[target] = crop, ids
    return canvas, full


def jitter_colour(
    image_bgr: Image, settings: AugmentSettings, random: np.random.Generator
) -> Image:
    """Return the image with another brightness, contrast, saturation and hue, uint8 BGR."""
    import cv2

    gain, contrast, saturation = (
        1 + random.uniform(-amount, amount)
        for amount in (settings.brightness, settings.contrast, settings.saturation)
    )
    if not any((settings.brightness, settings.contrast, settings.saturation, settings.hue)):
        return image_bgr
    hsv = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2HSV)
    levels = np.arange(256)
    # OpenCV stores hue in steps of two degrees, [0, 180).
    shift = round(random.uniform(-settings.hue, settings.hue) / 2)
    tables = (
        (levels + shift) % 180,
        np.clip(levels * saturation, 0, 255),
        np.clip(((levels - 128) * contrast + 128) * gain, 0, 255),
    )
    hsv = cv2.LUT(hsv, np.stack(tables, axis=-1).astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), dtype=np.uint8)
