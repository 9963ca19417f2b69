"""Masks and depth pictures of one moment, brought together; nothing here needs ROS."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MaskT = TypeVar("MaskT")
DepthT = TypeVar("DepthT")

DEPTHS_KEPT = 32
"""A second of depth at 30 Hz: longer than a frame takes to be labelled."""
MASKS_KEPT = 8


@dataclass
class Pairing(Generic[MaskT, DepthT]):
    """Pairs by stamps, in nanoseconds: equal ones at once, else the nearest within `slop_ns`.

    The nearest is known as soon as there is a depth that is not older than the mask. A mask is paired
    once at most; a depth may serve two masks. For one thread at a time.
    """

    slop_ns: int
    _masks: OrderedDict[int, MaskT] = field(default_factory=OrderedDict)
    _depths: OrderedDict[int, DepthT] = field(default_factory=OrderedDict)
    unpaired: int = 0
    """Masks that were given up."""

    def add_mask(self, stamp_ns: int, mask: MaskT) -> list[tuple[MaskT, DepthT]]:
        """Return the pairs that can be made now."""
        self._masks[stamp_ns] = mask
        return self._pairs()

    def add_depth(self, stamp_ns: int, depth: DepthT) -> list[tuple[MaskT, DepthT]]:
        """Return the pairs that can be made now."""
        self._depths[stamp_ns] = depth
        while len(self._depths) > DEPTHS_KEPT:
            self._depths.popitem(last=False)
        return self._pairs()

    def _pairs(self) -> list[tuple[MaskT, DepthT]]:
        made = []
        for stamp_ns in list(self._masks):
            partner = self._partner(stamp_ns)
            if partner is not None:
                made.append((self._masks.pop(stamp_ns), self._depths[partner]))
        while len(self._masks) > MASKS_KEPT:
            self._masks.popitem(last=False)
            self.unpaired += 1
        return made

    def _partner(self, stamp_ns: int) -> int | None:
        if stamp_ns in self._depths:
            return stamp_ns
        if not self._depths or max(self._depths) < stamp_ns:
            return None
        nearest = min(self._depths, key=lambda other_ns: abs(other_ns - stamp_ns))
        return nearest if abs(nearest - stamp_ns) <= self.slop_ns else None
