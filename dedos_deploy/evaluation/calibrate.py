"""Calibrates a bundle's thresholds per class on the images of a labelled split."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.folder import LabelledFolder, ignore_id, match_classes
from dedos_deploy.evaluation.predictors import own_ids
from dedos_deploy.evaluation.thresholds import ClassThreshold, ThresholdCounts
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.vocabulary import BACKGROUND_WORDS, Vocabulary

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.runtime.segmentation import Segmentation
    from dedos_deploy.spec import Background


def calibrate_thresholds(
    bundle: str | os.PathLike[str] | Bundle,
    data_root: str | os.PathLike[str],
    split: str = "val",
    *,
    vocabulary: Vocabulary | None = None,
    background: Background = "threshold",
    threads: int | None = None,
    progress: Progress = QUIET,
) -> tuple[ClassThreshold, ...]:
    """Return the threshold of every class that gives it the highest IoU on a labelled split.

    vocabulary: the classes to ask for (None: all of the folder's). Pixels of the folder's other
    classes, its background words among them, are known to be none of these, so that calibrating
    "car,road" learns to leave everything else alone. background: `threshold`, or `negatives` to
    calibrate beside the negatives that will compete.

    Raises BadInputError for data that cannot be used or has no pixel of any class asked for, and
    what `Segmenter.load` raises.
    """
    from dedos_deploy.runtime.segmenter import Segmenter

    if background == "none":
        raise BadInputError(
            "thresholds do nothing with the background 'none'; calibrate with 'threshold' or "
            "'negatives'"
        )
    folder = LabelledFolder.open(Path(data_root), split)
    asked, table = match_classes(folder.classes, vocabulary)
    other = _elsewhere(folder, table == ignore_id(asked))
    counts = ThresholdCounts(len(asked))
    open_vocabulary = _without_thresholds(asked)
    with Segmenter.load(
        bundle, classes=open_vocabulary, background=background, threshold=0.0, threads=threads
    ) as segmenter:
        progress.count(0, len(folder))
        for item in progress.counted(folder, len(folder)):
            result: Segmentation = segmenter.segment(item.image_bgr)
            winners = own_ids(result, asked)
            counts.add(table[item.labels], other[item.labels], winners, result.confidence)
    if not counts.labelled.any():
        raise BadInputError(
            f"no pixel of split {split!r} in {os.fspath(data_root)!r} is labelled with one of "
            f"{', '.join(asked.names)}; choose other classes or another split"
        )
    return counts.best(asked.names)


def _elsewhere(folder: LabelledFolder, left_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return bool [values]: label values that are a class of the folder, but none that is asked for.

    left_out: values that stand for no class asked for.
    """
    other: NDArray[np.bool_] = left_out.copy()
    other[len(folder.classes) :] = False
    for value, name in enumerate(folder.classes):
        # "void" and "ignore" say that nobody looked; "background" and "other" say: none of these.
        if name in BACKGROUND_WORDS and name not in ("background", "other"):
            other[value] = False
    return other


def _without_thresholds(vocabulary: Vocabulary) -> Vocabulary:
    entries = tuple(replace(entry, threshold=None) for entry in vocabulary.entries)
    return replace(vocabulary, entries=entries)
