"""Frames that somebody looks at longer than they are new: to draw on them, or to ask about them."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from dedos_deploy.errors import BadInputError, UnfinishedError
from dedos_deploy.runtime.explaining import Candidate
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.serving.explanations import Explanations, top_at
from dedos_deploy.runtime.serving.hub import Hub

KEPT = 6
"""Frozen frames of a camera: those that a word is learned from at most, and the next one."""


FREEZE_S = 1.0
"""How long a frame with its scores is waited for when one is frozen."""


@dataclass(frozen=True)
class Frozen:
    """A frame that stays."""

    number: int
    """By which it is asked for; no other frame gets it."""

    frame: Frame
    """The picture."""

    result: Segmentation
    """What it was labelled as when it was frozen; with its scores where they came in time."""

    def top(self, x: float, y: float, n: int) -> tuple[Candidate, ...]:
        """Return what competed for a place when it was frozen, as `Explanations.top` for a live picture.

        Raises BadInputError for one that was frozen without its scores.
        """
        if self.result.evidence is None:
            raise BadInputError(
                f"frame {self.number} was frozen without its scores, since no other one came within "
                f"{FREEZE_S:g} s; freeze one again"
            )
        return top_at(self.result, x, y, n)

    @property
    def size_hw(self) -> tuple[int, int]:
        height, width = self.result.label_map.shape
        return height, width


class FrozenFrames:
    """The last few of every camera; the oldest goes when another one comes."""

    def __init__(self, hub: Hub, cameras: Iterable[str], explanations: Explanations) -> None:
        self._hub = hub
        self._explanations = explanations
        self._numbers = itertools.count(1)
        self._kept: dict[str, deque[Frozen]] = {name: deque(maxlen=KEPT) for name in cameras}
        self._freezing = threading.Lock()

    def freeze(self, name: str) -> Frozen:
        """Keep the next frame of a camera with the scores that explain it, or the newest without
        them where none comes within FREEZE_S. Raises UnfinishedError before the first."""
        newest = self._hub.newest_frame(name)
        if newest is None:
            raise UnfinishedError(f"camera {name!r} has no frame yet; ask again")
        newest = self._explanations.frame(name, wait_s=FREEZE_S) or newest
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
