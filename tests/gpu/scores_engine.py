"""Scores given by hand where an engine would put its own; benchmarks/first_run_on_gpu.py has them, too."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.slots import SlotTable
from dedos_deploy.spec import GraphSpec


class ScoresEngine:
    """Not a network: it puts given scores where the engine would, on the device and on the host."""

    def __init__(self, cuda: Cuda, scores: NDArray[Any], image_hw: tuple[int, int]) -> None:
        kind = "float16" if scores.dtype == np.float16 else "float32"
        self.cuda, self.values = cuda, scores
        self.spec = GraphSpec(*image_hw, text_width=4, score_dtype=kind)  # type: ignore[arg-type]
        self.stream = cuda.stream()
        self.image = cuda.allocate(3 * image_hw[0] * image_hw[1], "an image")
        self.scores = cuda.allocate(scores.nbytes, "scores")
        self.pinned = cuda.pinned(scores.shape, scores.dtype, "scores")
        self.pinned.array[:] = scores
        self.pooled = None
        self.text_of: object = None

    def exclusive(self) -> Any:
        return contextlib.nullcontext()

    def set_text(self, text: Any, valid: Any, owner: object = None) -> int:
        self.stream.synchronize()
        self.text_of = owner
        return 256

    def enqueue(self) -> None:
        self.cuda.upload(self.scores.pointer, self.pinned.array, self.stream)

    def infer(self, inputs: Any) -> dict[str, NDArray[Any]]:
        return {"scores": self.values[None]}

    def close(self) -> None:
        for item in (self.pinned, self.scores, self.image, self.stream):
            item.close()


def some_table(slots: int, names: int) -> SlotTable:
    rng = np.random.default_rng(slots)
    return SlotTable(
        version=1,
        names=tuple(map(str, range(names))),
        class_ids=(0,),
        text=np.zeros((slots, 4), np.float32),
        valid=np.ones(slots, np.float32),
        thresholds=rng.random(slots).astype(np.float32) * 0.6,
        slot_ids=rng.integers(0, names, slots).astype(np.uint16),
        negatives=(),
    )
