"""What learns words from examples for all vocabularies on one engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime.engines.embedding import EmbeddingEngine
from dedos_deploy.runtime.example_rows import Map, Row, blended, example_row, settled
from dedos_deploy.runtime.examples import Example
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.runtime.segmentation import LabelMap

LEAST_MARGIN, LEAST_OVERLAP = 0.3, 0.2
"""From which on a word separates; see docs/examples.md for what was measured."""

Open = Callable[[], EmbeddingEngine]
Labelled = Callable[[Example, Row], LabelMap]
"""Labels an example with a row in the word's place: 1 where the word is, else 0."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A row, and how well it does on the examples: see LearnedWord."""

    row: Row
    from_text: bool
    margin: float
    overlap: float

    @property
    def separates(self) -> bool:
        return self.margin >= LEAST_MARGIN and self.overlap >= LEAST_OVERLAP


class Embedder(Closing):
    """Dense embeddings of pictures; the graph is opened at the first one."""

    def __init__(self, open_engine: Open) -> None:
        """open_engine: raises BadInputError where there is none."""
        self._open = open_engine
        self._engine: EmbeddingEngine | None = None
        self._closed = False
        self._one_at_a_time = threading.Lock()

    def embed(self, examples: Sequence[Example]) -> list[Map]:
        """Return float32 [D, h, w] of each picture. Raises BadInputError, EngineError."""
        with self._one_at_a_time:
            if self._closed:
                raise EngineError("this segmenter is closed; load it again")
            if self._engine is None:
                self._engine = self._open()
            engine = self._engine
            image = np.empty(engine.size_hwc, dtype=np.uint8)
            found = []
            for example in examples:
                resize_frame(example.frame_bgr, image)
                found.append(engine.embed(image))
            return found

    def close(self) -> None:
        """Release the graph; may be called twice."""
        with self._one_at_a_time:
            self._closed = True
            if self._engine is not None:
                self._engine.close()


def no_examples() -> EmbeddingEngine:
    """What a segmenter that was built from parts has instead of a graph."""
    raise BadInputError(
        "this segmenter was built without a bundle, so it cannot learn words from pictures; use "
        "Segmenter.load"
    )


def best_candidate(
    embeddings: Sequence[Map], examples: Sequence[Example], text: Row | None, labelled: Labelled
) -> Candidate:
    """Return the row that labels the examples best: of the examples alone, or blended with the word's own
    row `text` where there is one, which wins a tie.

    labelled: runs the deployed graph, for each row once per example.
    """
    examples = [settled(*one) for one in zip(embeddings, examples, strict=True)]
    row = example_row(embeddings, examples)
    rows = [(row, False)] if text is None else [(blended(row, text), True), (row, False)]
    found = [Candidate(one, mixed, *_judged(one, examples, labelled)) for one, mixed in rows]
    return max(found, key=lambda candidate: candidate.overlap)


def _judged(row: Row, examples: Iterable[Example], labelled: Labelled) -> tuple[float, float]:
    """Return the mean margin and the mean overlap of what is labelled with the regions."""
    judged = []
    for example in examples:
        there = labelled(example, row)
        hit, missed = there[example.inside], there[example.outside]
        either = example.inside.sum() + missed.sum()
        judged.append((hit.mean() - missed.mean(), hit.sum() / either))
    margin, overlap = np.mean(judged, axis=0)
    return float(margin), float(overlap)
