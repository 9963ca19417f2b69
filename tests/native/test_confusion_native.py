"""The native confusion matrix against numpy, over types, layouts of ids, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from dedos_deploy import _native


def counted(
    labels: np.ndarray, predictions: np.ndarray, classes: int, ignore: int, none: int
) -> np.ndarray:
    known = labels != ignore
    columns = predictions[known].astype(np.int64)
    columns[columns == none] = classes
    cells = labels[known].astype(np.int64) * (classes + 1) + columns
    return np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def maps(classes: int, size: tuple[int, int], run: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two maps whose pixels repeat about `run` times along rows."""
    random = np.random.default_rng(seed)
    pixels = size[0] * size[1]
    found = []
    for _ in range(2):
        starts = random.random(pixels) < 1 / run
        values = random.integers(0, classes, pixels)
        found.append(
            values[np.maximum.accumulate(np.where(starts, np.arange(pixels), 0))].reshape(size)
        )
    return found[0], found[1]


@pytest.mark.parametrize("label_type", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("prediction_type", [np.uint8, np.uint16])
@pytest.mark.parametrize("run", [1, 5, 40, 5000])
def test_equals_numpy(label_type: type, prediction_type: type, run: int) -> None:
    classes = 21
    for seed, size in enumerate([(1, 1), (1, 8), (3, 3), (37, 53), (64, 128)]):
        labels, predictions = maps(classes, size, run, seed)
        random = np.random.default_rng(seed)
        labels = np.where(random.random(size) < 0.1, 255, labels).astype(label_type)
        predictions = np.where(random.random(size) < 0.1, 99, predictions).astype(prediction_type)
        matrix = np.full((classes, classes + 1), 7, np.int64)
        _native.confusion(labels, predictions, matrix, 255, 99)
        np.testing.assert_array_equal(matrix - 7, counted(labels, predictions, classes, 255, 99))


def test_many_classes_and_negative_ids() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 847, (40, 50)).astype(np.int32)
    predictions = random.integers(0, 847, (40, 50)).astype(np.uint16)
    labels[0, 0], labels[0, 1] = -1, 65535
    matrix = np.zeros((847, 848), np.int64)
    with pytest.raises(IndexError, match=r"label id 65535 at row 0, column 1 .* last one is 846"):
        _native.confusion(labels, predictions, matrix, -1, 65535)
    assert not matrix.any()
    labels[0, 1] = -1
    _native.confusion(labels, predictions, matrix, -1, 65535)
    np.testing.assert_array_equal(matrix, counted(labels, predictions, 847, -1, 65535))


@pytest.mark.parametrize("at", [(0, 0), (2, 11), (9, 15), (15, 15)])
def test_a_mistake_is_found_wherever_it_hides_and_nothing_is_counted(at: tuple[int, int]) -> None:
    labels, predictions = np.zeros((2, 16, 16), np.uint8)
    matrix = np.full((3, 4), 5, np.int64)
    labels[at] = 3
    place = f"at row {at[0]}, column {at[1]}"
    with pytest.raises(IndexError, match=f"label id 3 {place} is out of range, the last one is 2"):
        _native.confusion(labels, predictions, matrix, 255, 200)
    labels[at], predictions[at] = 2, 3
    with pytest.raises(IndexError, match=f"prediction id 3 {place} is out of range"):
        _native.confusion(labels, predictions, matrix, 255, 200)
    assert (matrix == 5).all()
    labels[at] = 255  # under an ignored label nobody looks
    _native.confusion(labels, predictions, matrix, 255, 200)
    assert matrix.sum() == 5 * 12 + 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": np.zeros((2, 2), np.int64)},
            "labels has dtype int64, but uint8, uint16 or int32 is",
        ),
        ({"labels": np.zeros((2, 4), np.uint8)[:, ::2]}, "labels is not C-contiguous"),
        (
            {"labels": np.zeros((3, 2), np.uint8)},
            r"predictions has shape \[2, 2\], but labels needs 3",
        ),
        ({"labels": np.zeros(4, np.uint8)}, r"labels has shape \[4\], but 2 dimensions"),
        (
            {"predictions": np.zeros((2, 2), np.float32)},
            "predictions has dtype float32, but uint8 or uint16 is needed",
        ),
        ({"matrix": np.zeros((2, 2), np.int64)}, "matrix has shape .* needs 3 on axis 1"),
        ({"matrix": np.zeros((2, 3), np.int32)}, "matrix has dtype int32, but int64 is needed"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, np.ndarray], message: str) -> None:
    arrays = {
        "labels": np.zeros((2, 2), np.uint8),
        "predictions": np.zeros((2, 2), np.uint8),
        "matrix": np.zeros((2, 3), np.int64),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        _native.confusion(**arrays, ignore=255, unlabelled=254)
