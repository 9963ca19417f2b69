"""Published results as data, and how far a result of one's own is from the one that fits it best.

`published.json` holds the figures of the training-free papers and of the authors of SAN and CAT-Seg;
the rows of the paper's Table 1 are those of `tables.py`. What differs is computed from what a bundle
says of itself, and from how it was asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from dedos_deploy.evaluation.confusion import Denominator
from dedos_deploy.evaluation.looking import tiling_of
from dedos_deploy.evaluation.protocols import Protocol, protocols, words_of
from dedos_deploy.evaluation.records import Header
from dedos_deploy.evaluation.result import EvaluationResult
from dedos_deploy.evaluation.tables import HERE, paper_tables
from dedos_deploy.vocabulary import shortened

_FILE = Path(__file__).parent / "published.json"

TABLE_1 = "Table 1 of the paper"

_PAPER_PRESETS = {"ViT-B/16": "paper-b", "ViT-L/14": "paper-l"}
_LONGEST = 60
"""Letters of what weights learned from."""


@dataclass(frozen=True)
class Setting:
    """How a published figure was made on one protocol, None where nobody says."""

    tau: float | None = None
    """Factor of the cosines before the softmax."""
    threshold: float | None = None
    """Score below which a pixel is background; 0 where every pixel keeps its best class."""
    smallest_part: float | None = None
    """Part of what is no background below which a class is dropped."""


@dataclass(frozen=True)
class PublishedRow:
    """A model and its figures."""

    method: str
    tower: str
    """Image tower."""
    weights: str | None
    """Weights of the tower, or what the model learned from."""
    windows: str | None
    """Windows that a picture is looked at through, None where it is looked at once."""
    source: str
    scores: dict[str, float]
    """mIoU in percent by protocol."""
    denominator: Denominator = "present"
    """Which mean over classes is printed."""
    templates: str | None = None
    """Prompt templates, None where nobody says."""
    preset: str | None = None
    """Of the paper's own rows: the preset with its numbers."""
    class_lists: str | None = None
    """Beginning of the source of its class lists, None for those that the protocols have."""
    short_side: dict[str, int] = field(default_factory=dict)
    """Pixels of the shorter side of a resized picture by protocol; `any` for the others."""
    settings: dict[str, Setting] = field(default_factory=dict)
    """How figures were made, by protocol."""

    @property
    def label(self) -> str:
        """Method and tower."""
        return f"{self.method}, {self.tower}"


@dataclass(frozen=True)
class Beside:
    """A result beside the published ones of its protocol."""

    protocol: str
    rows: tuple[PublishedRow, ...]
    """Those of `published.json` with a figure on it; `Standing` ranks the others."""
    facts: dict[str, Any]
    """Of the result's own model, as `model_facts` has them; empty for a net of fixed classes."""
    score: float
    """The result in percent, under the denominator of `fit`; the present one without a fit."""
    fit: PublishedRow | None
    """The row of the same method, and of the same tower where there is one."""
    differs: tuple[str, ...]
    """What is otherwise than `fit` had it."""

    @property
    def points(self) -> float | None:
        """Result minus figure of `fit`, in percent points."""
        return None if self.fit is None else self.score - self.fit.scores[self.protocol]

    def table(self) -> list[tuple[str, ...]]:
        """Return header, a row per published result, and that of this one."""
        header = (f"published on {self.protocol}", "weights", "windows", "mIoU", "source")
        rows = [_cells(row, row.scores[self.protocol]) for row in self.rows]
        weights = shortened(self.facts.get("weights", "-"), _LONGEST)
        windows = self.facts.get("windows") or "-"
        return [header, *rows, (HERE, weights, windows, f"{self.score:.1f}", "-")]

    def sentence(self) -> str:
        """Return how far the result is from the figure that fits it best, and what differs."""
        if self.fit is None or self.points is None:
            what = self.facts.get("method", "a net of fixed classes")
            return f"No figure of {what} is known on {self.protocol}."
        figure = self.fit.scores[self.protocol]
        gap, side = f"{abs(self.points):.1f}", "above" if self.points > 0 else "below"
        here = "as good" if gap == "0.0" else f"{gap} points {side}"
        differs = "; ".join(self.differs) or "nothing that the bundle tells"
        return (
            f"{self.fit.label} is published with {figure:.1f} on {self.protocol} (mIoU "
            f"{self.fit.denominator}, {self.fit.source}); this result is {here}. "
            f"What differs: {differs}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "protocol": self.protocol,
            "fit": None if self.fit is None else self.fit.label,
            "source": None if self.fit is None else self.fit.source,
            "denominator": None if self.fit is None else self.fit.denominator,
            "score": self.score,
            "figure": None if self.fit is None else self.fit.scores[self.protocol],
            "points": self.points,
            "differs": list(self.differs),
        }


@lru_cache(maxsize=1)
def published() -> tuple[PublishedRow, ...]:
    """Return all published rows: those of `published.json`, then those of the paper's Table 1."""
    values = json.loads(_FILE.read_text(encoding="utf-8"))
    rows = [_row(group, row) for group in values["groups"] for row in group["rows"]]
    for row in paper_tables()["Table 1"].rows:
        tower = str(row.vlm).removeprefix("CLIP ")
        method = row.model.removesuffix(" (Ours)")
        rows.append(
            PublishedRow(
                method=method,
                tower=tower,
                weights=row.training,
                windows=None,
                source=TABLE_1,
                scores={name: score for name, score in row.scores.items() if score is not None},
                preset=_PAPER_PRESETS.get(tower) if method == "DEDOS" else None,
            )
        )
    return tuple(rows)


def _row(group: dict[str, Any], row: dict[str, Any]) -> PublishedRow:
    shared = {key: group[key] for key in group if key not in ("rows", "settings")}
    told: dict[str, dict[str, float]] = group.get("settings", {}).get(row["method"], {})
    settings = {
        name: Setting(**{**told["any"], **told.get(name, {})}) for name in row["scores"] if told
    }
    return PublishedRow(**{"weights": None, **shared, **row}, settings=settings)


def _cells(row: PublishedRow, *scores: float | None) -> tuple[str, ...]:
    shown = ("-" if score is None else f"{score:.1f}" for score in scores)
    return (row.label, row.weights or "-", row.windows or "-", *shown, row.source)


def beside(result: EvaluationResult, header: Header) -> Beside | None:
    """Return a result beside the published ones; None where nobody publishes on its data.

    header: of its records.
    """
    rows = [row for row in published() if result.data in row.scores]
    protocol = protocols().get(result.data)
    if protocol is None or not rows:
        return None
    facts: dict[str, Any] = header["identity"].get("model", {})
    same = [row for row in rows if row.method == facts.get("method")]
    fit = next((row for row in same if row.tower == facts["tower"]), next(iter(same), None))
    union = fit is not None and fit.denominator == "union"
    score = 100 * (result.miou_union if union else result.miou_present)
    differs = [] if fit is None else [*_differences(fit, protocol, header)]
    images = result.images + len(result.skipped)
    if protocol.images is not None and images != protocol.images:
        differs.append(f"{images} of {protocol.images} images")
    listed = tuple(row for row in rows if row.source != TABLE_1)
    return Beside(protocol.name, listed, facts, score, fit, tuple(differs))


def _differences(fit: PublishedRow, protocol: Protocol, header: Header) -> Iterator[str]:
    identity = header["identity"]
    yield from _model_differences(fit, protocol, identity)
    yield from _text_differences(fit, protocol, header)
    yield from _score_differences(fit.settings.get(protocol.name, Setting()), identity)


def _model_differences(
    fit: PublishedRow, protocol: Protocol, identity: dict[str, Any]
) -> Iterator[str]:
    facts = identity["model"]
    for name, here, there in (
        ("tower", facts["tower"], fit.tower),
        ("preset", facts["preset"], fit.preset),
    ):
        if there is not None and here != there:
            yield f"{name} {here} (published: {there})"
    if fit.weights is not None and not _same_weights(fit, facts["weights"]):
        yield f"weights: {shortened(facts['weights'], _LONGEST)} (published: {fit.weights})"
    height, width = facts["size_hw"]
    side = fit.short_side.get(protocol.name, fit.short_side.get("any"))
    tiling = tiling_of(identity)
    if not tiling.is_off:
        once = "once" if side is None else f"once, shorter side {side}, proportions kept"
        yield f"every picture is looked at through {tiling} (published: {once})"
    elif side is not None:
        yield (
            f"every picture is resized to {width}x{height} (published: shorter side {side}, "
            "proportions kept)"
        )
    if facts["windows"] != fit.windows:
        yield f"windows {facts['windows'] or 'none'} (published: {fit.windows or 'none'})"
    if identity.get("precision", {}).get("image") == "int8":
        yield "INT8 (published: floating point)"


def _same_weights(fit: PublishedRow, here: str) -> bool:
    """Table 1 names a data set, of which only our own bundles say whether they learned from it."""
    if fit.source == TABLE_1:
        return fit.preset is None or str(fit.weights) in here
    return here == fit.weights


def _text_differences(fit: PublishedRow, protocol: Protocol, header: Header) -> Iterator[str]:
    template = header["identity"]["template"]
    if fit.templates is not None and template != fit.templates:
        yield f"templates {template} (published: {fit.templates})"
    if fit.class_lists is not None and not protocol.classes.source.startswith(fit.class_lists):
        yield f"class names as of {protocol.classes.source} (published: those of {fit.class_lists})"
    asked = [list(words) for _, words in words_of(protocol.classes, synonyms=None)]
    if header["words"] != asked:
        here, there = (sum(map(len, words)) for words in (header["words"], asked))
        yield f"{here} words asked for (published: {there})"


def _score_differences(setting: Setting, identity: dict[str, Any]) -> Iterator[str]:
    facts, background = identity["model"], identity["background"]
    if setting.tau is not None and facts.get("tau") != setting.tau:
        yield f"softmax factor {facts.get('tau'):g} (published: {setting.tau:g})"
    threshold = 0 if background == "none" else identity["threshold"]
    if setting.threshold is not None and threshold != setting.threshold:
        yield f"threshold {_number(threshold)} (published: {_number(setting.threshold)})"
    if background == "negatives":
        yield "negatives compete (published: none)"
    if threshold and facts.get("null_words"):
        yield (
            f"{facts['null_words']} null words share the softmax, but for those close to a word asked "
            "for (published: none)"
        )
    if setting.smallest_part is not None:
        yield (
            f"no area filter (published: classes below {setting.smallest_part:.0%} of what is no "
            "background are dropped)"
        )


def _number(threshold: float) -> str:
    return f"{threshold:g}" if threshold else "none"
