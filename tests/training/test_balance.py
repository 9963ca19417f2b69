"""Weights of rare words: by hand, and through the two terms that use them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from micro import Write

from dedos_deploy.errors import BadInputError
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.balance import LARGEST, word_weights
from dedos_deploy.training.folders import open_folder
from dedos_deploy.training.loop import Trainer
from dedos_deploy.training.losses import LossWeights, Outputs, segmentation_loss
from dedos_deploy.training.settings import settings_for


def folder_of(root: Path, name: str, words: str, counts: list[int]) -> Path:
    """Write two images whose 1000 pixels hold so many of each class, the rest unlabelled."""
    labels = np.full(1000, 255, np.uint8)
    labels[: sum(counts)] = np.repeat(np.arange(len(counts)), counts)
    for part in ("images", "labels"):
        (root / name / part / "train").mkdir(parents=True)
    for item in "ab":
        cv2.imwrite(
            str(root / name / "images/train" / f"{item}.png"), np.zeros((20, 50, 3), np.uint8)
        )
        cv2.imwrite(str(root / name / "labels/train" / f"{item}.png"), labels.reshape(20, 50))
    (root / name / "classes.txt").write_text(words)
    return root / name


def test_weights_by_hand(tmp_path: Path) -> None:
    street = folder_of(tmp_path, "street", "road\ncar\nsky\nnever\n", [640, 40, 160, 0])
    folders = [open_folder(str(street))]
    words = ("road", "car", "sky", "never")
    found = word_weights(folders, words, 0.5)
    raw = np.sqrt(0.160 / np.array([0.640, 0.040, 0.160]))
    expected = raw * 0.84 / (raw * [0.64, 0.04, 0.16]).sum()
    assert found[:3] == pytest.approx(expected, rel=1e-5) and found[3] == 1
    assert word_weights(folders, words, 0.0) == pytest.approx(np.ones(4))
    # Their mean over pixels is 1 for any exponent.
    full = word_weights(folders, words, 1.0)[:3].astype(np.float64)
    assert (full * [640, 40, 160]).sum() == pytest.approx(840, rel=1e-5)
    assert full[1] * 40 == pytest.approx(full[2] * 160, rel=1e-5)


def test_one_pixel_is_not_worth_a_thousand_and_folders_count_by_share(tmp_path: Path) -> None:
    rare = open_folder(str(folder_of(tmp_path, "rare", "road\ncar\nsky\n", [900, 1, 50])))
    weights = word_weights([rare], ("road", "car", "sky"), 1.0)
    assert weights[1] / weights[2] == pytest.approx(LARGEST)
    one = open_folder(str(folder_of(tmp_path, "one", "road\n", [500])), share=3.0)
    two = open_folder(str(folder_of(tmp_path, "two", "car\nsky\n", [500, 100])))
    weights = word_weights([one, two], ("road", "car", "sky"), 1.0)
    # Three of four images show a road: 0.375 of all pixels, cars 0.125, sky 0.025.
    assert weights[0] * 0.375 == pytest.approx(weights[1] * 0.125)
    assert weights[1] * 0.125 == pytest.approx(weights[2] * 0.025)


def test_weighted_pixels_count_as_if_they_were_more() -> None:
    """A weight of 2 on a class doubles what its own cells add, and nothing else."""
    random = torch.Generator().manual_seed(0)
    classes, masks = (
        torch.randn(1, 5, 3, generator=random),
        torch.randn(1, 5, 8, 8, generator=random),
    )
    dense = torch.randn(1, 3, 8, 8, generator=random)
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, 4:] = 1
    annotated = torch.ones(1, 3, dtype=torch.bool)

    def terms(weights: list[float] | None) -> dict[str, float]:
        _, found = segmentation_loss(
            Outputs([(classes, masks)], dense),
            labels,
            annotated,
            LossWeights(auxiliary=0.0, dense=1.0, score=1.0),
            slot_weights=None if weights is None else torch.tensor(weights),
        )
        return {name: float(value) for name, value in found.items()}

    plain, ones = terms(None), terms([1.0, 1.0, 1.0])
    assert ones == pytest.approx(plain)
    first, second = terms([2.0, 1.0, 1.0]), terms([1.0, 2.0, 1.0])
    assert {n: v for n, v in first.items() if n in ("cls", "bce", "dice")} == pytest.approx(
        {n: plain[n] for n in ("cls", "bce", "dice")}
    )
    log = dense.log_softmax(1)
    by_hand = -(2 * log[0, 0, :4].sum() + log[0, 1, 4:].sum()) / 64
    assert first["dense"] == pytest.approx(float(by_hand), rel=1e-5)
    for name in ("dense", "score"):
        # Linear in the weights: both doubled is the sum of each doubled, less the plain one.
        both = terms([2.0, 2.0, 1.0])[name]
        assert both == pytest.approx(first[name] + second[name] - plain[name], rel=1e-5)
        assert first[name] > plain[name] and second[name] > plain[name]


def test_a_run_uses_them_and_bad_exponents_are_refused(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    data = (str(write_folder()),)
    given = {"steps": 1, "batch": 2, "workers": 0, "eval_minutes": 0.0, "device": "cpu"}
    weighed = LossWeights(score=1.0)
    trainer = Trainer(
        settings_for("micro", data, balance=0.5, loss=weighed, **given), tmp_path / "run"
    )
    weights = trainer.objective.word_weights
    assert weights is not None and weights[2] > weights[0]  # cars are rarer than sky
    plain = Trainer(settings_for("micro", data, **given), tmp_path / "plain")
    assert plain.objective.word_weights is None
    with pytest.raises(
        BadInputError, match=r"balance is 2, but an exponent of it lies in \[0, 1\]"
    ):
        settings_for("micro", data, balance=2)
