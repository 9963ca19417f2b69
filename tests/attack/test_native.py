"""What a hostile caller hands to the native operations: lengths, layouts, shared memory, threads."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy import _native
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.runtime.engines.onnx_runtime import session_options
from dedos_deploy.threads import usable_cores, usable_threads

Array = NDArray[Any]
NONE16 = 65535
FUZZ_CALLS = 4000


def label_arguments(wide: bool = False, cells: int = 4) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "scores": generator.random((3, 4, 6), np.float32),
        "thresholds": np.full(3, 0.6, np.float32),
        "slot_ids": np.arange(3, dtype=np.uint16),
        "ids": np.zeros((17, 23), np.uint16 if wide else np.uint8),
        "confidence": np.zeros((17, 23), np.uint8),
        "counts": np.full(cells, 99, np.uint64),
        "threads": 2,
    }


def confusion_arguments() -> dict[str, Any]:
    return {
        "labels": np.ones((4, 6), np.int32),
        "predictions": np.ones((4, 6), np.uint16),
        "matrix": np.zeros((2, 3), np.int64),
        "ignore": 255,
        "unlabelled": 65535,
    }


def majority_arguments() -> dict[str, Any]:
    return {"ids": np.ones((17, 23), np.uint16), "out": np.zeros((5, 6), np.uint16)}


def curves_arguments() -> dict[str, Any]:
    return {
        "ids": np.ones((17, 23), np.uint16),
        "curves": np.zeros((3, 256), np.uint8),
        "confidence": np.zeros((17, 23), np.uint8),
    }


def connect_arguments() -> dict[str, Any]:
    return {"ids": np.ones((17, 23), np.uint16)}


def outline_arguments() -> dict[str, Any]:
    return {**connect_arguments(), "wanted": np.ones(2, np.uint8), "min_area": 1}


def stable_arguments() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "scores": generator.random((3, 4, 6), np.float32),
        "grey": np.zeros((9, 11), np.uint8),
        "past_grey": np.zeros((9, 11), np.uint8),
        "flow": np.zeros((9, 11, 2), np.float32),
        "past": np.zeros((4, 6, 8), np.float32),
        "smoothed": np.zeros((3, 4, 6), np.float32),
        "next": np.zeros((4, 6, 8), np.float32),
    }


def pixel_arguments() -> dict[str, Any]:
    return {
        "scores": np.random.default_rng(0).random((3, 4, 6), np.float32),
        "pixels": np.array([[0, 0], [16, 22], [7, 5]], np.int32),
        "height": 17,
        "width": 23,
        "out": np.zeros((3, 3), np.float32),
    }


def blend_arguments() -> dict[str, Any]:
    return {
        "scores": np.random.default_rng(0).random((3, 4, 6), np.float32),
        "rows": np.linspace(0, 3, 9),
        "columns": np.linspace(0, 5, 11),
        "down": np.ones(9, np.float32),
        "across": np.ones(11, np.float32),
        "blended": np.zeros((3, 9, 11), np.float32),
        "threads": 2,
    }


OPERATIONS = {
    "label_map": (_native.label_map, label_arguments, ("ids", "confidence", "counts")),
    "confusion": (_native.confusion, confusion_arguments, ("matrix",)),
    "majority": (_native.majority, majority_arguments, ("out",)),
    "read_curves": (_native.read_curves, curves_arguments, ("confidence",)),
    "connect": (_native.connect, connect_arguments, ()),
    "outline": (_native.outline, outline_arguments, ()),
    "pixel_scores": (_native.pixel_scores, pixel_arguments, ("out",)),
    "blend_window": (_native.blend_window, blend_arguments, ("blended",)),
    "stabilise": (_native.stabilise, stable_arguments, ("smoothed", "next")),
}
ARRAYS = [
    (operation, name)
    for operation, (_, arguments, _) in OPERATIONS.items()
    for name, value in arguments().items()
    if isinstance(value, np.ndarray)
]


def refused(operation: str, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    """Check that a call is refused with one sentence, and writes nothing."""
    call, arguments, outputs = OPERATIONS[operation]
    given = {**arguments(), **changes}
    before = {name: np.array(given[name], copy=True) for name in outputs if name not in changes}
    with pytest.raises(error, match=message) as caught:
        call(**given)
    assert len(str(caught.value).splitlines()) == 1
    for name, value in before.items():
        np.testing.assert_array_equal(given[name], value)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("cells", [4, 255, 256, 257, 258, 300, 4097, 65535, 65536, 65537, 70001])
def test_counts_of_any_length_are_exact(cells: int, wide: bool) -> None:
    given = label_arguments(wide, cells)
    _native.label_map(**given)
    none = 65535 if wide else 255
    cell_of = np.where(given["ids"] == none, cells - 1, given["ids"].astype(np.int64))
    expected = np.bincount(cell_of.ravel(), minlength=cells)
    np.testing.assert_array_equal(given["counts"], expected)
    assert expected[-1] > 0 and expected[:3].all()


def unaligned(array: Array) -> Array:
    """Return a copy of `array` that begins at an odd address."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    start = 1 - memory.ctypes.data % 2
    view = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize(("operation", "name"), ARRAYS)
def test_unaligned_arrays_are_refused(operation: str, name: str) -> None:
    array = OPERATIONS[operation][1]()[name]
    if array.dtype.itemsize == 1:
        OPERATIONS[operation][0](**{**OPERATIONS[operation][1](), name: unaligned(array)})
        return
    assert not unaligned(array).flags.aligned
    multiple = f"{name} begins at an address that no multiple of {array.dtype.alignment} bytes"
    refused(operation, {name: unaligned(array)}, ValueError, multiple)


@pytest.mark.parametrize(("operation", "name"), ARRAYS)
@pytest.mark.parametrize(
    ("what", "message"),
    [
        (None, "no array"),
        ("text", "no array"),
        ([1, 2], "no array"),
        (np.zeros((2, 3), ">f4"), "byte order"),
        (np.zeros((2, 3), object), "plain numbers"),
        (np.zeros((2, 3), "M8[s]"), "plain numbers"),
        (np.zeros((2, 3), [("a", "f4")]), "plain numbers"),
    ],
    ids=["none", "text", "list", "swapped", "objects", "dates", "records"],
)
def test_what_is_no_array_of_numbers_is_refused(
    operation: str, name: str, what: Any, message: str
) -> None:
    refused(operation, {name: what}, TypeError, f"^{name} is .*{message}")


@pytest.mark.parametrize(
    ("operation", "name"), [pair for pair in ARRAYS if pair[1] in OPERATIONS[pair[0]][2]]
)
def test_results_go_to_memory_of_their_own(operation: str, name: str) -> None:
    """An output that is read-only, or is also another argument: all pairs."""
    given = OPERATIONS[operation][1]()
    locked = given[name].copy()
    locked.flags.writeable = False
    refused(operation, {name: locked}, TypeError, f"^{name} is read-only.* make it writable")
    others = {other for kind, other in ARRAYS if kind == operation and other != name}
    for other in others:
        memory = np.zeros(given[name].nbytes + given[other].nbytes, np.uint8)
        shared = {}
        for which, start in ((name, 0), (other, given[name].nbytes // 16 * 8)):
            view = memory[start : start + given[which].nbytes].view(given[which].dtype)
            shared[which] = view.reshape(given[which].shape)
        refused(operation, shared, ValueError, "shares memory with .*memory of its own")


@pytest.mark.parametrize("value", [None, "1", 1.5, 2**63, -(2**63) - 1, 10**30])
@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("label_map", "threads"),
        ("blend_window", "threads"),
        ("confusion", "ignore"),
        ("confusion", "unlabelled"),
        ("outline", "min_area"),
    ],
)
def test_what_is_no_number_is_refused(operation: str, name: str, value: Any) -> None:
    refused(operation, {name: value}, TypeError, f"^{name} must be a whole number of 64 bits$")


@pytest.mark.parametrize("threads", [0, -1, -(2**31), -(2**63)])
def test_no_threads_are_refused(threads: int) -> None:
    for operation in ("label_map", "blend_window"):
        refused(
            operation, {"threads": threads}, ValueError, f"threads is {threads}, but at least 1"
        )


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of threads")
@pytest.mark.parametrize("threads", [20_000, 2**31, 2**63 - 1])
def test_no_more_threads_than_cores(threads: int) -> None:
    given = label_arguments()
    given["scores"] = np.random.default_rng(0).random((3, 3000, 8), np.float32)
    given["ids"] = np.zeros((3000, 64), np.uint8)
    given["confidence"] = np.zeros((3000, 64), np.uint8)
    seen = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen[0] = max(seen[0], len(os.listdir("/proc/self/task")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = len(os.listdir("/proc/self/task"))
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        _native.label_map(**{**given, "threads": threads})
    done.set()
    watcher.join()
    assert seen[0] < before + usable_cores()


def test_engines_start_no_more_threads_than_cores() -> None:
    assert session_options(20_000).intra_op_num_threads == usable_cores()
    assert usable_threads(None) == usable_cores()
    assert usable_threads(1) == 1
    with pytest.raises(BadInputError, match="threads must be at least 1, not -3; leave it out"):
        usable_threads(-3)


def test_a_full_matrix_takes_no_more() -> None:
    full = np.array([[0, 0, 0], [0, 2**63 - 24, 0]], np.int64)
    refused("confusion", {"matrix": full}, ValueError, "matrix holds 9223372036854775784, which")
    assert full[1, 1] == 2**63 - 24
    full[1, 1] -= 1
    _native.confusion(**{**confusion_arguments(), "matrix": full})
    assert full[1, 1] == 2**63 - 1


def test_a_confusion_takes_maps_from_anywhere() -> None:
    """The public class copies what the native operation refuses, or says what is wrong."""
    confusion = Confusion(2)
    labels = np.ones((4, 6), np.int32)
    confusion.add(unaligned(labels), unaligned(np.ones((4, 6), np.uint16))[::-1])
    assert confusion.matrix[1, 1] == 24
    with pytest.raises(BadInputError, match="labels is an array that cannot be used here"):
        confusion.add(labels.astype(">i4"), np.ones((4, 6), np.uint8))
    assert confusion.matrix.sum() == 24


class Fuzz:
    """Calls with arguments that fit, of which some are then replaced by others that may not."""

    TYPES = (
        "f4",
        "f8",
        "f2",
        "u1",
        "i1",
        "u2",
        "i2",
        "i4",
        "u4",
        "i8",
        "u8",
        "?",
        "c8",
        ">f4",
        "O",
    )
    SIZES = (0, 1, 2, 7, 8, 9, 15, 16, 17, 33, 65)

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.outcomes: Counter[str] = Counter()

    def pick(self, *choices: Any) -> Any:
        return choices[self.random.integers(len(choices))]

    def size(self) -> int:
        return max(1, self.pick(*self.SIZES))

    def twisted(self, array: Array) -> Any:
        """Return what `array` becomes under one of the things that callers do to arrays."""
        locked = array.copy()
        locked.flags.writeable = False
        ways = (
            lambda: array[::-1],
            lambda: array[..., ::2],
            lambda: np.asfortranarray(array),
            lambda: array.T,
            lambda: np.broadcast_to(array, (3, *array.shape)),
            lambda: np.broadcast_to(array.flat[:1], array.shape),
            lambda: locked,
            lambda: array[None],
            lambda: array.ravel(),
            lambda: array[:0],
            lambda: unaligned(array),
            lambda: memoryview(array),
            lambda: array.tolist(),
            lambda: None,
            lambda: array.astype(self.pick(*self.TYPES)),
            lambda: np.zeros([self.pick(*self.SIZES) for _ in range(array.ndim)], array.dtype),
        )
        return self.pick(*ways)()

    def label_arguments(self) -> list[Any]:
        random, slots = self.random, self.size()
        scores = random.random((slots, self.size(), self.size()), np.float32)
        if random.random() < 0.3:
            scores = self.pick(np.round(scores * 4) / np.float32(4), scores * np.float32(3e38))
        if random.random() < 0.1:
            scores.flat[random.integers(scores.size)] = self.pick(np.nan, np.inf, -np.inf)
        slot_ids = random.integers(0, self.pick(1, 3, slots, 254, 255, 300), slots).astype("u2")
        slot_ids[random.random(slots) < 0.2] = NONE16
        thresholds = random.random(slots, np.float32)
        thresholds[0] = self.pick(0, 1, np.nan, np.inf, -np.inf) if random.random() < 0.1 else 0
        size_hw = self.size(), self.size()
        cells = int(slot_ids.max(initial=0, where=slot_ids < NONE16)) + 2
        return [
            scores,
            thresholds,
            slot_ids,
            np.zeros(size_hw, self.pick("u1", "u2")),
            np.zeros(size_hw, "u1"),
            np.zeros(self.pick(cells, cells + 300, 1, 300, 70000), "u8"),
            self.pick(1, 2, 3, 64, 0, -1, 2**31, 2**63, None),
        ]

    def confusion_arguments(self) -> list[Any]:
        classes, size_hw = self.pick(1, 2, 21, 150, 255, 300), (self.size(), self.size())
        most = self.pick(classes, classes + 1, 2)
        labels = self.random.integers(0, most, size_hw).astype(self.pick("u1", "u2", "i4"))
        if labels.dtype == np.int32 and self.random.random() < 0.3:
            labels.flat[0] = self.pick(-1, -(2**31), 2**31 - 1)
        predictions = self.random.integers(0, most, size_hw).astype(self.pick("u1", "u2"))
        matrix = np.full((classes, classes + 1), self.pick(0, 0, 0, 2**63 - 1), "i8")
        other = (255, -1, 0, classes, 65535, -(2**63), 2**63 - 1, 2**63, 1.0)
        return [labels, predictions, matrix, self.pick(*other), self.pick(*other)]

    def call(self) -> None:
        call, arguments = self.pick(
            (_native.label_map, self.label_arguments), (_native.confusion, self.confusion_arguments)
        )
        given = arguments()
        arrays = [i for i, value in enumerate(given) if isinstance(value, np.ndarray)]
        if self.random.random() < 0.5:
            which = self.pick(*arrays)
            given[which] = self.twisted(given[which])
        if self.random.random() < 0.05:
            given[arrays[-1]] = given[self.pick(*arrays)]
        try:
            call(*given)
        except (TypeError, ValueError, IndexError) as error:
            assert len(str(error).splitlines()) == 1, str(error)
            self.outcomes[type(error).__name__] += 1
            return
        self.outcomes["done"] += 1
        if call is _native.label_map:
            assert np.sum(given[5]) == np.asarray(given[3]).size


@pytest.mark.parametrize("seed", range(2))
def test_calls_with_anything_end_in_a_result_or_a_sentence(seed: int) -> None:
    fuzz = Fuzz(seed)
    for _ in range(FUZZ_CALLS // 2):
        fuzz.call()
    assert all(fuzz.outcomes[kind] > 50 for kind in ("done", "TypeError", "ValueError")), fuzz
