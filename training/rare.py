"""Pictures drawn by the rare words in them, so that poles and signs are met as often as roads.

Rare class sampling of DAFormer (Hoyer, Dai, Van Gool, CVPR 2022): with f[c] the part of all pixels that
show word c, a word is drawn with probability

    P(c) = exp((1 - f[c]) / T) / sum over words of exp((1 - f[c']) / T)

and then one of the pictures in which it can be seen. Two differences: a crop is taken around a pixel of
the word at once, not tried again until it holds enough of it; and no word makes its pictures come more
than `LARGEST` times as often as they would, because a word of one picture would show little else.

`balance` (balance.py) weighs the pixels of rare words where they are met; this makes them be met.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.threads import usable_cores
from dedos_deploy.training.folders import LabelFolder, read_labels

TEMPERATURE = 0.01
"""T, as published."""

LARGEST = 10.0
"""How many times as often as without drawing a word's pictures come at most."""

LEAST = 1 / 4000
"""Part of a picture that a word must fill to be seen in it: 76 pixels of 480x640."""

LEAST_SHOWN = f"1/{round(1 / LEAST)}"
"""The same, for people."""


@dataclass(frozen=True)
class RarePictures:
    """What to draw from."""

    probabilities: NDArray[np.float64]
    """float64 [words], their sum is 1; 0 for words that no picture shows."""
    places: tuple[NDArray[np.int64], ...]
    """Per word: int64 [n, 2], (folder, item) of the pictures that show it."""

    def undrawn(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the words that no picture shows, of all words in their order."""
        return tuple(w for w, places in zip(words, self.places, strict=True) if not len(places))

    def draw(self, random: np.random.Generator) -> tuple[int, int, int]:
        """Return folder, item and word of one picture."""
        word = int(random.choice(len(self.places), p=self.probabilities))
        owner, item = self.places[word][random.integers(len(self.places[word]))]
        return int(owner), int(item), word


def rare_pictures(folders: Sequence[LabelFolder], words: Sequence[str]) -> RarePictures:
    """Return what to draw from, by all label files of `folders`.

    A folder's pixels count by its share of an epoch. Every label file is read once: some 4 ms each
    at 480x640, in as many threads as there are cores.

    Raises BadInputError naming a file that cannot be read, and where no word can be seen in any.
    """
    slots = {word: index for index, word in enumerate(words)}
    pixels, shown, total = np.zeros(len(words)), np.zeros(len(words)), 0.0
    places: list[list[tuple[int, int]]] = [[] for _ in words]
    for owner, folder in enumerate(folders):
        parts = _parts(folder, folder.lookup(slots), len(words))
        seen = parts >= LEAST
        pixels += folder.share * parts.sum(0)
        shown += folder.share * seen.sum(0)
        total += folder.share * len(folder.items)
        for item, word in np.argwhere(seen):
            places[word].append((owner, int(item)))
    if not any(places):
        raise BadInputError(
            f"--rare and --paste draw pictures by the words in them, but none of the {len(words)} words fills "
            f"{LEAST_SHOWN} of any of the {sum(len(folder.items) for folder in folders)} label files; leave "
            "them out, or label more"
        )
    chances = rare_chances(pixels / total, shown / total)
    return RarePictures(chances, tuple(np.array(p, np.int64).reshape(-1, 2) for p in places))


def rare_chances(pixels: NDArray[np.float64], shown: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return P(c), float64 [words], 0 for words that are not shown.

    pixels: part of all pixels that show each word; shown: part of all pictures in which it is seen.

    What a word has above `LARGEST` times its part of the pictures goes to those that have less.
    """
    chances = np.where(shown > 0, np.exp((pixels.min() - pixels) / TEMPERATURE), 0.0)
    limits = LARGEST * shown
    free = shown > 0
    left = 1.0
    while free.any():
        wanted = left * chances / max(chances[free].sum(), 1e-300)
        over = free & (wanted > limits)
        if not over.any():
            break
        chances[over] = limits[over]
        free &= ~over
        left = max(0.0, 1.0 - chances[(shown > 0) & ~free].sum())
    if free.any():
        chances[free] *= left / chances[free].sum()
    return np.asarray(chances / chances.sum(), np.float64)


def _parts(folder: LabelFolder, table: NDArray[np.int64], words: int) -> NDArray[np.float64]:
    """Return the part of every picture that shows each word, float64 [items, words]."""

    def part(item: int) -> NDArray[np.float64]:
        labels = table[read_labels(folder, item)]
        known = labels[labels >= 0]
        return np.bincount(known, minlength=words) / max(labels.size, 1)

    with ThreadPoolExecutor(usable_cores()) as pool:
        return np.stack(list(pool.map(part, range(len(folder.items)))))
