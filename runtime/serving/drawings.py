"""What is made of drawings on frozen frames: words that are learned from them, and frames to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter import SegmenterView
from dedos_deploy.runtime.serving.collecting import Collected, CollectFolder, Region
from dedos_deploy.runtime.serving.frozen import FrozenFrames
from dedos_deploy.runtime.serving.hub import Hub
from dedos_deploy.runtime.serving.marks import Marks, mask_of_marks


@dataclass(frozen=True)
class Learned:
    """A word that a camera has from its next frame on."""

    word: str
    """Its name."""

    margin: float
    """By how much what is drawn is nearer to it than the rest."""

    separates: bool
    """Whether that is enough to tell them apart."""

    examples: int
    """Frames that it was learned from."""

    version: int
    """Of the vocabulary that has it."""


class Drawings:
    """Of all cameras; a drawing is on a frozen frame of one of them, and changes that one's words."""

    def __init__(
        self,
        hub: Hub,
        views: Mapping[str, SegmenterView],
        *,
        changed: Callable[[str], None],
        folder: CollectFolder | None,
    ) -> None:
        """changed: called with the name of a camera whose words are others now; folder: for frames
        that are collected, None to refuse them."""
        self.frozen = FrozenFrames(hub, views)
        self._views = views
        self._changed = changed
        self._folder = folder
        self._learned: dict[str, dict[str, Learned]] = {name: {} for name in views}

    @property
    def collects_to(self) -> str | None:
        """Path of the label folder, None where frames cannot be collected."""
        return None if self._folder is None else str(self._folder.path)

    def learned(self, name: str, word: str) -> dict[str, Any] | None:
        """Return margin, separates and examples of a camera's word, None for one that was not learned."""
        found = self._learned[name].get(word)
        if found is None:
            return None
        return {key: getattr(found, key) for key in ("margin", "separates", "examples")}

    def collect(
        self, name: str, number: int, regions: Sequence[tuple[str, Marks]], *, rest: bool
    ) -> Collected:
        """Put a frozen frame and its labels into the label folder.

        regions: words and where they are, of which a later one covers an earlier one; rest: whether the
        other pixels are labelled as they are shown. Raises as `CollectFolder.add`, and BadInputError
        without a folder.
        """
        if self._folder is None:
            raise BadInputError(
                "there is no folder to collect frames in; start with --collect FOLDER to have one"
            )
        frozen = self.frozen.get(name, number)
        drawn = [(one_word(word), mask_of_marks(marks, frozen.size_hw)) for word, marks in regions]
        known = [*(_shown(frozen.result) if rest else ()), *drawn]
        return self._folder.add(name, frozen.frame.frame_bgr, known)


def one_word(text: str) -> str:
    """Return a word as it was typed, with single spaces. Raises BadInputError for an empty one."""
    word = " ".join(text.split())
    if not word:
        raise BadInputError("what is drawn has no word; name it, as 'my pallet'")
    return word


def _shown(result: Segmentation) -> list[Region]:
    return [
        (result.classes[class_id], result.label_map == class_id)
        for class_id in result.class_ids
        if result.counts[class_id]
    ]
