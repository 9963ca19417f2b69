"""Cityscapes: label ids, train ids and instance ids as PNGs under `gtFine`, pictures under `leftImg8bit`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.corpus.formats.contract import (
    ExportFrame,
    ExportPicture,
    Format,
    Labels,
    Task,
)
from dedos_deploy.corpus.formats.objects import connected
from dedos_deploy.errors import BadInputError
from dedos_deploy.label_files import class_word
from dedos_deploy.runtime.sinks.files import encode_picture

CITY = "dedos"
"""Stands where Cityscapes has the name of a city."""

IGNORED = 255

# Of id 0 on, as cityscapesScripts numbers them; those of the benchmark in the order of their train ids.
_NAMES = (
    "unlabeled",
    "ego vehicle",
    "rectification border",
    "out of roi",
    "static",
    "dynamic",
    "ground",
    "road",
    "sidewalk",
    "parking",
    "rail track",
    "building",
    "wall",
    "fence",
    "guard rail",
    "bridge",
    "tunnel",
    "pole",
    "polegroup",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "caravan",
    "trailer",
    "train",
    "motorcycle",
    "bicycle",
)
_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


class Cityscapes(Format):
    """A class that Cityscapes has keeps its numbers; others follow: label ids from 34, train ids from 19.

    Things have instance ids 1000 times their label id and more, as there.
    """

    suffix = ".png"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._label_ids, self._train_ids = self._numbers()

    @staticmethod
    def frame_name(number: int, name: str) -> str:
        # Their tools take names apart: city, sequence, frame.
        return f"{CITY}_{number:06d}_000019"

    def add(self, frame: ExportFrame, picture: ExportPicture) -> None:
        split = self.task.settings.split
        stem = f"{split}/{CITY}/{frame.name}"
        self.place(f"leftImg8bit/{stem}_leftImg8bit", picture)
        for kind, values in (
            ("labelIds", _looked_up(self._label_ids, frame.labels, 0).astype(np.uint8)),
            ("labelTrainIds", _looked_up(self._train_ids, frame.labels, IGNORED).astype(np.uint8)),
            ("instanceIds", self._instances(frame.labels)),
        ):
            self.write(f"gtFine/{stem}_gtFine_{kind}.png", encode_picture(".png", values))

    def finish(self) -> None:
        own = {
            int(value): one for value, one in zip(self._label_ids, self.task.classes, strict=True)
        }
        lines = []
        for value in range(max(len(_NAMES), *(number + 1 for number in own))):
            colour = own[value].colour_rgb if value in own else (0, 0, 0)
            name = own[value].name if value in own else _NAMES[value]
            # Columns are separated by spaces.
            lines.append(" ".join([*map(str, colour), "_".join(name.split())]))
        self.write_text("label_colors.txt", lines)

    def _numbers(self) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        labels, trained = [], []
        next_label, next_trained = len(_NAMES), len(_TRAINED)
        for one in self.task.classes:
            word = class_word(one.name)
            if word in _NAMES:
                labels.append(_NAMES.index(word))
                trained.append(_TRAINED.index(labels[-1]) if labels[-1] in _TRAINED else IGNORED)
            else:
                labels.append(next_label)
                trained.append(next_trained)
                next_label, next_trained = next_label + 1, next_trained + 1
        if next_label > IGNORED:
            raise BadInputError(
                f"Cityscapes has label ids for {IGNORED - len(_NAMES)} classes beside its own, and "
                f"there are {next_label - len(_NAMES)}; name fewer with --classes"
            )
        return np.array(labels, np.uint16), np.array(trained, np.uint16)

    def _instances(self, labels: Labels) -> NDArray[np.uint16]:
        """Return label ids, uint16 [H, W], and of each region of a thing its own number."""
        values = _looked_up(self._label_ids, labels, 0)
        regions, numbers = connected(labels)
        for class_index, one in enumerate(self.task.classes):
            own = regions[regions[:, 0] == class_index, 6] if one.is_thing else ()
            first = 1000 * int(self._label_ids[class_index])
            # What is beyond a thousand of one class is a group of them, which has the label id.
            for place, number in enumerate(own[:1000]):
                values[numbers == number] = first + place
        return values


def _looked_up(table: NDArray[np.uint16], labels: Labels, other: int) -> NDArray[np.uint16]:
    whole = np.append(table, np.uint16(other))
    return whole[np.minimum(labels, len(table))]
