"""Confidence curves: what a score was worth on pictures whose labels are known, per class.

A curve has a confidence for every score in 255ths, and never falls: the part of the pixels with that
score whose class was right. A bundle keeps them as one JSON file; the runtime replaces the confidence of
every pixel by what the curve of its class has for it, after labels were decided by scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadBundleError, shown
from dedos_deploy.fields import FieldError, checked, load_json
from dedos_deploy.format_version import check_not_newer

FORMAT: Final = "dedos-confidence-curves"
VERSION: Final = 1

LEVELS = 256
"""Confidences are in 255ths."""

Curve = NDArray[np.uint8]
"""uint8 [256], not falling."""


@dataclass(frozen=True)
class _Content:
    """What the file holds."""

    format: Literal["dedos-confidence-curves"]
    version: Literal[1]
    graph_sha256: str
    learned: dict[str, Any]
    overall: list[int]
    classes: dict[str, list[int]]


@dataclass(frozen=True, eq=False)
class ConfidenceCurves:
    """The curves of a bundle."""

    graph_sha256: str
    """SHA-256 of the graph whose scores they read."""

    overall: Curve
    """Curve of all classes together: for a class that has none of its own, and for unlabelled pixels."""

    by_name: Mapping[str, Curve]
    """Curve by class name."""

    learned: Mapping[str, Any] = field(default_factory=dict)
    """On what and how: JSON values."""

    @property
    def sha256(self) -> str:
        """Hash of the file that they make."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def rows(self, names: Sequence[str], without: Collection[str] = ()) -> NDArray[np.uint8]:
        """Return uint8 [N + 1, 256], the curves of N classes and the one of all for unlabelled pixels.

        without: names that get the curve of all, whatever theirs is.
        """
        own = {name: curve for name, curve in self.by_name.items() if name not in without}
        return np.stack([*(own.get(name, self.overall) for name in names), self.overall])

    def to_json(self) -> str:
        """Return the text of the file; raises BadBundleError for curves that could not be read back."""
        classes = {name: curve.tolist() for name, curve in self.by_name.items()}
        content = _Content(
            FORMAT, VERSION, self.graph_sha256, dict(self.learned), self.overall.tolist(), classes
        )
        text = json.dumps(asdict(content), allow_nan=False, ensure_ascii=False) + "\n"
        ConfidenceCurves.from_json(text, where="the confidence curves", graph=self.graph_sha256)
        return text

    @staticmethod
    def from_json(text: str, *, where: str, graph: str) -> ConfidenceCurves:
        """Return the curves in a JSON text; where: what it is called in messages; graph: hash of the
        graph that they must be of.

        Raises UnsupportedVersionError for a newer format, BadBundleError naming the first thing that is
        wrong, or that they are of another graph.
        """
        try:
            content = _parsed(text, where)
            curves = {name: _curve(v, f"classes.{name}") for name, v in content.classes.items()}
            found = ConfidenceCurves(
                content.graph_sha256, _curve(content.overall, "overall"), curves, content.learned
            )
        except FieldError as error:
            raise BadBundleError(f"{where}: {error}; calibrate the bundle again") from error
        found.check_graph(graph, where=where)
        return found

    def check_graph(self, graph: str, *, where: str) -> None:
        """Raise BadBundleError unless these are of the graph with that SHA-256."""
        if self.graph_sha256 != graph:
            raise BadBundleError(
                f"{where}: learned with another graph ({self.graph_sha256[:12]}, not {graph[:12]}); "
                "calibrate this bundle itself with dedos-eval calibrate-confidence"
            )


def _parsed(text: str, where: str) -> _Content:
    values = load_json(text)
    if not isinstance(values, dict):
        raise FieldError("must hold one JSON object")
    check_not_newer(values.get("version"), VERSION, what=f"{where}: field 'version'")
    content: _Content = checked(_Content, values, "")
    return content


def _curve(values: list[int], path: str) -> Curve:
    if len(values) != LEVELS:
        raise FieldError(f"field {shown(path)} has {len(values)} values, not {LEVELS}")
    if min(values) < 0 or max(values) > 255:
        raise FieldError(f"field {shown(path)} has a value outside of 0 to 255")
    if values != sorted(values):
        raise FieldError(f"field {shown(path)} falls, but more score is never worth less")
    return np.array(values, np.uint8)
