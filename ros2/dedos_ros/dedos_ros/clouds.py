"""Depth pictures as organised clouds of points with classes; nothing here needs ROS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError

POINT = np.dtype(
    {
        "names": ["x", "y", "z", "label", "confidence"],
        "formats": ["<f4", "<f4", "<f4", "<u2", "u1"],
        "offsets": [0, 4, 8, 12, 14],
        "itemsize": 16,
    }
)
"""A point: metres in the camera's optical frame, its pixel in the mask, and 255 times the score."""

DEPTHS: dict[str, tuple[type[np.generic], float]] = {
    # encoding: dtype, metres per unit (REP 118)
    "16uc1": (np.uint16, 0.001),
    "mono16": (np.uint16, 0.001),
    "32fc1": (np.float32, 1.0),
}


@dataclass(frozen=True)
class Pinhole:
    """A camera without distortion, its numbers in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    @classmethod
    def from_info(cls, info: Any) -> Pinhole:
        """Return the camera of a `sensor_msgs/CameraInfo`: of rectified pictures where it has P, else K.

        Raises BadInputError.
        """
        fx, fy, cx, cy = (
            (info.p[0], info.p[5], info.p[2], info.p[6])
            if info.p[0]
            else (info.k[0], info.k[4], info.k[2], info.k[5])
        )
        if not (fx > 0 and fy > 0 and np.isfinite([fx, fy, cx, cy]).all()):
            raise BadInputError(
                f"its camera has focal lengths {fx:g} and {fy:g}, which must be above 0; calibrate it"
            )
        return cls(fx, fy, cx, cy, info.width, info.height)


def depth_m(message: Any) -> NDArray[np.float32]:
    """Return metres, float32 [H, W], NaN where there is no depth, of a `sensor_msgs/Image`.

    Raises BadInputError for another encoding than 16UC1 (millimetres) and 32FC1 (metres).
    """
    if message.encoding.lower() not in DEPTHS:
        raise BadInputError(
            f"its encoding {message.encoding[:40]!r} is not a depth's; known are 16UC1 in millimetres "
            "and 32FC1 in metres"
        )
    dtype, metres = DEPTHS[message.encoding.lower()]
    typed = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
    row_bytes = message.width * typed.itemsize
    step, content = message.step or row_bytes, np.frombuffer(message.data, np.uint8)
    if (
        min(message.height, message.width) < 1
        or step < row_bytes
        or content.size < step * message.height
    ):
        raise BadInputError(
            f"its {message.encoding} depth of {message.width}x{message.height} needs "
            f"{message.height * row_bytes} bytes and has {content.size} in rows of {step}"
        )
    rows = content[: step * message.height].reshape(message.height, step)[:, :row_bytes]
    depth = np.ascontiguousarray(rows).view(typed).astype(np.float32)
    depth *= np.float32(metres)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    return depth


class CloudMaker:
    """Makes clouds; keeps the rays of the last camera."""

    def __init__(self) -> None:
        self._rays: tuple[Pinhole, NDArray[np.float32], NDArray[np.float32]] | None = None

    def cloud(
        self,
        depth: NDArray[np.float32],
        camera: Pinhole,
        mask: NDArray[Any],
        confidence: NDArray[np.uint8],
    ) -> NDArray[np.void]:
        """Return POINT [H, W], a point per pixel of the mask, NaN where there is no depth.

        depth: metres float32 [H, W], of the mask's pixels; mask: ids as published.

        Raises BadInputError when depth or camera are of another size than the mask.
        """
        height, width = mask.shape
        if depth.shape != mask.shape or (camera.height, camera.width) != mask.shape:
            raise BadInputError(
                f"depth of {depth.shape[1]}x{depth.shape[0]} and a camera_info of "
                f"{camera.width}x{camera.height} do not fit an image of {width}x{height}; register "
                "depth to the image, and publish the image's camera_info"
            )
        across, down = self._rays_of(camera)
        points = np.zeros(mask.shape, POINT)
        points["x"] = depth * across
        points["y"] = depth * down
        points["z"] = depth
        points["label"] = mask
        points["confidence"] = confidence
        return points

    def _rays_of(self, camera: Pinhole) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self._rays is None or self._rays[0] != camera:
            across = (np.arange(camera.width, dtype=np.float32) - camera.cx) / camera.fx
            down = (np.arange(camera.height, dtype=np.float32) - camera.cy) / camera.fy
            self._rays = camera, across[None].astype(np.float32), down[:, None].astype(np.float32)
        return self._rays[1:]
