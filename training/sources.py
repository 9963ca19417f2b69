"""What `--data` names: an entry `[KIND:]FOLDER[=SHARE]`, and the data sets behind it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.label_files import splits
from dedos_deploy.training import coco_stuff, davis
from dedos_deploy.training.folders import LabelFolder, find_folder, open_folder
from dedos_deploy.training.targets import IGNORE

Kind = Literal["folder", "coco-stuff", "davis"]

_PREFIX = re.compile(r"([A-Za-z][\w-]+):(.+)")


@dataclass(frozen=True)
class DataEntry:
    """One data set of the command line."""

    path: str
    """A folder, or a name that `find_folder` knows."""
    kind: Kind | None = None
    """Layout of the folder, None to see it from what lies in the folder."""
    share: float = 1.0
    """How often an epoch shows each image."""


@dataclass(frozen=True)
class _Reader:
    """How one layout of data is read."""

    splits: Callable[[Path], Sequence[str]]
    """Returns those of the splits train and val that are there."""
    open: Callable[[Path, str, int], Sequence[LabelFolder]]
    """Returns one split of a folder."""


def _open_plain(root: Path, split: str, background: int) -> list[LabelFolder]:
    return [open_folder(str(root), split=split, background=background)]


def _open_coco_stuff(root: Path, split: str, _background: int) -> list[LabelFolder]:
    return [coco_stuff.open_coco_stuff(root, split)]


_READERS: dict[Kind, _Reader] = {
    "folder": _Reader(splits, _open_plain),
    "coco-stuff": _Reader(coco_stuff.coco_stuff_splits, _open_coco_stuff),
    "davis": _Reader(davis.davis_splits, davis.open_davis),
}


def parse_entry(text: str) -> DataEntry:
    """Return the entry written as `FOLDER`, `FOLDER=2`, `davis:FOLDER` or `coco-stuff:FOLDER=0.5`.

    Raises BadInputError for a share that is no positive number, and for an unknown kind.

    >>> parse_entry("coco-stuff:/data/coco=2")
    DataEntry(path='/data/coco', kind='coco-stuff', share=2.0)
    """
    body, share = _cut_share(text)
    match = _PREFIX.fullmatch(body)
    if match is None:
        return DataEntry(body, None, share)
    for kind in _READERS:
        if match[1] == kind:
            return DataEntry(match[2], kind, share)
    if Path(os.path.expanduser(body)).is_dir():
        return DataEntry(body, None, share)
    raise BadInputError(
        f"unknown kind of data set {match[1]!r} in {text!r}{nearest(match[1], _READERS)}; kinds: "
        f"{', '.join(_READERS)}"
    )


def _cut_share(text: str) -> tuple[str, float]:
    path, equals, share = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise BadInputError(
            f"data share {share!r} in {text!r} is not a positive number; write FOLDER=2 to show "
            "each image twice an epoch"
        )
    return path, value


def kind_of(root: Path) -> Kind:
    """Return the layout of a folder, `folder` unless there are signs of another."""
    if coco_stuff.is_coco_stuff(root):
        return "coco-stuff"
    return "davis" if davis.is_davis(root) else "folder"


def open_data(
    entries: Sequence[str], split: str, *, background: int = IGNORE, optional: bool = False
) -> list[LabelFolder]:
    """Return `split` (train, val, ...) of every data set named in `entries`, checked.

    background: what pixels of background words teach, IGNORE or OTHER; optional: leave out data
    sets without that split. One entry may become several folders.

    Raises BadInputError naming the first thing that is missing.
    """
    folders: list[LabelFolder] = []
    for text in entries:
        entry = parse_entry(text)
        root = find_folder(entry.path)
        reader = _READERS[entry.kind or kind_of(root)]
        if optional and split not in reader.splits(root):
            continue
        opened = reader.open(root, split, background)
        folders += [replace(folder, share=entry.share) for folder in opened]
    return folders
