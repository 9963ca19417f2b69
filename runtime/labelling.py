"""From a frame to its label map: resize, engine, arg max, on the host or on the device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime.engines.tensors import Infer, Tensors
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.runtime.pixels import Pixels, bgr_on_host
from dedos_deploy.runtime.results import DeviceLabelled
from dedos_deploy.runtime.segmentation import LabelMap
from dedos_deploy.runtime.slots import SlotTable
from dedos_deploy.runtime.stabilising import Stabiliser
from dedos_deploy.spec import GraphSpec

Outcome = TypeVar("Outcome")


@dataclass(frozen=True, eq=False)
class Labelled:
    """A label map [H, W], its confidence uint8 [H, W], pixels per class id int64 [names], and
    milliseconds of `pre`, `engine` and `post`; the arrays belong to the receiver."""

    label_map: LabelMap
    confidence: NDArray[np.uint8]
    counts: NDArray[np.int64]
    latency_ms: dict[str, float]


class Pending(Protocol):
    """A frame under way."""

    @property
    def ready(self) -> bool:
        """Whether `result` would not wait."""
        ...

    def result(self) -> Labelled:
        """Wait for the frame and return what came of it; call it once. Raises EngineError."""
        ...


@dataclass(frozen=True, eq=False)
class Done(Generic[Outcome]):
    """A frame that was labelled at once."""

    outcome: Outcome
    ready: bool = True

    def result(self) -> Outcome:
        return self.outcome


class Labeller(Protocol):
    """What turns frames into label maps under a slot table, for one thread at a time."""

    def label(self, pixels: Pixels, table: SlotTable) -> Labelled:
        """Label a frame.

        Raises EngineError, also for scores that are no numbers, BadInputError for pixels that it
        cannot read where they lie.
        """
        ...

    def label_on_device(self, pixels: Pixels, table: SlotTable, stream: int) -> DeviceLabelled:
        """Label a frame and leave the result on the GPU, ready in order on `stream`.

        Raises as `label` does, BadInputError, too, where results are made on the host.
        """
        ...

    def submit(self, pixels: Pixels, table: SlotTable) -> Pending:
        """Begin with a frame as `label` does and return as soon as its array is the caller's again.

        A second one may be begun before the first is done; a third waits for the first.
        """
        ...

    def stable(self) -> Labeller:
        """Return one for a stream of its own, whose labels are stable in time; it lives as long as this
        one, and the same thread may use both. Raises BadInputError where results are made on a GPU.
        """
        ...

    def close(self) -> None: ...


class HostLabeller:
    """Resize and label map on the CPU, around any engine."""

    def __init__(self, spec: GraphSpec, infer: Infer, *, threads: int) -> None:
        """spec, infer: of the engine, which stays the caller's; threads: for the label map."""
        self._infer = infer
        self._threads = threads
        self._image = np.empty((1, spec.height, spec.width, 3), dtype=np.uint8)
        self._scores = np.empty((0, *spec.score_hw), dtype=np.float32)

    def label(
        self, pixels: Pixels, table: SlotTable, stabiliser: Stabiliser | None = None
    ) -> Labelled:
        """Label a frame; see Labeller.label. stabiliser: of the frame's stream, None for none."""
        started = time.perf_counter()
        frame_bgr = bgr_on_host(pixels)
        size_hw = frame_bgr.shape[:2]
        resize_frame(frame_bgr, self._image[0])
        resized = time.perf_counter()
        scores = self._scores_of(table)
        inferred = time.perf_counter()
        if stabiliser is not None:
            scores = stabiliser.smoothed(scores, self._image[0], (table.version, size_hw))
        label_map, confidence, counts = self._arg_max(scores, table, size_hw)
        done = time.perf_counter()
        return Labelled(
            label_map,
            confidence,
            counts,
            {
                "pre": 1e3 * (resized - started),
                "engine": 1e3 * (inferred - resized),
                "post": 1e3 * (done - inferred),
            },
        )

    def label_on_device(self, pixels: Pixels, table: SlotTable, stream: int) -> DeviceLabelled:
        raise BadInputError(
            "this engine makes its results on the host; leave result='device' out, or choose engine trt "
            "or rtx on an installation with CUDA kernels"
        )

    def submit(self, pixels: Pixels, table: SlotTable) -> Pending:
        return Done(self.label(pixels, table))

    def stable(self) -> Labeller:
        """Return one for a stream of its own; see Labeller.stable."""
        return StableLabeller(self)

    def close(self) -> None:
        """Nothing is held; the engine belongs to the caller."""

    def _scores_of(self, table: SlotTable) -> NDArray[np.float32]:
        inputs: Tensors = {"image": self._image, "text": table.text, "valid": table.valid}
        scores: NDArray[Any] = self._infer(inputs)["scores"][0]
        if scores.dtype == np.float32:
            return scores
        if self._scores.shape != scores.shape:
            self._scores = np.empty(scores.shape, dtype=np.float32)
        np.copyto(self._scores, scores)
        return self._scores

    def _arg_max(
        self, scores: NDArray[np.float32], table: SlotTable, size_hw: tuple[int, ...]
    ) -> tuple[LabelMap, NDArray[np.uint8], NDArray[np.int64]]:
        from dedos_deploy import _native

        label_map = table.empty_label_map(size_hw)
        confidence = np.empty(size_hw, dtype=np.uint8)
        counts = np.zeros(len(table.names) + 1, dtype=np.uint64)
        try:
            _native.label_map(
                scores,
                table.thresholds,
                table.slot_ids,
                label_map,
                confidence,
                counts,
                self._threads,
            )
        except ValueError as error:
            raise unusable_scores(str(error)) from error
        return label_map, confidence, counts[:-1].astype(np.int64)


class StableLabeller:
    """Labels the frames of one stream, in their order, with scores that are stable in time."""

    def __init__(self, labeller: HostLabeller) -> None:
        """labeller: does the rest, and may do so for other streams, too."""
        self._labeller = labeller
        self._stabiliser = Stabiliser()

    def label(self, pixels: Pixels, table: SlotTable) -> Labelled:
        try:
            return self._labeller.label(pixels, table, self._stabiliser)
        except EngineError:
            # Scores that are no numbers must not stay in the past for ever.
            self._stabiliser.forget()
            raise

    def label_on_device(self, pixels: Pixels, table: SlotTable, stream: int) -> DeviceLabelled:
        return self._labeller.label_on_device(pixels, table, stream)

    def submit(self, pixels: Pixels, table: SlotTable) -> Pending:
        return Done(self.label(pixels, table))

    def stable(self) -> Labeller:
        return self._labeller.stable()

    def close(self) -> None:
        """Nothing is held; the other labeller belongs to the caller."""


def no_past_on_gpu() -> BadInputError:
    """Return the error of an engine that labels on the GPU for `stable`."""
    return BadInputError(
        "labels that are stable in time are made on the CPU, but this engine makes its results on the "
        "GPU; leave stable (--stable) out, or choose engine cpu, openvino or cuda"
    )


def unusable_scores(why: str) -> EngineError:
    """Return the error for scores that are not numbers."""
    return EngineError(
        f"the engine gave scores that are not usable ({why}); run the parity check of the export "
        "on this device, or export in a higher precision"
    )
