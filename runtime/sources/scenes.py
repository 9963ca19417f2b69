"""Scenes that this package draws itself, as a source: no camera, no file, known classes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.sources.contract import Outcome, Source

FRAMES = 120
SIZE_HW = (480, 640)
SCENE_FPS = 25.0
KINDS = ("street", "hall")


def open_scene(uri: str) -> SceneSource:
    """Return the scene at `scene:KIND?frames=N&size=HxW&seed=S`. Raises SourceError."""
    parts = urlsplit(uri)
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    size = re.fullmatch(r"(\d{1,4})x(\d{1,4})", settings.pop("size", "{}x{}".format(*SIZE_HW)))
    numbers = {
        key: settings.pop(key, str(default)) for key, default in (("frames", FRAMES), ("seed", 0))
    }
    if (
        parts.path not in KINDS
        or settings
        or size is None
        or not all(re.fullmatch(r"\d{1,9}", number) for number in numbers.values())
    ):
        raise SourceError(
            f"unknown scene {uri!r}; write scene:{' or scene:'.join(KINDS)}, with settings as in "
            "scene:street?frames=50&size=240x320&seed=3"
        )
    size_hw = int(size[1]), int(size[2])
    return SceneSource(
        parts.path, frames=int(numbers["frames"]), size_hw=size_hw, seed=int(numbers["seed"])
    )


class SceneSource(Source):
    """A moving scene of this package, drawn while it is read."""

    fps = SCENE_FPS

    def __init__(self, kind: str, *, frames: int, size_hw: tuple[int, int], seed: int) -> None:
        from dedos_deploy.scenes import render_video

        self.source_id = f"scene:{kind}"
        self.frames = frames
        self._read = 0
        self._pictures: Iterator[tuple[NDArray[np.uint8], object]] = iter(
            render_video(kind, frames=frames, size_hw=size_hw, seed=seed)
        )

    def read(self, timeout_s: float) -> Frame | Outcome:
        picture = next(self._pictures, None)
        if picture is None:
            return Outcome.END
        index = self._read
        self._read += 1
        name, media_s = f"{index:06d}", index / SCENE_FPS
        return Frame(picture[0], index, time.monotonic(), self.source_id, name, media_s)

    def close(self) -> None:
        self._pictures = iter(())
