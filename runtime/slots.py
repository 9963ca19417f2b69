"""The slot table: a vocabulary turned into the arrays that the engine and the label map take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.segmentation import LabelMap
from dedos_deploy.spec import MAX_CLASSES, NONE_UINT16, SLOT_BUCKETS, bucket_for, none_id
from dedos_deploy.vocabulary import Vocabulary

Rows = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Rows]

NO_THRESHOLD = -1.0
"""Below every score, so that the best class always wins."""

WHOLE_BASE_SLOTS = 64
"""Negatives are cut to fit their slot bucket only above this many slots in all."""


@dataclass(frozen=True, eq=False)
class SlotTable:
    """One vocabulary of a session, ready for the engine; never changed once made.

    version: 1 for the first vocabulary of the session, one more per change;
    names: name of every class id ever given in the session; class_ids: ids of this vocabulary's
    entries, in its order; text: float32 [K, D]; valid: float32 [K], all 1;
    thresholds: float32 [K]; slot_ids: uint16 [K], NONE_UINT16 for negatives;
    negatives: the words of the last slots, whose pixels stay unlabelled; entries: the vocabulary's,
    spelled as `parse_vocabulary` takes them.
    """

    version: int
    names: tuple[str, ...]
    class_ids: tuple[int, ...]
    text: Rows
    valid: Rows
    thresholds: Rows
    slot_ids: NDArray[np.uint16]
    negatives: tuple[str, ...]
    entries: tuple[str, ...] = ()

    @property
    def none_id(self) -> int:
        """Id of an unlabelled pixel in this vocabulary's label maps."""
        return none_id(len(self.names))

    def empty_label_map(self, size_hw: tuple[int, ...]) -> LabelMap:
        """Return an array [H, W] for a label map of this vocabulary, its values not yet set."""
        if self.none_id == NONE_UINT16:
            return np.empty(size_hw, dtype=np.uint16)
        return np.empty(size_hw, dtype=np.uint8)


@dataclass(frozen=True)
class Thresholds:
    """Lowest score that labels a pixel: an entry's own, else by class name, else the default.

    enabled: False labels every pixel with its best class.
    """

    by_name: Mapping[str, float]
    default: float
    enabled: bool = True

    def of(self, name: str, own: float | None) -> float:
        if not self.enabled:
            return NO_THRESHOLD
        return self.by_name.get(name, self.default) if own is None else own


def session_ids(
    known: Sequence[str], vocabulary: Vocabulary
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the session's names by id with those of `vocabulary` appended, and its entries' ids.

    An id stands for one name as long as the session lasts, also while that name is not asked for.

    >>> from dedos_deploy.vocabulary import parse_vocabulary
    >>> session_ids(("road", "car"), parse_vocabulary("car,tree"))
    (('road', 'car', 'tree'), (1, 2))
    """
    ids = {name: index for index, name in enumerate(known)}
    for name in vocabulary.names:
        ids.setdefault(name, len(ids))
    if len(ids) > MAX_CLASSES:
        raise BadInputError(
            f"this session has seen {len(ids)} class names, at most {MAX_CLASSES} have ids; "
            "load a new Segmenter to start again"
        )
    return tuple(ids), tuple(ids[name] for name in vocabulary.names)


def build_table(
    vocabulary: Vocabulary,
    previous: SlotTable | None,
    *,
    rows: Rows,
    thresholds: Thresholds,
    negatives: tuple[Sequence[str], Rows],
) -> SlotTable:
    """Return the slot table of `vocabulary` that follows `previous` in a session.

    rows: unit rows of its words, float32 [N, D]; negatives: words and their rows, [M, D].
    """
    known = previous.names if previous else ()
    names, class_ids = session_ids(known, vocabulary)
    words, negative_rows = negatives
    floors = [
        thresholds.of(entry.name, entry.threshold)
        for entry in vocabulary.entries
        for _ in entry.words
    ]
    ids = [class_ids[index] for index in vocabulary.slot_ids]
    return SlotTable(
        version=previous.version + 1 if previous else 1,
        names=names,
        class_ids=class_ids,
        text=np.ascontiguousarray(np.concatenate([rows, negative_rows])),
        valid=np.ones(len(ids) + len(words), dtype=np.float32),
        thresholds=np.array(floors + [NO_THRESHOLD] * len(words), dtype=np.float32),
        slot_ids=np.array(ids + [NONE_UINT16] * len(words), dtype=np.uint16),
        negatives=tuple(words),
        entries=tuple(entry.spelled for entry in vocabulary.entries),
    )


def check_slots(used: int, max_slots: int | None) -> None:
    """Raise BadInputError when `used` words do not fit the engine."""
    if max_slots is not None and used > max_slots:
        raise BadInputError(
            f"{used} words, synonyms counted, do not fit this engine's {max_slots} slots; use "
            "fewer, or the cpu engine, which takes any number"
        )


def spare_slots(used: int, available: int, max_slots: int | None) -> int:
    """Return how many of `available` negatives go beside `used` slots of the user's words.

    All of them where that makes at most WHOLE_BASE_SLOTS slots; otherwise as many as fill the
    slot bucket that the user's words need anyway.

    >>> spare_slots(2, 30, None), spare_slots(2, 200, None), spare_slots(70, 500, None)
    (30, 62, 186)
    """
    limit = max_slots if max_slots is not None else max(used + available, 0)
    if used < SLOT_BUCKETS[-1]:
        limit = min(limit, max(WHOLE_BASE_SLOTS, bucket_for(used)))
    return max(0, min(available, limit - used))
