"""Weights of words by how rarely they are seen, so that poles and persons are learned beside roads.

Averaged over pixels, a loss hardly knows a class that fills a thousandth of them. Median frequency
balancing (Eigen and Fergus, 2015) weighs class c by (median frequency / frequency of c); an exponent
below 1 does so in part. The weights keep their mean over pixels at 1, so that rates stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.training.folders import LabelFolder, read_pair

LARGEST = 10.0
"""No word counts more than so many times the median one: a hundred pixels say little."""

COUNTED = 400
"""Label images that are counted, evenly spread over all; more change the weights by a few percent."""


def word_weights(
    folders: Sequence[LabelFolder], words: Sequence[str], exponent: float, *, images: int = COUNTED
) -> NDArray[np.float32]:
    """Return the weight of every word, float32 [len(words)], 1 for those that were not met.

    exponent: 0 for equal weights, 1 for all of median frequency balancing; images: how many label
    images to count, those of a folder by its share of an epoch.

    Raises BadInputError naming a file that cannot be read.
    """
    slots = {word: index for index, word in enumerate(words)}
    pixels = np.zeros(len(words))
    shown = np.array([len(folder.items) * folder.share for folder in folders])
    for folder, part in zip(folders, shown / shown.sum(), strict=True):
        wanted = min(len(folder.items), max(1, round(images * part)))
        table = folder.lookup(slots)
        for index in range(wanted):
            labels = table[read_pair(folder, index * len(folder.items) // wanted)[1]]
            known = labels[labels >= 0]
            counts = np.bincount(known, minlength=len(words))
            # A folder counts by its share, whatever the size of its images.
            pixels += part / wanted * counts / max(labels.size, 1)
    met = pixels > 0
    weights = np.ones(len(words))
    if met.any():
        raw = (np.median(pixels[met]) / pixels[met]) ** exponent
        weights[met] = np.minimum(raw, LARGEST)
        weights[met] *= pixels[met].sum() / (weights[met] * pixels[met]).sum()
    return weights.astype(np.float32)
