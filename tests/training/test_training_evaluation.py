"""What a run says of itself while it trains is what the runtime would label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.runtime import Engine, Segmenter
from dedos_deploy.runtime.slots import Thresholds
from dedos_deploy.spec import GraphSpec
from dedos_deploy.training.evaluate import evaluate, evaluate_scores, network_input
from dedos_deploy.training.failure import DivergedError
from dedos_deploy.training.folders import LabelFolder

SPEC = GraphSpec(32, 48, 2)
WORDS = ("a", "b", "c")


def scores_of(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scores float32 [1, 3, 8, 12] that follow the pixels closely: another resize labels otherwise."""
    cells = image.reshape(1, 8, 4, 12, 4, 3).astype(np.float32).mean((2, 4)) % 16 / 16
    return np.ascontiguousarray(cells.transpose(0, 3, 1, 2))


class Pixels(Engine):
    """Scores made of the image, which is kept."""

    spec = SPEC

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.image = inputs["image"].copy()
        return {"scores": scores_of(self.image)}

    def close(self) -> None:
        """Nothing is held."""


class Model:
    """The same scores from torch."""

    def scores(self, image: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.from_numpy(scores_of(image.numpy()))


def embed(words: object, **_: object) -> NDArray[np.float32]:
    return np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)


@pytest.mark.parametrize(
    "frame_hw", [(96, 120), (32, 48), (20, 30), (64, 48), (20, 300)], ids=lambda hw: f"{hw}"
)
def test_training_evaluates_what_the_runtime_labels(
    tmp_path: Path, frame_hw: tuple[int, int]
) -> None:
    """Frames that shrink, grow, do either along one axis, and stay as they are."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (*frame_hw, 3), np.uint8)
    labels = rng.integers(0, 3, frame_hw, np.uint8)
    items = (tmp_path / "image.png", tmp_path / "labels.png")
    for path, picture in zip(items, (frame, labels), strict=True):
        cv2.imwrite(str(path), picture)
    engine = Pixels()
    free = Thresholds({}, 0.0, enabled=False)
    with Segmenter(engine, embed, classes=list(WORDS), thresholds=free, threads=1) as segmenter:
        labelled = segmenter.segment(frame).label_map
    assert np.array_equal(network_input(frame, (32, 48)).numpy(), engine.image)
    expected = Confusion(3)
    expected.add(labels, labelled)
    found = evaluate(
        Model(),  # type: ignore[arg-type]
        LabelFolder("one", WORDS, (items,)),
        lambda words: torch.zeros(len(words), 2),
        (32, 48),
    )
    assert found.iou == tuple(expected.iou.tolist())


def test_scores_that_are_no_numbers_end_an_evaluation_in_a_sentence(tmp_path: Path) -> None:
    items = (tmp_path / "image.png", tmp_path / "labels.png")
    for path, picture in zip(items, (np.zeros((8, 8, 3)), np.zeros((8, 8))), strict=True):
        cv2.imwrite(str(path), picture.astype(np.uint8))

    def scores(item: int, image_bgr: NDArray[np.uint8]) -> torch.Tensor:
        return torch.full((1, 3, 8, 12), float("nan"))

    with pytest.raises(DivergedError, match=r"no numbers .*; go on from an earlier checkpoint"):
        evaluate_scores(LabelFolder("one", WORDS, (items,)), scores)
