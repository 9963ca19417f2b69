"""What is evaluated on: images with labels in the class ids of a vocabulary."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Protocol

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.confusion import Ids
from dedos_deploy.evaluation.folder import LabelledFolder, LabelledImage, ignore_id, match_classes
from dedos_deploy.vocabulary import Vocabulary


class EvaluationData(Protocol):
    """Labelled images under one class list.

    name: for people; classes: names by class id, what labels have; vocabulary: what to ask for,
    whose ids `fold` turns into class ids; ignore: label of pixels that are not counted.
    """

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def ignore(self) -> int: ...

    @property
    def image_names(self) -> tuple[str, ...]:
        """The name of every image, in order."""
        ...

    def image(self, index: int) -> LabelledImage:
        """Return one image; raises BadInputError naming a file that cannot be used."""
        ...

    def fold(self, predictions: Ids) -> Ids:
        """Return class ids for ids of the vocabulary, len(classes) for what is no class."""
        ...


class FolderData:
    """A split of a plain label folder, with the classes that a vocabulary asks for.

    Raises BadInputError for an entry that stands for no class of the folder.
    """

    def __init__(
        self,
        folder: LabelledFolder,
        vocabulary: Vocabulary | None = None,
        *,
        synonyms: bool = True,
    ) -> None:
        self.folder = folder
        matched, self._table = match_classes(folder.classes, vocabulary)
        self.classes = matched.names
        self.vocabulary = matched if synonyms else without_synonyms(matched)
        self.ignore = ignore_id(matched)

    @property
    def name(self) -> str:
        return f"{self.folder.root.resolve().name}/{self.folder.split}"

    @property
    def image_names(self) -> tuple[str, ...]:
        return tuple(image.stem for image, _ in self.folder.pairs)

    def image(self, index: int) -> LabelledImage:
        image = self.folder.image(index)
        return replace(image, labels=self._table[image.labels])

    def fold(self, predictions: Ids) -> Ids:
        return predictions


def without_synonyms(vocabulary: Vocabulary) -> Vocabulary:
    """Return the vocabulary with the names of its entries alone."""
    entries = tuple(replace(entry, synonyms=()) for entry in vocabulary.entries)
    return replace(vocabulary, entries=entries)


def open_data(
    data: str | os.PathLike[str],
    split: str | None = None,
    *,
    protocol: str | None = None,
    vocabulary: Vocabulary | None = None,
    synonyms: bool | None = None,
) -> EvaluationData:
    """Return the images of a label folder, or of a benchmark in the layout of its protocol.

    split: None for `val`, or what the protocol scores; protocol: its name (see `protocols.py`);
    vocabulary: which classes to ask for,
    for a label folder only; synonyms: whether to ask for them (None: those of `vocabulary`, and of a
    protocol what published figures ask for: the first word of a class, or all).

    Raises BadInputError for data that is missing or cannot be used.
    """
    if protocol is None:
        folder = LabelledFolder.open(data, split or "val")
        return FolderData(folder, vocabulary, synonyms=synonyms is not False)
    if vocabulary is not None:
        raise BadInputError(
            f"protocol {protocol} has a class list of its own; leave out --classes or --protocol"
        )
    from dedos_deploy.evaluation.readers import open_protocol

    return open_protocol(protocol, data, split, synonyms=synonyms)
