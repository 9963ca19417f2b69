"""A pinhole camera on a bending street or corridor, and a canvas that paints picture and labels.

Coordinates are metres: `s` right of the centre line, `y` up from the ground, `z` along the line.
Colours are BGR in [0, 255]. Every drawing call writes the same shape to the picture
(anti-aliased) and to the label map, so the two cannot drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float, float]
Colour = tuple[float, float, float]

SHIFT = 3  # drawing coordinates carry three binary digits below the pixel
UNIT = 1 << SHIFT
NEAR_M = 0.25
_SMOOTH_M = 15.0  # small shapes farther away need no anti-aliasing
SMOOTH_FACES_M = 45.0
"""Solids farther away need no anti-aliasing."""
FAR_AWAY_PX = 20000.0  # clip of projected coordinates, far outside any picture


@dataclass(frozen=True)
class Camera:
    """Where the picture is taken from."""

    size_hw: tuple[int, int]
    """Picture size in pixels."""
    focal_px: float
    horizon_px: float
    """Row of the horizon."""
    s: float
    """Position across the line in metres."""
    height: float
    """Position above the ground in metres."""
    z: float
    """Position along the line in metres."""
    yaw: float = 0.0
    """Radians to the right of the line's direction."""
    bend_m: float = 0.0
    """Amplitude of the line's sideways swing in metres."""
    bend_length_m: float = 60.0
    """Length scale of the line's sideways swing."""

    def bend(self, z: float) -> float:
        """Return the sideways offset of the centre line at `z`, in metres."""
        return self.bend_m * math.sin(z / self.bend_length_m)

    @property
    def heading(self) -> float:
        """Viewing direction against the world's z axis, in radians."""
        slope = self.bend_m / self.bend_length_m * math.cos(self.z / self.bend_length_m)
        return math.atan(slope) + self.yaw


@dataclass(frozen=True)
class Light:
    """Brightness of surfaces by the side they face, and the air between them and the camera."""

    left: float
    """Factor for surfaces facing -s."""
    right: float
    """Factor for surfaces facing +s."""
    front: float
    """Factor for surfaces facing the camera."""
    top: float
    """Factor for surfaces facing the sky."""
    haze: Colour
    """Colour of the air."""
    haze_m: float
    """Distance at which the air mixes in 63 %."""
    shadow: float
    """Factor of shadowed ground."""
    sun_s: float
    """Metres of shadow across the line per metre of height."""
    sun_z: float
    """Metres of shadow along the line per metre of height."""


class Canvas:
    """Picture [H, W, 3] uint8 BGR and label map [H, W] uint8 of one frame.

    time_s: seconds since the scene began; exact: lines get the width that they have, to a pixel (else one or
    two more, as all small pictures have been drawn); half_view: tangent of half the horizontal field of view.
    """

    def __init__(
        self, camera: Camera, light: Light, time_s: float = 0.0, *, exact: bool = False
    ) -> None:
        height, width = camera.size_hw
        self.camera = camera
        self.light = light
        self.time_s = time_s
        self._exact = exact
        self.image: NDArray[np.uint8] = np.zeros((height, width, 3), np.uint8)
        self.labels: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
        self._heading = camera.heading
        self._cos, self._sin = math.cos(self._heading), math.sin(self._heading)
        self._origin = camera.bend(camera.z) + camera.s
        self.half_view = camera.size_hw[1] / 2 / camera.focal_px
        # read for every point, so they are kept close at hand
        self._z, self._height = camera.z, camera.height
        self._bend_m, self._bend_length_m = camera.bend_m, camera.bend_length_m

    def view(self, point: Point) -> Point:
        """Return right, up and depth of a point as the camera sees it, in metres."""
        s, y, z = point
        x, ahead = s - self._origin, z - self._z
        if self._bend_m:
            x += self._bend_m * math.sin(z / self._bend_length_m)
        return (
            x * self._cos - ahead * self._sin,
            y - self._height,
            x * self._sin + ahead * self._cos,
        )

    def pixels_per_metre(self, point: Point) -> float:
        """Return the scale of the picture at `point`, 0 when it is behind the camera."""
        depth = self.view(point)[2]
        return self.camera.focal_px / depth if depth > NEAR_M else 0.0

    def colour_at(self, colour: Colour, depth: float, tone: float) -> Colour:
        """Return `colour` times `tone` seen through `depth` metres of haze."""
        light = self.light
        clear = math.exp(-depth / light.haze_m) if depth > 0.0 else 1.0
        air = 1.0 - clear
        (b, g, r), haze = colour, light.haze
        return (
            min(255.0, b * tone) * clear + haze[0] * air,
            min(255.0, g * tone) * clear + haze[1] * air,
            min(255.0, r * tone) * clear + haze[2] * air,
        )

    def polygon(
        self, points: Sequence[Point], colour: Colour, label: int, tone: float = 1.0
    ) -> None:
        """Fill a flat polygon; what lies behind the camera is cut off."""
        seen = [self.view(point) for point in points]
        depths = [point[2] for point in seen]
        if max(depths) <= NEAR_M:
            return
        if min(depths) <= NEAR_M:
            seen = _cut_near(seen)
        pixels = self._to_pixels(seen)
        if pixels is None:
            return
        ink = self.colour_at(colour, sum(depths) / len(depths), tone)
        cv2.fillPoly(self.image, [pixels], ink, cv2.LINE_AA, SHIFT)
        cv2.fillPoly(self.labels, [pixels], label, cv2.LINE_8, SHIFT)

    def panes(
        self,
        foot: NDArray[np.float64],
        levels: NDArray[np.float64],
        colour: Colour,
        tone: float,
        *,
        label: int | None = None,
    ) -> None:
        """Fill a grid of upright rectangles of one colour that do not overlap.

        foot: [2, C, 2], (s, z) where each column starts and ends; levels: [2, R], heights where
        each row starts and ends; label: None when they lie on something that has its label already.
        """
        camera = self.camera
        height, width = camera.size_hw
        x, ahead = foot[..., 0] - self._origin, foot[..., 1] - self._z
        if self._bend_m:
            x = x + self._bend_m * np.sin(foot[..., 1] * (1 / self._bend_length_m))
        depth = x * self._sin + ahead * self._cos
        scale = camera.focal_px / np.maximum(depth, NEAR_M)
        u = width / 2 + (x * self._cos - ahead * self._sin) * scale
        seen = (depth > NEAR_M).all(axis=0) & (u > 0).any(axis=0) & (u < width).any(axis=0)
        columns = seen.nonzero()[0]
        if not len(columns):
            return
        u, scale, depth = u[:, columns], scale[:, columns], depth[:, columns]
        # [2 levels, R, 2 sides, C]
        v = camera.horizon_px - (levels[:, :, None, None] - camera.height) * scale
        pixels: NDArray[np.float64] = np.empty((levels.shape[1], len(columns), 4, 2))
        for corner, (end, side) in enumerate(((0, 0), (0, 1), (1, 1), (1, 0))):
            pixels[:, :, corner, 0] = u[side]
            pixels[:, :, corner, 1] = v[end, :, side]
        pixels = pixels.reshape(-1, 4, 2)
        rows = pixels[..., 1]
        pixels = pixels[(rows > 0).any(axis=1) & (rows < height).any(axis=1)]
        if not len(pixels):
            return
        limit = FAR_AWAY_PX * UNIT
        shapes = list((pixels * UNIT).clip(-limit, limit).astype(np.int32))
        away = float(depth.sum()) / depth.size
        edges = cv2.LINE_AA if away < _SMOOTH_M else cv2.LINE_8
        cv2.fillPoly(self.image, shapes, self.colour_at(colour, away, tone), edges, SHIFT)
        if label is not None:
            cv2.fillPoly(self.labels, shapes, label, cv2.LINE_8, SHIFT)

    def line(self, start: Point, end: Point, width: float, colour: Colour, label: int) -> None:
        """Draw a bar `width` metres thick, at least one pixel."""
        a, b = self.view(start), self.view(end)
        if min(a[2], b[2]) <= NEAR_M:
            return
        pixels = self._to_pixels([a, b])
        if pixels is None:
            return
        depth = (a[2] + b[2]) / 2
        thickness = self.thickness(width * self.camera.focal_px / depth)
        ink = self.colour_at(colour, depth, 1.0)
        # cutting walks the line there and back, so an end may be met twice
        first, last = min(ends := pixels.tolist()), max(ends)
        cv2.line(self.image, first, last, ink, thickness, cv2.LINE_AA, SHIFT)
        cv2.line(self.labels, first, last, label, thickness, cv2.LINE_8, SHIFT)

    def thickness(self, width_px: float) -> int:
        """Return what OpenCV is to be told for a line that is `width_px` wide, at least one pixel."""
        if not self._exact:
            return max(1, round(width_px))
        # It fills 2 * (thickness // 2) + 1 pixels of an even thickness, and two more of an odd one above 1.
        return max(1, 2 * round((width_px - 1) / 2))

    def faces(
        self,
        seen: NDArray[np.float64],
        order: Sequence[int],
        inks: Sequence[Colour],
        label: int,
    ) -> None:
        """Fill faces [F, corners, 3] given in view coordinates, without dents, in `order`.

        Faces that reach behind the camera are cut; inks: the colour of each face.
        """
        camera = self.camera
        near = seen[..., 2].min(axis=1) > NEAR_M
        edges = cv2.LINE_AA if seen[0, 0, 2] < SMOOTH_FACES_M else cv2.LINE_8
        scale = camera.focal_px / np.maximum(seen[..., 2], NEAR_M)
        u = camera.size_hw[1] / 2 + seen[..., 0] * scale
        v = camera.horizon_px - seen[..., 1] * scale
        height, width = camera.size_hw
        inside = (u.min(axis=1) > -width) & (u.max(axis=1) < 2 * width)
        inside &= (v.min(axis=1) > -height) & (v.max(axis=1) < 2 * height) & near
        pixels = (np.stack([u, v], -1) * UNIT).clip(-FAR_AWAY_PX * UNIT, FAR_AWAY_PX * UNIT)
        pixels = pixels.astype(np.int32)
        for index in order:
            if inside[index]:
                shape = pixels[index]
            else:
                kept = _cut_near([(x, y, z) for x, y, z in seen[index].tolist()])
                cut = self._to_pixels(kept) if kept else None
                if cut is None:
                    continue
                shape = cut
            cv2.fillConvexPoly(self.image, shape, inks[index], edges, SHIFT)
            cv2.fillConvexPoly(self.labels, shape, label, cv2.LINE_8, SHIFT)

    def face(self, corners: Sequence[Point], ink: Colour, label: int, edges: int) -> None:
        """Fill one face without dents, given in view coordinates; edges: OpenCV's line type."""
        focal, horizon = self.camera.focal_px, self.camera.horizon_px
        height, width = self.labels.shape
        middle = width / 2
        flat = []
        for x, y, depth in corners:
            if depth <= NEAR_M:
                break
            scale = focal / depth
            u, v = middle + x * scale, horizon - y * scale
            if not (-width < u < 2 * width and -height < v < 2 * height):
                break
            flat.append((int(u * UNIT), int(v * UNIT)))
        else:
            shape = np.array(flat, np.int32)
            cv2.fillConvexPoly(self.image, shape, ink, edges, SHIFT)
            cv2.fillConvexPoly(self.labels, shape, label, cv2.LINE_8, SHIFT)
            return
        kept = _cut_near(corners)
        cut = self._to_pixels(kept) if kept else None
        if cut is not None:
            cv2.fillConvexPoly(self.image, cut, ink, edges, SHIFT)
            cv2.fillConvexPoly(self.labels, cut, label, cv2.LINE_8, SHIFT)

    def stance(self, s: float, z: float, turn: int) -> tuple[Point, float, float]:
        """Return where a local frame on the street stands in view coordinates, and how.

        The result is its origin, and cosine and sine of the angle between its axes and the
        camera's after `turn` quarter turns.
        """
        camera = self.camera
        slope = camera.bend_m / camera.bend_length_m * math.cos(z / camera.bend_length_m)
        angle = math.atan(slope) - self._heading + turn * math.pi / 2
        return self.view((s, 0.0, z)), math.cos(angle), math.sin(angle)

    def axes(
        self, s: float, z: float, turn: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return origin [3] and axes [3, 3] in view coordinates of a local frame on the street.

        Rows of the axes: across, up, along after `turn` quarter turns.
        """
        origin, cos, sin = self.stance(s, z, turn)
        return np.array(origin), np.array([(cos, 0.0, -sin), (0.0, 1.0, 0.0), (sin, 0.0, cos)])

    def shade_ground(self, shapes: Sequence[Sequence[Point]], soft_px: int) -> None:
        """Darken the ground under `shapes` with edges `soft_px` pixels soft; labels stay."""
        mask = np.zeros(self.labels.shape, np.uint8)
        for shape in shapes:
            seen = [self.view(point) for point in shape]
            depths = [point[2] for point in seen]
            if max(depths) <= NEAR_M:
                continue
            pixels = self._to_pixels(_cut_near(seen) if min(depths) <= NEAR_M else seen)
            if pixels is not None:
                cv2.fillPoly(mask, [pixels], 255, cv2.LINE_8, SHIFT)
        top = max(0, int(self.camera.horizon_px))
        soft = cv2.blur(mask[top:], (soft_px, soft_px))
        factor = cv2.LUT(soft, _shadow_table(self.light.shadow))
        ground = self.image[top:]
        cv2.multiply(ground, cv2.merge([factor] * 3), ground, 1 / 255)

    def _to_pixels(self, seen: Sequence[Point]) -> NDArray[np.int32] | None:
        height, width = self.camera.size_hw
        focal, horizon = self.camera.focal_px, self.camera.horizon_px
        middle = width / 2
        us = [middle + focal * x / depth for x, _, depth in seen]
        vs = [horizon - focal * y / depth for _, y, depth in seen]
        left, right, top, bottom = min(us), max(us), min(vs), max(vs)
        if right < 0 or left > width or bottom < 0 or top > height:
            return None
        flat = list(zip(us, vs, strict=True))
        # OpenCV visits every row of a polygon, also those far outside the picture
        if left < -width or right > 2 * width:
            flat = _cut_band(flat, 0, -width, 2.0 * width)
        if top < -height or bottom > 2 * height:
            flat = _cut_band(flat, 1, -height, 2.0 * height)
        if len(flat) < 2:
            return None
        return np.array([(int(u * UNIT), int(v * UNIT)) for u, v in flat], np.int32)


def _shadow_table(factor: float) -> NDArray[np.uint8]:
    return np.linspace(255, 255 * factor, 256).astype(np.uint8)


def _cut_band(
    flat: list[tuple[float, float]], axis: int, low: float, high: float
) -> list[tuple[float, float]]:
    """Cut a polygon in pixels to low <= u (axis 0) or v (axis 1) <= high."""
    for limit, sign in ((low, 1.0), (high, -1.0)):
        kept: list[tuple[float, float]] = []
        for a, b in zip(flat, [*flat[1:], *flat[:1]], strict=True):
            over, next_over = sign * (a[axis] - limit), sign * (b[axis] - limit)
            if over >= 0:
                kept.append(a)
            if (over >= 0) != (next_over >= 0):
                t = over / (over - next_over)
                kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
        flat = kept
    return flat


def _cut_near(seen: Sequence[Point]) -> list[Point]:
    """Cut a polygon in camera coordinates at the near plane."""
    kept: list[Point] = []
    for a, b in zip(seen, [*seen[1:], seen[0]], strict=True):
        if a[2] > NEAR_M:
            kept.append(a)
        if (a[2] > NEAR_M) != (b[2] > NEAR_M):
            t = (NEAR_M - a[2]) / (b[2] - a[2])
            kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), NEAR_M))
    return kept
