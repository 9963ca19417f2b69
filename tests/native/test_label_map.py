"""The native label map against a numpy oracle that enlarges every slot and takes the arg max."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dedos_deploy import _native

Float32 = NDArray[np.float32]
NONE16 = 65535


@dataclass(frozen=True)
class Labels:
    ids: NDArray[Any]
    confidence: NDArray[np.uint8]
    counts: NDArray[np.uint64]


def fused(a: Float32, b: Float32, c: Float32) -> Float32:
    """a * b + c rounded once, by way of a type with enough bits."""
    wide = np.longdouble
    return (a.astype(wide) * b.astype(wide) + c.astype(wide)).astype(np.float32)


def taps(cells: int, outputs: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Float32, Float32]:
    """First and second cell of each output coordinate, and their weights."""
    scale = np.full(outputs, np.float32(cells) / np.float32(outputs), np.float32)
    centres = np.arange(outputs, dtype=np.float32) + np.float32(0.5)
    source = np.maximum(fused(scale, centres, np.full_like(scale, -0.5)), np.float32(0))
    first = np.minimum(source.astype(np.int64), cells - 1)
    weight1 = np.minimum(source - first.astype(np.float32), np.float32(1))
    return first, np.minimum(first + 1, cells - 1), np.float32(1) - weight1, weight1


def enlarge(scores: Float32, size_hw: tuple[int, int]) -> Float32:
    top, bottom, down0, down1 = taps(scores.shape[1], size_hw[0])
    left, right, across0, across1 = taps(scores.shape[2], size_hw[1])
    rows = fused(scores[:, :, left], across0, scores[:, :, right] * across1)
    return fused(rows[:, top], down0[:, None], rows[:, bottom] * down1[:, None])


def oracle(
    scores: Float32, size_hw: tuple[int, int], thresholds: Float32, slot_ids: NDArray[np.uint16]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    enlarged = enlarge(scores, size_hw)
    slot = enlarged.argmax(axis=0)
    winning = enlarged.max(axis=0)
    ids = np.where(winning < thresholds[slot], np.uint16(NONE16), slot_ids[slot])
    confidence = np.rint(np.float32(255) * np.clip(winning, 0, 1)).astype(np.uint8)
    return ids, confidence


def run(
    scores: Float32,
    size_hw: tuple[int, int],
    *,
    thresholds: Float32 | None = None,
    slot_ids: NDArray[np.uint16] | None = None,
    classes: int | None = None,
    threads: int = 1,
) -> Labels:
    slots = len(scores)
    if slot_ids is None:
        slot_ids = np.arange(slots, dtype=np.uint16)
    if thresholds is None:
        thresholds = np.full(slots, -np.inf, np.float32)
    classes = slots if classes is None else classes
    # Filled with nonsense, so that a pixel nobody writes is seen.
    labels = Labels(
        np.full(size_hw, 99, np.uint8 if classes <= 254 else np.uint16),
        np.full(size_hw, 99, np.uint8),
        np.full(classes + 1, 99, np.uint64),
    )
    _native.label_map(
        scores, thresholds, slot_ids, labels.ids, labels.confidence, labels.counts, threads
    )
    return labels


def check(
    scores: Float32,
    size_hw: tuple[int, int],
    *,
    thresholds: Float32 | None = None,
    slot_ids: NDArray[np.uint16] | None = None,
    classes: int | None = None,
    threads: int = 1,
) -> Labels:
    slots = len(scores)
    got = run(
        scores,
        size_hw,
        thresholds=thresholds,
        slot_ids=slot_ids,
        classes=classes,
        threads=threads,
    )
    ids, confidence = oracle(
        scores,
        size_hw,
        np.full(slots, -np.inf, np.float32) if thresholds is None else thresholds,
        np.arange(slots, dtype=np.uint16) if slot_ids is None else slot_ids,
    )
    none = len(got.counts) - 1
    expected_ids = np.where(ids == NONE16, np.iinfo(got.ids.dtype).max, ids)
    np.testing.assert_array_equal(got.ids, expected_ids)
    np.testing.assert_array_equal(got.confidence, confidence)
    cells = np.where(ids == NONE16, none, ids).ravel()
    np.testing.assert_array_equal(got.counts, np.bincount(cells, minlength=none + 1))
    return got


def smooth_scores(slots: int, size_hw: tuple[int, int], seed: int = 0) -> Float32:
    """Scores with large regions, as a network makes them: few cells disagree with a neighbour."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size_hw[0], 0 : size_hw[1]]
    centre = generator.random((2, slots, 1, 1)) * np.array(size_hw).reshape(2, 1, 1, 1)
    spread = 0.1 * (size_hw[0] * size_hw[1] + 1)
    distance = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return np.exp(-distance / spread).astype(np.float32)


SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (7, 5)),
    ((5, 7), (1, 1)),
    ((3, 5), (13, 29)),
    ((16, 16), (64, 64)),
    ((15, 17), (67, 131)),
    ((33, 47), (16, 15)),
    ((40, 31), (40, 31)),
    ((9, 1), (4, 30)),
    ((1, 40), (30, 90)),
    ((12, 20), (90, 11)),
]


@pytest.mark.parametrize(("cells_hw", "size_hw"), SIZES)
@pytest.mark.parametrize("slots", [1, 2, 21])
def test_equals_oracle(cells_hw: tuple[int, int], size_hw: tuple[int, int], slots: int) -> None:
    noise = np.random.default_rng(1).random((slots, *cells_hw), dtype=np.float32)
    check(noise, size_hw)
    check(smooth_scores(slots, cells_hw), size_hw)


@st.composite
def scores_with_ties(draw: st.DrawFn) -> Float32:
    """Few distinct values, or values that differ in their last bits only: rounding decides."""
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 20)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = generator.integers(0, draw(st.integers(1, 4)), shape, endpoint=True)
    base = np.float32(draw(st.sampled_from([0.0, 0.3, 1.0, -0.7, 1e-30, 40.0])))
    if draw(st.booleans()):
        return (base + steps * np.spacing(base)).astype(np.float32)
    return (base + steps * np.float32(0.25)).astype(np.float32)


@settings(deadline=None, max_examples=200)
@given(
    scores=scores_with_ties(),
    height=st.integers(1, 24),
    width=st.integers(1, 60),
    threads=st.integers(1, 3),
)
def test_ties_and_near_ties_equal_oracle(
    scores: Float32, height: int, width: int, threads: int
) -> None:
    check(scores, (height, width), threads=threads)


def test_near_tie_that_rounding_makes_a_tie_goes_to_the_lower_slot() -> None:
    # Slot 1 leads at every cell by one unit in the last place, and still loses pixels: their
    # enlarged values round to the same number.
    generator = np.random.default_rng(5)
    slot0 = generator.random((1, 8, 8), dtype=np.float32)
    scores = np.concatenate([slot0, np.nextafter(slot0, np.float32(2))])
    got = check(scores, (61, 67))
    assert 0 < got.counts[0] < 61 * 67


def test_equal_slots_go_to_the_lowest() -> None:
    scores = np.repeat(smooth_scores(1, (6, 9)), 5, axis=0)
    assert (run(scores, (50, 70)).ids == 0).all()


def test_saturated_and_empty_scores() -> None:
    scores = np.zeros((4, 6, 9), np.float32)
    scores[2:, :, 4:] = 1
    got = check(scores, (37, 53))
    assert set(np.unique(got.ids)) == {0, 2}


def test_negative_scores() -> None:
    scores = -smooth_scores(3, (6, 9))
    assert (check(scores, (50, 70)).confidence == 0).all()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_do_not_change_the_result(threads: int) -> None:
    scores = smooth_scores(9, (40, 30))
    scores += np.random.default_rng(2).random(scores.shape, dtype=np.float32) * np.float32(0.05)
    one, many = run(scores, (211, 173)), run(scores, (211, 173), threads=threads)
    np.testing.assert_array_equal(one.ids, many.ids)
    np.testing.assert_array_equal(one.confidence, many.confidence)
    np.testing.assert_array_equal(one.counts, many.counts)


def test_thresholds_make_unlabelled_pixels() -> None:
    scores = smooth_scores(4, (20, 20))
    thresholds = np.array([0.9, 0.0, 0.5, np.inf], np.float32)
    got = check(scores, (77, 91), thresholds=thresholds)
    assert got.counts[-1] == (got.ids == 255).sum() > 0
    assert 3 not in got.ids


def test_a_score_equal_to_its_threshold_is_labelled() -> None:
    scores = np.full((1, 2, 2), 0.5, np.float32)
    assert (run(scores, (2, 2), thresholds=np.array([0.5], np.float32)).ids == 0).all()


def test_synonyms_share_an_id_and_negatives_have_none() -> None:
    scores = smooth_scores(6, (20, 20))
    slot_ids = np.array([0, 0, 1, NONE16, 2, NONE16], np.uint16)
    got = check(scores, (77, 91), slot_ids=slot_ids, classes=3)
    assert got.counts[-1] > 0
    assert int(got.counts.sum()) == 77 * 91


def test_300_classes_use_uint16() -> None:
    scores = np.random.default_rng(3).random((300, 9, 11), dtype=np.float32)
    thresholds = np.full(300, 0.97, np.float32)
    got = check(scores, (41, 43), thresholds=thresholds, threads=2)
    assert got.ids.dtype == np.uint16
    assert got.ids[got.ids != NONE16].max() > 255
    assert (got.ids == NONE16).any()


def test_254_classes_fit_uint8() -> None:
    scores = np.random.default_rng(3).random((254, 12, 12), dtype=np.float32)
    assert check(scores, (41, 43)).ids.max() > 250


def test_same_labels_as_torch() -> None:
    torch = pytest.importorskip("torch")
    scores = smooth_scores(30, (40, 40))
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(scores)[None], size=(270, 480), mode="bilinear", align_corners=False
    )[0].numpy()
    # Its kernels differ by a rounding between processors; only pixels decided by more count.
    second, first = np.sort(enlarged, axis=0)[-2:]
    decided = first - second > 1e-6
    assert decided.mean() > 0.999
    np.testing.assert_array_equal(
        run(scores, (270, 480)).ids[decided], enlarged.argmax(axis=0)[decided]
    )


@pytest.mark.parametrize(
    ("value", "name"), [(np.nan, "NaN"), (np.inf, "an infinity"), (-np.inf, "an infinity")]
)
@pytest.mark.parametrize("position", [(0, 0, 0), (2, 3, 18), (1, 5, 7)])
def test_not_finite_scores_are_refused(
    value: float, name: str, position: tuple[int, int, int]
) -> None:
    scores = smooth_scores(3, (6, 19))
    scores[position] = value
    where = "slot {} has {} at row {}, column {}".format(position[0], name, *position[1:])
    for size_hw in [(40, 40), (2, 2)]:
        with pytest.raises(ValueError, match=where):
            run(scores, size_hw, threads=2)


def arguments() -> dict[str, Any]:
    return {
        "scores": smooth_scores(3, (4, 6)),
        "thresholds": np.zeros(3, np.float32),
        "slot_ids": np.arange(3, dtype=np.uint16),
        "ids": np.zeros((8, 12), np.uint8),
        "confidence": np.zeros((8, 12), np.uint8),
        "counts": np.zeros(4, np.uint64),
        "threads": 1,
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scores", np.zeros((3, 4, 6), np.float64), "scores has dtype float64, but float32"),
        ("scores", np.zeros((3, 4, 6), np.uint8), "scores has dtype uint8, but float32"),
        ("scores", np.zeros((4, 6), np.float32), r"scores has shape \[4, 6\], but 3 dimensions"),
        ("scores", np.zeros((3, 0, 6), np.float32), "scores has shape .* between 1 and"),
        ("scores", np.zeros((3, 4, 12), np.float32)[..., ::2], "scores is not C-contiguous"),
        ("scores", np.zeros((6, 4, 3), np.float32).T, "scores is not C-contiguous"),
        ("thresholds", np.zeros(3), "thresholds has dtype float64, but float32"),
        ("thresholds", np.zeros(2, np.float32), r"thresholds has shape \[2\], but scores needs 3"),
        ("thresholds", np.array([0, np.nan, 0], np.float32), "slot 1 has NaN"),
        ("slot_ids", np.zeros(3, np.int64), "slot_ids has dtype int64, but uint16"),
        ("slot_ids", np.zeros(4, np.uint16), r"slot_ids has shape \[4\], but scores needs 3"),
        ("slot_ids", np.array([0, 1, 255], np.uint16), "slot 2 has class id 255.*as uint16"),
        ("slot_ids", np.array([0, 3, 1], np.uint16), "slot 1 has class id 3.*at least 5"),
        ("ids", np.zeros((8, 12), np.int32), "ids has dtype int32, but uint8"),
        ("ids", np.zeros((8, 24), np.uint8)[:, ::2], "ids is not C-contiguous"),
        ("ids", np.zeros((8, 0), np.uint8), "ids has shape .* between 1 and"),
        ("confidence", np.zeros((8, 12), np.float32), "confidence has dtype float32, but uint8"),
        ("confidence", np.zeros((8, 13), np.uint8), "confidence has shape .* needs 12 on axis 1"),
        ("confidence", np.zeros((9, 12), np.uint8), "confidence has shape .* needs 8 on axis 0"),
        ("counts", np.zeros(4, np.int64), "counts has dtype int64, but uint64"),
        ("counts", np.zeros((4, 1), np.uint64), "counts has shape .* 1 dimensions"),
        ("threads", 0, "threads is 0, but at least 1"),
    ],
)
def test_misfitting_arguments_are_refused(name: str, value: Any, message: str) -> None:
    _native.label_map(**arguments())
    with pytest.raises(ValueError, match=message):
        _native.label_map(**{**arguments(), name: value})


def test_read_only_outputs_are_refused() -> None:
    ids = np.zeros((8, 12), np.uint8)
    ids.flags.writeable = False
    with pytest.raises(TypeError):
        _native.label_map(**{**arguments(), "ids": ids})


def test_read_only_inputs_are_accepted() -> None:
    scores = smooth_scores(3, (4, 6))
    scores.flags.writeable = False
    _native.label_map(**{**arguments(), "scores": scores})
