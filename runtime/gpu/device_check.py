"""The parity gate on the device: an engine labels the same frames as ONNX Runtime before it is used.

An engine that was built without a complaint may still compute something else: known cases are in
`flavours.KNOWN_BAD`, and new ones come with every version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.engines.agreement import label_agreement
from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.engines.tensors import Infer, Tensors
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.runtime.slots import Rows
from dedos_deploy.spec import MIN_AGREEMENT, SLOT_BUCKETS, GraphSpec

FEW_WORDS = 3
FRAME_HW = (480, 640)


@dataclass(frozen=True)
class DeviceCheck:
    """What the gate saw: part of pixels with the same label in the worst case, the least that is
    allowed, largest difference of scores, whether all were numbers, and the worst case's name."""

    agreement: float
    min_agreement: float
    max_abs: float
    finite: bool
    worst: str

    @property
    def passed(self) -> bool:
        return self.finite and self.agreement >= self.min_agreement

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        if not self.finite:
            return f"it gives NaN or infinite scores ({self.worst})"
        return (
            f"{self.agreement:.2%} of pixels get the label of ONNX Runtime, {self.min_agreement:.0%} "
            f"are needed ({self.worst})"
        )


def check_on_device(
    engine: Engine,
    reference: Infer,
    base: Rows,
    *,
    precision: str,
    frames: Sequence[Any] | None = None,
) -> DeviceCheck:
    """Compare an engine with `reference`, ONNX Runtime on the same graph.

    base: rows of the base vocabulary, float32 [N, D]; frames: uint8 [H, W, 3], None for scenes of
    this package. Every slot bucket that the vocabulary fills is run, a few words, and all.
    """
    pictures = _scenes() if frames is None else list(frames)
    lowest, worst, largest, finite = 1.0, "no case", 0.0, True
    for rows in _vocabularies(base):
        for index, batch in enumerate(_batches(pictures, engine.spec)):
            inputs: Tensors = {
                "image": batch,
                "text": rows,
                "valid": np.ones(len(rows), np.float32),
            }
            actual = engine.infer(inputs)["scores"].astype(np.float32)
            expected = reference(inputs)["scores"].astype(np.float32)
            for row, (mine, theirs) in enumerate(zip(actual, expected, strict=True)):
                case = f"K={len(rows)}, frame {index}, image {row} of the batch"
                finite = finite and bool(np.isfinite(mine).all())
                agreement = label_agreement(theirs, mine, FRAME_HW)
                difference = np.nan_to_num(np.abs(mine - theirs), nan=np.inf, posinf=np.inf)
                largest = max(largest, float(difference.max()))
                if agreement < lowest:
                    lowest, worst = agreement, case
    return DeviceCheck(lowest, MIN_AGREEMENT[precision], largest, finite, worst)


def _vocabularies(base: Rows) -> list[Rows]:
    """Return row sets that touch every bucket the base vocabulary is long enough for."""
    sizes = {min(FEW_WORDS, len(base))}
    sizes |= {bucket for bucket in SLOT_BUCKETS if bucket <= len(base)}
    sizes.add(min(len(base), SLOT_BUCKETS[-1]))
    return [np.ascontiguousarray(base[:size]) for size in sorted(sizes) if size]


def _batches(pictures: Sequence[NDArray[np.uint8]], spec: GraphSpec) -> list[NDArray[np.uint8]]:
    """Return as many batches as there are pictures, each a turn of all of them."""
    small = np.empty((len(pictures), spec.height, spec.width, 3), np.uint8)
    for picture, out in zip(pictures, small, strict=True):
        resize_frame(picture, out)
    turns = [
        [(first + row) % len(small) for row in range(spec.batch)] for first in range(len(small))
    ]
    return [np.ascontiguousarray(small[turn]) for turn in turns]


def _scenes() -> list[NDArray[np.uint8]]:
    from dedos_deploy.scenes import KINDS, render_image

    return [render_image(kind, seed=11, size_hw=FRAME_HW)[0] for kind in KINDS]
