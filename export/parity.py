"""The parity gate: the deployed graph against the FP32 torch model, on real frames.

What counts is what a user sees, the label map at frame size. The graph runs on ONNX Runtime, also
when an engine for another target is built from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, ParityError
from dedos_deploy.model.freeze import AnyModel
from dedos_deploy.runtime.engines.agreement import label_agreement
from dedos_deploy.runtime.engines.tensors import Infer
from dedos_deploy.spec import MIN_AGREEMENT, SLOT_BUCKETS, GraphSpec

PADDED_SLOTS = SLOT_BUCKETS[0]
SMALL_WORDS = 3
SHORT_CASE_FRAMES = 2


@dataclass(frozen=True, eq=False)
class ParityCase:
    """One vocabulary to compare with."""

    name: str
    text: NDArray[np.float32]
    """float32 [K, D] unit rows."""
    padding: int = 0
    """Slots with valid = 0 that only the deployed graph gets, and that must change nothing."""
    max_frames: int | None = None
    """How many frames to compare."""


_GOLDEN = 0.618
"""Part of a picture's width: multiples of it lie far apart."""


@dataclass(frozen=True)
class ParityRow:
    """One frame of one case: part of pixels with the same label, largest difference of scores."""

    case: str
    slots: int
    frame: int
    agreement: float
    max_abs: float


@dataclass(frozen=True)
class ParityReport:
    """What the gate saw."""

    precision: str
    min_agreement: float
    agreement: float
    """Part of all pixels of the worst case that have the same label."""
    max_abs: float
    """Largest difference of scores."""
    finite: bool
    """No NaN or infinity in any score."""
    passed: bool
    """Agreement ≥ min_agreement and finite."""
    drift_allowed: bool
    """The bundle may be written without passing."""
    frames: int
    frames_from: str
    rows: tuple[ParityRow, ...]
    batch: int = 1
    """Frames per run of the graph."""

    @property
    def graph(self) -> str:
        """What the graph is called in sentences."""
        return f"{self.precision} graph" + (
            f" for {self.batch} frames per run" if self.batch > 1 else ""
        )


def parity_cases(base: NDArray[np.float32]) -> tuple[ParityCase, ...]:
    """Return the cases of the gate: the base vocabulary, a few of its words, the same padded."""
    small = base[:SMALL_WORDS]
    padding = PADDED_SLOTS - len(small)
    return (
        ParityCase("base vocabulary", base),
        ParityCase("few words", small, max_frames=SHORT_CASE_FRAMES),
        ParityCase("few words, padded", small, padding, max_frames=SHORT_CASE_FRAMES),
    )


def measure_parity(
    infer: Infer,
    model: AnyModel,
    frames_bgr: Sequence[NDArray[np.uint8]],
    cases: Sequence[ParityCase],
    *,
    spec: GraphSpec,
    precision: str,
    frames_from: str,
    allow_drift: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> ParityReport:
    """Return how far the deployed graph is from the FP32, unfolded `model`.

    infer: runs the deployed graph on the tensors of `spec`; frames_bgr: uint8 [H, W, 3], any size;
    frames_from: where the frames came from, for the report.

    The model sees frames one by one, the graph `spec.batch` per run: a row that depends on its
    neighbours shows up as disagreement. Fewer frames are given again, moved sideways, until every row
    had one of its own.
    """
    if not frames_bgr:
        raise BadInputError("the parity gate got no frame; give at least one picture")
    rows: list[ParityRow] = []
    by_case: list[float] = []
    finite = True
    for case in cases:
        frames = frames_bgr[: case.max_frames]
        if case.max_frames is None:
            frames = [_distinct(frames, index) for index in range(max(len(frames), spec.batch))]
        note(f"{case.name}, K={len(case.text)}, {len(frames)} frames")
        deployed = _deployed_scores(infer, frames, case, spec)
        pixels = agreeing = 0
        for index, (frame, found) in enumerate(zip(frames, deployed, strict=True)):
            expected = _model_scores(model, frame, case.text, spec)
            finite &= bool(np.isfinite(found).all())
            agreement = label_agreement(expected, found, frame.shape[:2])
            rows.append(
                ParityRow(
                    case.name,
                    len(case.text),
                    index,
                    agreement,
                    _largest_difference(expected, found),
                )
            )
            area = frame.shape[0] * frame.shape[1]
            pixels, agreeing = pixels + area, agreeing + round(agreement * area)
        by_case.append(agreeing / pixels)
    lowest, minimum = min(by_case), MIN_AGREEMENT[precision]
    return ParityReport(
        precision=precision,
        min_agreement=minimum,
        agreement=lowest,
        max_abs=max(row.max_abs for row in rows),
        finite=finite,
        passed=finite and lowest >= minimum,
        drift_allowed=allow_drift,
        frames=len(frames_bgr),
        frames_from=frames_from,
        rows=tuple(rows),
        batch=spec.batch,
    )


def check_parity(report: ParityReport) -> None:
    """Raise ParityError when the gate is not passed and drift is not allowed."""
    if report.passed or report.drift_allowed:
        return
    worst = min(report.rows, key=lambda row: row.agreement)
    if not report.finite:
        raise ParityError(
            f"the {report.graph} gives NaN or infinite scores ({worst.case}, frame "
            f"{worst.frame}), so no bundle was written; export with --precision fp32, or with "
            f"--allow-drift to look at it"
        )
    raise ParityError(
        f"the {report.graph} agrees with the FP32 model on {report.agreement:.2%} of "
        f"pixels, {report.min_agreement:.1%} are needed (worst: {worst.case}, frame {worst.frame}, "
        f"{worst.agreement:.2%}, scores differ by {worst.max_abs:.2g}), so no bundle was written; "
        f"choose a higher precision, or accept it with --allow-drift"
    )


def _distinct(frames: Sequence[NDArray[np.uint8]], index: int) -> NDArray[np.uint8]:
    """Return a frame that is like none before it: with the same one in two rows of a run, nobody would
    see that they are mixed up."""
    again, number = divmod(index, len(frames))
    frame = frames[number]
    return np.roll(frame, int(again * _GOLDEN % 1 * frame.shape[1]), axis=1)


def _deployed_scores(
    infer: Infer, frames_bgr: Sequence[NDArray[np.uint8]], case: ParityCase, spec: GraphSpec
) -> list[NDArray[np.float32]]:
    """Return scores float32 [K, h, w] per frame, padding slots removed."""
    used = len(case.text)
    # Padding rows are not zero: they must be ignored for what `valid` says, not for what they are.
    text = np.concatenate([case.text, np.resize(case.text[::-1], (case.padding, spec.text_width))])
    valid = np.zeros(used + case.padding, np.float32)
    valid[:used] = 1
    scores: list[NDArray[np.float32]] = []
    for start in range(0, len(frames_bgr), spec.batch):
        batch = list(frames_bgr[start : start + spec.batch])
        filled = batch + [batch[-1]] * (spec.batch - len(batch))
        image = np.stack([_resized(frame, spec) for frame in filled])
        result = infer({"image": image, "text": text, "valid": valid})[spec.scores.name]
        scores += [row[:used].astype(np.float32) for row in result[: len(batch)]]
    return scores


def _model_scores(
    model: AnyModel,
    frame_bgr: NDArray[np.uint8],
    text: NDArray[np.float32],
    spec: GraphSpec,
) -> NDArray[np.float32]:
    image = torch.from_numpy(_resized(frame_bgr, spec))[None]
    with torch.no_grad():
        scores = model(image, torch.from_numpy(text), torch.ones(len(text)))
    result: NDArray[np.float32] = scores[0].numpy()
    return result


def _resized(frame_bgr: NDArray[np.uint8], spec: GraphSpec) -> NDArray[np.uint8]:
    from dedos_deploy.runtime.frame import check_frame, resize_frame

    out = np.empty((spec.height, spec.width, 3), np.uint8)
    resize_frame(check_frame(frame_bgr), out)
    return out


def _largest_difference(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    difference = np.abs(expected - found)
    return float(np.nan_to_num(difference, nan=np.finfo(np.float32).max).max())
