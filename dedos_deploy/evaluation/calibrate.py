"""Calibrates a bundle's thresholds or its confidence per class on the images of a labelled split."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.bundle import MODEL
from dedos_deploy.confidence_curves import LEVELS, ConfidenceCurves
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.curve_fit import FittedCurves, Part, fit_curves
from dedos_deploy.evaluation.folder import LabelledFolder, ignore_id, match_classes
from dedos_deploy.evaluation.predictors import own_ids
from dedos_deploy.evaluation.thresholds import ClassThreshold, ThresholdCounts
from dedos_deploy.label_files import class_word
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.sources.images import natural_order
from dedos_deploy.vocabulary import BACKGROUND_WORDS, Vocabulary

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.runtime.segmenter import Segmenter
    from dedos_deploy.spec import Background

PARTS = 4
"""Parts of the images, of which each is measured by what the others teach."""

LEAST_STRENGTH = 1.0
"""Fewest pixels that draw the curve of a class to that of all."""

MIN_PIXELS = 10_000
"""Pixels with a known label that curves need: 40 for each score on average."""


@dataclass(frozen=True, eq=False)
class CalibratedConfidence:
    """Confidence curves, and how far confidences were from accuracy without and with them."""

    curves: ConfidenceCurves
    places: tuple[str, ...]
    """Folders of the images, in the order of `fitted.places`."""
    names: tuple[str, ...]
    """Of the classes, in the order of `won`."""
    won: tuple[int, ...]
    """Pixels that they were fitted to, by class."""
    fitted: FittedCurves

    def check_better(self) -> None:
        """Raise BadInputError where, on images of a place that were held back, confidences are farther from
        accuracy with curves than without them."""
        for place, one in zip(self.places, self.fitted.places, strict=True):
            before, after = one.before.error, one.after.error
            if after > before:
                raise BadInputError(
                    f"with these curves confidences would be worse on images of {place!r} that were held back "
                    f"(ECE {after:.4f}, {before:.4f} without): nothing is written; label more images, or "
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
        places = [
            {
                "data": place,
                "pixels": one.before.pixels,
                "ece_without": one.before.error,
                "ece_with": one.after.error,
                "ece_unseen": None if one.unseen is None else one.unseen.error,
            }
            for place, one in zip(self.places, self.fitted.places, strict=True)
        ]
        strength = self.curves.learned["strength"]
        return {
            "classes": classes,
            "places": places,
            "strength": strength,
            "ece_without": before[-1],
            "ece_with": after[-1],
        }


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
    folder = LabelledFolder.open(data_root, split)
    counting = _Counting(bundle, folder, vocabulary, background, threads, progress)
    asked, (counts,) = counting.counts(1, elsewhere=True)
    return counts.best(asked.names)


def calibrate_confidence(
    bundle: Bundle,
    data_root: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    split: str = "val",
    *,
    vocabulary: Vocabulary | None = None,
    background: Background = "threshold",
    strength: float | None = None,
    threads: int | None = None,
    progress: Progress = QUIET,
) -> CalibratedConfidence:
    """Return what scores of an open bundle are worth on a labelled split, per class.

    data_root: a label folder, or several of different places, whose pixels count alike; a class may be in
    any of them. vocabulary: the classes to ask for, of each folder those that it has (None: all of them);
    pixels of other classes do not count, as in all measures of an evaluation. strength: pixels that follow
    the curve of all classes beside those of each, at least LEAST_STRENGTH, inf for that curve alone (None:
    what is best for parts held back). progress: has a part for each folder. The images are looked at as the
    bundle says, through its tiles if it has some; those of a folder make PARTS parts in the order of their
    names, each of which is measured with what all others teach.

    Raises what `calibrate_thresholds` raises; BadInputError, too, for words with rows of their own, another
    strength, no folder, one that is named twice or has fewer than PARTS images, all before anything is
    measured, and for a folder with fewer than MIN_PIXELS pixels.
    """
    check_strength(strength)
    roots = [data_root] if isinstance(data_root, str | os.PathLike) else data_root
    folders = [LabelledFolder.open(root, split) for root in _each_once(roots)]
    asked = _asked_of_each(folders, vocabulary)
    places = []
    for number, (folder, its) in enumerate(zip(folders, asked, strict=True), start=1):
        counting = _Counting(bundle, folder, its, background, threads, progress)
        with progress.part(number, len(folders), f"scores of {folder.root}"):
            places.append(_Place.counted(counting))
    names = tuple(dict.fromkeys(name for place in places for name in place.names))
    parts = [place.parts(names) for place in places]
    fitted = fit_curves(parts, strength)
    won = tuple(np.sum([total.sum(axis=1) for its in parts for _, total in its], axis=0).tolist())
    by_name = {names[k]: fitted.by_class[k] for k in range(len(names)) if won[k]}
    learned = {
        "data": [place.root.resolve().name for place in places],
        "split": split,
        "images": sum(one.images for place in places for one in place.counts),
        "background": background,
        "tiles": bundle.manifest.tiles,
        "strength": None if math.isinf(fitted.strength) else fitted.strength,
    }
    curves = ConfidenceCurves(bundle.manifest.files[MODEL], fitted.overall, by_name, learned)
    return CalibratedConfidence(curves, tuple(str(one.root) for one in places), names, won, fitted)


def check_strength(strength: float | None) -> None:
    """Raise BadInputError unless curves can be fitted with it."""
    if strength is not None and not strength >= LEAST_STRENGTH:
        raise BadInputError(
            f"strength is {strength:g} pixels, but must be at least {LEAST_STRENGTH:g}; leave it out for what "
            "is best for parts held back"
        )


@dataclass(frozen=True)
class _Counting:
    """A bundle that labels a split, to count what it got right at which score."""

    bundle: str | os.PathLike[str] | Bundle
    folder: LabelledFolder
    vocabulary: Vocabulary | None
    background: Background
    threads: int | None
    progress: Progress

    def counts(self, parts: int, *, elsewhere: bool) -> tuple[Vocabulary, list[ThresholdCounts]]:
        """Return the classes asked for, and their pixels in every one of `parts` stretches of the images.

        elsewhere: whether pixels of the folder's other classes count, as wrong wherever they are won.

        Raises BadInputError where no pixel is labelled with one of them.
        """
        folder = self.folder
        asked, table = match_classes(folder.classes, self.vocabulary)
        other = labelled_elsewhere(folder, table == ignore_id(asked)) & elsewhere
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
                f"no pixel of split {folder.split!r} in {str(folder.root)!r} is labelled with one of "
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


@dataclass(frozen=True)
class _Place:
    """Counts of the PARTS stretches of a folder's images."""

    root: Path
    names: tuple[str, ...]
    """Of the classes asked for."""
    counts: list[ThresholdCounts]

    @classmethod
    def counted(cls, counting: _Counting) -> _Place:
        """Count; raises BadInputError for too few pixels or images."""
        asked, counts = counting.counts(PARTS, elsewhere=False)
        folder = counting.folder
        pixels = sum(int(one.right.sum() + one.wrong.sum()) for one in counts)
        if pixels < MIN_PIXELS or not all(one.images for one in counts):
            raise BadInputError(
                f"split {folder.split!r} in {str(folder.root)!r} has {pixels} pixels of known label that got "
                f"a class, in {sum(one.images for one in counts)} images, but at least {MIN_PIXELS} in all and "
                f"some in each of {PARTS} parts of the images are needed to say what a score is worth; label more"
            )
        return cls(folder.root, asked.names, counts)

    def parts(self, names: Sequence[str]) -> list[Part]:
        """Return the counts of every stretch, by the classes called `names`, which hold this place's."""
        rows = [names.index(name) for name in self.names]
        parts = []
        for one in self.counts:
            right, total = np.zeros((2, len(names), LEVELS), np.int64)
            right[rows], total[rows] = one.right, one.right + one.wrong
            parts.append((right, total))
        return parts


def _asked_of_each(
    folders: Sequence[LabelledFolder], vocabulary: Vocabulary | None
) -> list[Vocabulary | None]:
    """Return what to ask for in each folder: the entries of `vocabulary` that it has, None for all of its classes.

    Raises BadInputError for too few images, for an entry that no folder has, a folder that has none, and
    words with rows of their own.
    """
    if vocabulary is not None and vocabulary.tuned is not None:
        raise BadInputError(
            "words of a words file have rows of their own, which a bundle's curves are not for; name "
            "words that the bundle embeds itself"
        )
    for folder in folders:
        if len(folder) < PARTS:
            raise BadInputError(
                f"split {folder.split!r} in {str(folder.root)!r} has {len(folder)} images, but at least "
                f"{PARTS} are needed, each of which is measured with what the others teach; label more"
            )
    if vocabulary is None:
        return [None] * len(folders)
    match_classes(tuple(dict.fromkeys(c for one in folders for c in one.classes)), vocabulary)
    asked: list[Vocabulary | None] = []
    for folder in folders:
        entries = tuple(
            entry
            for entry in vocabulary.entries
            if not {class_word(word) for word in entry.words}.isdisjoint(folder.classes)
        )
        if not entries:
            raise BadInputError(
                f"{str(folder.root)!r} has none of {', '.join(vocabulary.names)}, but "
                f"{', '.join(folder.classes)}; leave it out or ask for one of these"
            )
        asked.append(replace(vocabulary, entries=entries))
    return asked


def _each_once(roots: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the folders; raises BadInputError for none, and for one that is named twice."""
    if not roots:
        raise BadInputError("no folder to calibrate on; name one or several")
    found: dict[Path, Path] = {}
    for root in map(Path, roots):
        twin = found.setdefault(root.resolve(), root)
        if twin is not root:
            raise BadInputError(
                f"{str(root)!r} is the folder {str(twin)!r} once more, but each place counts once; name it once"
            )
    return list(found.values())


def _stretches(folder: LabelledFolder, count: int) -> list[int]:
    """Return for every image of a folder in which of `count` stretches it lies, where 2 comes before 10."""
    places = sorted(range(len(folder)), key=lambda at: natural_order(folder.pairs[at][0].name))
    stretch = {at: index * count // len(folder) for index, at in enumerate(places)}
    return [stretch[at] for at in range(len(folder))]


def labelled_elsewhere(folder: LabelledFolder, left_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
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
