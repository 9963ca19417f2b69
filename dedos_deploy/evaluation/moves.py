"""Which of two words would have to move for a mistake to go away.

A mistake is a pixel of one class that got another. Two shifts undo it: the score of its own word goes
up everywhere, or that of the word that it got goes down. By how much is the margin that half of the
pixels of that mistake lack. Either shift changes other pixels, too: a word that scores low everywhere
wins its own back wherever it goes up, and one that also scores high on its neighbours gives these back
when it goes down, while a word that is right elsewhere loses there. So both are tried on all pixels, all
else as it is, and the one that leaves more of them right is named.

Where neither leaves more right, no shift helps: a word has to turn, by other words or by tuning. That is
the one that is wrong in more places than this: of the true word the part of its own pixels that it
loses, of the other the part of what it wins that is not its own, both without this mistake.

Counts are kept per image in bins of the margin, so that parts and resumed runs add up; what they need
of an image is the scores of all classes at SAMPLED of its pixels. Of large data sets some IMAGES are
looked at, which bounds memory and records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.runtime.explaining import Evidence

SAMPLED = 1024
"""Pixels of an image that are looked at, all of them where fewer count."""

IMAGES = 256
"""Images of a data set that are looked at, at most, from all over it."""

BINS = 25
"""Half octaves of a margin: bin i has those of at most 2 ** ((i - 24) / 2), down to 2 ** -12."""

Side = Literal["label", "predicted", "either"]
"""Whose word would have to move: the label's, the predicted one, or one as well as the other."""

Tables = dict[tuple[int, int], NDArray[np.int64]]
"""Pixels by bin, int64 [BINS], of every kind and index."""


class Kind(IntEnum):
    """What a cell counts: pixels, in the bin of the margin at which it happens."""

    SAMPLED = 0
    """Looked at."""
    MISTAKE = 1
    """Of a label and prediction: the label's word wins when it goes up."""
    RAISED_RIGHT = 2
    """Of a class: they become right when it goes up."""
    RAISED_WRONG = 3
    """Of a class: they were right, and become it when it goes up."""
    LOWERED_RIGHT = 4
    """Of a class: they become right when it goes down."""
    LOWERED_WRONG = 5
    """Of a class: they were right, and are lost when it goes down."""


def looked_at(index: int, images: int) -> bool:
    """Return whether an image of a data set of so many is looked at.

    >>> [sum(looked_at(index, images) for index in range(images)) for images in (9, 256, 257, 5105)]
    [9, 256, 129, 256]
    """
    return index % -(-images // IMAGES) == 0


@dataclass(frozen=True)
class Move:
    """A frequent mistake, and what would have to move for it to go away."""

    label: str
    """Class of the pixels."""
    predicted: str | None
    """Class that they got, None for none."""
    part: float
    """Of the label's pixels that got it."""
    move: Side
    shift: bool
    """Whether it is enough that its score goes up (the label's) or down (the predicted one's) everywhere;
    else it has to turn."""
    by: float
    """How much, in scores: the upper end of the bin that holds the median margin of the mistake."""
    raised: float
    """By how much of all pixels more are right with the label's word up by that much; below 0 fewer."""
    lowered: float | None
    """The same with the predicted word down by that much, None without one."""

    @property
    def word(self) -> str:
        """The class whose word would have to move, the label's where either would do."""
        if self.move == "predicted" and self.predicted is not None:
            return self.predicted
        return self.label

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values under stable keys."""
        return {**vars(self), "word": self.word}


@dataclass(frozen=True, eq=False)
class SampledPixels:
    """Pixels with what competed for them; classes are 0 to N - 1, N is no class."""

    labels: NDArray[np.int64]
    """int64 [P]."""
    predictions: NDArray[np.int64]
    """int64 [P]."""
    scores: NDArray[np.float32]
    """float32 [P, N + 1], of the best word of each class, -inf without one; those of negatives stand
    where pixels without a class are counted."""
    thresholds: NDArray[np.float32]
    """float32 [P, N + 1], of that word."""
    nothing: int
    """As what pixels without a class are counted: N, or the background."""


def sample(
    evidence: Evidence,
    labels: NDArray[Any],
    predictions: NDArray[Any],
    *,
    class_of: dict[str, int],
    nothing: int,
    ignore: int | None,
    classes: int,
) -> SampledPixels:
    """Return some pixels of an image that count, the same ones whenever it is evaluated.

    labels, predictions: [H, W], class ids, `classes` for none; class_of: class of every word's name;
    nothing: see SampledPixels; ignore: label that is not counted.
    """
    counted = np.flatnonzero(labels != ignore)
    if len(counted) > SAMPLED:
        counted = np.random.default_rng(0).choice(counted, SAMPLED, replace=False)
    rows, columns = np.divmod(counted, labels.shape[1])
    pixels = np.ascontiguousarray(np.stack([rows, columns], axis=1).astype(np.int32))
    contest = evidence.contest
    words = len(contest.names) - contest.negatives
    names = (*contest.names[:words], *[None] * contest.negatives)
    owners = np.array([nothing if name is None else class_of[name] for name in names])
    slots = evidence.at(pixels, labels.shape)
    scores = np.full((len(pixels), classes + 1), -np.inf, np.float32)
    thresholds = np.full_like(scores, -np.inf)
    for owner in np.unique(owners).tolist():
        own = np.flatnonzero(owners == owner)
        best = slots[:, own].argmax(1)
        scores[:, owner] = slots[np.arange(len(slots)), own[best]]
        thresholds[:, owner] = contest.thresholds[own[best]]
    at = rows, columns
    return SampledPixels(
        labels[at].astype(np.int64), predictions[at].astype(np.int64), scores, thresholds, nothing
    )


def move_cells(pixels: SampledPixels) -> tuple[int, ...]:
    """Return what happens to pixels when words move: kind, index, bin, count, kind, index, ..."""
    scores, labels = pixels.scores, pixels.labels
    everyone, winner = np.arange(len(labels)), scores.argmax(1)
    best_others = np.repeat(scores.max(1, keepdims=True), scores.shape[1], axis=1)
    best_others[everyone, winner] = _without(scores, winner).max(1)
    leads_at = best_others - scores
    wins_at = np.maximum(best_others, pixels.thresholds) - scores
    own = wins_at[everyone, labels]
    lose_at, right_at = _lowered(pixels, winner)
    right = labels == pixels.predictions
    wrong = ~right
    # A word that leads and falls short of its threshold leaves the pixel without a class.
    lost_at = np.where((labels == pixels.nothing)[:, None], wins_at, leads_at)[right]
    rivals = np.broadcast_to(np.arange(scores.shape[1]), lost_at.shape)
    kept = rivals != pixels.predictions[right][:, None]
    pairs = labels * scores.shape[1] + pixels.predictions
    # Without a word of its own the label wins when the other gives way.
    apart = np.where(np.isfinite(own), own, right_at)
    cells = [int(Kind.SAMPLED), 0, 0, len(everyone)]
    for kind, indices, margins in (
        (Kind.MISTAKE, pairs[wrong], apart[wrong]),
        (Kind.RAISED_RIGHT, labels[wrong], own[wrong]),
        (Kind.RAISED_WRONG, rivals[kept], lost_at[kept]),
        (Kind.LOWERED_RIGHT, winner[wrong], right_at[wrong]),
        (Kind.LOWERED_WRONG, winner[right], lose_at[right]),
    ):
        cells += _binned(kind, indices, margins)
    return tuple(cells)


def _lowered(
    pixels: SampledPixels, winner: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return by how much the word with the highest score must go down for a right pixel to be lost by
    it, [P], and for a wrong one to become right; inf where that never happens."""
    scores, thresholds, labels = pixels.scores, pixels.thresholds, pixels.labels
    everyone, others = np.arange(len(scores)), _without(scores, winner)
    second = others.argmax(1)
    rest = others[everyone, second]
    lead = scores[everyone, winner] - rest
    slack = scores[everyone, winner] - thresholds[everyone, winner]
    follows = np.where(rest >= thresholds[everyone, second], second, pixels.nothing)
    # One that falls short labels nothing now, nor until the second passes it.
    between = np.where((slack >= 0) & (slack < lead), slack, np.inf)
    unlabelled = labels == pixels.nothing
    lose_at = np.where(unlabelled, np.inf, between)
    lose_at = np.minimum(lose_at, np.where(follows != labels, lead, np.inf))
    right_at = np.where(unlabelled, between, np.inf)
    return lose_at, np.minimum(right_at, np.where(follows == labels, lead, np.inf))


def _without(scores: NDArray[np.float32], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return a copy without one column of every row."""
    others: NDArray[np.float32] = scores.copy()
    others[np.arange(len(scores)), columns] = -np.inf
    return others


def _binned(kind: Kind, indices: NDArray[np.int64], margins: NDArray[np.float32]) -> list[int]:
    finite = np.isfinite(margins)
    least = np.maximum(margins[finite], np.float32(2.0**-30))
    bins = np.clip(np.ceil(2 * np.log2(least)).astype(np.int64) + BINS - 1, 0, BINS - 1)
    places, counts = np.unique(indices[finite] * BINS + bins, return_counts=True)
    cells = np.stack([np.full_like(places, kind), *np.divmod(places, BINS), counts], axis=1)
    return [int(value) for value in cells.ravel()]


def moves_of(
    images: Iterable[Sequence[int]], confusion: Confusion, classes: Sequence[str], count: int
) -> tuple[Move, ...] | None:
    """Return of the `count` most frequent mistakes what would have to move, None when no image has cells.

    images: cells of `move_cells` of each; confusion: of all their pixels. A mistake that was not met among
    the pixels that were looked at is left out.
    """
    tables: Tables = {}
    for cells in images:
        for at in range(0, len(cells), 4):
            kind, index, place, number = cells[at : at + 4]
            tables.setdefault((kind, index), np.zeros(BINS, np.int64))[place] += number
    if not tables:
        return None
    met = (_move(tables, confusion, pair, classes) for pair in confusion.pairs(count))
    return tuple(move for move in met if move is not None)


def _move(
    tables: Tables,
    confusion: Confusion,
    pair: tuple[int, int | None, int, float],
    classes: Sequence[str],
) -> Move | None:
    label, predicted, _, part = pair
    column = len(classes) if predicted is None else predicted
    margins = tables.get((Kind.MISTAKE, label * (len(classes) + 1) + column))
    if margins is None:
        return None
    place = int(np.argmax(2 * margins.cumsum() >= margins.sum()))
    raised = _gain(tables, label, Kind.RAISED_RIGHT, Kind.RAISED_WRONG, place)
    lowered = None
    if predicted is not None:
        lowered = _gain(tables, predicted, Kind.LOWERED_RIGHT, Kind.LOWERED_WRONG, place)
    better = _better(raised, lowered or 0.0)
    return Move(
        label=classes[label],
        predicted=None if predicted is None else classes[predicted],
        part=part,
        move=better or _worse_elsewhere(confusion, label, predicted),
        shift=better is not None,
        by=float(2 ** ((place - BINS + 1) / 2)),
        raised=raised,
        lowered=lowered,
    )


def _gain(tables: Tables, index: int, better: Kind, worse: Kind, place: int) -> float:
    """Return by how much of all pixels more are right when a word is shifted by the margins of all bins
    up to `place`."""
    none = np.zeros(BINS, np.int64)
    change = tables.get((better, index), none) - tables.get((worse, index), none)
    return int(change[: place + 1].sum()) / int(tables[Kind.SAMPLED, 0].sum())


def _better(raised: float, lowered: float) -> Side | None:
    """Return whose shift leaves more pixels right, None where neither leaves more than now."""
    if max(raised, lowered) <= 0:
        return None
    if raised == lowered:
        return "either"
    return "label" if raised > lowered else "predicted"


def _worse_elsewhere(confusion: Confusion, label: int, predicted: int | None) -> Side:
    """Return whose word is wrong in more places than where the one is taken for the other."""
    if predicted is None:
        return "label"
    here = int(confusion.matrix[label, predicted])
    kept, won = int(confusion.right[label]), int(confusion.right[predicted])
    own, given = int(confusion.labelled[label]) - here, int(confusion.predicted[predicted]) - here
    lost = 1 - kept / own if own else 1.0
    taken = 1 - won / given if given else 1.0
    return "label" if lost >= taken else "predicted"
