"""Reports of one or several evaluations: what stands in them, as JSON values, tables and markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.evaluation.compare import Comparison, Interval
from dedos_deploy.evaluation.looking import idle_said, tiling_of
from dedos_deploy.evaluation.overlays import Shown
from dedos_deploy.evaluation.protocols import MESS, mess_means
from dedos_deploy.evaluation.published import Beside
from dedos_deploy.evaluation.result import EvaluationResult
from dedos_deploy.evaluation.tables import Standing, paper_tables
from dedos_deploy.version import __version__


@dataclass(frozen=True)
class Section:
    """One evaluation in a report."""

    result: EvaluationResult
    identity: dict[str, Any]
    """What decided the model's answers."""
    shown: Sequence[Shown] = ()
    """Pictures of images."""
    standing: Standing | None = None
    """Place of the result among the rows of the paper's tables, None for data that they do not have."""
    published: Beside | None = None
    """The result beside published ones, None for data that nobody publishes on."""
    matrix: NDArray[np.int64] | None = None
    """Pixels by label and prediction, int64 [N, N + 1], the last column for no class."""
    made: dict[str, str | None] | None = None
    """`command` line, None from Python, and when it began, `created`; None as a whole for records of
    earlier releases."""
    idle: Sequence[tuple[str, int]] = ()
    """What of how it looked showed nothing of its own, and in how many pictures."""


@dataclass(frozen=True)
class Report:
    """Evaluations, and comparisons of pairs of them."""

    sections: Sequence[Section]
    comparisons: Sequence[Comparison] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; those of one evaluation alone stand at the top level, too."""
        results = [
            {
                **section.result.to_dict(),
                "identity": section.identity,
                "made": section.made,
                "standing": None if section.standing is None else section.standing.to_dict(),
                "published": None if section.published is None else section.published.to_dict(),
            }
            for section in self.sections
        ]
        # Not when it was made: parts and a whole must say the same there.
        alone = {k: v for k, v in results[0].items() if k != "made"} if len(results) == 1 else {}
        return {
            **alone,
            "version": __version__,
            "results": results,
            "comparisons": [one.to_dict() for one in self.comparisons],
        }


def made_by(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Return (command line, time) of the evaluations, each once, where they are known."""
    found = [section.made for section in sections if section.made is not None]
    pairs = [(one["command"] or "from Python", _shown_time(str(one["created"]))) for one in found]
    return list(dict.fromkeys(pairs))


def _shown_time(iso: str) -> str:
    return iso[:16].replace("T", " ") + " UTC"


def summary_rows(sections: Sequence[Section]) -> list[tuple[str, ...]]:
    """Return header and one row per evaluation, as text."""
    header = (
        "predictor",
        "data",
        "mIoU present",
        "mIoU union",
        "accuracy",
        "fwIoU",
        "boundary",
        "ECE",
        "images",
        "skipped",
        "ms per image",
    )
    rows: list[tuple[str, ...]] = [header]
    for section in sections:
        result = section.result
        counted = max(1, result.images)
        rows.append(
            (
                result.predictor,
                result.data,
                percent(result.miou_present),
                percent(result.miou_union),
                percent(result.accuracy),
                percent(result.frequency_weighted_iou),
                percent(result.boundary_miou),
                percent(None if result.reliability is None else result.reliability.error),
                str(result.images),
                str(len(result.skipped)),
                f"{1000 * result.seconds_inference / counted:.0f}",
            )
        )
    return rows


def class_rows(sections: Sequence[Section]) -> list[tuple[str, ...]]:
    """Return header and one row per class of evaluations on the same data, in percent."""
    results = [section.result for section in sections]
    measured: list[tuple[str, tuple[float | None, ...]]] = []
    measured += [(f"IoU {one.predictor}", one.iou) for one in results]
    measured += [
        (f"boundary {one.predictor}", one.boundary_iou)
        for one in results
        if one.boundary_iou is not None
    ]
    for one in results:
        measured.append((f"precision {one.predictor}", one.class_precision))
        measured.append((f"recall {one.predictor}", one.class_accuracy))
    total = max(1, sum(results[0].labelled))
    rows = [("class", "share", *(name for name, _ in measured))]
    for index, name in enumerate(results[0].classes):
        share = f"{100 * results[0].labelled[index] / total:.1f}"
        rows.append((name, share, *(percent(values[index]) for _, values in measured)))
    return rows


def move_rows(result: EvaluationResult) -> list[tuple[str, ...]]:
    """Return header and one row per frequent mistake with the word that would have to move; [] where
    scores are not known, or nothing was mistaken."""
    rows: list[tuple[str, ...]] = [
        ("mistake", "of the class", "to move", "by", "label up", "answer down")
    ]
    for move in result.moves or ():
        label, predicted = f"{move.label} up", f"{move.predicted} down"
        said = {"label": label, "predicted": predicted, "either": f"{label}, or {predicted}"}
        rows.append(
            (
                f"{move.label} as {move.predicted or 'nothing'}",
                percent(move.part),
                said[move.move] if move.shift else f"{move.word}, by no shift",
                f"{move.by:.2g}",
                f"{100 * move.raised:+.2f}",
                "-" if move.lowered is None else f"{100 * move.lowered:+.2f}",
            )
        )
    return rows if len(rows) > 1 else []


def calibration_rows(result: EvaluationResult) -> list[tuple[str, ...]]:
    """Return header and one row per class that was answered, and one of all, in percent; [] where it was
    not measured."""
    found = result.calibration
    if found is None:
        return []
    rows: list[tuple[str, ...]] = [("answer", "pixels", "confidence", "accuracy", "ECE")]
    if found.scores is not None:
        rows[0] += ("score", "ECE of scores")
    before = found.scores or (None,) * len(found.given)
    for name, one, score in zip((*result.classes, "all"), found.given, before, strict=True):
        if one is not None:
            shown = [one.confidence, one.accuracy, one.error]
            shown += [score.confidence, score.error] if score is not None else []
            rows.append((name, str(one.pixels), *map(percent, shown)))
    return rows


def mess_rows(sections: Sequence[Section]) -> list[tuple[str, ...]]:
    """Return Table 2 of the paper with a row per predictor that was scored on MESS; [] without one.

    Domains whose data sets are not all there have a dash. MESS counts classes that were only ever
    predicted, too (miou_union).
    """
    scores: dict[str, dict[str, float]] = {}
    for section in sections:
        if section.result.data.startswith(MESS):
            found = scores.setdefault(section.result.predictor, {})
            found[section.result.data] = section.result.miou_union
    if not scores:
        return []
    table = paper_tables()["Table 2"]
    rows: list[tuple[str, ...]] = [("MESS, mIoU union", *table.columns)]
    for name, values in scores.items():
        means = mess_means(values)
        rows.append((name, *(percent(means.get(column)) for column in table.columns)))
    for row in table.rows:
        cells = [row.scores[column] for column in table.columns]
        rows.append((row.label, *("-" if cell is None else f"{cell:.1f}" for cell in cells)))
    return rows


def markdown(report: Report) -> str:
    """Return the report as markdown, without pictures."""
    lines = ["# Evaluation", ""]
    for command, created in made_by(report.sections):
        lines += [f"{created}: `{command}`", ""]
    lines += [*table_md(summary_rows(report.sections)), "", MEASURES, ""]
    if mess := mess_rows(report.sections):
        lines += [*table_md(mess), ""]
    for group in by_data(report.sections):
        lines += [f"## {group[0].result.data}", "", *table_md(class_rows(group)), ""]
        for section in group:
            lines += [f"- {note}" for note in notes(section)]
            if moves := move_rows(section.result):
                lines += ["", f"{section.result.predictor}: {MOVES}", "", *table_md(moves)]
            if calibration := calibration_rows(section.result):
                text = f"{section.result.predictor}: {CALIBRATION}"
                lines += ["", text, "", *table_md(calibration)]
            for table in tables_beside(section):
                lines += ["", *table_md(table)]
            lines.append("")
    for one in report.comparisons:
        lines += [f"## {one.second} against {one.first} on {one.data}", "", verdict(one), ""]
        if one.moved:
            lines += [*table_md(moved_rows(one)), ""]
    return "\n".join(lines)


MEASURES = (
    "mIoU present: mean over the classes that labels contain, as published tables have it. mIoU "
    "union: classes that were only ever predicted count with 0, too. Pixels without a class count "
    "as wrong, or as background where a benchmark has that class. Precision: of the pixels given a "
    "class, those that carry its label. Recall: of those that carry it, those that got it. ECE: mean "
    "distance between confidence and accuracy. All in percent."
)

CALIBRATION = (
    "what confidences are worth, by the class that pixels were given: mean confidence, the part that is "
    "right, and the calibration error, the same of the scores behind confidences where curves of the "
    "bundle have changed them. All in percent."
)

MOVES = (
    "the word that would have to move for a mistake to go away. With its label up, or the answer down, by "
    "a score that undoes half of it, so many percent of all pixels more are right, all else as it is; "
    "where neither helps, the word that is wrong in more places has to turn."
)


def notes(section: Section) -> list[str]:
    """Return what is said of one evaluation besides its tables, in sentences."""
    result, lines = section.result, []
    tiling = tiling_of(section.identity)
    if not tiling.is_off:
        lines.append(
            f"{result.predictor}: pictures were looked at through {tiling}; scores averaged."
        )
    for what, pictures in section.idle:
        lines.append(f"{result.predictor}: {idle_said(what, pictures, result.images)}.")
    if other := section.identity.get("curves_learned_through"):
        lines.append(
            f"{result.predictor}: confidences are read off curves that were learned with pictures looked at "
            f"through {other}."
        )
    if result.groups:
        means = ", ".join(f"{name} {percent(value)}" for name, value in result.groups.items())
        lines.append(f"{result.predictor}: classes that masks taught and others: {means}.")
    if result.skipped:
        shown = ", ".join(result.skipped[:5]) + (", ..." if len(result.skipped) > 5 else "")
        lines.append(
            f"{result.predictor}: {len(result.skipped)} images without a pixel that counts were "
            f"skipped: {shown}."
        )
    if result.pairs:
        pairs = "; ".join(
            f"{pair.label} as {pair.predicted or 'nothing'} ({100 * pair.part:.0f} %)"
            for pair in result.pairs[:5]
        )
        lines.append(f"{result.predictor}, most frequent mistakes: {pairs}.")
    if section.published is not None:
        lines.append(f"{result.predictor}: {section.published.sentence()}")
    return lines


def tables_beside(section: Section) -> list[list[tuple[str, ...]]]:
    """Return the tables that other people's results stand in, with or beside this one."""
    tables = [] if section.standing is None else [section.standing.rows()]
    if section.published is not None and section.published.rows:
        tables.append(section.published.table())
    return tables


def verdict(one: Comparison) -> str:
    """Return what a comparison found."""
    sure = "" if one.miou.certain else ", which may be chance"
    return (
        f"mIoU present changes by {_change(one.miou)} points{sure}: paired bootstrap of {one.draws} "
        f"draws over {one.images} images, 95 % interval. Classes that moved for certain: "
        f"{', '.join(one.moved) or 'none'}."
    )


def moved_rows(one: Comparison) -> list[tuple[str, str]]:
    """Return header and a row per class that moved for certain."""
    return [("class", "change of IoU"), *((n, _change(i)) for n, i in one.moved.items())]


def _change(interval: Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.difference:+.2f} [{low:+.2f}, {high:+.2f}]"


def by_data(sections: Sequence[Section]) -> list[list[Section]]:
    """Return the sections of the same data and classes together."""
    groups: dict[tuple[str, tuple[str, ...]], list[Section]] = {}
    for section in sections:
        groups.setdefault((section.result.data, section.result.classes), []).append(section)
    return list(groups.values())


def percent(value: float | None) -> str:
    """Return a part as percent with one decimal, a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def table_md(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a markdown table; the first row is its header."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]
