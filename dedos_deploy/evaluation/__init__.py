"""Evaluation: metrics, labelled folders, and runs of a bundle as it is deployed."""

from __future__ import annotations

from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.evaluate import (
    EvaluationResult,
    FrameSegmenter,
    evaluate_bundle,
    evaluate_segmenter,
)
from dedos_deploy.evaluation.folder import LabelledFolder, LabelledImage, match_classes

__all__ = [
    "Confusion",
    "EvaluationResult",
    "FrameSegmenter",
    "LabelledFolder",
    "LabelledImage",
    "evaluate_bundle",
    "evaluate_segmenter",
    "match_classes",
]
