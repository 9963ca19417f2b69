"""Flat things that face the camera: trees, people, poles and signs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dedos_deploy.scenes.canvas import FAR_AWAY_PX, NEAR_M, SHIFT, UNIT, Canvas, Colour


class Billboard:
    """An upright plane that faces the camera at (s, z): flat shapes are drawn on it cheaply.

    Points are (right of s, up from the ground) in metres. `scale` is pixels per metre, 0 when the
    plane lies behind the camera or outside the picture, and then nothing is drawn.
    """

    def __init__(self, canvas: Canvas, s: float, z: float, reach: float = 12.0) -> None:
        x, y, depth = canvas.view((s, 0.0, z))
        camera = canvas.camera
        self._image, self._labels = canvas.image, canvas.labels
        self._thickness = canvas.thickness
        self.scale = camera.focal_px / depth if depth > NEAR_M else 0.0
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
        scale, u, v = self.scale * UNIT, self._u * UNIT, self._v * UNIT
        pixels = np.array([(int(u + x * scale), int(v - y * scale)) for x, y in points], np.int32)
        ink = self.ink(colour, tone)
        cv2.fillConvexPoly(self._image, pixels, ink, cv2.LINE_AA, SHIFT)
        cv2.fillConvexPoly(self._labels, pixels, label, cv2.LINE_8, SHIFT)

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
        scale = self.scale * UNIT
        where = int(self._u * UNIT + centre[0] * scale), int(self._v * UNIT - centre[1] * scale)
        size = max(UNIT // 2, int(radii[0] * scale)), max(UNIT // 2, int(radii[1] * scale))
        if max(*map(abs, where), *size) > FAR_AWAY_PX * UNIT:
            return
        ink = self.ink(colour, tone)
        if size[0] == size[1]:
            cv2.circle(self._image, where, size[0], ink, -1, cv2.LINE_8, SHIFT)
            cv2.circle(self._labels, where, size[0], label, -1, cv2.LINE_8, SHIFT)
            return
        box = (where, size, 0, 0, 360)
        cv2.ellipse(self._image, *box, ink, -1, cv2.LINE_AA, SHIFT)
        cv2.ellipse(self._labels, *box, label, -1, cv2.LINE_8, SHIFT)

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
        scale, u, v = self.scale * UNIT, self._u * UNIT, self._v * UNIT
        first = int(u + start[0] * scale), int(v - start[1] * scale)
        last = int(u + end[0] * scale), int(v - end[1] * scale)
        thickness = self._thickness(width * self.scale)
        cv2.line(self._image, first, last, self.ink(colour, 1.0), thickness, cv2.LINE_AA, SHIFT)
        cv2.line(self._labels, first, last, label, thickness, cv2.LINE_8, SHIFT)

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
            sprite,
            matrix,
            (x1 - x0, y1 - y0),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        shade, cover = cv2.split(cut)
        mask = cv2.threshold(cover, 127, 1, cv2.THRESH_BINARY)[1]
        dark, light = self.ink(table, 0.0), self.ink(table, tone * 255 / 128)
        inks = np.array([((b - a) / 255, a) for a, b in zip(dark, light, strict=True)])
        cv2.copyTo(cv2.transform(shade, inks), mask, self._image[y0:y1, x0:x1])
        np.copyto(self._labels[y0:y1, x0:x1], label, where=mask.view(np.bool_))
