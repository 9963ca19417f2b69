"""Whether tuned words are better where they were not tuned: parts of the frames held out in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dedos_deploy import _native
from dedos_deploy.evaluation.compare import Interval, compare
from dedos_deploy.evaluation.confusion import Confusion, Ids
from dedos_deploy.evaluation.records import ImageRecord
from dedos_deploy.evaluation.thresholds import ThresholdCounts
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.spec import NONE_UINT16
from dedos_deploy.training.word_bounds import Bounds, lower_bounds
from dedos_deploy.training.word_data import FEWEST_FRAMES, WordData
from dedos_deploy.training.word_heads import WordHead
from dedos_deploy.training.word_tuning import Seen, TuneSettings, Words, tuned_rounds

FOLDS = FEWEST_FRAMES
MOST_LOST = 0.02
"""IoU on held-out frames that no class may lose, by the lower bound of its gain."""

LEAST_GAIN = 0.01
"""Mean IoU that tuned words must gain on held-out frames: less is no reason to leave the text, and was
lost again on frames that came later."""

_ALONE = 0.005
"""IoU that a word may lose, by the lower bound of its gain, before its own row is tried again."""

_NEGATIVE_FRAMES = 8
"""Frames on which negatives compete: a long list takes its time."""

Rows = Sequence[Tensor]
"""A list's rows, float32 [K, D], of every part that is held out."""


def parts_of(frames: int) -> NDArray[np.int64]:
    """Return for every frame the part in which it is held out: neighbours in time share one.

    >>> parts_of(6).tolist()
    [0, 0, 1, 1, 2, 3]
    """
    found = np.empty(frames, np.int64)
    for part, places in enumerate(np.array_split(np.arange(frames), FOLDS)):
        found[places] = part
    return found


def tunable(data: WordData) -> NDArray[np.bool_]:
    """Return bool [words]: those that two parts show, since one alone could not be held out."""
    parts = parts_of(len(data.frames))
    return np.array(
        [
            len(set(parts[data.frames_with(class_id)].tolist())) > 1
            for class_id in range(len(data.asked))
        ]
    )


@dataclass(frozen=True, eq=False)
class Choice:
    """What held-out frames said."""

    round: int
    """After which to stop; 0: nothing was better than the words themselves."""
    moving: Tensor
    """bool [K]: whose tuned rows are used."""
    before: tuple[Confusion, ...]
    """Of every frame with the words' own rows."""
    after: tuple[Confusion, ...]
    """Of every frame with the rows that were tuned without it."""
    held_out: Rows
    """These rows."""

    @property
    def kept(self) -> bool:
        return self.round > 0


class Judge:
    """Labels held-out frames as the runtime does, at their own size."""

    def __init__(self, head: WordHead, data: WordData, seen: Sequence[Seen], words: Words) -> None:
        self._head, self._data, self._seen, self._words = head, data, seen, words
        self._parts = parts_of(len(seen))

    def choose(self, settings: TuneSettings, progress: Progress = QUIET) -> Choice:
        """Return when to stop, by frames that took no part; progress: counts rounds.

        Of the rounds, each also with words put back whose gain is not sure, the one of the surest mean
        gain is taken: see `best_of`.
        """
        own: Rows = [self._words.rows] * FOLDS
        before = self._confusions(own)
        none = Choice(0, torch.zeros_like(self._words.moving), before, before, own)
        rounds = self._tuned(settings, progress)
        tried: list[Choice] = []
        for number, rows in enumerate(zip(*rounds, strict=True), start=1):
            whole = Choice(number, self._words.moving, before, self._confusions(rows), rows)
            tried += [whole, *self._without_losers(whole)]
        return best_of(none, tried)

    def _tuned(self, settings: TuneSettings, progress: Progress) -> list[list[Tensor]]:
        """Return for every part the rows after each round on the other parts."""
        found: list[list[Tensor]] = []
        for part in range(FOLDS):
            others = [
                frame for frame, at in zip(self._seen, self._parts, strict=True) if at != part
            ]
            rows = []
            for done in tuned_rounds(self._head, others, self._words, settings):
                rows.append(done)
                progress.count(part * settings.rounds + len(rows), FOLDS * settings.rounds, "round")
            found.append(rows)
        return found

    def _without_losers(self, choice: Choice) -> Iterator[Choice]:
        """Yield a choice in which words that may lose have their own rows again, then one without
        those that may lose now, or that take from a class which loses all the same."""
        while True:
            back = torch.from_numpy(to_put_back(choice, self._words))
            moving = choice.moving & ~back[list(self._words.slot_ids)]
            if not moving.any() or torch.equal(moving, choice.moving):
                return
            rows = [put_back(self._words, tuned, moving) for tuned in choice.held_out]
            choice = Choice(choice.round, moving, choice.before, self._confusions(rows), rows)
            yield choice

    def _confusions(self, rows: Rows) -> tuple[Confusion, ...]:
        found = []
        for frame, (winners, _) in zip(self._data.frames, self._labelled(rows), strict=True):
            confusion = Confusion(len(self._data.names), ignore=self._data.ignore)
            confusion.add(frame.labels, winners, unlabelled=NONE_UINT16)
            found.append(confusion)
        return tuple(found)

    def _labelled(self, rows: Rows) -> Iterator[tuple[Ids, NDArray[np.uint8]]]:
        """Yield the winners, uint16 [H, W], and their scores in 255ths of every frame."""
        for place, part in enumerate(self._parts):
            yield self._winners(place, rows[part], self._words.slot_ids)

    def _winners(
        self, place: int, text: Tensor, slot_ids: Sequence[int]
    ) -> tuple[Ids, NDArray[np.uint8]]:
        scores = self._head.scores(self._seen[place].features, text)[0].numpy()
        shape = self._data.frames[place].labels.shape
        winners, confidence = np.empty(shape, np.uint16), np.empty(shape, np.uint8)
        _native.label_map(
            np.ascontiguousarray(scores),
            np.full(len(text), -1.0, np.float32),
            np.array(slot_ids, np.uint16),
            winners,
            confidence,
            np.zeros(1 + len(self._data.names), np.uint64),
            1,
        )
        return winners, confidence

    def thresholds(self, rows: Rows) -> dict[str, float]:
        """Return the threshold of every word by which its IoU on held-out frames is highest."""
        words = self._data.asked.names
        counts = ThresholdCounts(len(words))
        for frame, (winners, score) in zip(self._data.frames, self._labelled(rows), strict=True):
            counts.add(frame.labels, frame.elsewhere, winners, score)
        return {
            one.name: round(one.threshold, 4)
            for one in counts.best(words)
            if one.threshold is not None
        }

    def lost_to_negatives(self, rows: Rows) -> float:
        """Return which part of the words' pixels negatives win on held-out frames."""
        lost = whole = 0
        count = min(_NEGATIVE_FRAMES, len(self._seen))
        for index in range(count):
            place = (2 * index + 1) * len(self._seen) // (2 * count)
            text = torch.cat([rows[self._parts[place]], self._words.negatives])
            slot_ids = (*self._words.slot_ids, *[NONE_UINT16] * len(self._words.negatives))
            winners, _ = self._winners(place, text, slot_ids)
            known = self._data.frames[place].labels < len(self._data.asked)
            lost += int((winners[known] == NONE_UINT16).sum())
            whole += int(known.sum())
        return lost / max(1, whole)

    def gain(self, choice: Choice) -> Interval:
        """Return the difference of the mean IoU on held-out frames, by a paired bootstrap."""
        return compare(*(self._evaluation(side) for side in (choice.before, choice.after))).miou

    def _evaluation(
        self, confusions: Sequence[Confusion]
    ) -> tuple[dict[str, object], list[ImageRecord]]:
        header: dict[str, object] = {
            "predictor": "words",
            "data": "held-out frames",
            "classes": list(self._data.names),
        }
        return header, [
            ImageRecord(frame.name, frame.labels.shape, _cells(confusion), (), 0.0)
            for frame, confusion in zip(self._data.frames, confusions, strict=True)
        ]


def bounds_of(choice: Choice) -> Bounds:
    """Return how much the classes gain at least."""
    return lower_bounds(choice.before, choice.after, parts_of(len(choice.before)))


def to_put_back(choice: Choice, words: Words) -> NDArray[np.bool_]:
    """Return bool [classes]: moved words that may lose, or else the one that other classes lose most to."""
    before, after, low = _whole(choice.before), _whole(choice.after), bounds_of(choice).classes
    moved = np.zeros(before.classes, dtype=bool)
    moved[[words.slot_ids[slot] for slot in torch.nonzero(choice.moving)[:, 0].tolist()]] = True
    found: NDArray[np.bool_] = moved & (low < -_ALONE)
    losers = low < -MOST_LOST
    if found.any() or not losers.any():
        return found
    grown = (after.matrix - before.matrix)[: len(moved), : len(moved)].clip(min=0)
    taken = np.where(moved, (grown + grown.T)[losers].sum(0), 0)
    found[taken.argmax()] = taken.max() > 0
    return found


def put_back(words: Words, tuned: Tensor, moving: Tensor) -> Tensor:
    """Return the tuned rows of the words in `moving`, bool [K], and the own rows of all others."""
    return torch.where(moving[:, None], tuned, words.rows)


def best_of(none: Choice, tried: Sequence[Choice]) -> Choice:
    """Return the choice whose mean gain on held-out frames has the highest lower bound, or `none`,
    which leaves the words alone.

    No class may lose more than MOST_LOST, and the mean must not lose, by their lower bounds; and the
    mean gain itself must be LEAST_GAIN.
    """
    least = mean_iou_of(none.after) + LEAST_GAIN
    sure = [
        (bounds.mean, one)
        for one in tried
        if mean_iou_of(one.after) >= least
        and (bounds := bounds_of(one)).mean >= 0
        and bounds.classes.min() >= -MOST_LOST
    ]
    return max(sure, key=lambda pair: pair[0])[1] if sure else none


def iou_by_name(data: WordData, confusions: Sequence[Confusion]) -> Mapping[str, float | None]:
    """Return the IoU of every class over frames, None for one that no label shows."""
    whole = _whole(confusions)
    return {
        name: float(iou) if seen else None
        for name, iou, seen in zip(data.names, whole.iou, whole.labelled, strict=True)
    }


def _cells(confusion: Confusion) -> tuple[tuple[int, int, int], ...]:
    rows, columns = np.nonzero(confusion.matrix)
    return tuple(
        (int(row), int(column), int(confusion.matrix[row, column]))
        for row, column in zip(rows, columns, strict=True)
    )


def _whole(confusions: Sequence[Confusion]) -> Confusion:
    whole = Confusion(confusions[0].classes)
    for confusion in confusions:
        whole.merge(confusion)
    return whole


def mean_iou_of(confusions: Sequence[Confusion]) -> float:
    """Return miou_present over frames."""
    return _whole(confusions).miou_present
