"""Confidences of a calibrated bundle: what scores are worth, wherever results come from; labels stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import TEXT_WIDTH, stripes, write_tiny_bundle

from dedos_deploy.bundle import MODEL, Bundle
from dedos_deploy.bundle.edit import set_confidence_curves
from dedos_deploy.confidence_curves import ConfidenceCurves
from dedos_deploy.evaluation.predictors import open_bundle_predictor
from dedos_deploy.runtime import Segmentation, Segmenter
from dedos_deploy.runtime.labelling import Labelled
from dedos_deploy.runtime.loading import curves_of
from dedos_deploy.runtime.results import host_segmentation
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.tiles import Grid
from dedos_deploy.vocabulary import vocabulary_from_file
from dedos_deploy.words_file import save_words_file

WORDS = "red,green,blue@0.9"
LEVELS = np.arange(256)
OVERALL = (LEVELS // 2).astype(np.uint8)
RED = np.sqrt(255 * LEVELS).astype(np.uint8)
CHECKPOINT = "a" * 64


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    return write_tiny_bundle(folder / "tiny.dedos", batches=(2,), checkpoint_sha256=CHECKPOINT)


@pytest.fixture(scope="module")
def calibrated(raw: Path) -> Path:
    with Bundle.open(raw) as bundle:
        curves = ConfidenceCurves(bundle.manifest.files[MODEL], OVERALL, {"red": RED})
    return set_confidence_curves(raw, curves, dest=raw.with_name("calibrated.dedos"))


def frame() -> NDArray[np.uint8]:
    """Stripes of all three colours that fade towards the bottom, so that scores fall to nothing."""
    picture = stripes(96, 128).astype(float)
    return (picture * np.linspace(1, 0, 96)[:, None, None]).astype(np.uint8)


def wanted(scores: Segmentation, curves: dict[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    found = OVERALL[scores.confidence]
    for class_id, name in enumerate(scores.classes):
        here = scores.label_map == class_id
        found[here] = curves.get(name, OVERALL)[scores.confidence[here]]
    return found


def segmented(bundle: Path, classes: Any = WORDS, **options: Any) -> Segmentation:
    with Segmenter.load(bundle, classes=classes, threads=1, **options) as segmenter:
        return segmenter.segment(frame())


@pytest.mark.parametrize(
    "options", [{}, {"background": "none"}, {"stable": True}, {"explain": True}]
)
def test_labels_stay_and_confidence_is_what_the_score_is_worth(
    raw: Path, calibrated: Path, options: dict[str, Any]
) -> None:
    scores, found = segmented(raw, **options), segmented(calibrated, **options)
    for name in ("label_map", "counts"):
        np.testing.assert_array_equal(getattr(scores, name), getattr(found, name))
    np.testing.assert_array_equal(found.confidence, wanted(scores, {"red": RED}))
    assert (found.calibrated, scores.calibrated) == (True, False)
    assert len(np.unique(found.label_map)) > 2 and (found.confidence != scores.confidence).any()
    if options.get("explain"):
        assert found.top(10, 10) == scores.top(10, 10)


def test_thresholds_are_compared_with_scores(raw: Path, calibrated: Path) -> None:
    # The curve of all makes at most 127 of a score, and "blue" asks for 0.9 of it.
    found = segmented(calibrated)
    blue = found.label_map == found.classes.index("blue")
    assert blue.any() and found.confidence[blue].max() <= 127


def test_scores_can_be_had(raw: Path, calibrated: Path) -> None:
    scores, found = segmented(raw), segmented(calibrated, calibrated=False)
    np.testing.assert_array_equal(found.confidence, scores.confidence)
    assert not found.calibrated


def pending(segmenter: Segmenter, picture: NDArray[np.uint8]) -> Segmentation:
    return segmenter.submit(picture).result()


def together(segmenter: Segmenter, picture: NDArray[np.uint8]) -> Segmentation:
    views = [segmenter.share(WORDS) for _ in range(2)]
    found = list(segmenter.together.segment([(view, picture, 0.0) for view in views]))
    assert all(isinstance(one, Segmentation) for one in found)
    return found[1]  # type: ignore[return-value]


def changed(segmenter: Segmenter, picture: NDArray[np.uint8]) -> Segmentation:
    segmenter.set_classes("lamp,green,red")
    return segmenter.segment(picture)


@pytest.mark.parametrize("way", [pending, together, changed])
def test_however_a_result_comes(
    raw: Path, calibrated: Path, way: Callable[[Segmenter, NDArray[np.uint8]], Segmentation]
) -> None:
    found = []
    for bundle in (raw, calibrated):
        with Segmenter.load(bundle, classes=WORDS, threads=1, batch=2) as segmenter:
            found.append(way(segmenter, frame()))
    np.testing.assert_array_equal(found[0].label_map, found[1].label_map)
    np.testing.assert_array_equal(found[1].confidence, wanted(found[0], {"red": RED}))


def test_words_with_rows_of_their_own_have_the_curve_of_all(
    raw: Path, calibrated: Path, tmp_path: Path
) -> None:
    words = save_words_file(
        tmp_path / "my.words",
        entries=["red", "green|leaf"],
        words=["red", "green", "leaf"],
        embeddings=np.eye(3, TEXT_WIDTH, dtype=np.float32)[[2, 1, 1]],
        model_sha256=CHECKPOINT,
        tuning={},
    )
    scores, found = segmented(raw, words), segmented(calibrated, words)
    np.testing.assert_array_equal(found.confidence, wanted(scores, {}))
    # An evaluation (--words) as well, and of the words themselves, without rows, those of their own.
    tuned = vocabulary_from_file(words)
    for vocabulary, curves in ((tuned, {}), (replace(tuned, tuned=None), {"red": RED})):
        scores = segmented(raw, vocabulary, background="none")
        with open_bundle_predictor(calibrated, vocabulary, threads=1) as predictor:
            measured = predictor.predict(frame()).confidence
        assert measured is not None
        np.testing.assert_array_equal(measured, wanted(scores, curves))


def test_other_templates_have_the_curve_of_all(raw: Path, calibrated: Path) -> None:
    with Bundle.open(calibrated) as bundle:
        own, other = (
            curves_of(bundle, name, Tiling()) for name in (bundle.manifest.template_name, "vild14")
        )
    assert own is not None and set(own.by_name) == {"red"}
    assert other is not None and not other.by_name and np.array_equal(other.overall, OVERALL)
    with Bundle.open(raw) as bundle:
        assert curves_of(bundle, None, Tiling()) is None


@pytest.mark.parametrize(
    ("own", "learned", "options", "said"),
    [
        ("off", {}, {}, None),
        ("off", {}, {"tiles": "off"}, None),
        ("off", {}, {"tiles": "2x3", "calibrated": False}, None),
        ("off", {}, {"tiles": "2x3"}, "through the whole, .* through tiles 2x3 and the whole:"),
        ("off", {}, {"tiles": Tiling(flips=True)}, "through the whole, .* through mirror images:"),
        ("off", {"tiles": "2x3"}, {}, "through tiles 2x3 and the whole, .* through the whole:"),
        ("2x3", {}, {}, None),
        ("2x3", {"tiles": "2x3"}, {"tiles": "2x3"}, None),
        ("2x3", {}, {"tiles": "off"}, "through tiles 2x3 and the whole, .* through the whole:"),
        ("2x3", {}, {"tiles": Tiling(Grid(2, 3), whole=False)}, "through tiles 2x3:"),
    ],
)
def test_curves_of_frames_looked_at_otherwise_are_said(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    own: str,
    learned: dict[str, str],
    options: dict[str, Any],
    said: str | None,
) -> None:
    path = write_tiny_bundle(tmp_path / "tiny.dedos", tiles=own)
    with Bundle.open(path) as bundle:
        graph = bundle.manifest.files[MODEL]
    set_confidence_curves(path, ConfidenceCurves(graph, OVERALL, {"red": RED}, learned))
    segmented(path, **options)
    warned = [one.getMessage() for one in caplog.records if "confidence curves" in one.getMessage()]
    assert len(warned) == (said is not None)
    if said is not None:
        assert re.search(f"learned with frames looked at .*{said}", warned[0])


def test_the_time_that_it_takes_is_that_of_the_label_map(calibrated: Path) -> None:
    with Segmenter.load(calibrated, classes=WORDS, threads=1) as segmenter:
        table = segmenter._table

        there = Labelled(
            np.zeros((900, 1600), np.uint8),
            np.full((900, 1600), 200, np.uint8),
            np.zeros(3, np.int64),
            {"pre": 0.0, "engine": 0.0, "post": 0.0},
        )
        found = host_segmentation(there, table, 0.0)
    assert found.latency_ms["post"] > 0 and (found.confidence == RED[200]).all()
