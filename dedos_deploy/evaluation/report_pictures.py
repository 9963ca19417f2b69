"""Drawings of a report, as SVG: sharp at every size, with the reader's own fonts for every script.

They take the colours `--right` and `--wrong` and that of text from the page around them.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.evaluation.confusion import ratio
from dedos_deploy.evaluation.reliability import BINS, Reliability
from dedos_deploy.vocabulary import shortened

MOST_CLASSES = 40
"""Classes that a confusion matrix shows by name; the others are put together."""

_CELL = 26
_LETTER = 7
"""Width of a letter in pixels, on the safe side."""
_FULL_WIDTH = 13
"""That of a letter of Chinese, Japanese or Korean."""
_LETTERS = 24
_LEAST = 0.005
"""Part of a label's pixels below which a cell has no number."""

_SIDE = 300
_EDGE = 46


def confusion_svg(matrix: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Return a picture of a confusion matrix: a row per label, a column per answer.

    matrix: int64 [N, N + 1], the last column for no class; classes: their N names. Cells are parts of
    the pixels of their row's label. Classes that neither labels nor answers have are left out.
    """
    names, counts = _shown_part(matrix, classes)
    labelled = counts.sum(axis=1)
    parts = ratio(counts, np.broadcast_to(labelled[:, None], counts.shape))
    rows = np.flatnonzero(labelled).tolist()
    columns = [*names, "no class"]
    margin = 10 + max(map(_length, columns))
    width, height = margin + _CELL * len(columns) + margin // 2, margin + _CELL * len(rows)
    drawn = [_column_name(margin + _CELL * i, margin, name) for i, name in enumerate(columns)]
    for place, row in enumerate(rows):
        top = margin + _CELL * place
        drawn.append(_text(margin - 6, top + 17, names[row], "end"))
        for column in np.flatnonzero(counts[row]).tolist():
            what = f"{names[row]} called {columns[column]}: {counts[row, column]} pixels"
            left, part = margin + _CELL * column, float(parts[row, column])
            colour = "var(--wrong)" if row != column else "var(--right)"
            if row == column == MOST_CLASSES:
                colour = "currentColor"  # of the others some are right and some are not
            drawn.append(_cell(left, top, part, colour, what))
    return _svg(width, height, "confusion matrix: labels in rows, answers in columns", drawn)


def _shown_part(
    matrix: NDArray[np.int64], classes: Sequence[str]
) -> tuple[list[str], NDArray[np.int64]]:
    """Return names and matrix of the classes that occur, the smaller ones of many put together."""
    weight = matrix.sum(axis=1) + matrix[:, :-1].sum(axis=0)
    occur = [index for index in np.argsort(-weight, kind="stable").tolist() if weight[index]]
    kept, others = sorted(occur[:MOST_CLASSES]), sorted(occur[MOST_CLASSES:])
    groups = [[index] for index in kept] + ([others] if others else [])
    names = [shortened(classes[index], _LETTERS) for index in kept]
    names += [f"{len(others)} others"] if others else []
    by_row = np.stack([matrix[group].sum(axis=0) for group in groups])
    columns = [by_row[:, group].sum(axis=1) for group in [*groups, [len(classes)]]]
    return names, np.stack(columns, axis=1)


def reliability_svg(reliability: Reliability) -> str:
    """Return a diagram of accuracy over confidence; the darker a bar, the more pixels it is of."""
    most = max(one.pixels for one in reliability.bins)
    drawn = []
    for one in reliability.bins:
        left, wide = _EDGE + one.low * _SIDE, _SIDE / BINS
        tall = one.accuracy * _SIDE
        title = (
            f"{one.pixels} pixels of confidence {one.confidence:.3f}: {one.accuracy:.3f} are right"
        )
        drawn.append(
            f'<rect x="{left:.1f}" y="{10 + _SIDE - tall:.1f}" width="{wide - 1:.1f}" '
            f'height="{tall:.1f}" fill="var(--right)" fill-opacity="{0.25 + 0.75 * one.pixels / most:.2f}">'
            f"<title>{title}</title></rect>"
        )
        drawn.append(
            f'<circle cx="{_EDGE + one.confidence * _SIDE:.1f}" cy="{10 + _SIDE - tall:.1f}" r="3"/>'
        )
    drawn.append(_line(_EDGE, 10 + _SIDE, _EDGE + _SIDE, 10))
    drawn.append(_line(_EDGE, 10 + _SIDE, _EDGE + _SIDE, 10 + _SIDE))
    drawn.append(_line(_EDGE, 10 + _SIDE, _EDGE, 10))
    for part in (0.0, 0.5, 1.0):
        drawn.append(_text(_EDGE + part * _SIDE, 26 + _SIDE, f"{part:g}", "middle"))
        drawn.append(_text(_EDGE - 6, 14 + _SIDE - part * _SIDE, f"{part:g}", "end"))
    drawn.append(_text(_EDGE + _SIDE / 2, 42 + _SIDE, "confidence", "middle"))
    drawn.append(_text(_EDGE + 6, 22, "accuracy", "start"))
    return _svg(_SIDE + 2 * _EDGE, _SIDE + 50, "accuracy by confidence", drawn)


def _length(name: str) -> int:
    """Return the length of a name in pixels, on the safe side."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in name)
    return _FULL_WIDTH * wide + _LETTER * (len(name) - wide)


def _svg(width: float, height: float, label: str, drawn: Sequence[str]) -> str:
    body = "\n".join(drawn)
    return (
        f'<svg role="img" aria-label="{label}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">\n{body}\n</svg>'
    )


def _cell(left: float, top: float, part: float, colour: str, title: str) -> str:
    number = f"{100 * part:.0f}" if part >= _LEAST else ""
    return (
        f"<g><title>{html.escape(title)} ({part:.1%})</title>"
        f'<rect x="{left}" y="{top}" width="{_CELL - 1}" height="{_CELL - 1}" fill="{colour}" '
        f'fill-opacity="{0.05 + 0.75 * part:.2f}"/>'
        f"{_text(left + _CELL / 2, top + 17, number, 'middle')}</g>"
    )


def _column_name(left: float, bottom: float, name: str) -> str:
    x, y = left + _CELL / 2, bottom - 6
    return f'<g transform="translate({x} {y}) rotate(-60)">{_text(0, 0, name, "start")}</g>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="currentColor" opacity="0.5"/>'
