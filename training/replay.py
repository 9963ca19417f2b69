"""Procedural scenes shown beside the new pictures, in the place of what a start learned from."""

from __future__ import annotations

import numpy as np

from dedos_deploy.pictures import Picture
from dedos_deploy.scenes import KINDS, render_image
from dedos_deploy.training.augment import AugmentSettings, augment

SCENES_CREDIT = (
    "Procedural street and hall scenes, rendered by dedos_deploy.scenes (this project, Apache-2.0)"
)

EVERY = 2
"""One scene for so many new pictures."""


def scenes_of(first: int, pictures: int) -> range:
    """Return the numbers of the scenes that belong to `pictures` pictures of a run from `first` on.

    They hang on the picture's number alone, so that a step shows the same ones however it is cut.

    >>> [len(scenes_of(first, 1)) for first in range(4)], len(scenes_of(0, 8))
    ([1, 0, 1, 0], 4)
    """
    return range(-(-first // EVERY), -(-(first + pictures) // EVERY))


def scene(
    number: int, size_hw: tuple[int, int], augmentation: AugmentSettings, *, seed: int
) -> Picture:
    """Return scene `number` of the run with `seed`, varied as its pictures are, uint8 BGR [H, W, 3]."""
    random = np.random.default_rng((seed, 4, number))
    kind = KINDS[number % len(KINDS)]
    image, labels = render_image(kind, seed=int(random.integers(2**31)), size_hw=size_hw)
    return augment(image, labels.astype(np.int64), size_hw, augmentation, random, outside=0)[0]
