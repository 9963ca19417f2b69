from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from dedos_deploy.corpus.frames import InputFrame


def picture(value: int, size_hw: tuple[int, int] = (24, 32)) -> np.ndarray:
    """Return a picture of one colour, which PNG keeps exactly."""
    return np.full((*size_hw, 3), value, np.uint8)


def film(path: Path, count: int) -> Path:
    """Write a lossless video whose frame number n has the value 8 n."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 10.0, (32, 24))
    assert writer.isOpened()
    for number in range(count):
        writer.write(picture(8 * number % 256))
    writer.release()
    return path


def png(value: int) -> bytes:
    return cv2.imencode(".png", picture(value))[1].tobytes()


def values(items: Iterable[InputFrame]) -> dict[int, int | str]:
    """Return the colour of every frame by its number, or what is wrong with it."""
    return {
        item.number: item.error if item.picture is None else int(item.picture[0, 0, 0])
        for item in items
    }
