"""A live source with known content, for trying out and testing what cameras are used for."""

from __future__ import annotations

import re
import time
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.sources.contract import Outcome, Source

ID_BITS = 24
COLOURS_BGR = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
DEFAULTS = {"fps": "30", "size": "240x320", "frames": "0"}


def open_test(uri: str) -> BarsSource:
    """Return the source at `test:bars?fps=30&size=240x320&frames=0`. Raises SourceError.

    frames: how many there are, 0 for no end.
    """
    parts = urlsplit(uri)
    settings = DEFAULTS | dict(parse_qsl(parts.query, keep_blank_values=True))
    size = re.fullmatch(r"(\d{2,4})x(\d{2,4})", settings["size"])
    fps = re.fullmatch(r"\d{1,3}(\.\d{1,3})?", settings["fps"])
    if (
        parts.path != "bars"
        or settings.keys() != DEFAULTS.keys()
        or size is None
        or fps is None
        or float(settings["fps"]) <= 0
        or not re.fullmatch(r"\d{1,9}", settings["frames"])
    ):
        raise SourceError(
            f"unknown test source {uri!r}; write test:bars, with settings as in "
            "test:bars?fps=30&size=240x320&frames=100"
        )
    size_hw = int(size[1]), int(size[2])
    return BarsSource(float(settings["fps"]), size_hw, frames=int(settings["frames"]) or None)


class BarsSource(Source):
    """Three vertical bars, blue, green and red, and the frame's number as black and white squares
    along the lower edge; frames come at their rate, and those that nobody asked for are gone."""

    live = True

    def __init__(self, fps: float, size_hw: tuple[int, int], *, frames: int | None) -> None:
        self.source_id = "test:bars"
        self.fps = fps
        self.frames = frames
        self._missed = 0
        self._picture = _bars(size_hw)
        self._start_s: float | None = None
        self._next = 0

    @property
    def drops(self) -> dict[str, int]:
        return {"superseded": self._missed}

    def read(self, timeout_s: float) -> Frame | Outcome:
        assert self.fps is not None
        # From the first read on: whoever opens a source may have to load a model before he reads.
        start_s = self._start_s = self._start_s or time.monotonic()
        due = int((time.monotonic() - start_s) * self.fps)
        if due > self._next:
            self._missed += due - self._next
            self._next = due
        if self.frames is not None and self._next >= self.frames:
            return Outcome.END
        wait_s = start_s + self._next / self.fps - time.monotonic()
        if wait_s > timeout_s:
            time.sleep(timeout_s)
            return Outcome.TIMEOUT
        if wait_s > 0:
            time.sleep(wait_s)
        number = self._next
        self._next += 1
        picture = self._picture.copy()
        write_number(picture, number)
        return Frame(picture, number, time.monotonic(), self.source_id, f"{number:06d}")

    def close(self) -> None:
        """Nothing is held."""


def write_number(picture: NDArray[np.uint8], number: int) -> None:
    """Write a frame number, modulo 2 ** 24, along the lower edge."""
    rows, columns = _squares(picture.shape)
    for bit in range(ID_BITS):
        picture[rows, columns * bit : columns * (bit + 1)] = 255 * (number >> bit & 1)


def read_number(picture: NDArray[np.uint8]) -> int:
    """Return the frame number of a picture of a test source.

    >>> picture = np.zeros((48, 96, 3), np.uint8)
    >>> write_number(picture, 1234); read_number(picture)
    1234
    """
    rows, columns = _squares(picture.shape)
    return sum(
        int(picture[rows, columns * bit : columns * (bit + 1)].mean() > 127) << bit
        for bit in range(ID_BITS)
    )


def _squares(shape: tuple[int, ...]) -> tuple[slice, int]:
    columns = max(1, shape[1] // ID_BITS)
    return slice(shape[0] - max(1, shape[0] // 16), shape[0]), columns


def _bars(size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size_hw
    picture = np.zeros((height, width, 3), np.uint8)
    for index, colour in enumerate(COLOURS_BGR):
        picture[:, index * width // 3 : (index + 1) * width // 3] = colour
    return picture
