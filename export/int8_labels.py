"""Mean IoU of an engine that is no bundle yet, on labels the user has."""

from __future__ import annotations

import math
from typing import Protocol

from dedos_deploy.calib.options import Int8Options
from dedos_deploy.evaluation.data import EvaluationData, open_data
from dedos_deploy.evaluation.evaluate import Keeping, Part, evaluate_predictor
from dedos_deploy.evaluation.predictors import SegmenterPredictor
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.slots import Encode, Thresholds
from dedos_deploy.vocabulary import Vocabulary

PLAN_IMAGES = 64
"""At most so many images choose the plan; the verdict is passed on all."""


class LabelMeasure(Protocol):
    """Mean IoU over the classes present, of an engine on labels; the engine stays open."""

    def __call__(self, engine: OnnxEngine, *, most: int | None = None) -> float:
        """Return it; most: how many images, evenly spread, None for all."""
        ...


def open_labels(options: Int8Options, vocabulary: Vocabulary | None) -> EvaluationData | None:
    """Return the labelled images of `options.labels`, None without.

    vocabulary: the classes to ask for, None for those of the folder.

    Raises BadInputError for a folder that cannot be used, or an entry that is no class of it.
    """
    if options.labels is None:
        return None
    return open_data(options.labels, options.labels_split, vocabulary=vocabulary)


def label_measure(data: EvaluationData, encode: Encode) -> LabelMeasure:
    """Return what measures mean IoU over the classes present; encode: words to unit rows [N, D]."""

    def miou(engine: OnnxEngine, *, most: int | None = None) -> float:
        step = 1 if most is None else math.ceil(len(data.image_names) / most)
        thresholds = Thresholds({}, 0.0, enabled=False)
        # Never closed, since that closes its engine: it holds nothing else of this one's.
        segmenter = Segmenter(engine, encode, classes=data.vocabulary, thresholds=thresholds)
        predictor = SegmenterPredictor(segmenter, data.vocabulary, name="int8", identity={})
        return evaluate_predictor(predictor, data, Keeping(part=Part(0, step))).result.miou_present

    return miou
