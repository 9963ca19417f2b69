"""Which frames and which of their pixels are exported, and under which names."""

from __future__ import annotations

import hashlib
import heapq
import math
import os
import posixpath
import re

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.corpus.dataset import Corpus
from dedos_deploy.corpus.formats.contract import UNLABELLED, ExportClass, Labels
from dedos_deploy.corpus.formats.matching import matched
from dedos_deploy.corpus.formats.objects import without_small
from dedos_deploy.corpus.formats.options import ExportSettings
from dedos_deploy.corpus.frames import kind_of
from dedos_deploy.corpus.records import CorpusInfo, LabelledFrame
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.sinks.palette import colour_bgr
from dedos_deploy.vocabulary import Entry

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME = 100


class Choice:
    """What `settings` choose of a data set.

    Raises BadInputError for classes that it has not.
    """

    def __init__(self, info: CorpusInfo, settings: ExportSettings) -> None:
        self._settings = settings
        names = [one.name for one in info.classes]
        chosen = matched(names, settings.classes)
        things = _things(settings, [name for name, _ in chosen])
        self.classes = tuple(
            ExportClass(name, _rgb(info, places), name in things) for name, places in chosen
        )
        self._index_of_id = np.full(1 << 16, UNLABELLED, np.uint16)
        for index, (_, places) in enumerate(chosen):
            self._index_of_id[[info.classes[place].id for place in places]] = index

    def labels(self, row: LabelledFrame) -> Labels:
        """Return the labels of a frame, uint16 [H, W]: indices of `classes`, or UNLABELLED.

        Raises BadInputError for a damaged row, and one whose confidence was not kept and is asked for.
        """
        labels = self._index_of_id[row.label_map]
        if self._settings.min_confidence > 0:
            sure = math.ceil(255 * self._settings.min_confidence)
            labels[_confidence(row) < sure] = UNLABELLED
        return without_small(labels, self._settings.min_area)


def least_certain(corpus: Corpus, count: int) -> list[LabelledFrame]:
    """Return the rows with the lowest margin, the lowest first; no more than these are kept in memory."""
    return heapq.nsmallest(count, corpus, key=lambda row: (row.margin, row.key))


def _confidence(row: LabelledFrame) -> NDArray[np.uint8]:
    if row.confidence is None:
        raise BadInputError(
            f"the confidence of {row.key!r} was not kept, so --min-confidence cannot be had; label the corpus "
            "with --confidence, or leave it out"
        )
    return row.confidence


def _things(settings: ExportSettings, names: list[str]) -> set[str]:
    if settings.things is None:
        return set()
    found = matched(names, settings.things)
    return {names[place] for _, places in found for place in places}


def _rgb(info: CorpusInfo, places: list[int]) -> tuple[int, int, int]:
    one = info.classes[places[0]]
    # An entry refuses what is no colour: the description may have been written by hand.
    blue, green, red = colour_bgr(Entry(one.name, colour=one.colour).colour or "")
    return red, green, blue


class FrameNames:
    """Gives every frame a name of its own that is a file name everywhere, made of its source's and its number."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, row: LabelledFrame) -> str:
        """Return the name of a frame: `street_000012`, or for a picture `street`."""
        address = os.path.normpath(row.source.partition("?")[0])
        stem = posixpath.splitext(posixpath.basename(address.replace(os.sep, "/")))[0]
        name = _NOT_PLAIN.sub("_", stem).strip("_")[:_LONGEST_NAME] or "frame"
        if kind_of(row.source) != "picture":
            name = f"{name}_{row.frame:06d}"
        # Names that differ in case only are one on the disks of Windows and macOS.
        if name.lower() in self._taken:
            name = f"{name}_{hashlib.sha256(row.key.encode()).hexdigest()[:16]}"
        self._taken.add(name.lower())
        return name
