"""Scenes of the miniature: pictures, full label maps, captions, and the base/novel split of words.

Masks teach base words only. A novel word is named in captions and nowhere else: its pixels are
unlabelled in the folder that DEDOS trains on and labelled in the folder it is scored on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import write_atomically
from dedos_deploy.label_files import UNLABELLED
from dedos_deploy.scenes import KINDS, class_names, render_image

NOVEL_REASONS: dict[str, str] = {
    "bus": "street, large thing; truck and car are base, so it must be told from its neighbours",
    "grass": "street, stuff on the ground beside road and sidewalk",
    "mountain": "street, stuff at the horizon, between sky and building",
    "traffic sign": "street, small thing; pole and traffic light are base",
    "sofa": "hall, thing; chair and bench are base",
    "plant": "hall, thing with the texture of trees and bushes, which are base",
    "cabinet": "hall, box against a wall, like the base door and elevator",
    "vending machine": "hall, box with a look of its own",
    "rug": "hall, stuff on the floor",
}
"""The novel words, each with why: both kinds of scene, things and stuff, large and small, and each
on at least one picture in thirteen, so that its IoU means something after a few hundred pictures."""

_UNION = tuple(dict.fromkeys(word for kind in KINDS for word in class_names(kind)))
BASE_WORDS = tuple(word for word in _UNION if word not in NOVEL_REASONS)
NOVEL_WORDS = tuple(word for word in _UNION if word in NOVEL_REASONS)
WORDS = BASE_WORDS + NOVEL_WORDS
"""Union of both kinds' classes, base words first; a label is an index into it."""

NAMED_SHARE = 0.004
"""A caption names only what covers at least this share of the picture."""

_BROAD = 0.7  # what spans this share of the width has no side
_PLACES = ("on the left", "in the middle", "on the right")
_OPENINGS = {
    "street": (
        "a street with",
        "a photo of a street with",
        "outside there is",
        "outdoors,",
        "a photo of",
        "a picture of",
    ),
    "hall": (
        "a hall with",
        "a photo of a corridor with",
        "inside there is",
        "indoors,",
        "a photo of",
        "a picture of",
    ),
}
_CLOSE = ("a photo of", "a close view of", "a picture of")
_NO_ARTICLE = ("grass", "sky", "stairs")


@dataclass(frozen=True)
class Caption:
    """What is said about a picture."""

    text: str
    """The sentence."""

    words: tuple[int, ...]
    """Indices into WORDS of what the sentence names."""


@dataclass(frozen=True, eq=False)
class SceneSet:
    """Pictures of both kinds, alternating, with everything known about them."""

    images: NDArray[np.uint8]
    """uint8 [N, H, W, 3] BGR."""

    labels: NDArray[np.uint8]
    """uint8 [N, H, W], index into WORDS, every pixel has one."""

    seed: int
    """The same seed and count give the same set everywhere."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.labels.shape[1], self.labels.shape[2]

    def kind(self, index: int) -> str:
        """Return the kind of picture `index`."""
        return KINDS[index % len(KINDS)]

    def caption(self, index: int, *, draw: int = 0) -> Caption:
        """Return a caption of picture `index`; other draws name other things in it."""
        rng = random.Random(f"caption {self.seed} {index} {draw}")
        return caption_of(self.labels[index], self.kind(index), rng)


def render_scenes(count: int, *, size_hw: tuple[int, int], seed: int) -> SceneSet:
    """Return `count` scenes, street and hall in turn.

    seed: sets of different seeds share no scene while they hold less than a million pictures.
    Raises BadInputError for a count below 1 or a side under 16 pixels.
    """
    if not 1 <= count < _SEEDS_PER_SET:
        raise BadInputError(
            f"the number of scenes must lie in [1, {_SEEDS_PER_SET}), received {count}"
        )
    tables = {kind: _union_table(kind) for kind in KINDS}
    images = np.empty((count, *size_hw, 3), np.uint8)
    labels = np.empty((count, *size_hw), np.uint8)
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        scene_seed = seed * _SEEDS_PER_SET + index
        images[index], found = render_image(kind, seed=scene_seed, size_hw=size_hw)
        labels[index] = tables[kind][found]
    return SceneSet(images, labels, seed)


_SEEDS_PER_SET = 1_000_000


def _union_table(kind: str) -> NDArray[np.uint8]:
    return np.array([WORDS.index(word) for word in class_names(kind)], np.uint8)


def caption_of(labels: NDArray[np.uint8], kind: str, rng: random.Random) -> Caption:
    """Return a sentence that names one to four things of a picture, some with their place.

    labels: uint8 [H, W], index into WORDS. Every thing that covers NAMED_SHARE of the picture is
    equally likely to be named, so small things are not drowned by roads and floors.
    """
    counts = np.bincount(labels.ravel(), minlength=len(WORDS)) / labels.size
    present = np.flatnonzero(counts >= NAMED_SHARE).tolist()
    chosen = rng.sample(present, min(len(present), rng.randint(1, 4)))
    phrases = [
        _phrase(WORDS[word], labels == word if rng.random() < 0.5 else None) for word in chosen
    ]
    close = len(chosen) == 1 and counts[chosen[0]] > 0.3
    opening = rng.choice(_CLOSE if close else _OPENINGS[kind])
    listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)
    return Caption(f"{opening} {listed}", tuple(chosen))


def _phrase(word: str, mask: NDArray[np.bool_] | None) -> str:
    article = "an " if word[0] in "aeiou" else "a "
    phrase = word if word in _NO_ARTICLE else article + word
    if mask is None:
        return phrase
    columns = np.flatnonzero(mask.any(axis=0))
    width = mask.shape[1]
    if columns[-1] - columns[0] > _BROAD * width:
        return phrase
    centre = float(mask.sum(axis=0) @ np.arange(width)) / float(mask.sum()) / width
    return f"{phrase} {_PLACES[min(2, int(3 * centre))]}"


def write_folders(folder: Path, *, train: SceneSet, val: SceneSet) -> tuple[Path, Path]:
    """Write the sets as two ordinary label folders and return them: to train on, to score on.

    | folder | splits | classes.txt | pixels of novel words |
    |---|---|---|---|
    | `base` | train, val | base words | unlabelled (255) |
    | `all` | val | all words | labelled |

    There must be two: a class that `classes.txt` names counts as annotated, so novel words there
    would become negatives of every training picture. `all/base.txt` and `all/novel.txt` list the
    two groups of words for the report, `base/captions.txt` has one caption a training picture.

    Raises BadInputError when a file cannot be written.
    """
    base, everything = folder / "base", folder / "all"
    try:
        _write_split(base, "train", train, known=len(BASE_WORDS))
        _write_split(base, "val", val, known=len(BASE_WORDS))
        _write_split(everything, "val", val, known=len(WORDS))
        captions = [train.caption(index).text for index in range(len(train))]
        _write_lines(base / "captions.txt", captions)
        _write_lines(everything / "base.txt", BASE_WORDS)
        _write_lines(everything / "novel.txt", NOVEL_WORDS)
        # last, because a folder without them is not a label folder
        _write_lines(base / "classes.txt", BASE_WORDS)
        _write_lines(everything / "classes.txt", WORDS)
    except OSError as error:
        raise _unwritten(folder, error) from error
    return base, everything


def write_pictures(folder: Path, scenes: SceneSet) -> None:
    """Write the pictures of a set, and nothing that is known about them, into `folder`.

    Raises BadInputError when a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(scenes.images):
            _write_photo(folder, index, image)
    except OSError as error:
        raise _unwritten(folder, error) from error


def _write_photo(folder: Path, index: int, image: NDArray[np.uint8]) -> None:
    import cv2

    _, photo = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 95))
    write_atomically(folder / f"{index:06}.jpg", photo.tobytes())


def _unwritten(folder: Path, error: OSError) -> BadInputError:
    return BadInputError(
        f"cannot write scenes to {folder} ({error.strerror or error}); make room or choose another "
        "folder"
    )


def _write_split(folder: Path, split: str, scenes: SceneSet, *, known: int) -> None:
    import cv2

    images, labels = folder / "images" / split, folder / "labels" / split
    for place in (images, labels):
        place.mkdir(parents=True, exist_ok=True)
    for index in range(len(scenes)):
        found = scenes.labels[index]
        visible = np.where(found < known, found, np.uint8(UNLABELLED))
        _, ids = cv2.imencode(".png", visible)
        _write_photo(images, index, scenes.images[index])
        write_atomically(labels / f"{index:06}.png", ids.tobytes())


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_atomically(path, ("\n".join(lines) + "\n").encode())
