"""The slot table: a vocabulary turned into the arrays that the engine and the label map take."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.confidence_curves import ConfidenceCurves
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.explaining import Contest
from dedos_deploy.runtime.segmentation import LabelMap
from dedos_deploy.runtime.sinks.palette import Colour, colour_bgr, colours_of, word_colour_bgr
from dedos_deploy.spec import MAX_UINT8_CLASSES, NONE_UINT16, SLOT_BUCKETS, bucket_for, none_id
from dedos_deploy.trust import TrustStatistics
from dedos_deploy.vocabulary import Vocabulary, canonical_word

Rows = NDArray[np.float32]

IDS_KEPT = MAX_UINT8_CLASSES
"""Class names that a session remembers with their ids, unless a single vocabulary has more."""

NO_THRESHOLD = -1.0
"""Below every score, so that the best class always wins."""

WHOLE_BASE_SLOTS = 64
"""Negatives are cut to fit their slot bucket only above this many slots in all."""


class Encode(Protocol):
    """Words to unit rows, float32 [N, D]; as `TextEncoder.encode`."""

    def __call__(
        self, words: Sequence[str], *, deadline_s: float | None = None, threads: int | None = None
    ) -> Rows: ...


@dataclass(frozen=True)
class SessionIds:
    """Names by class id of a session, and the version of the vocabulary that asked for each last.

    An id stands for one name as long as that is among the IDS_KEPT asked for last; then the id that
    was not asked for longest goes to a new name. So neither the arrays per frame nor the width of
    the label map grow with what was ever asked for.
    """

    names: tuple[str, ...] = ()
    used: tuple[int, ...] = ()

    def after(self, vocabulary: Vocabulary, version: int) -> tuple[SessionIds, tuple[int, ...]]:
        """Return the ids after a change to `vocabulary`, and those of its entries, in its order.

        >>> from dedos_deploy.vocabulary import parse_vocabulary
        >>> ids, asked = SessionIds(("road", "car"), (1, 1)).after(parse_vocabulary("car,tree"), 2)
        >>> ids.names, ids.used, asked
        (('road', 'car', 'tree'), (1, 2, 2), (1, 2))
        """
        ids = {name: index for index, name in enumerate(self.names)}
        names, used = list(self.names), list(self.used)
        asked = set(vocabulary.names)
        idle = (index for name, index in ids.items() if name not in asked)
        free = deque(sorted(idle, key=lambda index: (used[index], index)))
        for name in vocabulary.names:
            if name not in ids and (len(names) < IDS_KEPT or not free):
                ids[name] = len(names)
                names.append(name)
                used.append(version)
            elif name not in ids:
                ids[name] = free.popleft()
                names[ids[name]] = name
            used[ids[name]] = version
        while len(names) > IDS_KEPT and used[-1] != version:
            del names[-1], used[-1]
        found = SessionIds(tuple(names), tuple(used))
        return found, tuple(ids[name] for name in vocabulary.names)


@dataclass(frozen=True, eq=False)
class SlotTable:
    """One vocabulary of a session, ready for the engine; never changed once made."""

    version: int
    """1 for the first vocabulary of the session, one more per change."""

    names: tuple[str, ...]
    """Names of all classes of the session, by class id."""

    class_ids: tuple[int, ...]
    """Ids of the vocabulary's entries, in the order of these."""

    text: Rows
    """float32 [K, D]."""

    valid: Rows
    """float32 [K], all 1."""

    thresholds: Rows
    """float32 [K]."""

    slot_ids: NDArray[np.uint16]
    """uint16 [K], NONE_UINT16 for negatives."""

    negatives: tuple[str, ...]
    """The words of the last slots, whose pixels stay unlabelled."""

    entries: tuple[str, ...] = ()
    """The vocabulary's entries, spelled as `parse_vocabulary` takes them."""

    used: tuple[int, ...] = ()
    """Version that asked for each of `names` last."""

    colours_bgr: tuple[Colour, ...] = ()
    """Of all `names`; those of the vocabulary's are told apart from each other."""

    slot_words: tuple[str, ...] = ()
    """Word of every slot, K."""

    nulls: bool = False
    """Whether the scores of all slots are parts of one that words of the graph's own share."""

    curves: NDArray[np.uint8] | None = None
    """uint8 [len(names) + 1, 256], what confidence each score stands for, by class id, the last row
    for unlabelled pixels; None where confidences are scores."""

    trust: TrustStatistics | None = None
    """Of the frames that the model learned, None where the bundle has no statistics of them."""

    @cached_property
    def contest(self) -> Contest:
        """What the scores of its slots stand for."""
        slots = zip(self.slot_words, self.slot_ids.tolist(), strict=True)
        names = tuple(word if at == NONE_UINT16 else self.names[at] for word, at in slots)
        negatives = len(self.negatives)
        return Contest(self.slot_words, names, self.thresholds, negatives, self.nulls)

    @cached_property
    def words(self) -> bytes:
        """Equal for tables of which one run of the engine can serve the frames."""
        return hashlib.sha256(self.text.tobytes()).digest()

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
    """Lowest score that labels a pixel: an entry's own, else by class name, else the default."""

    by_name: Mapping[str, float]
    default: float
    enabled: bool = True
    """False labels every pixel with its best class."""

    def of(self, name: str, own: float | None) -> float:
        if not self.enabled:
            return NO_THRESHOLD
        return self.by_name.get(name, self.default) if own is None else own


def build_table(
    vocabulary: Vocabulary,
    previous: SlotTable | None,
    *,
    rows: Rows,
    thresholds: Thresholds,
    negatives: tuple[Sequence[str], Rows],
    nulls: bool = False,
    curves: ConfidenceCurves | None = None,
    trust: TrustStatistics | None = None,
) -> SlotTable:
    """Return the slot table of `vocabulary` that follows `previous` in a session.

    rows: unit rows of its words, float32 [N, D]; negatives: words and their rows, [M, D]; nulls, trust:
    see SlotTable; curves: of the bundle. Entries with a row that is not the text tower's have the curve of
    all classes: theirs were learned with other scores.
    """
    version = previous.version + 1 if previous else 1
    known = SessionIds(previous.names, previous.used) if previous else SessionIds()
    session, class_ids = known.after(vocabulary, version)
    words, negative_rows = negatives
    floors = [
        thresholds.of(entry.name, entry.threshold)
        for entry in vocabulary.entries
        for _ in entry.words
    ]
    ids = [class_ids[index] for index in vocabulary.slot_ids]
    return SlotTable(
        version=version,
        names=session.names,
        class_ids=class_ids,
        text=np.ascontiguousarray(np.concatenate([rows, negative_rows])),
        valid=np.ones(len(ids) + len(words), dtype=np.float32),
        thresholds=np.array(floors + [NO_THRESHOLD] * len(words), dtype=np.float32),
        slot_ids=np.array(ids + [NONE_UINT16] * len(words), dtype=np.uint16),
        negatives=tuple(words),
        entries=tuple(entry.spelled for entry in vocabulary.entries),
        used=session.used,
        colours_bgr=_colours(vocabulary, session.names),
        slot_words=(*vocabulary.words, *words),
        nulls=nulls,
        curves=None if curves is None else curves.rows(session.names, vocabulary.tuned_names),
        trust=trust,
    )


def _colours(vocabulary: Vocabulary, names: Sequence[str]) -> tuple[Colour, ...]:
    chosen = {
        entry.name: colour_bgr(entry.colour)
        for entry in vocabulary.entries
        if entry.colour is not None
    }
    # Names of earlier vocabularies do not occur in the pictures: they take no colour from the others.
    found = dict(zip(vocabulary.names, colours_of(vocabulary.names, chosen), strict=True))
    return tuple(found.get(name) or word_colour_bgr(name) for name in names)


def rows_of(vocabulary: Vocabulary, encode: Callable[[Sequence[str]], Rows]) -> Rows:
    """Return the rows of a vocabulary's words, float32 [N, D]: tuned ones, and those of `encode`."""
    if vocabulary.tuned is None:
        return encode(vocabulary.words)
    tuned = vocabulary.tuned
    places = {canonical_word(word): place for place, word in enumerate(tuned.words)}
    found = [places.get(canonical_word(word)) for word in vocabulary.words]
    others = [word for word, at in zip(vocabulary.words, found, strict=True) if at is None]
    encoded = iter(encode(others) if others else ())
    return np.stack([next(encoded) if at is None else tuned.embeddings[at] for at in found])


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
