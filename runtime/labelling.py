"""From a frame to its label map: resize, engine, arg max, on the host or on the device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, DedosError, EngineError
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
class Asked:
    """A frame, the words that it is labelled with, and the past of its stream where labels are to be
    stable in time."""

    pixels: Pixels
    table: SlotTable
    stabiliser: Stabiliser | None = None
    explain: bool = False
    """Whether its result keeps the scores that it is labelled by."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A label map [H, W], its confidence uint8 [H, W], pixels per class id int64 [names], milliseconds
    of `pre`, `engine` and `post`, the scores [K, h, w] where they are kept, pooled features float32 [P] of
    all of it where the graph gives them, and how many pictures of it the network was shown; the arrays
    belong to the receiver."""

    label_map: LabelMap
    confidence: NDArray[np.uint8]
    counts: NDArray[np.int64]
    latency_ms: dict[str, float]
    scores: NDArray[Any] | None = None
    pooled: NDArray[np.float32] | None = None
    windows: int = 1


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

    def label(self, pixels: Pixels, table: SlotTable, *, explain: bool = False) -> Labelled:
        """Label a frame; explain: keep the scores that it is labelled by.

        Raises EngineError, also for scores that are no numbers, BadInputError for pixels that it
        cannot read where they lie.
        """
        ...

    def label_on_device(self, pixels: Pixels, table: SlotTable, stream: int) -> DeviceLabelled:
        """Label a frame and leave the result on the GPU, ready in order on `stream`.

        Raises as `label` does, BadInputError, too, where results are made on the host.
        """
        ...

    def submit(self, pixels: Pixels, table: SlotTable, *, explain: bool = False) -> Pending:
        """Begin with a frame as `label` does and return as soon as its array is the caller's again.

        A second one may be begun before the first is done; a third waits for the first.
        """
        ...

    def close(self) -> None: ...


class RunLabeller(Protocol):
    """What turns several frames into label maps in one run of an engine, for one thread at a time."""

    def label_all(self, frames: Sequence[Asked]) -> list[Labelled | DedosError]:
        """Label frames in one run, as many as it takes, under tables of the same words.

        Of a frame that cannot be read, or whose scores are no numbers, it returns the error. Raises
        EngineError when the run fails.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame that was shown to the network, on its way from scores to its result."""

    frame: Asked
    size_hw: tuple[int, ...]
    """Height and width of the frame, in pixels."""

    picture_bgr: NDArray[np.uint8]
    """uint8 [H0, W0, 3], all of it, as the network sees pictures."""

    before_ms: dict[str, float]
    """Milliseconds of `pre` and `engine`, and of `post` where that began before `inferred_s`."""

    inferred_s: float
    """`time.perf_counter()` of the scores."""

    pooled: NDArray[np.float32] | None = None
    """Pooled features float32 [P] of the frame as a whole, where the graph gives them."""

    windows: int = 1
    """How many pictures of it the network was shown."""


class HostLabeller:
    """Resize and label map on the CPU, around any engine."""

    def __init__(self, spec: GraphSpec, infer: Infer, *, threads: int) -> None:
        """spec, infer: of the engine, which stays the caller's; threads: for the label map."""
        self._infer = infer
        self._threads = threads
        self._image = np.zeros((spec.batch, spec.height, spec.width, 3), dtype=np.uint8)
        self._scores: dict[int, NDArray[np.float32]] = {}
        """Scores in float32 of engines that give others, by the number of pictures in a run."""

    def label(self, pixels: Pixels, table: SlotTable, *, explain: bool = False) -> Labelled:
        return self.label_row(Asked(pixels, table, explain=explain))

    def label_row(self, frame: Asked) -> Labelled:
        """Label one frame; see Labeller.label."""
        (labelled,) = self.label_all([frame])
        if isinstance(labelled, DedosError):
            raise labelled
        return labelled

    def label_all(self, frames: Sequence[Asked]) -> list[Labelled | DedosError]:
        started = time.perf_counter()
        places = [self._placed(row, frame.pixels) for row, frame in enumerate(frames)]
        if all(isinstance(place, DedosError) for place in places):
            return [place for place in places if isinstance(place, DedosError)]
        resized = time.perf_counter()
        scores, pooled = self._run(self._infer, self._image, frames[0].table)
        inferred = time.perf_counter()
        before_ms = {"pre": 1e3 * (resized - started), "engine": 1e3 * (inferred - resized)}
        outcomes: list[Labelled | DedosError] = []
        for row, (place, frame) in enumerate(zip(places, frames, strict=True)):
            if isinstance(place, DedosError):
                outcomes.append(place)
                continue
            seen = Seen(
                frame,
                place,
                self._image[row],
                before_ms,
                inferred,
                None if pooled is None else pooled[row].copy(),
            )
            outcomes.append(self._labelled(scores[row], seen))
        return outcomes

    def label_on_device(self, pixels: Pixels, table: SlotTable, stream: int) -> DeviceLabelled:
        raise BadInputError(
            "this engine makes its results on the host; leave result='device' out, or choose engine trt "
            "or rtx on an installation with CUDA kernels"
        )

    def submit(self, pixels: Pixels, table: SlotTable, *, explain: bool = False) -> Pending:
        return Done(self.label(pixels, table, explain=explain))

    def close(self) -> None:
        """Nothing is held; the engine belongs to the caller."""

    def _placed(self, row: int, pixels: Pixels) -> tuple[int, ...] | DedosError:
        """Resize a frame into its row of the image; return its size, or why it cannot be read."""
        try:
            frame_bgr = bgr_on_host(pixels)
        except BadInputError as error:
            return error
        resize_frame(frame_bgr, self._image[row])
        return frame_bgr.shape[:2]

    def _labelled(self, scores: NDArray[np.float32], seen: Seen) -> Labelled | DedosError:
        """From the scores of a frame, float32 [K, h, w] of any size, to its result."""
        frame = seen.frame
        try:
            compared = self._smoothed(scores, seen)
            maps = self._arg_max(compared, frame.table, seen.size_hw)
        except EngineError as error:
            if frame.stabiliser is not None:
                # Scores that are no numbers must not stay in the past for ever.
                frame.stabiliser.forget()
            return error
        post_ms = 1e3 * (time.perf_counter() - seen.inferred_s) + seen.before_ms.get("post", 0.0)
        # A copy: the next frame, of whichever stream, overwrites them.
        kept = compared.copy() if frame.explain else None
        return Labelled(*maps, {**seen.before_ms, "post": post_ms}, kept, seen.pooled, seen.windows)

    def _smoothed(self, scores: NDArray[np.float32], seen: Seen) -> NDArray[np.float32]:
        frame = seen.frame
        if frame.stabiliser is None:
            return scores
        kind = (frame.table.version, seen.size_hw)
        return frame.stabiliser.smoothed(scores, seen.picture_bgr, kind)

    def _run(
        self, infer: Infer, image: NDArray[np.uint8], table: SlotTable
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return of all rows of an image the scores [B, K, h, w], and pooled features [B, P], if any."""
        inputs: Tensors = {"image": image, "text": table.text, "valid": table.valid}
        outputs = infer(inputs)
        scores, pooled = outputs["scores"], outputs.get("pooled")
        if scores.dtype == np.float32:
            return scores, pooled
        wide = self._scores.get(len(scores))
        if wide is None or wide.shape != scores.shape:
            wide = self._scores[len(scores)] = np.empty(scores.shape, dtype=np.float32)
        np.copyto(wide, scores)
        return wide, pooled

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
        """labeller: does the rest, and may do so for other streams, too, by the same thread; the
        caller closes it."""
        self._labeller = labeller
        self.stabiliser = Stabiliser()
        """Of the stream."""

    def label(self, pixels: Pixels, table: SlotTable, *, explain: bool = False) -> Labelled:
        return self._labeller.label_row(Asked(pixels, table, self.stabiliser, explain))

    def label_on_device(self, pixels: Pixels, table: SlotTable, stream: int) -> DeviceLabelled:
        raise BadInputError(
            "labels that are stable in time are made on the host; leave result='device' out, or stable"
        )

    def submit(self, pixels: Pixels, table: SlotTable, *, explain: bool = False) -> Pending:
        return Done(self.label(pixels, table, explain=explain))

    def close(self) -> None:
        """Nothing is held; the other labeller belongs to the caller."""


def past_of(labeller: Labeller) -> Stabiliser | None:
    """Return the past of the stream that a labeller is for, None where each frame is for itself."""
    return labeller.stabiliser if isinstance(labeller, StableLabeller) else None


def unusable_scores(why: str) -> EngineError:
    """Return the error for scores that are not numbers."""
    return EngineError(
        f"the engine gave scores that are not usable ({why}); run the parity check of the export "
        "on this device, or export in a higher precision"
    )
