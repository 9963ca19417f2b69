"""Which word would have to move: score maps made by hand, and every shift that is told tried in earnest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.data import open_data
from dedos_deploy.evaluation.evaluate import evaluate_predictor
from dedos_deploy.evaluation.moves import SAMPLED, Move, looked_at, move_cells, moves_of, sample
from dedos_deploy.evaluation.predictors import Prediction, open_bundle_predictor
from dedos_deploy.evaluation.records import ImageRecord
from dedos_deploy.evaluation.report import Report, Section, markdown, move_rows
from dedos_deploy.evaluation.report_page import page
from dedos_deploy.runtime.explaining import Contest, Evidence

NAMES = ("road", "kerb", "grass", "wall")


def picture(
    *groups: tuple[int, int, tuple[float, ...]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores [classes, 1, W] and labels [1, W]: of every group its label, pixels and scores there."""
    columns = [np.repeat([scores], count, axis=0) for _, count, scores in groups]
    labels = [np.full(count, label) for label, count, _ in groups]
    scores = np.concatenate(columns).T[:, None].astype(np.float32)
    return np.ascontiguousarray(scores), np.concatenate(labels)[None]


def labelled(scores: NDArray[np.float32], thresholds: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class of every pixel, how many there are for none; scores [classes and perhaps one, H, W]."""
    best = scores.argmax(0)
    return np.where(scores.max(0) < thresholds[best], len(thresholds) - 1, best)


def found(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    thresholds: NDArray[np.float32] | None = None,
    *,
    negatives: int = 0,
    count: int = 10,
) -> list[Move]:
    """What is said of one image, whose last `negatives` slots are such."""
    classes = len(scores) - negatives
    names = NAMES[:classes]
    floors = np.full(classes + 1, -1, np.float32)
    if thresholds is not None:
        floors[:classes] = thresholds
    predictions = labelled(scores, floors)
    slots = np.concatenate([floors[:classes], np.full(negatives, -1, np.float32)])
    words = (*names, *("bin",) * negatives)
    evidence = Evidence(scores, Contest(words, words, slots, negatives, False))
    class_of = {name: index for index, name in enumerate(names)}
    pixels = sample(
        evidence,
        labels,
        predictions,
        class_of=class_of,
        nothing=classes,
        ignore=255,
        classes=classes,
    )
    confusion = Confusion(classes)
    confusion.add(labels.astype(np.uint8), predictions.astype(np.uint8), unlabelled=classes)
    moves = moves_of([move_cells(pixels)], confusion, names, count)
    assert moves is not None
    return list(moves)


def test_a_word_that_is_low_everywhere_has_to_go_up() -> None:
    """Kerb loses its own to road and to grass; either of those is right wherever it should be."""
    scores, labels = picture(
        (0, 40, (0.75, 0.0, 0.25)),
        (2, 40, (0.25, 0.0, 0.75)),
        (1, 10, (0.5, 0.25, 0.0)),
        (1, 5, (0.0, 0.25, 0.5)),
    )
    first, second = found(scores, labels)
    assert (first.label, first.predicted, first.part) == ("kerb", "road", pytest.approx(10 / 15))
    assert (first.move, first.word, first.shift, first.by) == ("label", "kerb", True, 0.25)
    # Up by a quarter it gets all 15 of 95 back; road down gives it 10.
    assert (first.raised, first.lowered) == (pytest.approx(15 / 95), pytest.approx(10 / 95))
    assert (second.predicted, second.move) == ("grass", "label")


def test_a_word_that_is_high_on_its_neighbours_has_to_go_down() -> None:
    """Road takes from kerb and from grass; kerb up would take from grass, too."""
    scores, labels = picture(
        (0, 40, (1.0, 0.0, 0.0)),
        (1, 12, (0.5, 0.375, 0.0)),
        (2, 9, (0.5, 0.0, 0.375)),
        (2, 20, (0.0, 0.5, 0.5625)),
    )
    first, second = found(scores, labels)
    assert (first.label, first.predicted) == ("kerb", "road")
    assert (first.move, first.word, first.shift, first.by) == ("predicted", "road", True, 0.125)
    assert (first.raised, first.lowered) == (pytest.approx(-8 / 81), pytest.approx(21 / 81))
    assert (second.label, second.move) == ("grass", "predicted")


def test_of_two_words_either_may_move() -> None:
    scores, labels = picture((0, 20, (0.75, 0.25)), (1, 20, (0.25, 0.75)), (1, 5, (0.5, 0.375)))
    (move,) = found(scores, labels)
    assert (move.move, move.word, move.raised) == ("either", "kerb", move.lowered)


@pytest.mark.parametrize(
    ("elsewhere", "word"),
    [
        # Kerb loses others of its own to wall, and road is right wherever else it is.
        ((1, 8, (0.0, 0.0, 0.0, 1.0)), "kerb"),
        # Kerb keeps all others, and road takes the wall.
        ((3, 8, (1.0, 0.0, 0.0, 0.0)), "road"),
    ],
)
def test_where_no_shift_helps_the_word_that_is_worse_elsewhere_has_to_turn(
    elsewhere: tuple[int, int, tuple[float, ...]], word: str
) -> None:
    """Kerb scores nothing where it is taken for road, and as much elsewhere; road is as sure as ever."""
    scores, labels = picture(
        (0, 40, (1.0, 0.0, 0.0, 0.0)),
        (1, 10, (1.0, 0.0, 0.0, 0.0)),
        (1, 6, (0.0, 1.0, 0.0, 0.0)),
        (2, 40, (0.0, 0.0, 1.0, 0.0)),
        (3, 12, (0.0, 0.0, 0.0, 1.0)),
        elsewhere,
    )
    move = next(move for move in found(scores, labels) if move.label == "kerb")
    assert (move.predicted, move.word, move.shift, move.by) == ("road", word, False, 1.0)
    assert max(move.raised, move.lowered) <= 0


def test_what_a_threshold_leaves_unlabelled_needs_its_own_word() -> None:
    scores, labels = picture((0, 20, (0.75, 0.0)), (1, 20, (0.0, 0.75)), (1, 6, (0.125, 0.375)))
    (move,) = found(scores, labels, np.array([0.5, 0.5], np.float32))
    assert (move.label, move.predicted, move.move) == ("kerb", None, "label")
    assert (move.word, move.shift, move.by) == ("kerb", True, 0.125)
    assert (move.raised, move.lowered) == (pytest.approx(6 / 46), None)


def test_negatives_take_part() -> None:
    """A negative takes kerb's pixels; up, kerb takes them back before it takes any of road's."""
    scores, labels = picture(
        (0, 20, (0.75, 0.0, 0.0)), (1, 20, (0.0, 0.75, 0.5)), (1, 6, (0.0, 0.25, 0.5))
    )
    (move,) = found(scores, labels, negatives=1)
    assert (move.predicted, move.word, move.raised) == (None, "kerb", pytest.approx(6 / 46))


def test_unlabelled_pixels_may_be_a_class_of_the_data() -> None:
    """A benchmark's background has no word: what road takes of it comes back when road goes down."""
    scores, labels = picture((0, 30, (0.75, 0.0)), (1, 10, (0.5, 0.25)))
    evidence = Evidence(
        scores, Contest(("road", "bin"), ("road", "bin"), np.float32([0.25, -1]), 1, False)
    )
    predictions = np.zeros_like(labels)
    pixels = sample(
        evidence,
        labels,
        predictions,
        class_of={"road": 0},
        nothing=1,
        ignore=None,
        classes=2,
    )
    confusion = Confusion(2)
    confusion.add(labels.astype(np.uint8), predictions.astype(np.uint8))
    (move,) = moves_of([move_cells(pixels)], confusion, ("road", "background"), 10) or ()
    assert (move.label, move.predicted, move.by, move.shift) == ("background", "road", 0.25, True)
    assert move.lowered == pytest.approx(10 / 40)


@pytest.mark.parametrize("negatives", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_every_shift_does_what_is_said(seed: int, negatives: int) -> None:
    """The labels are made anew with one word's scores shifted, and the right ones counted."""
    rng = np.random.default_rng(seed)
    scores = rng.random((4 + negatives, 20, 30)).astype(np.float32) ** 2
    labels = rng.integers(0, 4, (20, 30))
    scores[labels, np.arange(20)[:, None], np.arange(30)] += np.float32(0.25)
    thresholds = rng.random(4).astype(np.float32) * 0.5
    floors = np.append(thresholds, np.float32(-1))
    before = (labelled(scores, floors) == labels).mean()
    moves = found(scores, labels, thresholds, negatives=negatives)
    assert len(moves) == 10
    for move in moves:
        for name, sign, said in (
            (move.label, 1, move.raised),
            (move.predicted, -1, move.lowered),
        ):
            if name is not None:
                shifted = scores.copy()
                shifted[NAMES.index(name)] += np.float32(sign * move.by)
                after = (labelled(shifted, floors) == labels).mean()
                assert after - before == pytest.approx(said), move


def test_few_pixels_of_an_image_are_looked_at_and_none_that_does_not_count() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2, 60, 80)).astype(np.float32)
    labels = np.where(rng.random((60, 80)) < 0.5, 255, 1)
    evidence = Evidence(scores, Contest(NAMES[:2], NAMES[:2], np.float32([-1, -1]), 0, False))
    options: dict[str, Any] = {
        "class_of": {"road": 0, "kerb": 1},
        "nothing": 2,
        "ignore": 255,
        "classes": 2,
    }
    first, again = (sample(evidence, labels, scores.argmax(0), **options) for _ in range(2))
    assert len(first.labels) == SAMPLED and set(first.labels.tolist()) == {1}
    np.testing.assert_array_equal(first.scores, again.scores)


@pytest.mark.parametrize(("images", "known"), [(9, 9), (256, 256), (257, 129), (5105, 256)])
def test_of_many_images_some_are_looked_at(images: int, known: int) -> None:
    seen = [looked_at(index, images) for index in range(images)]
    assert sum(seen) == known
    # Everywhere alike, and the same ones whoever evaluates which part.
    assert seen[0] and sum(seen[: images // 2]) == pytest.approx(known / 2, abs=1)


def test_synonyms_count_as_their_class() -> None:
    scores = np.float32([0.25, 0.75, 0.5])[:, None, None]
    words = ("road", "street", "kerb")
    contest = Contest(words, ("road", "road", "kerb"), np.float32([0.1, 0.2, 0.3]), 0, False)
    pixels = sample(
        Evidence(scores, contest),
        np.zeros((1, 1), np.uint8),
        np.zeros((1, 1), np.uint8),
        class_of={"road": 0, "kerb": 1},
        nothing=2,
        ignore=None,
        classes=2,
    )
    np.testing.assert_allclose(pixels.scores, [[0.75, 0.5, -np.inf]])
    np.testing.assert_allclose(pixels.thresholds, [[0.2, 0.3, -np.inf]])


# In an evaluation


class Blind:
    """A predictor without scores that calls everything blue."""

    name, identity, taught = "blind", {}, None

    def predict(self, image_bgr: np.ndarray) -> Prediction:
        return Prediction(np.zeros(image_bgr.shape[:2], np.uint8))

    def close(self) -> None:
        pass


def test_without_scores_nothing_is_said(data: Path) -> None:
    result = evaluate_predictor(Blind(), open_data(data)).result
    assert result.pairs and result.moves is None and result.to_dict()["moves"] is None
    section = Section(result, {})
    assert move_rows(result) == [] and "have to move" not in markdown(Report([section]))


def test_an_evaluation_says_it_in_text_page_and_record(
    data: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled_data = open_data(data)
    with open_bundle_predictor(bundle, labelled_data.vocabulary) as predictor:
        evaluated = evaluate_predictor(predictor, labelled_data)
        with monkeypatch.context() as patch:
            patch.setattr("dedos_deploy.evaluation.moves.IMAGES", 2)
            fewer = evaluate_predictor(predictor, labelled_data).records
    assert [bool(record.moves) for record in fewer] == [True, False, False]
    result = evaluated.result
    assert result.moves is not None
    # Of two images half of one's blue is seen as green, which is as sure there as anywhere.
    (move,) = result.moves
    assert (move.label, move.predicted, move.shift) == ("blue", "green", False)
    assert json.loads(json.dumps(result.to_dict()))["moves"] == [{**vars(move), "word": move.word}]
    report = Report([Section(replace(result, predictor="<net>"), {})])
    assert f"| blue as green | {100 * move.part:.1f} | blue, by no shift | 1 |" in markdown(report)
    assert "<td>blue as green</td>" in page(report) and "<net>" not in page(report)
    for record in evaluated.records:
        assert ImageRecord.from_json(record.to_json()).moves == record.moves
    assert not evaluated.records[2].moves, "it has no labels"
    old = json.loads(evaluated.records[0].to_json())
    del old["moves"]
    assert ImageRecord.from_json(json.dumps(old)).moves == ()
    with pytest.raises(ValueError, match="moves has 3 numbers, not four a cell"):
        ImageRecord.from_json(json.dumps({**old, "moves": [1, 2, 3]}))
