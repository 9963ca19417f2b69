"""PASCAL VOC segmentation: `SegmentationClass` as PNGs with VOC's palette, `ImageSets`, `JPEGImages`."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.corpus.formats.contract import (
    UNLABELLED,
    ExportFrame,
    ExportPicture,
    Format,
    Task,
)
from dedos_deploy.errors import BadInputError

VOID = 255
"""Of pixels that nobody counts."""


class Voc(Format):
    """Values are the classes' places from 1, since VOC's 0 is its background, and VOID where unlabelled."""

    suffix = ".jpg"
    most_classes = VOID - 1

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        for one in task.classes:
            if ":" in one.name:
                raise BadInputError(
                    f"class {one.name!r} has a colon, which separates columns in VOC's labelmap.txt; give it "
                    "another name with --classes 'name|synonym'"
                )
        self._palette = palette()
        self._names: list[str] = []

    def add(self, frame: ExportFrame, picture: ExportPicture) -> None:
        from PIL import Image

        self.place(f"JPEGImages/{frame.name}", picture)
        values = np.where(frame.labels == UNLABELLED, VOID, frame.labels + 1).astype(np.uint8)
        image = Image.fromarray(values)
        image.putpalette(self._palette.tobytes())
        content = io.BytesIO()
        image.save(content, "PNG")
        self.write(f"SegmentationClass/{frame.name}.png", content.getvalue())
        self._names.append(frame.name)

    def finish(self) -> None:
        self.write_text(f"ImageSets/Segmentation/{self.task.settings.split}.txt", self._names)
        names = ["background", *(one.name for one in self.task.classes)]
        lines = [self._line(name, value) for value, name in enumerate(names)]
        head = "# label:color_rgb:parts:actions"
        self.write_text("labelmap.txt", [head, *lines, self._line("ignored", VOID)])

    def _line(self, name: str, value: int) -> str:
        return f"{name}:{','.join(map(str, self._palette[value].tolist()))}::"


def palette() -> NDArray[np.uint8]:
    """Return VOC's colours of values, uint8 [256, 3] RGB: bits 0, 1, 2 of a value are the highest bits of
    red, green and blue, bits 3, 4, 5 the next ones.

    >>> palette()[[0, 1, 2, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0], [224, 224, 192]]
    """
    values, colours = np.arange(256)[:, None] >> np.arange(3), np.zeros((256, 3), np.uint8)
    for place in range(3):
        colours |= ((values >> 3 * place & 1) << 7 - place).astype(np.uint8)
    return colours
