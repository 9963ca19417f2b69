"""Pictures that a nano diffusion model learns from: all of them in memory, at one size."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.label_files import read_text
from dedos_deploy.pictures import IMAGE_SUFFIXES, Picture, open_picture
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.sources.opening import VIDEO_SUFFIXES, frames_at
from dedos_deploy.scenes import KINDS, class_names, render_image
from dedos_deploy.training.folders import LabelFolder, find_folder, open_folder, read_pair

SCENES = "scenes"
"""`scenes:N` on the command line: N procedural pictures, every kind in turn."""

CAPTIONS = "captions.txt"
"""In a label folder: one caption a line for the pictures of the split `train`."""

FRAMES_PER_VIDEO = 120
SCENE_SEED = 5_000_000
"""First seed of `scenes:N`, far from the seeds that tests and label folders of scenes start at."""

NAMED_FROM = 0.01
"""Part of the picture from which a class is worth naming in its caption."""
NAMED_MOST = 6

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Pictures:
    """What was read."""

    images: NDArray[np.uint8]
    """uint8 [N, H, W, 3] BGR, each squashed to one size whatever its shape, as the diffusion
    model sees images later."""

    captions: tuple[str, ...]
    """Caption of each picture, "" where nothing is known about it."""

    credits: tuple[str, ...]
    """What the licences of the sources ask to name."""

    def __len__(self) -> int:
        return len(self.images)


def read_pictures(
    entries: Sequence[str],
    size_hw: Size,
    *,
    captions: bool = False,
    limit: int | None = None,
    progress: Progress = QUIET,
) -> Pictures:
    """Return the pictures of several sources, in a fixed order.

    entries: label folders (their split `train` if they have splits), folders of images and videos
    at any depth, videos (120 frames of each, evenly spaced), or `scenes:N`, each with an optional
    `=SHARE`, the part of its pictures to take, evenly spaced, in (0, 1]; captions: the lines of
    a label folder's captions.txt, or names of what its label maps show; limit: most pictures, evenly
    spaced over all; progress: counts pictures.

    Raises BadInputError or SourceError for a source without a readable picture.
    """
    readers: list[Reader] = []
    credits: list[str] = []
    for entry in entries:
        source, share = _share(entry)
        found, credit = _readers(source, size_hw, captions)
        readers += _spread(found, max(1, round(share * len(found))))
        credits += credit
    if limit is not None:
        readers = _spread(readers, min(limit, len(readers)))
    images = np.empty((len(readers), *size_hw, 3), np.uint8)
    words = []
    for index, reader in enumerate(progress.counted(readers, len(readers), "picture")):
        images[index], caption = reader()
        words.append(caption)
    return Pictures(images, tuple(words), tuple(dict.fromkeys(credits)))


Reader = Callable[[], tuple[Picture, str]]


def _share(entry: str) -> tuple[str, float]:
    source, equals, share = entry.rpartition("=")
    if not equals:
        return entry, 1.0
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise BadInputError(
            f"share {share!r} in {entry!r} is not in (0, 1]; write FOLDER=0.25 to take every fourth "
            "picture"
        )
    return source, value


def _spread(readers: list[Reader], count: int) -> list[Reader]:
    return [readers[i] for i in np.linspace(0, len(readers) - 1, count).astype(int)]


def _readers(entry: str, size_hw: Size, captions: bool) -> tuple[list[Reader], tuple[str, ...]]:
    """Return one function per picture of `entry`, so that a limit costs only what it keeps."""
    kind, colon, count = entry.partition(":")
    if kind == SCENES and colon:
        if not count.isdecimal() or not int(count):
            raise BadInputError(
                f"{entry!r} does not say how many scenes to render; write scenes:2000"
            )
        return [_scene(index, size_hw) for index in range(int(count))], ("procedural scenes",)
    if Path(entry).is_file():
        return list(_video(Path(entry), size_hw)), (Path(entry).stem,)
    root = find_folder(entry)
    if (root / "images" / "train").is_dir() and (root / "classes.txt").is_file():
        folder = open_folder(entry)
        written = _written_captions(root, len(folder.items)) if captions else None
        items = range(len(folder.items))
        return [_labelled(folder, item, size_hw, written, captions) for item in items], (
            folder.credits
        )
    return list(_any_files(root, size_hw)), (root.name,)


def _scene(index: int, size_hw: Size) -> Reader:
    kind = KINDS[index % len(KINDS)]

    def read() -> tuple[Picture, str]:
        image, labels = render_image(kind, seed=SCENE_SEED + index, size_hw=size_hw)
        return image, _caption(labels, class_names(kind), index)

    return read


def _written_captions(root: Path, items: int) -> list[str] | None:
    path = root / CAPTIONS
    if not path.is_file():
        return None
    lines = read_text(path, advice="it has one caption per line").splitlines()
    if len(lines) != items:
        raise BadInputError(
            f"{path} has {len(lines)} lines but images/train has {items} pictures; write one "
            "caption a line in the order of the file names, or remove the file"
        )
    return lines


def _labelled(
    folder: LabelFolder, item: int, size_hw: Size, written: list[str] | None, named: bool
) -> Reader:
    def read() -> tuple[Picture, str]:
        if written is not None or not named:
            caption = written[item] if written is not None else ""
            return _image(folder.items[item][0], size_hw), caption
        image, labels = read_pair(folder, item)
        return _resized(image, size_hw), _caption(labels, folder.words, item)

    return read


def _any_files(root: Path, size_hw: Size) -> Iterator[Reader]:
    base = root / "images" if (root / "images").is_dir() else root
    files = sorted(file for file in base.rglob("*") if file.is_file())
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    if not images and not videos:
        raise BadInputError(
            f"{base} holds no picture and no video; expected {', '.join(IMAGE_SUFFIXES)} or "
            f"{', '.join(VIDEO_SUFFIXES)}"
        )
    for file in images:
        yield lambda file=file: (_image(file, size_hw), "")  # type: ignore[misc]
    for file in videos:
        yield from _video(file, size_hw)


def _video(path: Path, size_hw: Size) -> Iterator[Reader]:
    def spaced(total: int) -> set[int]:
        return set(np.linspace(0, total - 1, min(total, FRAMES_PER_VIDEO)).astype(int).tolist())

    for frame in frames_at(path, spaced):
        small = _resized(frame.frame_bgr, size_hw)
        yield lambda small=small: (small, "")  # type: ignore[misc]


def _image(path: Path, size_hw: Size) -> Picture:
    return _resized(open_picture(path), size_hw)


def _resized(image: Picture, size_hw: Size) -> Picture:
    import cv2

    if image.shape[:2] == size_hw:
        return image
    smaller = image.shape[0] >= size_hw[0] and image.shape[1] >= size_hw[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=how), np.uint8)


def _caption(labels: NDArray[np.integer], words: Sequence[str | None], seed: int) -> str:
    """Return a few names of what `labels` shows, the largest first; seed varies how many."""
    values, counts = np.unique(labels, return_counts=True)
    order = values[np.argsort(-counts, kind="stable")]
    parts = dict(zip(values.tolist(), (counts / labels.size).tolist(), strict=True))
    named = [
        words[value]
        for value in order.tolist()
        if value < len(words) and parts[value] >= NAMED_FROM
    ]
    shown = [word for word in named if word is not None][:NAMED_MOST]
    return ", ".join(shown[: random.Random(seed).randint(1, len(shown))]) if shown else ""
