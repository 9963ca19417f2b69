"""What tests of frames that are labelled on a fake device have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from fake_tensorrt import reference_scores
from gpu_engines import SPEC, Opened
from numpy.typing import NDArray
from pixel_host import PixelHost

from dedos_deploy.runtime.labelling import HostLabeller, Labelled
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.slots import SlotTable, Thresholds
from dedos_deploy.spec import NONE_UINT16, GraphSpec


def random_table(slots: int, seed: int = 0, names: int = 5) -> SlotTable:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, names, slots).astype(np.uint16)
    ids[rng.random(slots) < 0.1] = NONE_UINT16
    text = rng.normal(size=(slots, SPEC.text_width)).astype(np.float32)
    return SlotTable(
        version=1,
        names=tuple(f"class {index}" for index in range(names)),
        class_ids=(0,),
        text=text / np.linalg.norm(text, axis=1, keepdims=True),
        valid=np.ones(slots, np.float32),
        thresholds=rng.random(slots).astype(np.float32) * 0.5,
        slot_ids=ids,
        negatives=(),
    )


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def host_labels(
    host: PixelHost, frame: NDArray[np.uint8], table: SlotTable, spec: GraphSpec
) -> Labelled:
    """What the host makes of the frame as the device resizes it, which may differ by one level."""
    small = host.resize(frame, (spec.height, spec.width))

    def infer(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        dtype = np.dtype(spec.score_dtype)
        return {"scores": reference_scores(**{**inputs, "image": small[None]}, dtype=dtype)}

    return HostLabeller(replace(spec, batch=1), infer, threads=1).label(frame, table)


def check_same(found: Labelled, wanted: Labelled) -> None:
    np.testing.assert_array_equal(found.label_map, wanted.label_map)
    np.testing.assert_array_equal(found.confidence, wanted.confidence)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    assert found.label_map.dtype == wanted.label_map.dtype


def colour_segmenter(opened: Opened) -> Segmenter:
    rows = np.eye(SPEC.text_width, dtype=np.float32)
    words = {word: rows[index] for index, word in enumerate(("blue", "green", "red", "car"))}

    def encode(asked: Any, **_: object) -> NDArray[np.float32]:
        return np.stack([words[word] for word in asked])

    return Segmenter(opened(), encode, classes="blue,green", thresholds=Thresholds({}, 0.0))
