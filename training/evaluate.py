"""Mean intersection over union of a model on label folders, while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.model import Dedos
from dedos_deploy.training.folders import LabelFolder, read_pair

Embed = Callable[[Sequence[str]], Tensor]
Queries = Callable[[int, NDArray[np.uint8]], Tensor]
"""(index of a picture in its folder, the picture in BGR) -> its own global queries Q, [1, n, c]."""


@dataclass(frozen=True)
class Evaluation:
    """Result on one folder.

    iou: per word, None for a word that neither labels nor predictions contain; miou_present: mean
    over the words that the labels contain; images: how many were used.
    """

    name: str
    words: tuple[str, ...]
    iou: tuple[float | None, ...]
    miou_present: float
    images: int


@torch.no_grad()
def evaluate(
    model: Dedos,
    folder: LabelFolder,
    embed: Embed,
    size_hw: tuple[int, int],
    *,
    images: int | None = None,
    queries: Queries | None = None,
) -> Evaluation:
    """Return the IoU of the deployed scores on `folder`, at the labels' own size.

    embed: words -> text embeddings float32 [K, D]; images: use this many, evenly spaced; queries:
    what takes the place of the proxy bank, which no deployed model can have.
    Every frame is resized to `size_hw`, its scores are upsampled and the best slot is taken.
    """
    words = folder.annotated
    slots = {word: slot for slot, word in enumerate(words)}
    table = folder.lookup(slots)
    text = embed(words)
    valid = torch.ones(len(words), device=text.device)
    picked = _spread(len(folder.items), images)
    confusion = np.zeros((len(words), len(words)), dtype=np.int64)
    for item in picked:
        image, raw = read_pair(folder, item)
        proxy = queries(item, image) if queries is not None else None
        scores = model.scores(network_input(image, size_hw).to(text.device), text, valid, proxy)
        scores = F.interpolate(scores.float(), size=raw.shape, mode="bilinear", align_corners=False)
        predicted = scores[0].argmax(0).cpu().numpy()
        confusion += count_pairs(table[raw], predicted, len(words))
    iou, mean = iou_from_confusion(confusion)
    return Evaluation(folder.name, words, iou, mean, len(picked))


def network_input(image_bgr: NDArray[np.uint8], size_hw: tuple[int, int]) -> Tensor:
    """Return uint8 [1, H, W, 3], the frame resized as the runtime resizes it."""
    import cv2

    resized = cv2.resize(image_bgr, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(np.asarray(resized, dtype=np.uint8))[None]


def count_pairs(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Return int64 [classes, classes], pixels by (label, prediction); negative labels are left out."""
    known = labels >= 0
    pairs = labels[known] * classes + predicted[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou_from_confusion(confusion: NDArray[np.int64]) -> tuple[tuple[float | None, ...], float]:
    """Return the IoU per class (None where there is nothing to divide by) and miou_present."""
    right = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - right
    iou = tuple(float(r / u) if u else None for r, u in zip(right, union, strict=True))
    present = [
        value for value, n in zip(iou, confusion.sum(1), strict=True) if n and value is not None
    ]
    return iou, float(np.mean(present)) if present else 0.0


def _spread(items: int, wanted: int | None) -> list[int]:
    count = items if wanted is None else min(wanted, items)
    return [index * items // count for index in range(count)]
