"""The labelled frames that words are tuned on: few, spread over a folder, at the network's size."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.confusion import Ids
from dedos_deploy.evaluation.folder import LabelledFolder, ignore_id, match_classes
from dedos_deploy.label_files import class_word
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.vocabulary import BACKGROUND_WORDS, Entry, Vocabulary

FEWEST_FRAMES = 4
"""Words are judged on frames that they were not tuned on, in as many parts."""


@dataclass(frozen=True, eq=False)
class WordFrame:
    """One labelled frame."""

    name: str
    """Of its file."""
    image: NDArray[np.uint8]
    """uint8 [1, h, w, 3] BGR, at the network's size."""
    labels: Ids
    """[H, W] at the frame's own size: ids of the words, then of the neighbours, then `ignore`."""
    elsewhere: NDArray[np.bool_]
    """[H, W], True where the label is known to be none of the words."""


@dataclass(frozen=True, eq=False)
class WordData:
    """Frames with their words."""

    frames: tuple[WordFrame, ...]
    """In the order of their names."""
    asked: Vocabulary
    """The words to tune."""
    neighbours: tuple[str, ...]
    """Classes of the folder that are not tuned, whose ids follow those of the words."""
    ignore: int
    """Label of pixels that are not counted."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by id."""
        return (*self.asked.names, *self.neighbours)

    def frames_with(self, class_id: int) -> NDArray[np.bool_]:
        """Return bool [frames]: which of them have a pixel of a class."""
        return np.array([bool((frame.labels == class_id).any()) for frame in self.frames])


def read_frames(
    root: str | os.PathLike[str],
    split: str,
    *,
    count: int,
    vocabulary: Vocabulary | None,
    size_hw: tuple[int, int],
    progress: Progress = QUIET,
) -> WordData:
    """Return `count` frames of a label folder, spread evenly over it, or all where it has fewer.

    vocabulary: the words to tune (see `match_classes`), None for all classes of the folder; the others
    become neighbours.

    Raises BadInputError for fewer than FEWEST_FRAMES, a word of `vocabulary` that no frame shows, and
    the same picture with different labels.
    """
    folder = LabelledFolder.open(root, split)
    used = min(count, len(folder))
    if used < FEWEST_FRAMES:
        raise BadInputError(
            f"{used} frame{'s'[: used != 1]} of split {split!r} in {os.fspath(root)!r} cannot tell whether "
            f"tuned words are better elsewhere; give at least {FEWEST_FRAMES}, better 20"
        )
    asked, own = match_classes(folder.classes, vocabulary)
    others = [name for value, name in enumerate(folder.classes) if own[value] == ignore_id(asked)]
    left = [name for name in others if name not in BACKGROUND_WORDS]
    whole = Vocabulary((*asked.entries, *map(Entry, left)))
    _, table = match_classes(folder.classes, whole)
    elsewhere = np.zeros(len(own), dtype=bool)
    # "void" and "ignore" say that nobody looked; these say: none of the words.
    known = {*left, *({"background", "other"} & {*others})}
    elsewhere[: len(folder.classes)] = [name in known for name in folder.classes]
    places = [(2 * index + 1) * len(folder) // (2 * used) for index in range(used)]
    frames = []
    for place in progress.counted(places, used):
        item = folder.image(place)
        image = np.empty((*size_hw, 3), np.uint8)
        resize_frame(item.image_bgr, image)
        frames.append(WordFrame(item.name, image[None], table[item.labels], elsewhere[item.labels]))
    found = WordData(tuple(frames), asked, tuple(left), ignore_id(whole))
    _check_same_pictures(found)
    if vocabulary is not None:
        _check_all_shown(found, used, len(folder))
    return found


def _check_all_shown(data: WordData, used: int, whole: int) -> None:
    for class_id, entry in enumerate(data.asked.entries):
        if not data.frames_with(class_id).any():
            more = f"take more --frames (there are {whole})" if used < whole else "label some"
            raise BadInputError(
                f"none of the {used} frames has a labelled pixel of {class_word(entry.name)!r}; {more}, "
                "or leave the word out, which keeps it as it is"
            )


def _check_same_pictures(data: WordData) -> None:
    seen: dict[bytes, WordFrame] = {}
    for frame in data.frames:
        other = seen.setdefault(frame.image.tobytes(), frame)
        if other.labels.shape != frame.labels.shape:
            continue
        known = (other.labels != data.ignore) & (frame.labels != data.ignore)
        unlike = int(((other.labels != frame.labels) & known).sum())
        if unlike:
            raise BadInputError(
                f"{other.name!r} and {frame.name!r} are the same picture with different labels, on "
                f"{unlike} of {int(known.sum())} pixels; correct one of them, or take it out"
            )
