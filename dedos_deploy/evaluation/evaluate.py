"""A bundle measured on a labelled folder, as it is deployed: through the runtime, at full size."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.folder import LabelledFolder, ignore_id, match_classes
from dedos_deploy.vocabulary import Vocabulary, parse_vocabulary

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.runtime.segmentation import Segmentation
    from dedos_deploy.runtime.segmenter import Background

Progress = Callable[[int, int], None]
Classes = str | os.PathLike[str] | Sequence[str] | Vocabulary


class FrameSegmenter(Protocol):
    """What evaluation needs of a Segmenter."""

    def segment(self, frame_bgr: NDArray[np.uint8]) -> Segmentation:
        """Return the label map of a frame, uint8 [H, W, 3], at the frame's own size."""
        ...


@dataclass(frozen=True)
class EvaluationResult:
    """How well label maps agree with labels.

    classes: names; iou: per class, None where neither labels nor predictions have it;
    labelled: pixels that carry the label; miou_present, miou_union, accuracy: see Confusion;
    images: how many were counted; skipped: how many have no pixel that counts;
    seconds_inference: spent in the segmenter; seconds_total: reading and counting included.
    """

    classes: tuple[str, ...]
    iou: tuple[float | None, ...]
    labelled: tuple[int, ...]
    miou_present: float
    miou_union: float
    accuracy: float
    images: int
    skipped: int
    seconds_inference: float
    seconds_total: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values under stable keys, with `iou` by class name."""
        return {
            "miou_present": self.miou_present,
            "miou_union": self.miou_union,
            "accuracy": self.accuracy,
            "iou": dict(zip(self.classes, self.iou, strict=True)),
            "images": self.images,
            "skipped": self.skipped,
            "seconds_inference": self.seconds_inference,
            "seconds_total": self.seconds_total,
        }


def evaluate_bundle(
    bundle: str | os.PathLike[str] | Bundle,
    data_root: str | os.PathLike[str],
    split: str,
    *,
    classes: Classes | None = None,
    background: Background = "none",
    threads: int | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Return how well a bundle labels a split of a labelled folder.

    bundle, background, threads: as `Segmenter.load` takes them; `none` gives every pixel a class,
    as published numbers have it, with the others an unlabelled pixel counts as wrong;
    classes: entries whose words name classes of the data, None for all (see `match_classes`);
    progress: called with the number of images done and their total.

    Raises BadInputError for data that cannot be used, and what `Segmenter.load` raises.
    """
    from dedos_deploy.runtime.segmenter import Segmenter

    folder = LabelledFolder.open(data_root, split)
    if classes is not None and not isinstance(classes, Vocabulary):
        classes = parse_vocabulary(classes)
    vocabulary, _ = match_classes(folder.classes, classes)
    with Segmenter.load(
        bundle, classes=vocabulary, background=background, threads=threads
    ) as segmenter:
        return evaluate_segmenter(segmenter, folder, vocabulary, progress=progress)


def evaluate_segmenter(
    segmenter: FrameSegmenter,
    folder: LabelledFolder,
    vocabulary: Vocabulary,
    *,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Return how well a segmenter, which has `vocabulary` as its classes, labels a folder.

    Raises BadInputError when the folder has no pixel that counts, or a file that cannot be used.
    """
    started = time.perf_counter()
    _, table = match_classes(folder.classes, vocabulary)
    ignore = ignore_id(vocabulary)
    confusion = Confusion(len(vocabulary), ignore=ignore)
    skipped, seconds_inference = 0, 0.0
    for done, item in enumerate(folder):
        if progress is not None:
            progress(done, len(folder))
        labels = table[item.labels]
        if (labels == ignore).all():
            skipped += 1
            continue
        before = time.perf_counter()
        result = segmenter.segment(item.image_bgr)
        seconds_inference += time.perf_counter() - before
        confusion.add(labels, _own_ids(result, vocabulary), unlabelled=len(vocabulary))
    if progress is not None:
        progress(len(folder), len(folder))
    if skipped == len(folder):
        raise BadInputError(
            f"no pixel of split {folder.split!r} in {str(folder.root)!r} is labelled with one of "
            f"{', '.join(vocabulary.names)}; choose other classes or another split"
        )
    return EvaluationResult(
        classes=vocabulary.names,
        iou=tuple(None if math.isnan(value) else value for value in confusion.iou.tolist()),
        labelled=tuple(confusion.labelled.tolist()),
        miou_present=confusion.miou_present,
        miou_union=confusion.miou_union,
        accuracy=confusion.accuracy,
        images=len(folder) - skipped,
        skipped=skipped,
        seconds_inference=seconds_inference,
        seconds_total=time.perf_counter() - started,
    )


def _own_ids(result: Segmentation, vocabulary: Vocabulary) -> NDArray[np.uint16]:
    """Return the label map with ids of `vocabulary`, and its length where there is none of them.

    A session's ids count on when its class list changes, so they need not be the vocabulary's.
    """
    nothing = len(vocabulary)
    ids = np.full(int(np.iinfo(result.label_map.dtype).max) + 1, nothing, dtype=np.uint16)
    position = {name: index for index, name in enumerate(vocabulary.names)}
    for session_id, name in enumerate(result.classes):
        ids[session_id] = position.get(name, nothing)
    return ids[result.label_map]
