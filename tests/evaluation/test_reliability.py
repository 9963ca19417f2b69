"""Confidence against accuracy: bins, sums and the calibration error by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dedos_deploy.evaluation.data import open_data
from dedos_deploy.evaluation.evaluate import evaluate_predictor
from dedos_deploy.evaluation.predictors import Prediction, open_bundle_predictor
from dedos_deploy.evaluation.records import ImageRecord
from dedos_deploy.evaluation.reliability import BINS, reliability_cells, reliability_of


def test_by_hand() -> None:
    confidence = np.array([[255, 255, 127, 0], [16, 17, 255, 238]], np.uint8)
    answered = np.array([[1, 1, 1, 1], [1, 1, 0, 1]], bool)
    right = np.array([[1, 0, 1, 0], [0, 1, 1, 1]], bool)
    cells = reliability_cells(confidence, answered, right)
    # A bin is 17 wide; 255 is in the last one, too; the seventh pixel got no class.
    assert cells == ((0, 2, 0, 16), (1, 1, 1, 17), (7, 1, 1, 127), (14, 3, 2, 748))
    found = reliability_of([cells, cells])
    assert found is not None and sum(one.pixels for one in found.bins) == 14
    last = found.bins[-1]
    assert (last.low, last.high, last.accuracy) == (14 / BINS, 1.0, pytest.approx(2 / 3))
    assert last.confidence == pytest.approx(748 / 3 / 255)
    gaps = (2 * (8 / 255), 1 - 17 / 255, 1 - 127 / 255, 3 * (748 / 3 / 255 - 2 / 3))
    assert found.error == pytest.approx(sum(gaps) / 7)
    assert found.to_dict()["ece"] == found.error and len(found.to_dict()["bins"]) == 4


def test_without_scores_nothing_is_said() -> None:
    nothing = np.ones((2, 2), bool)
    assert reliability_cells(None, nothing, nothing) == ()
    assert reliability_of([(), ()]) is None


class Sure:
    """A predictor that calls everything blue, with a confidence of 204 of 255."""

    name, identity, taught = "sure", {}, None

    def predict(self, image_bgr: np.ndarray) -> Prediction:
        ids = np.zeros(image_bgr.shape[:2], np.uint8)
        return Prediction(ids, np.full_like(ids, 204))

    def close(self) -> None:
        pass


def test_what_does_not_count_does_not_count_here(data: Path) -> None:
    found = evaluate_predictor(Sure(), open_data(data)).result.reliability
    # Two images with a third of blue each; the third image has no labels.
    assert found is not None and [one.pixels for one in found.bins] == [2 * 32 * 48]
    assert found.bins[0].accuracy == pytest.approx(1 / 3)
    assert found.error == pytest.approx(0.8 - 1 / 3)


def test_the_runtimes_own_scores_are_kept(data: Path, bundle: Path) -> None:
    labelled = open_data(data)
    with open_bundle_predictor(bundle, labelled.vocabulary) as predictor:
        evaluated = evaluate_predictor(predictor, labelled)
    result = evaluated.result
    assert result.reliability is not None and result.reliability.bins[-1].pixels > 2000
    for record in evaluated.records:
        assert ImageRecord.from_json(record.to_json()).reliability == record.reliability
    old = json.loads(evaluated.records[0].to_json())
    del old["reliability"]
    assert ImageRecord.from_json(json.dumps(old)).reliability == ()
