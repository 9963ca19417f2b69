"""From dense embeddings of examples to the row of a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.examples import Example

AGAINST = 1.0
"""How much of the background's direction is taken from the foreground's; see docs/examples.md."""

TEXT_SHARE = 0.5
"""Of the word's own row in a blended one."""

ALIKE = 0.5
"""What is as near to a scribble as this part of its own likeness belongs to the thing, or may."""

Map = NDArray[np.float32]
Row = NDArray[np.float32]


def example_row(embeddings: Sequence[Map], examples: Sequence[Example]) -> Row:
    """Return the row float32 [D] of length 1 that examples make.

    embeddings: float32 [D, h, w] of each. Every example counts the same, however large it is.
    """
    pools = [_pooled(*one) for one in zip(embeddings, examples, strict=True)]
    foreground, background = (
        unit(np.sum([pair[side] for pair in pools], axis=0)) for side in (0, 1)
    )
    return unit(foreground - AGAINST * background)


def blended(row: Row, text: Row) -> Row:
    """Return the row between one by example and one of the text tower."""
    return unit((1 - TEXT_SHARE) * row + TEXT_SHARE * text)


def unit(row: NDArray[np.floating]) -> Row:
    """Return a row at length 1, as those of the text tower are."""
    values = row.astype(np.float64)
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-12), dtype=np.float32)


def settled(embedding: Map, example: Example) -> Example:
    """Return an example whose rest leaves out what looks like a scribble, which goes on beyond it.

    embedding: float32 [D, h, w] of its picture. Where everything looks alike, the least alike is left.
    """
    import cv2

    if not example.stroke:
        return example
    places = embedding.reshape(len(embedding), -1)
    inside = _shares(example.inside, embedding.shape[1:])
    centred = places - places.mean(axis=1, keepdims=True)
    lengths = np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
    likeness = unit(centred @ inside) @ centred / lengths
    own = float(np.average(likeness, weights=inside))
    unlike = likeness <= max(ALIKE * own, float(likeness.min()))
    height, width = example.outside.shape
    small = unlike.reshape(embedding.shape[1:]).astype(np.uint8)
    rest = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
    outside = rest & example.outside
    return replace(example, outside=outside if outside.any() else example.outside)


def _pooled(embedding: Map, example: Example) -> tuple[Row, Row]:
    """Return the mean directions of the region and of the rest."""
    places = embedding.reshape(len(embedding), -1)
    inside, outside = (
        unit(places @ _shares(part, embedding.shape[1:]))
        for part in (example.inside, example.outside)
    )
    return inside, outside


def _shares(part: NDArray[np.bool_], size_hw: tuple[int, ...]) -> NDArray[np.float32]:
    """Return how much of every place is in a part of the picture, as one row."""
    import cv2

    height, width = size_hw
    small = cv2.resize(part.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32).reshape(-1)
