"""What is made of drawings on frozen frames: words that are learned from them, and frames to train on."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.learned_words import examples_behind, renamed, without
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter_view import SegmenterView
from dedos_deploy.runtime.serving.collecting import Collected, CollectFolder, Region
from dedos_deploy.runtime.serving.explanations import Explanations
from dedos_deploy.runtime.serving.frozen import Frozen, FrozenFrames
from dedos_deploy.runtime.serving.hub import Hub
from dedos_deploy.runtime.serving.marks import (
    Marks,
    check_points,
    example_of,
    mask_of_marks,
)
from dedos_deploy.vocabulary import (
    WORDS_PER_REQUEST,
    Entry,
    Vocabulary,
    canonical_word,
    parse_vocabulary,
)
from dedos_deploy.words_file import TunedRows

WORDS_S = 10.0
"""Seconds that new words of one request may take to be encoded."""


@dataclass(frozen=True)
class Learned:
    """What became of a word that was to be learned."""

    word: str
    """Its name."""

    margin: float
    """In [-1, 1]: the part of what is drawn that is labelled so, less the part of the rest."""

    separates: bool
    """Whether that is enough."""

    added: bool
    """Whether the camera has the word from its next frame on; otherwise nothing has changed."""

    examples: int
    """Frames that it was learned from."""

    version: int
    """Of the vocabulary that the next frame will carry."""


class Drawings:
    """Of all cameras; a drawing is on a frozen frame of one of them, and changes that one's words."""

    def __init__(
        self,
        hub: Hub,
        views: Mapping[str, SegmenterView],
        explanations: Explanations,
        *,
        changed: Callable[[str], None],
        folder: CollectFolder | None,
    ) -> None:
        """changed: called with the name of a camera whose words are others now; folder: for frames
        that are collected, None to refuse them."""
        self.frozen = FrozenFrames(hub, views, explanations)
        self._views = views
        self._changed = changed
        self._folder = folder
        # One after the other: what reads the words to change them must not undo what came meanwhile.
        self._changing = threading.Lock()

    @property
    def collects_to(self) -> str | None:
        """Path of the label folder, None where frames cannot be collected."""
        return None if self._folder is None else str(self._folder.path)

    def learn(
        self, name: str, word: str, examples: Sequence[tuple[int, Marks]], *, anyway: bool
    ) -> Learned:
        """Learn a word from what is drawn on frozen frames, by their numbers, for one camera.

        Of one picture that was frozen twice, as where a recording pauses, the last drawing counts. anyway: as of `SegmenterView.learn`, and raises as that does.
        """
        view, entry = self._views[name], Entry(one_word(word))
        frozen = _different([(self.frozen.get(name, number), marks) for number, marks in examples])
        regions = [example_of(marks, one.size_hw) for one, marks in frozen]
        with self._changing:
            _check_room(name, view.vocabulary, entry)
            found = view.learn(
                entry.spelled,
                [one.frame.frame_bgr for one, _ in frozen],
                regions,
                anyway=anyway,
                timeout_s=WORDS_S,
            )
        if found.added:
            self._changed(name)
        version = view.vocabulary_version
        return Learned(
            found.name, found.margin, found.separates, found.added, found.examples, version
        )

    def rename(self, name: str, class_id: int, word: str) -> int:
        """Call a word of a camera otherwise; it keeps its row. Returns the vocabulary version.

        Raises BadInputError for one that has only the row of its text, whose name is its meaning.
        """
        new = one_word(word)
        with self._changing:
            old, vocabulary, tuned = self._own(name, class_id)
            entries = tuple(
                replace(entry, name=new) if entry.name == old else entry
                for entry in vocabulary.entries
            )
            return self._set(name, Vocabulary(entries, renamed(tuned, old, new)))

    def forget(self, name: str, class_id: int) -> int:
        """Give a word of a camera the row of its text again. Returns the vocabulary version.

        Raises BadInputError for one that has no other, UnfinishedError as `set_classes`.
        """
        with self._changing:
            old, vocabulary, tuned = self._own(name, class_id)
            return self._set(name, replace(vocabulary, tuned=without(tuned, old)))

    def words_file(self, name: str) -> bytes:
        """Return a camera's words with their rows as the content of a words file.

        Raises as `SegmenterView.words_file`.
        """
        with tempfile.TemporaryDirectory() as folder:
            return self._views[name].words_file(Path(folder, "camera.words")).read_bytes()

    def _own(self, name: str, class_id: int) -> tuple[str, Vocabulary, TunedRows]:
        """Return the name of a class, and the vocabulary that has a row of its own for it."""
        view = self._views[name]
        words = {number: word for word, number, _ in view.entries}
        if class_id not in words:
            raise BadInputError(f"camera {name!r} has no class {class_id}; it has {sorted(words)}")
        vocabulary, word = view.vocabulary, words[class_id]
        if vocabulary.tuned is None or word not in examples_behind(vocabulary):
            raise BadInputError(
                f"{word!r} was not learned from examples, its name is its meaning; remove it, and add another"
            )
        return word, vocabulary, vocabulary.tuned

    def _set(self, name: str, vocabulary: Vocabulary) -> int:
        version = self._views[name].set_classes(vocabulary, timeout_s=WORDS_S)
        self._changed(name)
        return version

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
        check_points(mark for _, marks in regions for mark in marks)
        drawn = ((one_word(word), mask_of_marks(marks, frozen.size_hw)) for word, marks in regions)
        known = itertools.chain(_shown(frozen.result) if rest else (), drawn)
        return self._folder.add(name, frozen.frame.frame_bgr, known)


def one_word(text: str) -> str:
    """Return a word as it was typed, with single spaces. Raises BadInputError for what is none."""
    word = " ".join(text.split())
    if not word:
        raise BadInputError("what is drawn has no word; name it, as 'my pallet'")
    return parse_vocabulary([Entry(word).spelled]).entries[0].name


def _check_room(name: str, vocabulary: Vocabulary, entry: Entry) -> None:
    words = vocabulary.words
    known = canonical_word(entry.name) in map(canonical_word, words)
    if not known and len(words) >= WORDS_PER_REQUEST:
        raise BadInputError(
            f"camera {name!r} has {len(words)} words, synonyms counted, and at most {WORDS_PER_REQUEST} can be "
            "changed on the page; remove one first"
        )


def _shown(result: Segmentation) -> Iterator[Region]:
    for class_id in result.class_ids:
        if result.counts[class_id]:
            yield result.classes[class_id], result.label_map == class_id


def _different(examples: Sequence[tuple[Frozen, Marks]]) -> list[tuple[Frozen, Marks]]:
    found: list[tuple[Frozen, Marks]] = []
    for frozen, marks in examples:
        picture = frozen.frame.frame_bgr
        found = [one for one in found if not np.array_equal(one[0].frame.frame_bgr, picture)]
        found.append((frozen, marks))
    return found
