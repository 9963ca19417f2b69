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

_SHIFT = 3  # drawing coordinates carry three binary digits below the pixel
_UNIT = 1 << _SHIFT
_NEAR_M = 0.25
_SMOOTH_M = 15.0  # small shapes farther away need no anti-aliasing
_RAMP = np.linspace(0, 1, 256)[:, None]
_FAR_AWAY_PX = 20000.0  # clip of projected coordinates, far outside any picture


@dataclass(frozen=True)
class Camera:
    """Where the picture is taken from.

    size_hw: picture size in pixels; focal_px; horizon_px: row of the horizon;
    s, height, z: position in metres; yaw: radians to the right of the line's direction;
    bend_m, bend_length_m: amplitude and length scale of the line's sideways swing.
    """

    size_hw: tuple[int, int]
    focal_px: float
    horizon_px: float
    s: float
    height: float
    z: float
    yaw: float = 0.0
    bend_m: float = 0.0
    bend_length_m: float = 60.0

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
    """Brightness of surfaces by the side they face, and the air between them and the camera.

    left, right, front, top: factors for surfaces facing -s, +s, the camera, the sky;
    haze, haze_m: colour of the air and the distance that mixes in 63 % of it;
    shadow: factor of shadowed ground; sun_s, sun_z: metres of shadow per metre of height.
    """

    left: float
    right: float
    front: float
    top: float
    haze: Colour
    haze_m: float
    shadow: float
    sun_s: float
    sun_z: float


class Canvas:
    """Picture [H, W, 3] uint8 BGR and label map [H, W] uint8 of one frame."""

    def __init__(self, camera: Camera, light: Light) -> None:
        height, width = camera.size_hw
        self.camera = camera
        self.light = light
        self.image: NDArray[np.uint8] = np.zeros((height, width, 3), np.uint8)
        self.labels: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
        self._cos, self._sin = math.cos(camera.heading), math.sin(camera.heading)
        self._origin = camera.bend(camera.z) + camera.s

    def view(self, point: Point) -> Point:
        """Return right, up and depth of a point as the camera sees it, in metres."""
        s, y, z = point
        camera = self.camera
        x = s + camera.bend_m * math.sin(z / camera.bend_length_m) - self._origin
        ahead = z - camera.z
        return (
            x * self._cos - ahead * self._sin,
            y - camera.height,
            x * self._sin + ahead * self._cos,
        )

    def pixels_per_metre(self, point: Point) -> float:
        """Return the scale of the picture at `point`, 0 when it is behind the camera."""
        depth = self.view(point)[2]
        return self.camera.focal_px / depth if depth > _NEAR_M else 0.0

    def colour_at(self, colour: Colour, depth: float, tone: float) -> Colour:
        """Return `colour` times `tone` seen through `depth` metres of haze."""
        air = 1.0 - math.exp(-max(depth, 0.0) / self.light.haze_m)
        b, g, r = (
            min(255.0, c * tone) * (1 - air) + h * air
            for c, h in zip(colour, self.light.haze, strict=True)
        )
        return b, g, r

    def polygon(
        self, points: Sequence[Point], colour: Colour, label: int, tone: float = 1.0
    ) -> None:
        """Fill a flat polygon; what lies behind the camera is cut off."""
        seen = [self.view(point) for point in points]
        depths = [point[2] for point in seen]
        if max(depths) <= _NEAR_M:
            return
        if min(depths) <= _NEAR_M:
            seen = _cut_near(seen)
        pixels = self._to_pixels(seen)
        if pixels is None:
            return
        ink = self.colour_at(colour, sum(depths) / len(depths), tone)
        cv2.fillPoly(self.image, [pixels], ink, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(self.labels, [pixels], label, cv2.LINE_8, _SHIFT)

    def polygons(
        self, points: NDArray[np.float64], colour: Colour, label: int | None, tone: float = 1.0
    ) -> None:
        """Fill many polygons [N, corners, 3] of one colour that do not overlap.

        label: None when they lie on something that has its label already.
        """
        camera = self.camera
        height, width = camera.size_hw
        s, y, z = points[..., 0], points[..., 1], points[..., 2]
        x = s - self._origin
        if camera.bend_m:
            x = x + camera.bend_m * np.sin(z / camera.bend_length_m)
        ahead = z - camera.z
        depth = x * self._sin + ahead * self._cos
        scale = camera.focal_px / np.maximum(depth, _NEAR_M)
        u = width / 2 + (x * self._cos - ahead * self._sin) * scale
        v = camera.horizon_px - (y - camera.height) * scale
        keep = (depth.min(axis=1) > _NEAR_M) & (u.max(axis=1) > 0) & (u.min(axis=1) < width)
        keep &= (v.max(axis=1) > 0) & (v.min(axis=1) < height)
        if not keep.any():
            return
        pixels = np.stack([u[keep], v[keep]], -1).clip(-_FAR_AWAY_PX, _FAR_AWAY_PX) * _UNIT
        shapes = list(pixels.astype(np.int32))
        away = float(depth[keep].mean())
        edges = cv2.LINE_AA if away < _SMOOTH_M else cv2.LINE_8
        cv2.fillPoly(self.image, shapes, self.colour_at(colour, away, tone), edges, _SHIFT)
        if label is not None:
            cv2.fillPoly(self.labels, shapes, label, cv2.LINE_8, _SHIFT)

    def line(self, start: Point, end: Point, width: float, colour: Colour, label: int) -> None:
        """Draw a bar `width` metres thick, at least one pixel."""
        a, b = self.view(start), self.view(end)
        if min(a[2], b[2]) <= _NEAR_M:
            return
        pixels = self._to_pixels([a, b])
        if pixels is None:
            return
        depth = (a[2] + b[2]) / 2
        thickness = max(1, round(width * self.camera.focal_px / depth))
        ink = self.colour_at(colour, depth, 1.0)
        # cutting walks the line there and back, so an end may be met twice
        first, last = min(ends := pixels.tolist()), max(ends)
        cv2.line(self.image, first, last, ink, thickness, cv2.LINE_AA, _SHIFT)
        cv2.line(self.labels, first, last, label, thickness, cv2.LINE_8, _SHIFT)

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
        near = seen[..., 2].min(axis=1) > _NEAR_M
        edges = cv2.LINE_AA if seen[0, 0, 2] < 3 * _SMOOTH_M else cv2.LINE_8
        scale = camera.focal_px / np.maximum(seen[..., 2], _NEAR_M)
        u = camera.size_hw[1] / 2 + seen[..., 0] * scale
        v = camera.horizon_px - seen[..., 1] * scale
        height, width = camera.size_hw
        inside = (u.min(axis=1) > -width) & (u.max(axis=1) < 2 * width)
        inside &= (v.min(axis=1) > -height) & (v.max(axis=1) < 2 * height) & near
        pixels = (np.stack([u, v], -1) * _UNIT).clip(-_FAR_AWAY_PX * _UNIT, _FAR_AWAY_PX * _UNIT)
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
            cv2.fillConvexPoly(self.image, shape, inks[index], edges, _SHIFT)
            cv2.fillConvexPoly(self.labels, shape, label, cv2.LINE_8, _SHIFT)

    def axes(
        self, s: float, z: float, turn: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return origin [3] and axes [3, 3] in view coordinates of a local frame on the street.

        Rows of the axes: across, up, along after `turn` quarter turns.
        """
        camera = self.camera
        slope = camera.bend_m / camera.bend_length_m * math.cos(z / camera.bend_length_m)
        angle = math.atan(slope) - self.camera.heading + turn * math.pi / 2
        cos, sin = math.cos(angle), math.sin(angle)
        return np.array(self.view((s, 0.0, z))), np.array(
            [(cos, 0.0, -sin), (0.0, 1.0, 0.0), (sin, 0.0, cos)]
        )

    def shade_ground(self, shapes: Sequence[Sequence[Point]], soft_px: int) -> None:
        """Darken the ground under `shapes` with edges `soft_px` pixels soft; labels stay."""
        mask = np.zeros(self.labels.shape, np.uint8)
        for shape in shapes:
            seen = [self.view(point) for point in shape]
            if max(point[2] for point in seen) <= _NEAR_M:
                continue
            pixels = self._to_pixels(_cut_near(seen))
            if pixels is not None:
                cv2.fillPoly(mask, [pixels], 255, cv2.LINE_8, _SHIFT)
        top = max(0, int(self.camera.horizon_px))
        soft = cv2.blur(mask[top:], (soft_px, soft_px))
        factor = cv2.LUT(soft, _shadow_table(self.light.shadow))
        ground = self.image[top:]
        cv2.multiply(ground, cv2.merge([factor] * 3), ground, 1 / 255)

    def _to_pixels(self, seen: Sequence[Point]) -> NDArray[np.int32] | None:
        height, width = self.camera.size_hw
        focal, horizon = self.camera.focal_px, self.camera.horizon_px
        flat = [
            (width / 2 + focal * x / depth, horizon - focal * y / depth) for x, y, depth in seen
        ]
        us, vs = [p[0] for p in flat], [p[1] for p in flat]
        left, right, top, bottom = min(us), max(us), min(vs), max(vs)
        if right < 0 or left > width or bottom < 0 or top > height:
            return None
        # OpenCV visits every row of a polygon, also those far outside the picture
        if left < -width or right > 2 * width:
            flat = _cut_band(flat, 0, -width, 2.0 * width)
        if top < -height or bottom > 2 * height:
            flat = _cut_band(flat, 1, -height, 2.0 * height)
        if len(flat) < 2:
            return None
        return np.array([(int(u * _UNIT), int(v * _UNIT)) for u, v in flat], np.int32)


class Billboard:
    """An upright plane that faces the camera at (s, z): flat shapes are drawn on it cheaply.

    Points are (right of s, up from the ground) in metres. `scale` is pixels per metre, 0 when the
    plane lies behind the camera or outside the picture, and then nothing is drawn.
    """

    def __init__(self, canvas: Canvas, s: float, z: float, reach: float = 12.0) -> None:
        x, y, depth = canvas.view((s, 0.0, z))
        camera = canvas.camera
        self._image, self._labels = canvas.image, canvas.labels
        self.scale = camera.focal_px / depth if depth > _NEAR_M else 0.0
        self._u = camera.size_hw[1] / 2 + x * self.scale
        self._v = camera.horizon_px - y * self.scale
        outside = max(-self._u, self._u - camera.size_hw[1])
        if outside > reach * self.scale:
            self.scale = 0.0
        air = 1.0 - math.exp(-max(depth, 0.0) / canvas.light.haze_m)
        self._clear = 1 - air
        b, g, r = canvas.light.haze
        self._haze = (b * air, g * air, r * air)

    def ink(self, colour: Colour, tone: float) -> Colour:
        """Return `colour` times `tone` as seen through the air before the plane."""
        clear, haze = self._clear, self._haze
        return (
            min(255.0, colour[0] * tone) * clear + haze[0],
            min(255.0, colour[1] * tone) * clear + haze[1],
            min(255.0, colour[2] * tone) * clear + haze[2],
        )

    def pixel(self, right: float, up: float) -> tuple[float, float]:
        """Return column and row of a point of the plane."""
        return self._u + right * self.scale, self._v - up * self.scale

    def polygon(
        self, points: Sequence[tuple[float, float]], colour: Colour, label: int, tone: float = 1.0
    ) -> None:
        """Fill a polygon without dents."""
        if not self.scale:
            return
        scale, u, v = self.scale * _UNIT, self._u * _UNIT, self._v * _UNIT
        pixels = np.array([(int(u + x * scale), int(v - y * scale)) for x, y in points], np.int32)
        ink = self.ink(colour, tone)
        cv2.fillConvexPoly(self._image, pixels, ink, cv2.LINE_AA, _SHIFT)
        cv2.fillConvexPoly(self._labels, pixels, label, cv2.LINE_8, _SHIFT)

    def ellipse(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        colour: Colour,
        label: int,
        tone: float = 1.0,
    ) -> None:
        """Fill an ellipse with half axes `radii` (across, up)."""
        if not self.scale:
            return
        scale = self.scale * _UNIT
        where = int(self._u * _UNIT + centre[0] * scale), int(self._v * _UNIT - centre[1] * scale)
        size = max(_UNIT // 2, int(radii[0] * scale)), max(_UNIT // 2, int(radii[1] * scale))
        if max(*map(abs, where), *size) > _FAR_AWAY_PX * _UNIT:
            return
        ink = self.ink(colour, tone)
        if size[0] == size[1]:
            cv2.circle(self._image, where, size[0], ink, -1, cv2.LINE_8, _SHIFT)
            cv2.circle(self._labels, where, size[0], label, -1, cv2.LINE_8, _SHIFT)
            return
        box = (where, size, 0, 0, 360)
        cv2.ellipse(self._image, *box, ink, -1, cv2.LINE_AA, _SHIFT)
        cv2.ellipse(self._labels, *box, label, -1, cv2.LINE_8, _SHIFT)

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        width: float,
        colour: Colour,
        label: int,
    ) -> None:
        """Draw a bar `width` metres thick, at least one pixel."""
        if not self.scale:
            return
        scale, u, v = self.scale * _UNIT, self._u * _UNIT, self._v * _UNIT
        first = int(u + start[0] * scale), int(v - start[1] * scale)
        last = int(u + end[0] * scale), int(v - end[1] * scale)
        thickness = max(1, round(width * self.scale))
        cv2.line(self._image, first, last, self.ink(colour, 1.0), thickness, cv2.LINE_AA, _SHIFT)
        cv2.line(self._labels, first, last, label, thickness, cv2.LINE_8, _SHIFT)

    def stamp(
        self,
        sprite: NDArray[np.uint8],
        box: tuple[float, float, float, float],
        table: Colour,
        label: int,
        *,
        tone: float = 1.0,
        mirrored: bool = False,
    ) -> None:
        """Draw a sprite [h, w, 2] of (shade, cover) stretched over box (left, base, right, top).

        Shade 128 is `table` times `tone`; cover above half is drawn.
        """
        if not self.scale:
            return
        height, width = self._labels.shape
        left, bottom = self.pixel(box[0], box[1])
        right, top = self.pixel(box[2], box[3])
        x0, x1 = max(0, math.floor(left)), min(width, math.ceil(right))
        y0, y1 = max(0, math.floor(top)), min(height, math.ceil(bottom))
        if x1 - x0 < 1 or y1 - y0 < 1 or right - left < 1 or bottom - top < 1:
            return
        sx, sy = sprite.shape[1] / (right - left), sprite.shape[0] / (bottom - top)
        across = (
            (-sx, (right - x0 - 0.5) * sx - 0.5) if mirrored else (sx, (x0 + 0.5 - left) * sx - 0.5)
        )
        matrix = np.array([[across[0], 0, across[1]], [0, sy, (y0 + 0.5 - top) * sy - 0.5]])
        cut = cv2.warpAffine(
            sprite, matrix, (x1 - x0, y1 - y0),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        shade, cover = cv2.split(cut)
        mask = cv2.threshold(cover, 127, 255, cv2.THRESH_BINARY)[1]
        inks = _sprite_inks(self.ink(table, 0.0), self.ink(table, tone * 255 / 128))
        cv2.copyTo(cv2.LUT(cv2.merge([shade] * 3), inks), mask, self._image[y0:y1, x0:x1])
        self._labels[y0:y1, x0:x1][mask > 0] = label


def _sprite_inks(dark: Colour, light: Colour) -> NDArray[np.uint8]:
    inks = np.array(dark) + _RAMP * (np.array(light) - np.array(dark))
    return np.asarray(np.minimum(inks, 255), np.uint8).reshape(256, 1, 3)


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
        if a[2] > _NEAR_M:
            kept.append(a)
        if (a[2] > _NEAR_M) != (b[2] > _NEAR_M):
            t = (_NEAR_M - a[2]) / (b[2] - a[2])
            kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), _NEAR_M))
    return kept
