"""Mean intersection over union of a model on label folders, while it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dedos_deploy.evaluation.confusion import Ids
from dedos_deploy.evaluation.evaluate import evaluate_image
from dedos_deploy.evaluation.folder import LabelledImage, ignore_id
from dedos_deploy.evaluation.predictors import Prediction
from dedos_deploy.evaluation.result import EvaluationResult, result_of
from dedos_deploy.model import Dedos
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.runtime.label_maps import best_slots
from dedos_deploy.threads import usable_threads
from dedos_deploy.training.failure import DivergedError
from dedos_deploy.training.folders import LabelFolder, read_pair
from dedos_deploy.vocabulary import Entry, Vocabulary

Embed = Callable[[Sequence[str]], Tensor]
Queries = Callable[[int, NDArray[np.uint8]], Tensor]
"""(index of a picture in its folder, the picture in BGR) -> its own global queries Q, [1, n, c]."""

Scores = Callable[[int, NDArray[np.uint8]], Tensor]
"""(index of a picture in its folder, the picture in BGR) -> scores of its words, [1, K, h, w]."""


@torch.no_grad()
def evaluate(
    model: Dedos,
    folder: LabelFolder,
    embed: Embed,
    size_hw: tuple[int, int],
    *,
    images: int | None = None,
    queries: Queries | None = None,
) -> EvaluationResult:
    """Return how well the deployed scores label `folder`, at the labels' own size.

    embed: words -> text embeddings float32 [K, D]; images: use this many, evenly spaced; queries:
    what takes the place of the proxy bank, which no deployed model can have.
    Every frame is resized to `size_hw` and its scores are enlarged as the runtime does both.
    Raises DivergedError for scores that are no numbers.
    """
    text = embed(folder.annotated)
    valid = torch.ones(len(text), device=text.device)

    def scores(item: int, image_bgr: NDArray[np.uint8]) -> Tensor:
        proxy = queries(item, image_bgr) if queries is not None else None
        return model.scores(network_input(image_bgr, size_hw).to(text.device), text, valid, proxy)

    return evaluate_scores(folder, scores, images=images)


def evaluate_scores(
    folder: LabelFolder, scores: Scores, *, images: int | None = None
) -> EvaluationResult:
    """Return how well the words of the highest scores label `folder`, at the labels' own size.

    images: use this many, evenly spaced. miou_present is 0 where no pixel of them counts.
    """
    started = time.perf_counter()
    data = _Split(folder)
    records = [
        evaluate_image(_Labels(scores, item), data, data.image(item), boundary=False)
        for item in spread(len(folder.items), images)
    ]
    result = result_of(
        records,
        data.classes,
        predictor=_Labels.name,
        data=data.name,
        seconds_total=time.perf_counter() - started,
    )
    return replace(result, miou_present=0.0) if math.isnan(result.miou_present) else result


def summary(result: EvaluationResult) -> dict[str, Any]:
    """Return what a run keeps of a result, as JSON values."""
    return {
        "name": result.data,
        "words": result.classes,
        "iou": result.iou,
        "miou_present": result.miou_present,
        "images": result.images,
    }


def network_input(image_bgr: NDArray[np.uint8], size_hw: tuple[int, int]) -> Tensor:
    """Return uint8 [1, H, W, 3], the frame resized by the runtime's own code."""
    resized = np.empty((*size_hw, 3), np.uint8)
    resize_frame(image_bgr, resized)
    return torch.from_numpy(resized)[None]


def spread(items: int, wanted: int | None) -> list[int]:
    """Return at most `wanted` of the numbers below `items`, evenly spaced; None for all."""
    count = items if wanted is None else min(wanted, items)
    return [index * items // count for index in range(count)]


class _Split:
    """A label folder as data to evaluate on: what is no annotated word is not counted."""

    def __init__(self, folder: LabelFolder) -> None:
        self.name, self.classes = folder.name, folder.annotated
        self.vocabulary = Vocabulary(tuple(Entry(word) for word in self.classes))
        self.ignore = ignore_id(self.vocabulary)
        self.image_names = tuple(image.stem for image, _ in folder.items)
        self._folder = folder
        slots = folder.lookup({word: slot for slot, word in enumerate(self.classes)})
        dtype = np.uint8 if self.ignore <= 255 else np.uint16
        self._table: Ids = np.where(slots < 0, self.ignore, slots).astype(dtype)

    def image(self, index: int) -> LabelledImage:
        image, raw = read_pair(self._folder, index)
        return LabelledImage(self.image_names[index], image, self._table[raw])

    def fold(self, predictions: Ids) -> Ids:
        return predictions


class _Labels:
    """The scores of one picture as a predictor: every pixel gets the best word."""

    name = "model in training"
    identity: Mapping[str, Any] = {}
    taught: frozenset[str] | None = None

    def __init__(self, scores: Scores, item: int) -> None:
        self._scores, self._item = scores, item

    def predict(self, image_bgr: NDArray[np.uint8]) -> Prediction:
        scores = self._scores(self._item, image_bgr)[0].float().cpu().numpy()
        size_hw = image_bgr.shape[:2]
        try:
            return Prediction(best_slots(scores, size_hw, threads=usable_threads(None)))
        except ValueError as error:
            raise DivergedError(
                f"the model gives scores that are no numbers ({error}), so it cannot be evaluated; go on "
                "from an earlier checkpoint with a lower --lr or --no-amp"
            ) from error

    def close(self) -> None:
        """Nothing is held."""
