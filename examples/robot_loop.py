"""A robot's loop: a walk through a hall from a bag, how far the floor is free, other words half-way.

dedos-run --source "scene:hall?frames=60" --classes floor --output hall.mcap  # makes a bag
python examples/robot_loop.py "hall.mcap?topic=/image" walked                 # pictures of the walk
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from dedos_deploy import Segmentation, Segmenter
from dedos_deploy.runtime import Frame, open_source


def drawn(frame: Frame, result: Segmentation, rows: np.ndarray) -> np.ndarray:
    """Return the picture in the colours of its classes, what is free in green up to each column's row."""
    picture = cv2.addWeighted(frame.frame_bgr, 0.6, result.painted(), 0.4, 0)
    free = np.arange(len(picture))[:, None] > rows
    picture[free] = picture[free] // 2 + np.array([30, 110, 30], np.uint8)
    border = np.stack([np.arange(len(rows)), rows], axis=1).astype(np.int32)
    return cv2.polylines(picture, [border], False, (255, 255, 255), 2)


def main(source: str, folder: str) -> None:
    Path(folder).mkdir(exist_ok=True)
    with Segmenter.load(classes="floor,wall", stable=True) as segmenter, open_source(source) as bag:
        for frame in bag:
            result = segmenter.segment(frame.pixels, timestamp_s=frame.timestamp_s)
            rows = result.free_space("floor", below=frame.frame_bgr.shape[0] // 3)
            free = np.mean(rows[len(rows) // 3 : 2 * len(rows) // 3] < 0.7 * len(result.label_map))
            print(f"{frame.name}: {'go' if free > 0.9 else 'stop'}, among {segmenter.classes}")
            cv2.imwrite(f"{folder}/{frame.name}.jpg", drawn(frame, result, rows))
            if frame.frame_id + 1 == (bag.frames or 20) // 2:
                segmenter.set_classes("floor,wall,door,chair|bench")  # from the next frame on


if __name__ == "__main__":
    main(*sys.argv[1:])
