"""Why a pixel has its label: the first candidate is what the label map says, at every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import stripes, write_tiny_bundle

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Candidate, Engine, Segmentation, Segmenter
from dedos_deploy.runtime.engines.batched import BatchedEngine
from dedos_deploy.runtime.slots import Thresholds
from dedos_deploy.spec import GraphSpec

NEGATIVES = ("lamp", "shelf", "door")
WORDS = "car|automobile@0.7,road|street@0.2,sky|heaven|cloud,tree"


class RoughEngine(Engine):
    """Scores that differ from cell to cell and frame to frame, and tie now and then."""

    def __init__(self, dtype: Any = np.float32, batch: int = 1) -> None:
        kind = np.dtype(dtype).name
        self.spec = GraphSpec(16, 24, text_width=16, batch=batch, score_dtype=kind)  # type: ignore[arg-type]
        self._rng = np.random.default_rng(0)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        shape = (self.spec.batch, len(inputs["valid"]), *self.spec.score_hw)
        coarse = np.round(self._rng.random(shape) * 8) / 8
        return {"scores": coarse.astype(self.spec.score_dtype)}

    def close(self) -> None:
        """Nothing is held."""


def encode(words: Any, **_: object) -> NDArray[np.float32]:
    """Rows at right angles to each other, so that no negative is too close to a word."""
    return np.eye(16, dtype=np.float32)[: len(words)]


def segmenter_of(engine: Engine, background: str, **options: Any) -> Segmenter:
    base = (NEGATIVES, np.eye(16, dtype=np.float32)[-3:]) if background == "negatives" else None
    return Segmenter(
        engine,
        encode,
        classes=WORDS,
        thresholds=Thresholds({"tree": 0.6}, 0.5, enabled=background != "none"),
        base=base,
        threads=1,
        explain=True,
        **options,
    )


def check(result: Segmentation, step: int = 1) -> set[str]:
    """Check that the first candidate says what the label map says; return how pixels were decided."""
    seen = set()
    height, width = result.label_map.shape
    for y in range(0, height, step):
        for x in range(0, width, step):
            rows = result.top(y, x, 3)
            first = next(row for row in rows if row.kind != "null")
            assert [row for row in rows if row.decided] == [first]
            label = int(result.label_map[y, x])
            named = None if label == result.none_id else result.classes[label]
            assert named == (first.name if first.kind == "word" else None), (y, x, rows)
            best = next(row for row in rows if row.kind in ("word", "negative"))
            assert result.confidence[y, x] == np.rint(np.float32(255) * np.float32(best.score))
            assert [row.score for row in rows] == sorted((r.score for r in rows), reverse=True)
            seen.add(first.kind)
    return seen


BACKGROUNDS = {
    "none": {"word"},
    "threshold": {"word", "background"},
    "negatives": {"word", "background", "negative"},
}
FRAME = stripes(37, 53)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_first_candidate_is_the_label_at_every_pixel(background: str) -> None:
    with segmenter_of(RoughEngine(), background) as segmenter:
        assert segmenter.negatives == (NEGATIVES if background == "negatives" else ())
        assert check(segmenter.segment(FRAME)) == BACKGROUNDS[background]


def test_half_precision_and_frames_smaller_than_the_map() -> None:
    with segmenter_of(RoughEngine(np.float16), "negatives") as segmenter:
        assert check(segmenter.segment(stripes(5, 9))) == BACKGROUNDS["negatives"]


@pytest.mark.parametrize("background", ["threshold", "negatives"])
def test_stable_labels_are_explained_by_the_smoothed_scores(background: str) -> None:
    with segmenter_of(RoughEngine(), background, stable=True) as segmenter:
        results = [segmenter.segment(np.full((20, 30, 3), 90, np.uint8)) for _ in range(3)]
        assert segmenter.submit(FRAME).result().evidence is not None
    # Each by its own scores, long after the frames that followed and the end of the segmenter.
    assert [check(result, 2) for result in results] == [BACKGROUNDS[background]] * 3
    first, last = (result.top(3, 3)[0] for result in (results[0], results[-1]))
    assert first != last


def test_cameras_are_explained_by_their_own_words_and_rows() -> None:
    engine = BatchedEngine([RoughEngine(), RoughEngine(batch=2)])
    with segmenter_of(engine, "threshold", stable=True) as segmenter:
        views = [segmenter.share(WORDS), segmenter.share(WORDS), segmenter.share("sky,car")]
        views[1].explain = False
        frames = [(view, FRAME, 0.0) for view in views]
        for _ in range(2):
            found = segmenter.together.segment(frames)
    one, silent, other = (result for result in found if isinstance(result, Segmentation))
    assert check(one, 2) == check(other, 2) == BACKGROUNDS["threshold"]
    assert silent.evidence is None
    assert {row.name for row in other.top(0, 0, 9)} == {"sky", "car", "unlabelled"}


def given_scores(*scores: float, background: str = "threshold", **options: Any) -> Segmentation:
    """One frame whose slots have these scores everywhere: car, automobile, road, street, sky, ..."""

    class Level(RoughEngine):
        def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            levels = np.array(scores, np.float32)[None, :, None, None]
            assert levels.shape[1] == len(inputs["valid"])
            return {"scores": np.ascontiguousarray(np.broadcast_to(levels, (1, len(scores), 4, 6)))}

    with segmenter_of(Level(), background, **options) as segmenter:
        return segmenter.segment(FRAME)


def shares(rows: tuple[Candidate, ...]) -> list[tuple[str, str, float, float, bool]]:
    """Kind, name, score, threshold and whether it decided, rounded for comparing."""
    return [(r.kind, r.name, round(r.score, 4), round(r.threshold, 4), r.decided) for r in rows]


LEVELS = (0.25, 0.375, 0.125, 0.0625, 0.0, 0.0, 0.03125, 0.0)


def test_synonyms_score_by_the_best_of_them_and_the_threshold_decides() -> None:
    rows = given_scores(*LEVELS).top(20, 30)
    assert shares(rows) == [
        ("background", "unlabelled", 0.7, 0.7, True),
        ("word", "car", 0.375, 0.7, False),
        ("word", "road", 0.125, 0.2, False),
        ("word", "sky", 0.0312, 0.5, False),
        ("word", "tree", 0.0, 0.6, False),
    ]
    assert [row.word for row in rows] == ["unlabelled", "automobile", "road", "cloud", "tree"]


def test_what_just_reaches_its_threshold_labels() -> None:
    scores = (0.7, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert shares(given_scores(*scores).top(0, 0, 1)) == [
        ("word", "car", 0.7, 0.7, True),
        ("background", "unlabelled", 0.7, 0.7, False),
    ]


def test_without_thresholds_the_best_word_decides() -> None:
    rows = given_scores(*LEVELS, background="none").top(0, 0, n=2)
    assert shares(rows) == [
        ("word", "car", 0.375, 0.0, True),
        ("word", "road", 0.125, 0.0, False),
    ]


def test_a_negative_that_wins_leaves_the_pixel_unlabelled() -> None:
    result = given_scores(*LEVELS, 0.5, 0.0, 0.25, background="negatives")
    assert shares(result.top(0, 0, n=3)) == [
        ("negative", "lamp", 0.5, 0.0, True),
        ("word", "car", 0.375, 0.7, False),
        ("negative", "door", 0.25, 0.0, False),
    ]
    assert result.unlabelled == 1.0


def test_nulls_have_what_no_word_got_and_never_decide() -> None:
    rows = given_scores(0.125, 0.0, 0.25, *[0.0] * 5, nulls=True).top(0, 0, n=1)
    assert shares(rows) == [
        ("null", "none of the words", 0.625, 0.0, False),
        ("word", "road", 0.25, 0.2, True),
        ("background", "unlabelled", 0.2, 0.2, False),
    ]


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    with Segmenter.load(bundle, classes="red,green", threads=1) as segmenter:
        plain = segmenter.segment(FRAME)
        assert plain.evidence is None
        with pytest.raises(
            BadInputError, match="kept no scores .* load the segmenter with explain"
        ):
            plain.top(0, 0)
        segmenter.explain = True
        assert check(segmenter.segment(FRAME), 5) == {"word", "background"}
    with Segmenter.load(bundle, classes="red,green", threads=1, explain=True) as segmenter:
        assert segmenter.share("red").segment(FRAME).top(30, 45)[0].decided


@pytest.mark.parametrize(
    ("pixel", "message"),
    [
        ((37, 0), "y=37, x=0 lies outside of the frame; y goes from 0 to 36 and x from 0 to 52"),
        ((0, 53), "y=0, x=53 lies outside"),
        ((-1, 0), "y=-1, x=0 lies outside"),
        ((0.5, 0), "y must be a whole number, not 0.5"),
        ((0, 0, 0), "n is 0; ask for at least one candidate"),
    ],
)
def test_what_is_no_pixel_of_the_frame_is_refused(pixel: tuple[Any, ...], message: str) -> None:
    result = given_scores(*LEVELS)
    assert result.top(np.int64(36), np.uint8(52))
    with pytest.raises(BadInputError, match=message):
        result.top(*pixel)
