"""What the ids in a published mask are, and since when; nothing here needs ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Segmentation

MaskEncoding = Literal["mono8", "mono16"]
DTYPES: dict[str, type[np.unsignedinteger]] = {"mono8": np.uint8, "mono16": np.uint16}
MOST_IN_MONO8 = 254
UNLABELLED = (0, 255)

Mask = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class MaskFormat:
    """How masks write class ids."""

    encoding: MaskEncoding = "mono8"
    """`mono8` for at most 254 classes, as Nav2's layer reads, or `mono16`."""

    unlabelled: int = 255
    """What pixels without a class are: 255 (65535 in mono16), or 0, and then ids start at 1."""

    def __post_init__(self) -> None:
        if self.encoding not in DTYPES:
            raise BadInputError(
                f"mask_encoding must be one of {', '.join(DTYPES)}, not {self.encoding!r}"
            )
        if self.unlabelled not in UNLABELLED:
            raise BadInputError(
                f"unlabelled must be 255 (65535 in mono16) or 0, not {self.unlabelled}"
            )

    @property
    def first_id(self) -> int:
        """Number of the class whose id is 0."""
        return 1 if self.unlabelled == 0 else 0

    def check(self, classes: int) -> None:
        """Raise BadInputError if masks cannot hold so many classes."""
        if self.encoding == "mono8" and classes > MOST_IN_MONO8:
            raise BadInputError(
                f"label_mask is mono8 and holds at most {MOST_IN_MONO8} classes, not {classes}; set "
                "the parameter mask_encoding to mono16, or give fewer"
            )

    def mask(self, label_map: Mask, none_id: int) -> Mask:
        """Return a label map, uint8 or uint16 [H, W], as it is published, of the encoding's dtype."""
        dtype = DTYPES[self.encoding]
        if none_id == np.iinfo(dtype).max:
            # What has no class is the largest number, and one more is 0.
            return label_map if not self.first_id else label_map + dtype(1)
        numbers = np.arange(none_id + 1, dtype=dtype) + dtype(self.first_id)
        numbers[none_id] = np.iinfo(dtype).max if self.unlabelled else 0
        return numbers[label_map]

    def named(self, entries: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Return ids and names of classes as masks have them, the lowest id first."""
        return sorted((class_id + self.first_id, name) for class_id, name in entries)


@dataclass(frozen=True)
class Announcement:
    """What is said of the ids of masks, before the first mask that has them."""

    version: int
    entries: tuple[tuple[int, str], ...]
    """Class id and name of every class of the vocabulary."""

    after_ns: int = 0
    """Stamp of the last mask of the words before, 0 for none: later ones have these ids."""


class Announcements:
    """Which vocabulary was announced last; of one camera, for one thread at a time."""

    def __init__(self) -> None:
        self._said: Announcement | None = None
        self._last_ns = 0

    def due(self, version: int, entries: Sequence[tuple[int, str]]) -> Announcement | None:
        """Return what has to be said before a mask of this vocabulary, None when it has been."""
        if self._said is not None and version <= self._said.version:
            return None
        self._said = Announcement(version, tuple(entries), self._last_ns)
        return self._said

    def published(self, stamp_ns: int) -> None:
        """Note that a mask with this stamp went out."""
        self._last_ns = stamp_ns


def entries_of(result: Segmentation) -> list[tuple[int, str]]:
    """Return id and name of every class that a frame was asked for."""
    return [(class_id, result.classes[class_id]) for class_id in result.class_ids]
