"""Calibrates a bundle's thresholds or its confidence per class on the images of a labelled split."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.bundle import MODEL
from dedos_deploy.confidence_curves import LEVELS, ConfidenceCurves
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.curve_fit import FittedCurves, fit_curves
from dedos_deploy.evaluation.folder import LabelledFolder, ignore_id, match_classes
from dedos_deploy.evaluation.predictors import own_ids
from dedos_deploy.evaluation.thresholds import ClassThreshold, ThresholdCounts
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.sources.images import natural_order
from dedos_deploy.vocabulary import BACKGROUND_WORDS, Vocabulary

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.runtime.segmenter import Segmenter
    from dedos_deploy.spec import Background

PARTS = 4
"""Parts of the images, of which each is measured by what the others teach."""

MIN_PIXELS = 10_000
"""Pixels with a known label that curves need: 40 for each score on average."""


@dataclass(frozen=True, eq=False)
class CalibratedConfidence:
    """Confidence curves, and how far confidences were from accuracy without and with them."""

    curves: ConfidenceCurves
    names: tuple[str, ...]
    """Of the classes, in the order of `won`."""
    won: tuple[int, ...]
    """Pixels that they were fitted to, by class."""
    fitted: FittedCurves

    def check_better(self) -> None:
        """Raise BadInputError where, on images that were held back, confidences are farther from accuracy
        with curves than without them."""
        before, after = self.fitted.before[-1], self.fitted.after[-1]
        assert before is not None and after is not None, "by MIN_PIXELS"
        if after.error > before.error:
            raise BadInputError(
                f"with these curves confidences would be worse on images that were held back (ECE "
                f"{after.error:.4f}, {before.error:.4f} without): nothing is written; label more images, or "
                "accept it with --allow-worse"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        before, after = (
            [None if one is None else one.error for one in found]
            for found in (self.fitted.before, self.fitted.after)
        )
        classes = {
            name: {"pixels": pixels, "ece_without": without, "ece_with": with_them}
            for name, pixels, without, with_them in zip(
                self.names, self.won, before[:-1], after[:-1], strict=True
            )
        }
        return {"classes": classes, "ece_without": before[-1], "ece_with": after[-1]}


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
    if background == "none":
        raise BadInputError(
            "thresholds do nothing with the background 'none'; calibrate with 'threshold' or "
            "'negatives'"
        )
    counting = _Counting(bundle, Path(data_root), split, vocabulary, background, threads, progress)
    asked, (counts,) = counting.counts(1, elsewhere=True)
    return counts.best(asked.names)


def calibrate_confidence(
    bundle: Bundle,
    data_root: str | os.PathLike[str],
    split: str = "val",
    *,
    vocabulary: Vocabulary | None = None,
    background: Background = "threshold",
    threads: int | None = None,
    progress: Progress = QUIET,
) -> CalibratedConfidence:
    """Return what scores of an open bundle are worth on a labelled split, per class.

    vocabulary: the classes to ask for (None: all of the folder's); pixels of its other classes do not
    count, as in all measures of an evaluation. background, what is raised: as `calibrate_thresholds` has
    them; BadInputError, too, for words with rows of their own, and for fewer than MIN_PIXELS pixels or
    PARTS images. The images are looked at as the bundle says, through its tiles if it has some, and make PARTS
    parts in the order of their names, each of which is measured with what the others teach.
    """
    if vocabulary is not None and vocabulary.tuned is not None:
        raise BadInputError(
            "words of a words file have rows of their own, which a bundle's curves are not for; name "
            "words that the bundle embeds itself"
        )
    counting = _Counting(bundle, Path(data_root), split, vocabulary, background, threads, progress)
    asked, counts = counting.counts(PARTS, elsewhere=False)
    images = sum(one.images for one in counts)
    won = sum((one.right + one.wrong for one in counts), np.zeros((len(asked), LEVELS), np.int64))
    if won.sum() < MIN_PIXELS or not all(one.images for one in counts):
        raise BadInputError(
            f"split {split!r} in {os.fspath(data_root)!r} has {won.sum()} pixels of known label that got "
            f"a class, in {images} images, but at least {MIN_PIXELS} in all and some in each of {PARTS} "
            "parts of the images are needed to say what a score is worth; label more"
        )
    fitted = fit_curves([(one.right, one.right + one.wrong) for one in counts])
    by_name = {asked.names[k]: fitted.by_class[k] for k in np.flatnonzero(won.sum(axis=1)).tolist()}
    learned = {
        "data": Path(data_root).resolve().name,
        "split": split,
        "images": images,
        "background": background,
        "tiles": bundle.manifest.tiles,
        "strength": None if math.isinf(fitted.strength) else fitted.strength,
    }
    curves = ConfidenceCurves(bundle.manifest.files[MODEL], fitted.overall, by_name, learned)
    return CalibratedConfidence(curves, asked.names, tuple(won.sum(axis=1).tolist()), fitted)


@dataclass(frozen=True)
class _Counting:
    """A bundle that labels a split, to count what it got right at which score."""

    bundle: str | os.PathLike[str] | Bundle
    root: Path
    split: str
    vocabulary: Vocabulary | None
    background: Background
    threads: int | None
    progress: Progress

    def counts(self, parts: int, *, elsewhere: bool) -> tuple[Vocabulary, list[ThresholdCounts]]:
        """Return the classes asked for, and their pixels in every one of `parts` stretches of the images.

        elsewhere: whether pixels of the folder's other classes count, as wrong wherever they are won.

        Raises BadInputError where no pixel is labelled with one of them.
        """
        folder = LabelledFolder.open(self.root, self.split)
        asked, table = match_classes(folder.classes, self.vocabulary)
        other = _elsewhere(folder, table == ignore_id(asked)) & elsewhere
        counts = [ThresholdCounts(len(asked)) for _ in range(parts)]
        with self._segmenter(asked) as segmenter:
            self.progress.count(0, len(folder))
            stretches = _stretches(folder, parts)
            images = self.progress.counted(folder, len(folder))
            for stretch, item in zip(stretches, images, strict=True):
                result = segmenter.segment(item.image_bgr)
                winners, labels = own_ids(result, asked), item.labels
                counts[stretch].add(table[labels], other[labels], winners, result.confidence)
        if not any(part.labelled.any() for part in counts):
            raise BadInputError(
                f"no pixel of split {self.split!r} in {str(self.root)!r} is labelled with one of "
                f"{', '.join(asked.names)}; choose other classes or another split"
            )
        return asked, counts

    def _segmenter(self, asked: Vocabulary) -> Segmenter:
        """Return what labels every pixel with its best class, by the scores themselves."""
        from dedos_deploy.runtime.segmenter import Segmenter

        return Segmenter.load(
            self.bundle,
            classes=_without_thresholds(asked),
            background=self.background,
            threshold=0.0,
            threads=self.threads,
            calibrated=False,
        )


def _stretches(folder: LabelledFolder, count: int) -> list[int]:
    """Return for every image of a folder in which of `count` stretches it lies, where 2 comes before 10."""
    places = sorted(range(len(folder)), key=lambda at: natural_order(folder.pairs[at][0].name))
    stretch = {at: index * count // len(folder) for index, at in enumerate(places)}
    return [stretch[at] for at in range(len(folder))]


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
