"""Random scale, crop, flip and colour of one labelled image, by numpy and OpenCV.

Three recipes. `deployed`: scale 1 is the geometry of deployment, the whole frame resized to the
network size, whatever its aspect; augmentation varies around what the engine will really see.
`mask2former`: what Mask2Former publishes for semantic segmentation (the paper only gives its crops
of 640); images keep their aspect, and a crop shows a part of one. `mask2former-squashed`: the same, but
crops are taken of images at the network's aspect, as deployment and evaluation show them to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.pictures import Picture
from dedos_deploy.runtime.frame import resize_frame

Labels = NDArray[np.int64]
Pixel = tuple[int, int]
"""Row and column."""
AugmentRecipe = Literal["deployed", "mask2former", "mask2former-squashed"]
MOST_STOPS = 8
"""So many stops leave level 13 of white."""


@dataclass(frozen=True)
class AugmentSettings:
    """How far images are varied."""

    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the zoom, against the deployed geometry (in steps of 0.1 in `mask2former-squashed`) or, in
    `mask2former`, of the shorter side against that of the network, in steps of 0.1."""
    aspect: float = 1.15
    """Of `deployed` alone: largest ratio by which width and height are stretched apart."""
    flip: float = 0.5
    """Probability of a mirror image."""
    brightness: float = 0.25
    """Of `deployed` alone: largest relative change."""
    contrast: float = 0.3
    """Of `deployed` alone: largest relative change."""
    saturation: float = 0.3
    """Of `deployed` alone: largest relative change."""
    hue: float = 9.0
    """Of `deployed` alone: largest shift in degrees."""
    darken: float = 0.0
    """Of `deployed` alone: most stops (halvings of light) that are taken away before other colours change, fewer
    ones more often."""
    recipe: AugmentRecipe = "deployed"
    category_area: float = 1.0
    """Of crops alone, not of `deployed`: largest part of a crop's labelled pixels that one class may have,
    tried 10 times (1: any, as published for ADE20K)."""

    def __post_init__(self) -> None:
        if self.recipe not in get_args(AugmentRecipe):
            raise BadInputError(
                f"unknown augmentation {self.recipe!r}"
                f"{nearest(self.recipe, get_args(AugmentRecipe)) or ';'} recipes: "
                f"{', '.join(get_args(AugmentRecipe))}"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise BadInputError(
                f"scale {self.scale} of the augmentation is no range; give two numbers above 0, "
                "the smaller one first"
            )
        if not 0 <= self.darken <= MOST_STOPS:
            raise BadInputError(
                f"darken is {self.darken}, but stops of light to take away lie in [0, {MOST_STOPS}]"
            )


def augment(
    image_bgr: Picture,
    labels: Labels,
    size_hw: tuple[int, int],
    settings: AugmentSettings,
    random: np.random.Generator,
    *,
    outside: int,
    around: Pixel | None = None,
) -> tuple[Picture, Labels]:
    """Return a varied crop: uint8 BGR [H, W, 3] and int64 [H, W].

    Where the crop reaches outside the image, labels are `outside` and pixels a plain colour. around:
    a pixel of the image that the crop must hold; None: any crop will do.
    """
    if settings.recipe != "deployed":
        return resize_crop(
            image_bgr, labels, size_hw, settings, random, outside=outside, around=around
        )
    zoom = float(np.exp(random.uniform(*np.log(settings.scale))))
    stretch = float(np.exp(random.uniform(-1, 1) * np.log(settings.aspect) / 2))
    windows = [
        _window(side, target, factor, random, at)
        for side, target, factor, at in zip(
            labels.shape,
            size_hw,
            (zoom * stretch, zoom / stretch),
            around or (None, None),
            strict=True,
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


def _window(
    side: int, target: int, zoom: float, random: np.random.Generator, at: int | None
) -> Window:
    if zoom >= 1.0:
        length = min(max(round(side / zoom), 1), side)
        return Window(_start(side, length, random, at), length, 0, target)
    extent = min(max(round(target * zoom), 1), target)
    return Window(0, side, int(random.integers(target - extent + 1)), extent)


def _start(side: int, length: int, random: np.random.Generator, at: int | None) -> int:
    """Return where `length` of `side` pixels begin, at random; with `at` among them, unless None."""
    first, last = 0, side - length
    if at is not None:
        first, last = max(first, at - length + 1), min(last, at)
    return int(random.integers(first, last + 1))


def crop_resize(
    image: Picture,
    labels: Labels,
    size_hw: tuple[int, int],
    windows: tuple[Window, Window],
    outside: int,
) -> tuple[Picture, Labels]:
    """Return the crop that `windows` (rows, columns) describe, at `size_hw`."""
    import cv2

    rows, columns = windows
    source = (
        slice(rows.start, rows.start + rows.length),
        slice(columns.start, columns.start + columns.length),
    )
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
    target = (slice(rows.at, rows.at + rows.extent), slice(columns.at, columns.at + columns.extent))
    canvas[target], full[target] = crop, ids
    return canvas, full


def jitter_colour(
    image_bgr: Picture, settings: AugmentSettings, random: np.random.Generator
) -> Picture:
    """Return the image with less light, another brightness, contrast, saturation and hue, uint8 BGR."""
    import cv2

    if settings.darken:
        stops = random.triangular(0.0, 0.0, settings.darken)
        image_bgr = darkened(image_bgr, stops)
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


def darkened(image_bgr: Picture, stops: float) -> Picture:
    """Return the image as it would be with 2^-stops of its light (sRGB, IEC 61966-2-1), uint8 BGR."""
    levels = np.arange(256) / 255
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    light *= 2.0**-stops
    seen = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return _map_levels(image_bgr, np.rint(seen * 255))


_LONGEST = 4
"""Largest long side of a resized image, in short sides of the network: 2560 where that is 640."""

_TRIES = 10

_PADDING = 128
"""Grey of the pixels right of and below an image that is smaller than the crop."""


def resize_crop(
    image_bgr: Picture,
    labels: Labels,
    size_hw: tuple[int, int],
    settings: AugmentSettings,
    random: np.random.Generator,
    *,
    outside: int,
    around: Pixel | None = None,
) -> tuple[Picture, Labels]:
    """Return a crop by Mask2Former's recipe: uint8 BGR [H, W, 3] and int64 [H, W].

    The shorter side is resized to one of the steps of `scale`, the longer one accordingly, or to the
    network's aspect; a random crop of the network's size is taken, its colours varied, perhaps mirrored,
    and padded. around: a pixel of the image that the crop must hold.

    Differences: labels are taken from the middle of each cell, images shrink by area, and
    saturation and hue share one conversion.
    """
    import cv2

    height, width = resized_hw(labels.shape, size_hw, settings, random)
    image = np.empty((height, width, 3), np.uint8)
    resize_frame(image_bgr, image)
    ids = np.asarray(
        cv2.resize(labels.astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST_EXACT),
        dtype=np.int32,
    )
    if around is not None:
        around = around[0] * height // labels.shape[0], around[1] * width // labels.shape[1]
    rows, columns = _crop(ids, size_hw, settings.category_area, random, around or (None, None))
    image = ssd_colour(np.ascontiguousarray(image[rows, columns], dtype=np.uint8), random)
    ids = ids[rows, columns]
    if random.random() < settings.flip:
        image, ids = image[:, ::-1], ids[:, ::-1]
    canvas = np.full((*size_hw, 3), _PADDING, np.uint8)
    full = np.full(size_hw, outside, np.int64)
    canvas[: ids.shape[0], : ids.shape[1]] = image
    full[: ids.shape[0], : ids.shape[1]] = ids
    return canvas, full


def resized_hw(
    image_hw: tuple[int, ...],
    size_hw: tuple[int, int],
    settings: AugmentSettings,
    random: np.random.Generator,
) -> tuple[int, int]:
    """Return the size to which an image is resized before a crop of `size_hw` is taken."""
    base = min(size_hw)
    tenths = random.integers(
        round(settings.scale[0] * 10), round(settings.scale[1] * 10), endpoint=True
    )
    if settings.recipe == "mask2former-squashed":
        height, width = (max(1, int(tenths * 0.1 * side)) for side in size_hw)
        return height, width
    factor = int(tenths * 0.1 * base) / min(image_hw)
    factor = min(factor, _LONGEST * base / max(image_hw))
    height, width = (max(1, int(side * factor + 0.5)) for side in image_hw)
    return height, width


def _crop(
    labels: NDArray[np.int32],
    size_hw: tuple[int, int],
    category_area: float,
    random: np.random.Generator,
    around: tuple[int | None, int | None],
) -> tuple[slice, slice]:
    """Return rows and columns of a random crop where no class has more than `category_area`.

    After 10 tries the last crop is taken as it is.
    """
    height, width = (min(side, room) for side, room in zip(size_hw, labels.shape, strict=True))
    for _ in range(_TRIES):
        top = _start(labels.shape[0], height, random, around[0])
        left = _start(labels.shape[1], width, random, around[1])
        window = slice(top, top + height), slice(left, left + width)
        if category_area >= 1.0:
            break
        crop = labels[window]
        counts = np.unique(crop[crop >= 0], return_counts=True)[1]
        if len(counts) > 1 and counts.max() < category_area * counts.sum():
            break
    return window


def ssd_colour(image_bgr: Picture, random: np.random.Generator) -> Picture:
    """Return the image with the colours of SSD's augmentation (Liu et al., ECCV 2016).

    Each with probability 1/2: brightness by at most 32 levels, contrast and saturation times
    [0.5, 1.5), hue by at most 36 degrees; contrast comes before or after the latter two.
    """
    levels = np.arange(256.0)
    chosen = random.random(4) < 0.5
    shift, contrast, saturation = (
        random.uniform(-32, 32),
        random.uniform(0.5, 1.5),
        random.uniform(0.5, 1.5),
    )
    # OpenCV stores hue in steps of two degrees, [0, 180).
    turn = int(random.integers(-18, 18, endpoint=True))
    before = levels + shift if chosen[0] else levels
    after = levels
    if chosen[1] and random.random() < 0.5:
        before = np.clip(before, 0, 255) * contrast
    elif chosen[1]:
        after = levels * contrast
    image = _map_levels(image_bgr, before)
    image = _turn_and_saturate(image, turn if chosen[3] else 0, saturation if chosen[2] else 1.0)
    return _map_levels(image, after)


def _map_levels(image: Picture, levels: NDArray[np.float64]) -> Picture:
    import cv2

    table = np.clip(levels, 0, 255).astype(np.uint8)
    if np.array_equal(table, np.arange(256)):
        return image
    return np.asarray(cv2.LUT(image, table), dtype=np.uint8)


def _turn_and_saturate(image_bgr: Picture, turn: int, saturation: float) -> Picture:
    import cv2

    if not turn and saturation == 1.0:
        return image_bgr
    levels = np.arange(256)
    tables = ((levels + turn) % 180, np.clip(levels * saturation, 0, 255), levels)
    hsv = cv2.LUT(
        cv2.cvtColor(image_bgr, cv2.COLOR_BGR2HSV), np.stack(tables, -1).astype(np.uint8)[None]
    )
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), dtype=np.uint8)
