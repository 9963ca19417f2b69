"""Why a pixel has its label: what competed for it, by the scores that the label map compared there."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, shown

Kind = Literal["word", "negative", "null", "background"]
"""What a candidate is: a class that was asked for; a word of the base vocabulary that competes and leaves
pixels unlabelled; what a dense head gives to its own words, which nobody asked for; no label."""

NULL = "none of the words"
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Candidate:
    """What may have become of a pixel, and how near it came."""

    name: str
    """Of the class or negative, NULL or UNLABELLED."""

    score: float
    """In [0, 1], at the pixel of the frame, as the label map compared it (after smoothing, where labels
    are stable). Of a class the highest of its words; of a null what the scores of all words leave to one;
    of the background what the best word had to reach."""

    kind: Kind
    """Nulls only take from the scores of words: they never decide."""

    threshold: float
    """Lowest score in [0, 1] with which it decides, 0 for any."""

    word: str
    """Which of the class's words scored: its name, or a synonym; the name for all else."""

    decided: bool = False
    """Whether the pixel's label came of it. One candidate of a pixel did: the first that is no null."""


@dataclass(frozen=True, eq=False)
class Contest:
    """What the scores of a vocabulary's slots stand for."""

    words: tuple[str, ...]
    """Of every slot, K; the last are the negatives."""

    names: tuple[str, ...]
    """Of every slot: its class, or the negative itself."""

    thresholds: NDArray[np.float32]
    """float32 [K], below 0 where any score wins."""

    negatives: int
    """How many of the slots leave pixels unlabelled."""

    nulls: bool
    """Whether the scores of all slots are parts of one that words of the graph's own share."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The scores that a frame was labelled by; for its receiver alone, never written again."""

    scores: NDArray[Any]
    """float32 or float16 [K, h, w], at the size of the score map."""

    contest: Contest

    def at(self, pixels: NDArray[np.int32], size_hw: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the scores of some pixels of a frame, float32 [P, K], as the label map compares them.

        pixels: int32 [P, 2], row and column of each, inside of the frame; size_hw: of the frame.
        """
        from dedos_deploy import _native

        scores = self.scores.astype(np.float32, order="C", copy=False)
        found = np.empty((len(pixels), len(scores)), np.float32)
        _native.pixel_scores(scores, pixels, size_hw[0], size_hw[1], found)
        return found

    def top(self, y: int, x: int, n: int, size_hw: tuple[int, ...]) -> tuple[Candidate, ...]:
        """Return what competed for a pixel; see Segmentation.top."""
        row, column = _pixel(y, x, size_hw)
        if (count := _whole("n", n)) < 1:
            raise BadInputError(f"n is {count}; ask for at least one candidate")
        scores = self.at(np.array([[row, column]], np.int32), size_hw)[0]
        rows = self._ranked(scores, count)
        leader = rows[0]
        falls_short = leader.score < leader.threshold
        rows[0] = replace(leader, decided=not falls_short)
        if leader.threshold > 0:
            needed = leader.threshold
            rows.append(
                Candidate(UNLABELLED, needed, "background", needed, UNLABELLED, falls_short)
            )
        if self.contest.nulls:
            rest = max(0.0, 1.0 - float(scores.sum(dtype=np.float64)))
            rows.append(Candidate(NULL, rest, "null", 0.0, NULL))
        # Of equal ones the first stays first: a score that just reaches its threshold labels.
        return tuple(sorted(rows, key=lambda one: -one.score))

    def _ranked(self, scores: NDArray[np.float32], n: int) -> list[Candidate]:
        """Return the best `n` classes and negatives, the best first, of equal ones the lowest slot."""
        contest, found = self.contest, dict[tuple[Kind, str], Candidate]()
        first_negative = len(scores) - contest.negatives
        for slot in np.argsort(-scores, kind="stable").tolist():
            kind: Kind = "negative" if slot >= first_negative else "word"
            key = kind, contest.names[slot]
            if key not in found:
                threshold = max(0.0, float(contest.thresholds[slot]))
                word = contest.words[slot]
                found[key] = Candidate(key[1], float(scores[slot]), kind, threshold, word)
            if len(found) == n:
                break
        return list(found.values())


def _pixel(y: int, x: int, size_hw: tuple[int, ...]) -> tuple[int, int]:
    row, column = _whole("y", y), _whole("x", x)
    if 0 <= row < size_hw[0] and 0 <= column < size_hw[1]:
        return row, column
    raise BadInputError(
        f"pixel y={row}, x={column} lies outside of the frame; y goes from 0 to {size_hw[0] - 1} and x "
        f"from 0 to {size_hw[1] - 1}"
    )


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise BadInputError(f"{name} must be a whole number, not {shown(value)}") from None
