"""Labels for unlabelled pictures and videos, from segmentation nets that may be used for it.

Small nets with Apache-2.0 weights, DeepLab on PASCAL VOC and on Cityscapes, look at every n-th
frame, mirrored too; where the first of them is sure enough its answer becomes the label, else the
next one's, else 255 (unknown). The result is an ordinary label folder (images/train, labels/train,
classes.txt, credits.txt) in plain words, so that training reads it like any other.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import write_atomically
from dedos_deploy.pictures import IMAGE_SUFFIXES
from dedos_deploy.runtime.sinks.palette import colours_of
from dedos_deploy.runtime.sources.images import ImageSource, find_images
from dedos_deploy.runtime.sources.opening import open_source
from dedos_deploy.training.folders import LabelFolder, open_folder, read_pair
from dedos_deploy.training.pretraining.teachers import KINDS, SegmentationTeacher

_LOG = logging.getLogger(__name__)

UNKNOWN = 255
CREDITS, OVERLAYS = "credits.txt", "overlays.png"
OVERLAY_HEIGHT = 240

_QUALITY = (1, 90)  # cv2.IMWRITE_JPEG_QUALITY and its value

Teachers = Sequence[SegmentationTeacher]
Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class LabelRules:
    """What becomes a label."""

    confidence: float = 0.7
    """Least probability of the winning word."""

    words: tuple[str, ...] = ()
    """The only words to keep (empty: all)."""

    without: tuple[str, ...] = ()
    """Words never to keep."""

    side_px: int = 480
    """Longest side of the pictures that are written."""

    least_known: float = 0.02
    """Pictures with a smaller share of known pixels are left out."""

    def __post_init__(self) -> None:
        if not 0.0 < self.confidence <= 1.0:
            raise BadInputError(f"confidence is {self.confidence}, but must lie in (0, 1]")

    def kept(self, teachers: Teachers) -> tuple[str, ...]:
        """Return the words that these teachers may give, each once.

        Raises BadInputError when none is left.
        """
        known = dict.fromkeys(word for teacher in teachers for word in teacher.words if word)
        kept = tuple(
            w for w in known if w not in self.without and (w in self.words or not self.words)
        )
        if not kept:
            raise BadInputError(
                f"no word is left to label; the teachers know {', '.join(known) or 'none'}"
            )
        return kept


def label_image(teachers: Teachers, image_bgr: NDArray[np.uint8], rules: LabelRules) -> Labels:
    """Return labels uint8 [H, W], indices into `rules.kept(teachers)`, 255 where no one is sure.

    Channels of one word are added before the winner is chosen. A sure teacher is heard before the
    later ones, unless one of these says what kind of thing it is (KINDS); one that is sure of a word which
    is not kept leaves the pixel to them.
    """
    kept = rules.kept(teachers)
    broader = np.full(256, UNKNOWN, np.uint8)
    for finer, of in KINDS.items():
        if finer in kept and of in kept:
            broader[kept.index(finer)] = kept.index(of)
    labels = np.full(image_bgr.shape[:2], UNKNOWN, np.uint8)
    for teacher in teachers:
        names = tuple(dict.fromkeys(word for word in teacher.words if word is not None))
        by_channel = teacher.probabilities(image_bgr)
        merged = np.zeros((*by_channel.shape[:2], len(names)), np.float32)
        for channel, word in enumerate(teacher.words):
            if word is not None:
                merged[..., names.index(word)] += by_channel[..., channel]
        winner, sure = merged.argmax(axis=2), merged.max(axis=2) >= rules.confidence
        table = np.array([kept.index(c) if c in kept else UNKNOWN for c in names], np.uint8)
        said = table[winner]
        heard = sure & ((labels == UNKNOWN) | (labels == broader[said]))
        labels = np.where(heard, said, labels).astype(np.uint8)
    return labels


def write_pseudo_labels(
    teachers: Teachers,
    frames: Iterable[tuple[str, NDArray[np.uint8]]],
    folder: Path,
    rules: LabelRules,
) -> int:
    """Label frames (name, picture) and write them as a label folder; returns how many were kept.

    Files of the same name are replaced; classes.txt must agree if it is there already.

    Raises BadInputError when the folder holds other classes, or no frame was given.
    """
    import cv2

    count = seen = 0
    _write_classes(folder, rules.kept(teachers))
    for name, frame in frames:
        seen += 1
        scale = min(1.0, rules.side_px / max(frame.shape[:2]))
        resized = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.asarray(resized, np.uint8)
        labels = label_image(teachers, image, rules)
        if (labels != UNKNOWN).mean() < rules.least_known:
            continue
        _write_pair(folder, name, image, labels)
        count += 1
        if count % 20 == 0:
            _LOG.info("%s: %d pictures labelled", folder.name, count)
    if not seen:
        raise BadInputError(f"there is no picture to label for {folder}; give a video or a folder")
    return count


def complete_folder(
    teachers: Teachers,
    source: Path,
    folder: Path,
    rules: LabelRules,
    *,
    split: str,
    joined: str | None = None,
) -> int:
    """Copy one split of a label folder and let the teachers name what it calls background.

    What the source labels with a class stays; on background pixels the teachers may say any word
    but the source's own, which are known to be elsewhere. joined: one word that every class of the
    source becomes, such as `person` for a set of clothes; the teachers may say it, too, as the set
    does not tell of others in the background. Returns the number of pictures.

    Raises BadInputError when the source is no label folder.
    """
    given = open_folder(os.fspath(source), split=split)
    own = given.annotated if joined is None else (joined,)
    kept = rules.kept(teachers)
    names = tuple(dict.fromkeys([*own, *kept]))
    _write_classes(folder, names)
    table = _given_table(given, names, joined)
    background = [value for value, word in enumerate(given.words) if word is None]
    lookup = np.full(256, UNKNOWN, np.uint8)
    for value, word in enumerate(kept):
        lookup[value] = UNKNOWN if word in own and joined is None else names.index(word)
    for done, (image_path, _) in enumerate(given.items, start=1):
        image, known = read_pair(given, done - 1)
        guessed = lookup[label_image(teachers, image, rules)]
        labels = np.where(np.isin(known, background), guessed, table[known])
        _write_pair(folder, image_path.stem, image, labels)
        if done % 20 == 0:
            _LOG.info("%s: %d pictures labelled", folder.name, done)
    return len(given.items)


def _given_table(given: LabelFolder, names: Sequence[str], joined: str | None) -> Labels:
    table = np.full(256, UNKNOWN, np.uint8)
    for value, word in enumerate(given.words):
        if word is not None:
            table[value] = names.index(joined or word)
    return table


def write_credits(folder: Path, lines: Sequence[str]) -> None:
    """Add credits to a label folder's credits.txt, each line once; training carries them on."""
    path = folder / CREDITS
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    wanted = dict.fromkeys([*before, *(line.strip() for line in lines)])
    write_atomically(path, "".join(f"{line}\n" for line in wanted if line).encode())


def write_overlays(folder: Path, count: int) -> Path:
    """Write and return overlays.png: up to `count` pictures, evenly spaced, beside their labels.

    Every label is painted in its class's colour and named on its largest part; grey is unknown.
    """
    read = open_folder(os.fspath(folder))
    count = min(count, len(read.items))
    rows = []
    for item in (k * len(read.items) // count for k in range(count)):
        rows.append(_overlay_row(read, item))
    width = max(row.shape[1] for row in rows)
    sheet = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    _write_image(folder / OVERLAYS, np.concatenate(sheet), [])
    return folder / OVERLAYS


def _overlay_row(folder: LabelFolder, item: int) -> Labels:
    import cv2

    words = folder.words
    image, labels = read_pair(folder, item)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(words)] = colours_of([word or "" for word in words])
    painted = cv2.addWeighted(image, 0.4, palette[labels], 0.6, 0.0)
    for value in np.unique(labels[labels != UNKNOWN]):
        # inside the mask where it is widest, so that the name stands on what it names
        inside = cv2.distanceTransform((labels == value).astype(np.uint8), cv2.DIST_L2, 3)
        top, left = np.unravel_index(int(inside.argmax()), inside.shape)
        cv2.putText(
            painted,
            str(words[value]),
            (max(0, int(left) - 20), int(top)),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.4,
            (255, 255, 255),
            1,
            cv2.LINE_AA,
        )
    both = np.concatenate([image, painted], axis=1)
    scale = OVERLAY_HEIGHT / both.shape[0]
    return np.asarray(cv2.resize(both, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def _write_pair(folder: Path, name: str, image: NDArray[np.uint8], labels: Labels) -> None:
    _write_image(folder / "images" / "train" / f"{name}.jpg", image, _QUALITY)
    _write_image(folder / "labels" / "train" / f"{name}.png", labels, [])


def _write_classes(folder: Path, names: Sequence[str]) -> None:
    path, text = folder / "classes.txt", "".join(f"{name}\n" for name in names)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise BadInputError(f"{path} lists other classes; write to an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def _write_image(path: Path, image: NDArray[np.uint8], options: Sequence[int]) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, image, options)
    if not done:
        raise BadInputError(f"a picture of shape {image.shape} cannot be encoded as {path.name}")
    write_atomically(path, data.tobytes())


def read_frames(path: Path, *, step: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield (name, uint8 [H, W, 3] BGR) of every `step`-th frame of a video or image folder.

    Raises BadInputError for a bad step, SourceError when nothing can be read.
    """
    if step < 1:
        raise BadInputError(f"the step between frames must be at least 1, received {step}")
    return _frames(path, step)


def _frames(path: Path, step: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    if path.is_dir():
        chosen = find_images(path, IMAGE_SUFFIXES)[::step]
        with ImageSource(chosen, source_id=str(path)) as pictures:
            for frame in pictures:
                yield f"{path.name}_{frame.name}", frame.frame_bgr
        return
    with open_source(os.path.abspath(path)) as source:  # a file called 0 is no camera
        for frame in source:
            if frame.frame_id % step == 0:
                yield f"{path.stem}_{frame.frame_id:05d}", frame.frame_bgr
