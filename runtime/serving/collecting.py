"""Frames whose labels somebody put right, in a label folder to train on."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.label_files import (
    UNLABELLED,
    class_file,
    class_word,
    parse_classes,
    read_classes,
    read_text,
)
from dedos_deploy.locks import hold_folder
from dedos_deploy.runtime.serving.marks import Mask
from dedos_deploy.runtime.serving.recordings import stamped
from dedos_deploy.runtime.sinks.files import encode_picture
from dedos_deploy.runtime.sinks.outputs import write_whole, writing

SPLIT = "train"
HOLDS = (f"images/{SPLIT}/*", f"labels/{SPLIT}/*", "classes.txt")
"""What is written below the folder."""
LEAST_FREE = 256 << 20
"""Bytes that stay free on the disk."""

_ADVICE = "it names one class per line, the first for label value 0"

Region = tuple[str, Mask]
"""A word, and the pixels that are it, bool [H, W]."""


@dataclass(frozen=True)
class Collected:
    """A frame that was put into the folder."""

    picture: str
    """Path of the picture."""

    labels: str
    """Path of its label image."""

    frames: int
    """Frames that were put there since the program began."""


class CollectFolder(Closing):
    """A label folder (see `dedos_deploy.label_files`) that frames and words are added to.

    What is there stays: pictures get names of their own, words their lines at the end of
    `classes.txt`. A picture appears after its labels, so that who reads meanwhile finds both.
    """

    def __init__(self, root: Path) -> None:
        """Make the folder, or go on with one that is there; no other process may collect into it
        meanwhile. Raises BadInputError, and SinkError when it cannot be written."""
        self._root = root
        self._frames = 0
        self._adding = threading.Lock()
        with writing(root):
            for part in ("images", "labels"):
                (root / part / SPLIT).mkdir(parents=True, exist_ok=True)
            try:
                self._held: int | None = hold_folder(root)
            except BlockingIOError:
                raise BadInputError(
                    f"another program collects frames into {str(root)!r}; name another folder"
                ) from None
        try:
            self._classes = class_file(root, SPLIT)
            self._words = read_classes(self._classes) if self._classes.exists() else ()
            self._check_count(self._words)
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        return self._root

    def close(self) -> None:
        """Let others collect there; may be called twice."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def add(
        self, camera: str, picture_bgr: NDArray[np.uint8], regions: Iterable[Region]
    ) -> Collected:
        """Write a frame, uint8 [H, W, 3], and what is known of it; other pixels are unlabelled.

        regions: of overlapping ones the last counts; taken one by one, so that large pictures with many
        words need one mask at a time. Raises BadInputError for a word that no label
        folder can have, or no labelled pixel; SinkError when it cannot be written, or would leave less
        than LEAST_FREE on the disk.
        """
        with self._adding:
            self._check_space()
            labels = self._labels(picture_bgr.shape[:2], regions)
            name = stamped(camera)
            picture = self._root / "images" / SPLIT / f"{name}.png"
            label_file = self._root / "labels" / SPLIT / f"{name}.png"
            self._write(picture, picture_bgr, label_file, labels)
            self._frames += 1
            return Collected(str(picture), str(label_file), self._frames)

    def _labels(self, size_hw: tuple[int, ...], regions: Iterable[Region]) -> NDArray[np.uint8]:
        on_top = np.full(size_hw, -1, np.int32)
        words = []
        for place, (word, mask) in enumerate(regions):
            words.append(word)
            on_top[mask] = place
        seen = [place for place in np.unique(on_top).tolist() if place >= 0]
        if not seen:
            raise BadInputError("nothing is drawn on the frame; draw a region and name it")
        # Only of words that are seen: one that is covered needs no line in `classes.txt`.
        values = np.full(len(words) + 1, UNLABELLED, np.uint8)
        values[seen] = self._numbers([words[place] for place in seen])
        return values[on_top]

    def _numbers(self, words: Sequence[str]) -> list[int]:
        """Return the label value of every word; new ones get a line in `classes.txt`."""
        asked = [class_word(word) for word in words]
        new = tuple(dict.fromkeys(word for word in asked if word not in self._words))
        if new:
            self._check_count((*self._words, *new))
            old = [read_text(self._classes, advice=_ADVICE).rstrip()] if self._words else []
            text = "\n".join([*old, *new]) + "\n"
            # Read as it will be: a word that looks like a comment or a numbered list is refused now.
            known = parse_classes(text, self._classes)
            write_whole(self._classes, text.encode(), sync=True)
            self._words = known
        return [self._words.index(word) for word in asked]

    def _check_count(self, words: Sequence[str]) -> None:
        if len(words) > UNLABELLED:
            raise BadInputError(
                f"{str(self._root)!r} would have {len(words)} words, at most {UNLABELLED} fit into labels of "
                "8 bits; begin another folder"
            )

    def _check_space(self) -> None:
        with writing(self._root):  # a disk that was taken out, or a folder that was removed
            free = shutil.disk_usage(self._root).free
        if free < LEAST_FREE:
            raise SinkError(
                f"the disk of {str(self._root)!r} has {free >> 20} MiB left, and {LEAST_FREE >> 20} are kept "
                "free; make room"
            )

    def _write(
        self,
        picture: Path,
        picture_bgr: NDArray[np.uint8],
        label_file: Path,
        labels: NDArray[np.uint8],
    ) -> None:
        write_whole(label_file, encode_picture(".png", labels), overwrite=False, sync=True)
        try:
            content = encode_picture(".png", picture_bgr)
            write_whole(picture, content, overwrite=False, sync=True)
        except BaseException:
            label_file.unlink(missing_ok=True)
            raise
