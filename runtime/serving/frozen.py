"""Frames that somebody looks at longer than they are new: to draw on them, or to ask about them."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from dedos_deploy.errors import BadInputError, UnfinishedError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.serving.hub import Hub

KEPT = 6
"""Frozen frames of a camera: those that a word is learned from at most, and the next one."""


@dataclass(frozen=True)
class Frozen:
    """A frame that stays."""

    number: int
    """By which it is asked for; no other frame gets it."""

    frame: Frame
    """The picture."""

    result: Segmentation
    """What it was labelled as when it was frozen."""

    @property
    def size_hw(self) -> tuple[int, int]:
        height, width = self.result.label_map.shape
        return height, width


class FrozenFrames:
    """The last few of every camera; the oldest goes when another one comes."""

    def __init__(self, hub: Hub, cameras: Iterable[str]) -> None:
        self._hub = hub
        self._numbers = itertools.count(1)
        self._kept: dict[str, deque[Frozen]] = {name: deque(maxlen=KEPT) for name in cameras}
        self._freezing = threading.Lock()

    def freeze(self, name: str) -> Frozen:
        """Keep the newest frame of a camera. Raises UnfinishedError before the first."""
        newest = self._hub.newest_frame(name)
        if newest is None:
            raise UnfinishedError(f"camera {name!r} has no frame yet; ask again")
        with self._freezing:
            frozen = Frozen(next(self._numbers), *newest)
            self._kept[name].append(frozen)
        return frozen

    def numbers(self, name: str) -> list[int]:
        """Return the numbers of the frames of a camera that are kept, the newest last."""
        return [frozen.number for frozen in tuple(self._kept[name])]

    def get(self, name: str, number: int) -> Frozen:
        """Return a frozen frame. Raises BadInputError for one that is not kept."""
        for frozen in tuple(self._kept[name]):
            if frozen.number == number:
                return frozen
        raise BadInputError(
            f"camera {name!r} keeps no frozen frame {number}, only the last {KEPT}; freeze one again"
        )
