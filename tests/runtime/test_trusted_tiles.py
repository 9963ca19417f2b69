"""Trust, confidence curves and tiles of one bundle at once: each acts once, on what it is of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import write_tiny_bundle

from dedos_deploy.bundle import MODEL, Bundle
from dedos_deploy.bundle.edit import set_confidence_curves
from dedos_deploy.confidence_curves import ConfidenceCurves
from dedos_deploy.evaluation.looking import Looking
from dedos_deploy.evaluation.predictors import open_bundle_predictor
from dedos_deploy.runtime import Segmentation, Segmenter
from dedos_deploy.runtime.results import read_curves
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.scenes import render_image
from dedos_deploy.tiles import Grid
from dedos_deploy.trust import Kind, fit_trust
from dedos_deploy.vocabulary import parse_vocabulary

Array = NDArray[Any]
WORDS = "red,green,blue"
TILES = "2x3"
LEVELS = np.arange(256)
CURVES = {"red": np.sqrt(255 * LEVELS).astype(np.uint8)}
OVERALL = (LEVELS // 2).astype(np.uint8)


def street(seed: int) -> Array:
    return render_image("street", seed=seed, size_hw=(128, 192))[0]


def halves() -> Array:
    """A frame whose parts are unlike any street, and whose mean is that of one."""
    middle = street(0).mean(axis=(0, 1))
    frame = np.empty((128, 192, 3))
    frame[:, :96], frame[:, 96:] = middle - 40, middle + 40
    return frame.round().astype(np.uint8)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With trust and tiles, and graphs of which one takes the whole view beside windows."""
    rng = np.random.default_rng(0)
    rows = street(0).mean(axis=(0, 1)) + rng.normal(0, 4, (80, 3))
    trust = fit_trust([Kind("streets", "0" * 64, rows.astype(np.float32))], [3])
    folder = tmp_path_factory.mktemp("all")
    return write_tiny_bundle(folder / "raw.dedos", trust=trust, tiles=TILES, batches=(2, 4))


@pytest.fixture(scope="module")
def bundle(raw: Path) -> Path:
    """The same with curves."""
    with Bundle.open(raw) as opened:
        curves = ConfidenceCurves(opened.manifest.files[MODEL], OVERALL, CURVES)
    return set_confidence_curves(raw, curves, dest=raw.with_name("all.dedos"))


@pytest.fixture
def segmenters(raw: Path, bundle: Path) -> Iterator[tuple[Segmenter, Segmenter]]:
    with (
        Segmenter.load(raw, classes=WORDS, threads=1) as scores,
        Segmenter.load(bundle, classes=WORDS, threads=1) as all_three,
    ):
        yield scores, all_three


def worth(result: Segmentation) -> Array:
    """Return what the confidence of a result of scores is by the curves, once."""
    found: Array = OVERALL[result.confidence]
    red = result.label_map == result.classes.index("red")
    found[red] = CURVES["red"][result.confidence[red]]
    return found


def test_curves_are_read_once_off_blended_scores(segmenters: tuple[Segmenter, Segmenter]) -> None:
    frame = street(1)
    scores, found = (each.segment(frame) for each in segmenters)
    assert found.windows == scores.windows == 7 and (found.calibrated, scores.calibrated) == (1, 0)
    np.testing.assert_array_equal(found.label_map, scores.label_map)
    np.testing.assert_array_equal(found.confidence, worth(scores))
    # Which differs from reading them twice, and from a frame that is looked at whole.
    twice = found.confidence.copy()
    read_curves(found.label_map, twice, np.stack([OVERALL] * (len(found.classes) + 1)))
    assert (twice != found.confidence).mean() > 0.5
    assert found.trust == scores.trust


def test_trust_is_that_of_the_whole_view(bundle: Path) -> None:
    frames = [street(0), halves(), street(0)]
    found = []
    for tiles in (TILES, "off"):
        with Segmenter.load(bundle, classes=WORDS, threads=1, tiles=tiles) as segmenter:
            found.append([segmenter.segment(frame) for frame in frames])
            pending = [segmenter.submit(frame) for frame in frames[:2]]
            assert [one.result().trust for one in pending] == [one.trust for one in found[-1][:2]]
    assert [one.windows for one in found[0]] == [7, 7, 7] and found[1][0].windows == 1
    assert [one.trust for one in found[0]] == [one.trust for one in found[1]] == [1.0, 1.0, 1.0]
    # Windows alone are unlike any street.
    with Segmenter.load(bundle, classes=WORDS, threads=1, tiles="off") as segmenter:
        assert segmenter.segment(frames[1][:, :96]).trust == 0.0


@pytest.mark.parametrize("looking", [Looking(), Looking(scales=(1.0, 1.5), flips=True)], ids=str)
def test_an_evaluation_reads_them_once_too(raw: Path, bundle: Path, looking: Looking) -> None:
    frame, words = street(1), parse_vocabulary(WORDS)
    with (
        Segmenter.load(
            bundle,
            classes=WORDS,
            background="none",
            threads=1,
            tiles=looking.tiling(Tiling(Grid(2, 3))),
        ) as segmenter,
        open_bundle_predictor(bundle, words, threads=1, looking=looking) as predictor,
        open_bundle_predictor(raw, words, threads=1, looking=looking) as scores,
    ):
        wanted, found, plain = (
            segmenter.segment(frame),
            predictor.predict(frame),
            scores.predict(frame),
        )
    assert wanted.windows > 6 and plain.confidence is not None and found.confidence is not None
    np.testing.assert_array_equal(found.ids, plain.ids)
    np.testing.assert_array_equal(found.confidence, wanted.confidence)
    np.testing.assert_array_equal(found.uncalibrated, plain.confidence)
    assert plain.uncalibrated is None and (found.confidence != plain.confidence).mean() > 0.5
