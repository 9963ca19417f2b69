"""Data sets of published benchmarks, read from the layouts that their users have on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.confusion import Ids
from dedos_deploy.evaluation.folder import LabelledImage
from dedos_deploy.evaluation.protocols import Layout, Protocol, find_protocol, words_of
from dedos_deploy.label_files import read_text, read_values
from dedos_deploy.vocabulary import Entry, Vocabulary

_UNKNOWN = 65534
_CONVERTED = "TrainIds"


class ProtocolData:
    """The images of a benchmark, their labels as class ids.

    protocol, layout: what is read and how; classes: what is scored; vocabulary: what is asked for.
    The two differ where several names share a word, or many predictions count as one class.
    """

    def __init__(
        self, protocol: Protocol, layout: Layout, root: Path, *, synonyms: bool | None
    ) -> None:
        self.protocol, self.layout = protocol, layout
        self.classes = protocol.scored
        self.ignore = 255 if len(self.classes) <= 255 else 65535
        asked = words_of(protocol.classes, synonyms=synonyms)
        self.vocabulary = Vocabulary(tuple(Entry(words[0], words[1:]) for _, words in asked))
        self._class_of = _class_table([index for index, _ in asked], protocol)
        self._pairs = _pairs(protocol, layout, root)
        self._table = _value_table(layout, len(self.classes), self.ignore)

    @property
    def name(self) -> str:
        return self.protocol.name

    @property
    def image_names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self._pairs)

    def image(self, index: int) -> LabelledImage:
        name, image, labels = self._pairs[index]
        pixels, values = read_values((image, labels))
        ids = self._table[values]
        if (ids == _UNKNOWN).any():
            raise BadInputError(
                f"labels {str(labels)!r} hold the value {int(values[ids == _UNKNOWN][0])}, which "
                f"stands for none of the {len(self.classes)} classes of {self.name}; they were "
                "converted otherwise or are of another release"
            )
        return LabelledImage(
            name, pixels, ids.astype(np.uint8 if self.ignore == 255 else np.uint16)
        )

    def fold(self, predictions: Ids) -> Ids:
        """Return class ids for ids of the vocabulary.

        What is no class becomes the protocol's background where it has one, else len(classes).
        """
        found: Ids = self._class_of[np.minimum(predictions, len(self._class_of) - 1)]
        return found


def open_protocol(
    name: str,
    root: str | os.PathLike[str],
    split: str | None = None,
    *,
    synonyms: bool | None = None,
) -> ProtocolData:
    """Return the data of a benchmark below `root`, the folder that others call DETECTRON2_DATASETS.

    split: None; a protocol scores one split. synonyms: ask for all words of a class, or the first alone;
    None as published figures have it.

    Raises BadInputError for an unknown protocol, another split, and data that is not there: it says
    what was looked for and where to get it.
    """
    protocol = find_protocol(name)
    if split is not None:
        raise BadInputError(f"protocol {protocol.name} has a split of its own; leave out --split")
    path = Path(root)
    there = [one for one in protocol.layouts if _folders_exist(one, path)]
    # Several layouts share folders and differ in the names of label files.
    filled = [one for one in there if next(_files(path / one.labels, one.label_suffix), None)]
    if there:
        return ProtocolData(protocol, (filled or there)[0], path, synonyms=synonyms)
    looked = "; or ".join(" and ".join(_parts(one)) for one in protocol.layouts)
    raise BadInputError(
        f"{str(path)!r} has no data of {protocol.name}: looked for {looked}; get it from "
        f"{protocol.obtain}"
    )


def _folders_exist(layout: Layout, root: Path) -> bool:
    return all((root / part).exists() for part in _parts(layout))


def _parts(layout: Layout) -> list[str]:
    return [layout.images, layout.labels, *([layout.listed] if layout.listed else [])]


def _pairs(protocol: Protocol, layout: Layout, root: Path) -> list[tuple[str, Path, Path]]:
    """Return (name, image, labels) of every image of the split, by name.

    Labels without an image are an error; images without labels belong to another split.
    """
    labels = _by_name(root / layout.labels, layout.label_suffix)
    if layout.listed:
        lines = read_text(root / layout.listed, advice="it lists the images of the split").split()
        missing = [name for name in lines if name not in labels]
        if missing:
            raise BadInputError(
                f"{str(root / layout.listed)!r} names {missing[0]!r}, but there is no "
                f"{missing[0]}{layout.label_suffix} in {str(root / layout.labels)!r}"
            )
        labels = {name: labels[name] for name in lines}
    if not labels:
        raise BadInputError(
            f"{str(root / layout.labels)!r} has no file ending in {layout.label_suffix}; get "
            f"{protocol.name} from {protocol.obtain}"
        )
    images = _by_name(root / layout.images, layout.image_suffix)
    for name, path in labels.items():
        if name not in images:
            raise BadInputError(
                f"labels {str(path)!r} have no image {name}{layout.image_suffix} in "
                f"{str(root / layout.images)!r}; add it or remove the labels"
            )
    return [(name, images[name], labels[name]) for name in sorted(labels)]


def _by_name(folder: Path, suffix: str) -> dict[str, Path]:
    files = _files(folder, suffix)
    return {path.relative_to(folder).as_posix()[: -len(suffix)]: path for path in files}


def _files(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files whose names end in `suffix`; converters put theirs, *TrainIds, beside the others."""
    converted = _CONVERTED in suffix
    return (one for one in folder.rglob(f"*{suffix}") if (_CONVERTED in one.name) == converted)


def _class_table(asked: list[int], protocol: Protocol) -> Ids:
    """Return the scored class of every id of the vocabulary; the last entry is for no class."""
    scored = len(protocol.scored)
    nothing = scored if protocol.unlabelled is None else protocol.unlabelled
    table = np.full(len(asked) + 1, nothing, dtype=np.uint8 if scored < 255 else np.uint16)
    limit = protocol.folded[1] if protocol.folded else scored
    table[: len(asked)] = np.minimum(asked, limit)
    return table


def _value_table(layout: Layout, classes: int, ignore: int) -> NDArray[np.uint16]:
    """Return uint16 [65536], label value -> class, `ignore`, or _UNKNOWN."""
    table = np.full(65536, _UNKNOWN, dtype=np.uint16)
    if layout.map is not None:
        for value, class_id in layout.map.items():
            table[int(value)] = class_id
    else:
        table[layout.first : layout.first + classes] = np.arange(classes)
    table[list(layout.ignored)] = ignore
    return table
