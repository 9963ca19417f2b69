"""The measures of an evaluation, computed from what was kept of every image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.evaluation.boundary import BoundaryIou
from dedos_deploy.evaluation.confusion import Confusion, mean
from dedos_deploy.evaluation.moves import Move, moves_of
from dedos_deploy.evaluation.records import ImageRecord, confusion_of
from dedos_deploy.evaluation.reliability import (
    Calibration,
    Reliability,
    calibration_of,
    reliability_of,
)

PAIRS = 10
"""Confusion pairs that a result names."""

GROUPS = ("base", "novel")


@dataclass(frozen=True)
class ConfusionPair:
    """Pixels of class `label` that were called `predicted`."""

    label: str
    predicted: str | None
    """None: no class."""
    pixels: int
    part: float
    """`pixels` as a part of the labelled pixels of `label`."""


@dataclass(frozen=True)
class EvaluationResult:
    """How well label maps agree with labels."""

    predictor: str
    data: str
    classes: tuple[str, ...]
    """Names, in the order of what is given per class."""
    iou: tuple[float | None, ...]
    """Intersection over union per class, None where there is nothing to divide by."""
    class_accuracy: tuple[float | None, ...]
    """Part of the labelled pixels that got their class (recall), per class, None where there is nothing
    to divide by."""
    class_precision: tuple[float | None, ...]
    """Part of the pixels given a class that carry its label, per class, None as above."""
    boundary_iou: tuple[float | None, ...] | None
    """IoU of bands along outlines, per class, as `iou`; None as a whole when it was not
    measured."""
    labelled: tuple[int, ...]
    """Pixels that carry the label, per class."""
    miou_present: float
    """Mean IoU over the classes that labels contain."""
    miou_union: float
    """Mean IoU over the classes that labels or predictions contain."""
    boundary_miou: float | None
    """Mean boundary IoU over the classes that labels contain."""
    accuracy: float
    """Part of the labelled pixels that got their class."""
    mean_accuracy: float
    """Mean of `class_accuracy` over the classes that labels contain."""
    frequency_weighted_iou: float
    """Mean IoU weighted by labelled pixels."""
    pairs: tuple[ConfusionPair, ...]
    """Most frequent mistakes."""
    moves: tuple[Move, ...] | None
    """Which word would have to move for them to go away, None when scores are not known."""
    groups: dict[str, float | None]
    """miou_present of the base and the novel classes, where they were told apart."""
    images: int
    """How many were counted: those with a pixel that counts."""
    skipped: tuple[str, ...]
    """Names of images with no pixel that counts."""
    reliability: Reliability | None
    """How often pixels are right at each confidence, None when scores are not known."""
    calibration: Calibration | None
    """The same by class, None when it was not measured."""
    seconds_inference: float
    """Spent in the predictor."""
    seconds_total: float
    """Reading and counting included."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values under stable keys, with `iou` by class name."""
        by_class = {
            "iou": self.iou,
            "class_accuracy": self.class_accuracy,
            "class_precision": self.class_precision,
        }
        if self.boundary_iou is not None:
            by_class["boundary_iou"] = self.boundary_iou
        named = {
            key: dict(zip(self.classes, values, strict=True)) for key, values in by_class.items()
        }
        return {
            "predictor": self.predictor,
            "data": self.data,
            "miou_present": self.miou_present,
            "miou_union": self.miou_union,
            "accuracy": self.accuracy,
            "mean_accuracy": self.mean_accuracy,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            "boundary_miou": self.boundary_miou,
            **named,
            "ece": None if self.reliability is None else self.reliability.error,
            "reliability": None if self.reliability is None else self.reliability.to_dict(),
            "calibration": (
                None if self.calibration is None else self.calibration.to_dict(self.classes)
            ),
            "groups": self.groups,
            "pairs": [vars(pair) for pair in self.pairs],
            "moves": None if self.moves is None else [move.to_dict() for move in self.moves],
            "images": self.images,
            "skipped": len(self.skipped),
            "skipped_images": list(self.skipped),
            "seconds_inference": self.seconds_inference,
            "seconds_total": self.seconds_total,
        }


def result_of(
    records: Sequence[ImageRecord],
    classes: tuple[str, ...],
    *,
    predictor: str,
    data: str,
    seconds_total: float,
    base: frozenset[str] | None = None,
) -> EvaluationResult:
    """Return the measures over `records`, at least one of which has pixels that count.

    base: words that masks taught; the others are novel. None: not told apart.
    """
    counted = [record for record in records if not record.skipped]
    confusion = confusion_of(counted, len(classes))
    boundary = boundary_of(counted, len(classes))
    present = confusion.labelled > 0
    return EvaluationResult(
        predictor=predictor,
        data=data,
        classes=classes,
        iou=_optional(confusion.iou),
        class_accuracy=_optional(confusion.class_accuracy),
        class_precision=_optional(confusion.class_precision),
        boundary_iou=None if boundary is None else _optional(boundary),
        labelled=tuple(confusion.labelled.tolist()),
        miou_present=confusion.miou_present,
        miou_union=confusion.miou_union,
        boundary_miou=None if boundary is None else _known(mean(boundary[present])),
        accuracy=confusion.accuracy,
        mean_accuracy=confusion.mean_accuracy,
        frequency_weighted_iou=confusion.frequency_weighted_iou,
        pairs=tuple(
            ConfusionPair(
                classes[label],
                None if predicted is None else classes[predicted],
                pixels,
                part,
            )
            for label, predicted, pixels, part in confusion.pairs(PAIRS)
        ),
        moves=moves_of((record.moves for record in counted), confusion, classes, PAIRS),
        groups={} if base is None else _groups(confusion, classes, base),
        images=len(counted),
        skipped=tuple(record.name for record in records if record.skipped),
        reliability=reliability_of(record.reliability for record in counted),
        calibration=calibration_of([record.calibration for record in counted], len(classes)),
        seconds_inference=sum(record.seconds for record in records),
        seconds_total=seconds_total,
    )


def boundary_of(records: Sequence[ImageRecord], classes: int) -> NDArray[np.float64] | None:
    """Return the boundary IoU per class, float64 [classes], NaN where no band was met; None when
    boundaries were not measured.
    """
    if not any(record.boundary for record in records):
        return None
    bands = BoundaryIou(classes)
    for record in records:
        bands.add_cells(record.boundary)
    return bands.iou


def _groups(
    confusion: Confusion, classes: Sequence[str], base: frozenset[str]
) -> dict[str, float | None]:
    ids = range(len(classes))
    taught = [index for index in ids if classes[index] in base]
    others = [index for index in ids if classes[index] not in base]
    means = (_known(confusion.miou_of(group)) for group in (taught, others))
    return dict(zip(GROUPS, means, strict=True))


def _optional(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(_known(value) for value in values.tolist())


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
