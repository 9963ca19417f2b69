"""The objects of a frame: all that it shows of a class, or each connected region of a thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.corpus.formats.contract import UNLABELLED, ExportClass, Labels


@dataclass(frozen=True, eq=False)
class FrameObject:
    """Pixels of one class that are one object."""

    class_index: int
    """Of the exported classes."""

    mask: NDArray[np.bool_]
    """bool [h, w], within its box."""

    box_xyxy: tuple[int, int, int, int]
    """First column and row, and the first ones beyond."""

    area: int
    """Pixels."""

    def whole_mask(self, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return bool [H, W], the mask where it lies in the frame."""
        left, top, right, bottom = self.box_xyxy
        whole = np.zeros(size_hw, np.bool_)
        whole[top:bottom, left:right] = self.mask
        return whole


def connected(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the connected regions of labelled pixels, corners counted, int64 [R, 7]: class index, pixels,
    left, top, right, bottom (beyond), number; and the number of every pixel's region, int32 [H, W], 0 for
    unlabelled ones."""
    import cv2

    numbers = np.zeros(labels.shape, np.int32)
    rows = [np.empty((0, 7), np.int64)]
    before = 0
    for class_index in np.setdiff1d(labels, [UNLABELLED]).tolist():
        own = (labels == class_index).astype(np.uint8)
        count, found, stats, _ = cv2.connectedComponentsWithStats(own, connectivity=8)
        left, top, width, height, area = stats[1:].astype(np.int64).T
        number = np.arange(1, count) + before
        class_of = np.full(count - 1, class_index)
        rows.append(np.stack([class_of, area, left, top, left + width, top + height, number], 1))
        numbers += np.where(found > 0, found + before, 0).astype(np.int32)
        before += count - 1
    return np.concatenate(rows), numbers


def without_small(labels: Labels, min_area: int) -> Labels:
    """Return labels without connected regions of fewer pixels than `min_area`."""
    if min_area == 1:
        return labels
    regions, numbers = connected(labels)
    small = np.zeros(int(numbers.max()) + 1, np.bool_)
    small[regions[regions[:, 1] < min_area, 6]] = True
    return np.where(small[numbers], np.uint16(UNLABELLED), labels)


def objects_of(labels: Labels, classes: Sequence[ExportClass]) -> list[FrameObject]:
    """Return the objects of a frame, the largest first, so that what is painted later lies on top."""
    regions, numbers = connected(labels)
    found = []
    for class_index in np.unique(regions[:, 0]).tolist():
        own = regions[regions[:, 0] == class_index]
        if classes[class_index].is_thing:
            found += [_object(region, numbers, int(region[6])) for region in own]
        else:
            low, high = own[:, 2:4].min(axis=0), own[:, 4:6].max(axis=0)
            whole = np.array([class_index, own[:, 1].sum(), *low, *high])
            found.append(_object(whole, labels, class_index))
    return sorted(found, key=lambda one: -one.area)


def _object(
    measured: NDArray[np.int64], values: NDArray[np.uint16] | NDArray[np.int32], value: int
) -> FrameObject:
    class_index, area, left, top, right, bottom = measured[:6].tolist()
    mask = values[top:bottom, left:right] == value
    return FrameObject(class_index, mask, (left, top, right, bottom), area)
