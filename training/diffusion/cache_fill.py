"""Fills a diffusion cache ahead of training, with one pass over the images of label folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.pictures import open_picture
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.training.data import image_key, resized
from dedos_deploy.training.diffusion.cache import CacheCounts, DiffusionCache
from dedos_deploy.training.folders import LabelFolder

_READ_BACK = 8
"""Images read at the end, to know what a hit costs."""


@dataclass(frozen=True)
class FillReport:
    """What came of a pass."""

    images: int
    """Images asked for."""

    there: int
    """Images asked for that were stored before the pass."""

    bytes: int
    """Bytes of all stored images of this diffusion."""

    stored: int
    """Number of all stored images of this diffusion."""

    counts: CacheCounts
    """What was computed, and the seconds it took."""

    size_hw: tuple[int, int]
    """Image size that the diffusion reads."""

    @property
    def bytes_per_image(self) -> int:
        return self.bytes // max(1, self.stored)


def fill_cache(
    cache: DiffusionCache,
    paths: Sequence[Path],
    *,
    batch: int = 4,
    progress: Progress = QUIET,
) -> FillReport:
    """Compute what `cache` does not hold of the images at `paths`; return what that took.

    An image is known by its pixels, as in training, so every file is read. batch: images computed
    at once; progress: counts images. A pass that is stopped goes on where it
    was, as every finished image is kept; one that reaches the cache's limit ends there.

    Raises BadInputError naming a file that cannot be read, or when the disk has no room for all.
    """
    there = 0
    last: list[str] = []
    waiting: list[tuple[str, NDArray[np.uint8]]] = []
    for number, (key, image) in enumerate(_images(paths, cache.diffusion.size_hw), start=1):
        if cache.holds(key) or any(key == other for other, _ in waiting):
            there += 1
            progress.count(number - len(waiting), len(paths))
        else:
            waiting.append((key, image))
        last = [*last[1 - _READ_BACK :], key]
        if len(waiting) == batch or (waiting and number == len(paths)):
            first = cache.counts.computed == 0
            _compute(cache, waiting)
            waiting = []
            progress.count(number, len(paths))
            if cache.full:
                break
            if first:
                _check_room(cache, len(paths) - number)
    for key in last:
        cache.stored(key)
    stored = sum(1 for _ in cache.folder.glob("*/*.safetensors"))
    size_hw = cache.diffusion.size_hw
    return FillReport(len(paths), there, cache.stored_bytes(), stored, cache.counts, size_hw)


def image_paths(folders: Sequence[LabelFolder], *, first: int = 0, by: int = 1) -> list[Path]:
    """Return the image files of `folders`, every `by`-th one from `first`."""
    return [image for folder in folders for image, _ in folder.items][first::by]


def _images(
    paths: Sequence[Path], size_hw: tuple[int, int]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield each image's key and itself at `size_hw`, made as the stream of batches makes them."""
    for path in paths:
        image = open_picture(path)
        yield image_key(image), resized(image, size_hw)


def _compute(cache: DiffusionCache, waiting: Sequence[tuple[str, NDArray[np.uint8]]]) -> None:
    images = torch.from_numpy(np.stack([image for _, image in waiting]))
    cache.latents_and_decoded([key for key, _ in waiting], images.to(cache.diffusion.device))


def _check_room(cache: DiffusionCache, left: int) -> None:
    """Raise BadInputError, early, when the images that are left will not fit on the disk."""
    stored = [file.stat().st_size for file in cache.folder.glob("*/*.safetensors")]
    need = left * sum(stored) // max(1, len(stored))
    free = shutil.disk_usage(cache.folder).free
    if not cache.limited and need > free:
        raise BadInputError(
            f"the cache needs about {need / 2**30:.1f} GiB more, but {cache.folder} has "
            f"{free / 2**30:.1f} GiB free; choose another folder, a smaller diffusion size, or a "
            "limit"
        )
