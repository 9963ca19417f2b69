"""A robot's loop: the newest frame, what lies ahead on it, and words that change while it drives.

python examples/robot_loop.py 0                  # a camera
python examples/robot_loop.py "scene:hall?frames=20"
"""

from __future__ import annotations

import sys

import numpy as np

from dedos_deploy import Segmenter
from dedos_deploy.runtime import Segmentation, open_source


def free_ahead(result: Segmentation, ground: str) -> float:
    """Return how far up the lower half of the picture ground reaches in its middle, 0 to 1."""
    height, width = result.label_map.shape
    rows = result.free_space(ground, below=height // 2)[width // 3 : 2 * width // 3]
    return float(np.median(height - 1 - rows) / (height - height // 2))


def main(source: str) -> None:
    with (
        Segmenter.load("demo", classes="floor,wall,person") as segmenter,
        open_source(source) as camera,
    ):
        for frame in camera:
            result = segmenter.segment(frame.pixels, timestamp_s=frame.timestamp_s)
            free = free_ahead(result, "floor")
            print(f"frame {frame.frame_id}: {'go' if free > 0.5 else 'stop'}, {free:.0%} is free")
            if frame.frame_id == 10:
                segmenter.set_classes("floor,wall,person,chair|bench")  # from the next frame on


if __name__ == "__main__":
    main(*sys.argv[1:])
