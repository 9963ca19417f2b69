"""Arguments of the native module: shapes, types, layouts and values that fit, and those that do not."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuzzing.subject import Limits, Misbehaved, Subject

Array = NDArray[Any]

_SIDES = (1, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65)
_TYPES = (
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
    ">u2",
    "O",
    "S4",
    "M8[s]",
)
_FLOATS = (float("nan"), float("inf"), float("-inf"), 3e38, -3e38, -0.0, 1e-45, 0.5)
_THREADS = (1, 1, 1, 2, 3, 8, 64, 20_000, 0, -1, 2**31 - 1, 2**31, -(2**31), 2**63, None, 1.5, True)
_IDS = (255, 254, -1, 0, 65_535, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**63, None, 1.0)
_NONE16 = 65_535
_PROTECT_NONE = 0
OUTPUTS = {"label_map": ("ids", "confidence", "counts"), "confusion": ("matrix",)}


@dataclass
class Call:
    """function: of the module; arguments: by name, in its order; fits: they are as the stub says,
    so that a result must come, and be right."""

    function: str
    arguments: dict[str, Any]
    fits: bool = True


class NativeCalls(Subject):
    """`label_map` and `confusion`; inputs end where memory that cannot be touched begins."""

    name = "native"
    preload = ("dedos_deploy._native",)
    limits = Limits(memory_mb=512)
    allowed = (TypeError, ValueError, IndexError)

    def open(self, seeds: Path) -> None:
        """Nothing is read."""

    def whole(self, folder: Path) -> Iterator[Call]:
        for seed in range(20):
            random = Random(seed)
            yield label_map_call(random, most_cells=1)
            yield confusion_call(random)

    def make(self, random: Random, folder: Path) -> Call:
        call = random.choice((label_map_call, confusion_call))(random)
        if random.random() < 0.6:
            for _ in range(random.choice((1, 1, 2))):
                spoil(call, random)
        if random.random() < 0.5:
            guard(call)
        return call

    def attempt(self, made: Call) -> None:
        before = {
            name: value.copy()
            for name, value in made.arguments.items()
            if isinstance(value, np.ndarray)
        }
        if made.function == "label_map":
            _label_map(made, before)
        else:
            _confusion(made, before)

    def keep(self, made: Call, folder: Path) -> None:
        lines = [made.function]
        for name, value in made.arguments.items():
            if isinstance(value, np.ndarray):
                flags = f"strides {value.strides}, aligned {value.flags.aligned}"
                lines.append(f"{name}: {value.dtype} {value.shape}, {flags}")
                if value.dtype.kind != "O":
                    np.save(folder / f"{name}.npy", value)
            else:
                lines.append(f"{name}: {value!r}")
        (folder / "call.txt").write_text("\n".join(lines) + "\n")


def label_map_call(random: Random, *, most_cells: int = 70_000) -> Call:
    """Return a call of `label_map` whose arguments fit; most_cells: that `counts` has more than classes."""
    values = np.random.default_rng(random.getrandbits(64))
    slots = random.choice((*_SIDES, 300))
    rows, columns = random.choice(_SIDES), random.choice(_SIDES)
    height, width = random.choice(
        (
            (rows, columns),
            (4 * rows, 4 * columns),
            (1, 1),
            (4 * rows + 3, 4 * columns + 1),
            (random.randint(1, 90), random.randint(1, 90)),
        )
    )
    wide = random.random() < 0.4
    classes = random.choice((1, 2, 254)) if not wide else random.choice((1, 255, 300, 65_534))
    slot_ids = values.integers(0, classes, slots).astype(np.uint16)
    slot_ids[values.random(slots) < random.choice((0.0, 0.3))] = _NONE16
    scores = values.random((slots, rows, columns), dtype=np.float32)
    if random.random() < 0.3:
        scores = np.round(scores * 4) / np.float32(4)
    return Call(
        "label_map",
        {
            "scores": scores,
            "thresholds": values.random(slots, dtype=np.float32)
            * np.float32(random.choice((0, 1))),
            "slot_ids": slot_ids,
            "ids": np.full((height, width), 99, np.uint16 if wide else np.uint8),
            "confidence": np.full((height, width), 99, np.uint8),
            "counts": np.full(
                classes + random.choice((1, 1, min(50, most_cells), most_cells)), 99, np.uint64
            ),
            "threads": random.choice((1, 1, 2, 3, 8)),
        },
    )


def confusion_call(random: Random) -> Call:
    """Return a call of `confusion` whose arguments fit."""
    values = np.random.default_rng(random.getrandbits(64))
    size_hw = random.choice(_SIDES), random.choice(_SIDES)
    classes = random.choice((1, 2, 3, 21, 150, 254, 300, 1000))
    label_type = random.choice(("u1", "u2", "i4") if classes <= 254 else ("u2", "i4"))
    prediction_type = random.choice(("u1", "u2") if classes <= 254 else ("u2",))
    labels = values.integers(0, classes, size_hw).astype(label_type)
    predictions = values.integers(0, classes, size_hw).astype(prediction_type)
    ignore, unlabelled = (255, 255) if classes <= 254 else (_NONE16, _NONE16)
    labels[values.random(size_hw) < 0.1] = ignore
    predictions[values.random(size_hw) < 0.1] = unlabelled
    matrix = np.full((classes, classes + 1), 7, np.int64)
    return Call(
        "confusion",
        {
            "labels": labels,
            "predictions": predictions,
            "matrix": matrix,
            "ignore": ignore,
            "unlabelled": unlabelled,
        },
    )


def spoil(call: Call, random: Random) -> None:
    """Change one argument to something that may not fit; the result is then not looked at."""
    call.fits = False
    name = random.choice(sorted(call.arguments))
    value = call.arguments[name]
    if name == "threads":
        call.arguments[name] = random.choice(_THREADS)
    elif not isinstance(value, np.ndarray):
        call.arguments[name] = random.choice(_IDS)
    else:
        kind = random.choice(("layout", "layout", "type", "shape", "value", "value", "same"))
        if kind == "layout":
            call.arguments[name] = other_layout(value, random)
        elif kind == "type":
            call.arguments[name] = np.zeros(value.shape, random.choice(_TYPES))
        elif kind == "shape":
            shape = [random.choice((0, *_SIDES)) for _ in range(random.randint(0, 4))]
            call.arguments[name] = np.zeros(shape, value.dtype)
        elif kind == "value":
            _put_value(value, random)
        else:
            _share_memory(call, random)


def other_layout(value: Array, random: Random) -> Any:
    """Return the same numbers in another layout, or something that is no array any more."""
    if value.dtype.kind not in "fiu":
        return random.choice((value.tolist(), None))
    spread = np.lib.stride_tricks.as_strided(value, value.shape, (0,) * value.ndim)
    return (
        random.choice(
            (
                value[::-1],
                value[..., ::2],
                np.asfortranarray(value),
                value.T,
                value[None],
                value[:0],
                value.ravel(),
                np.broadcast_to(value, (3, *value.shape)),
                spread,
                _frozen(value),
                _unaligned(value),
                value.tolist(),
                memoryview(value),
                None,
            )
        )
        if value.ndim
        else value[None]
    )


def _frozen(value: Array) -> Array:
    copy = value.copy()
    copy.flags.writeable = False
    return copy


def _unaligned(value: Array) -> Array:
    memory = np.zeros(value.nbytes + 1, np.uint8)
    copy = memory[1:].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def _put_value(value: Array, random: Random) -> None:
    if value.size == 0 or value.dtype.kind not in "fiu" or not value.flags.writeable:
        return
    at = random.randrange(value.size)
    if value.dtype.kind == "f":
        value.flat[at] = random.choice(_FLOATS)
    else:
        limits = np.iinfo(value.dtype)
        value.flat[at] = random.choice((0, limits.min, limits.max, limits.max - 1, limits.max // 2))


def _share_memory(call: Call, random: Random) -> None:
    """Let an output be the same memory as another argument."""
    name = random.choice(OUTPUTS[call.function])
    value = call.arguments[name]
    if not _is_plain(value):
        return
    for other, array in call.arguments.items():
        if other != name and _is_plain(array) and array.nbytes >= value.nbytes:
            content = array.reshape(-1).view(np.uint8)[: value.nbytes]
            call.arguments[name] = content.view(value.dtype).reshape(value.shape)
            return


def _is_plain(value: Any) -> bool:
    """Return whether it is an array of numbers in one piece."""
    is_array = isinstance(value, np.ndarray) and value.size > 0
    return is_array and value.flags.c_contiguous and value.dtype.kind in "fiu"


def guard(call: Call) -> None:
    """Move plain arrays to where the next byte after their end cannot be touched."""
    for name, value in call.arguments.items():
        if _is_plain(value) and value.base is None:
            call.arguments[name] = guarded(value)


def guarded(value: Array) -> Array:
    """Return a copy of an array that ends at a page without access."""
    page = mmap.PAGESIZE
    room = -(-value.nbytes // page) * page
    memory = mmap.mmap(-1, room + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None, use_errno=True).mprotect(
        ctypes.c_void_p(address + room), ctypes.c_size_t(page), _PROTECT_NONE
    ):
        raise OSError(ctypes.get_errno(), "mprotect")
    placed = np.frombuffer(memory, value.dtype, value.size, room - value.nbytes)
    placed[:] = value.reshape(-1)
    return placed.reshape(value.shape)


def _label_map(made: Call, before: dict[str, Array]) -> None:
    from dedos_deploy import _native

    _native.label_map(*made.arguments.values())
    problem = _wrong_labels(made.arguments, before) if made.fits else None
    if problem is not None:
        raise Misbehaved("result", problem)


def _confusion(made: Call, before: dict[str, Array]) -> None:
    from dedos_deploy import _native

    try:
        _native.confusion(*made.arguments.values())
    except IndexError:
        matrix = before.get("matrix")
        if matrix is not None and not np.array_equal(made.arguments["matrix"], matrix):
            raise Misbehaved("result", "a refused pixel changed the matrix") from None
        raise
    problem = _wrong_matrix(made.arguments, before) if made.fits else None
    if problem is not None:
        raise Misbehaved("result", problem)


def _wrong_labels(arguments: dict[str, Any], before: dict[str, Array]) -> str | None:
    """Say what is wrong with a label map, or None: counts, ids, and labels where sizes agree."""
    ids, counts = arguments["ids"], arguments["counts"]
    unlabelled = np.iinfo(ids.dtype).max
    cells = np.where(ids == unlabelled, len(counts) - 1, ids.astype(np.int64)).ravel()
    if not np.isin(ids, [*before["slot_ids"], unlabelled]).all():
        return "a label is none of the slots' ids"
    if not np.array_equal(counts, np.bincount(cells, minlength=len(counts))):
        return "counts are not those of the labels"
    scores = before["scores"]
    if scores.shape[1:] != ids.shape:
        return None
    slot, winning = scores.argmax(axis=0), scores.max(axis=0)
    expected = np.where(winning < before["thresholds"][slot], _NONE16, before["slot_ids"][slot])
    expected = np.where(expected == _NONE16, unlabelled, expected)
    return None if np.array_equal(ids, expected) else "labels are not those of the highest scores"


def _wrong_matrix(arguments: dict[str, Any], before: dict[str, Array]) -> str | None:
    """Say what is wrong with a confusion matrix, or None."""
    matrix = arguments["matrix"]
    known = before["labels"] != arguments["ignore"]
    columns = before["predictions"][known].astype(np.int64)
    columns[columns == arguments["unlabelled"]] = matrix.shape[0]
    cells = before["labels"][known].astype(np.int64) * matrix.shape[1] + columns
    added = np.bincount(cells, minlength=matrix.size).reshape(matrix.shape)
    return None if np.array_equal(matrix, before["matrix"] + added) else "pixels are not counted"
