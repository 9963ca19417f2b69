"""Evaluation: metrics, benchmark protocols, and runs of bundles as they are deployed."""

from __future__ import annotations

from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.data import EvaluationData, FolderData, open_data
from dedos_deploy.evaluation.evaluate import (
    Evaluated,
    evaluate_bundle,
    evaluate_predictor,
    evaluate_segmenter,
)
from dedos_deploy.evaluation.folder import LabelledFolder, LabelledImage, match_classes
from dedos_deploy.evaluation.predictors import FrameSegmenter, Predictor
from dedos_deploy.evaluation.result import EvaluationResult

__all__ = [
    "Confusion",
    "Evaluated",
    "EvaluationData",
    "EvaluationResult",
    "FolderData",
    "FrameSegmenter",
    "LabelledFolder",
    "LabelledImage",
    "Predictor",
    "evaluate_bundle",
    "evaluate_predictor",
    "evaluate_segmenter",
    "match_classes",
    "open_data",
]
