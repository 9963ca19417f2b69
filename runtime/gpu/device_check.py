"""The parity gate on the device: an engine labels the same frames as ONNX Runtime before it is used.

An engine that was built without a complaint may still compute something else: known cases are in
`flavours.KNOWN_BAD`, and new ones come with every version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.pictures import Picture
from dedos_deploy.runtime.engines.agreement import label_agreement, near_agreement
from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.engines.tensors import Infer, Tensors
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.runtime.slots import Rows
from dedos_deploy.spec import MIN_AGREEMENT, SLOT_BUCKETS, GraphSpec, bucket_for

GATE = 2
"""Number of what is compared, raised when it becomes more: an earlier verdict does not count then."""

FEW_WORDS = 3
FRAME_HW = (480, 640)
TIE = 0.02
"""Where no picture was taken of, such as noise, any word is about as good as the next: there a label
counts as the same whose score is less than this below the best. FP16 moves scores by 0.003."""


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


@dataclass(frozen=True, eq=False)
class _Case:
    """One vocabulary and the pictures it is run on."""

    rows: Rows
    words: int
    """How many words the rows are; those after them are the same again, to fill a slot bucket."""

    frames: Sequence[Picture]


@dataclass(frozen=True, eq=False)
class _Batch:
    """What goes into one run."""

    image: NDArray[np.uint8]
    name: str
    is_frame: bool
    """Pictures of something, not made ones."""


def check_on_device(
    engine: Engine,
    reference: Infer,
    base: Rows,
    *,
    precision: str,
    frames: Sequence[Picture] = (),
) -> DeviceCheck:
    """Compare an engine with `reference`, ONNX Runtime on the same graph.

    base: rows of the base vocabulary, float32 [N, D]; frames: those that the exported graph was
    compared on, uint8 [H, W, 3], none for scenes of this package.

    The base vocabulary is run on all frames, a few words and every other slot bucket, filled with
    base words, on one; and each on a smooth and a noisy picture, on which sums and maxima in the graph
    are unlike those of frames.
    """
    lowest, worst, largest, finite = 1.0, "no case", 0.0, True
    for case in _cases(base, list(frames) or _scenes()):
        used = np.ones(len(case.rows), np.float32)
        for batch in _batches(case.frames, engine.spec):
            inputs: Tensors = {"image": batch.image, "text": case.rows, "valid": used}
            actual = engine.infer(inputs)["scores"].astype(np.float32)
            expected = reference(inputs)["scores"].astype(np.float32)
            for row, (mine, theirs) in enumerate(zip(actual, expected, strict=True)):
                finite = finite and bool(np.isfinite(mine).all())
                agreement = _agreement(theirs, mine, case.words, is_frame=batch.is_frame)
                difference = np.nan_to_num(np.abs(mine - theirs), nan=np.inf, posinf=np.inf)
                largest = max(largest, float(difference.max()))
                if agreement < lowest:
                    lowest = agreement
                    worst = f"K={len(case.rows)}, {batch.name}, image {row} of the batch"
    return DeviceCheck(lowest, MIN_AGREEMENT[precision], largest, finite, worst)


def _agreement(
    expected: NDArray[np.float32], actual: NDArray[np.float32], words: int, *, is_frame: bool
) -> float:
    mine, theirs = _per_word(actual, words), _per_word(expected, words)
    if is_frame:
        return label_agreement(theirs, mine, FRAME_HW)
    return near_agreement(theirs, mine, TIE)


def _per_word(scores: NDArray[np.float32], words: int) -> NDArray[np.float32]:
    """Return scores [words, h, w] of scores [K, h, w]: of a word that comes again, the largest."""
    if len(scores) == words:
        return scores
    return np.stack([scores[word::words].max(axis=0) for word in range(words)])


def _cases(base: Rows, frames: Sequence[Picture]) -> Iterator[_Case]:
    """Yield the vocabularies that together run every slot bucket."""
    words = min(len(base), SLOT_BUCKETS[-1])
    few = min(FEW_WORDS, words)
    yield _Case(np.ascontiguousarray(base[:words]), words, frames)
    if few < words:
        yield _Case(np.ascontiguousarray(base[:few]), few, frames[:1])
    for bucket in SLOT_BUCKETS:
        if bucket not in (bucket_for(words), bucket_for(few)):
            count = min(words, bucket)
            yield _Case(np.ascontiguousarray(base[np.arange(bucket) % count]), count, frames[:1])


def _batches(frames: Sequence[Picture], spec: GraphSpec) -> Iterator[_Batch]:
    """Yield as many batches as there are pictures, each a turn of all frames, or of all made ones."""
    made = [_gradient(spec), _noise(spec)]
    for pictures, is_frame in ((frames, True), (made, False)):
        small = np.empty((len(pictures), spec.height, spec.width, 3), np.uint8)
        for picture, out in zip(pictures, small, strict=True):
            resize_frame(picture, out)
        for first in range(len(small)):
            turn = [(first + row) % len(small) for row in range(spec.batch)]
            name = f"frame {first}" if is_frame else ("a gradient", "noise")[first]
            yield _Batch(np.ascontiguousarray(small[turn]), name, is_frame)


def _scenes() -> list[Picture]:
    from dedos_deploy.scenes import KINDS, render_image

    return [render_image(kind, seed=11, size_hw=FRAME_HW)[0] for kind in KINDS]


def _gradient(spec: GraphSpec) -> Picture:
    down, across = np.mgrid[0 : 1 : spec.height * 1j, 0 : 1 : spec.width * 1j]
    ramps = np.stack([across, down, 1 - across], axis=-1)
    return np.asarray((255 * ramps).round(), np.uint8)


def _noise(spec: GraphSpec) -> Picture:
    return np.random.default_rng(11).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
