"""Evaluations and their comparison as text on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dedos_deploy.evaluation.compare import Comparison
    from dedos_deploy.evaluation.report import Section
    from dedos_deploy.evaluation.result import EvaluationResult


def result_text(result: EvaluationResult) -> str:
    """Return the tables of one evaluation."""
    from dedos_deploy.evaluation.report import calibration_rows, move_rows

    total = sum(result.labelled)
    boundary = result.boundary_iou
    rows = [("class", "IoU", *(("boundary",) if boundary else ()), "share of labelled pixels")]
    for index, (name, iou, pixels) in enumerate(
        zip(result.classes, result.iou, result.labelled, strict=True)
    ):
        measured = (_shown(boundary[index]),) if boundary else ()
        rows.append((name, _shown(iou), *measured, f"{pixels / total:.1%}"))
    per_image = 1000 * result.seconds_inference / result.images
    means = [
        f"miou_present {result.miou_present:.3f}",
        f"miou_union {result.miou_union:.3f}",
        f"accuracy {result.accuracy:.3f}",
        f"fwIoU {result.frequency_weighted_iou:.3f}",
    ]
    if result.boundary_miou is not None:
        means.append(f"boundary {result.boundary_miou:.3f}")
    means += [f"{name} classes {_shown(value)}" for name, value in result.groups.items()]
    lines = [f"{result.predictor} on {result.data}", columns_text(rows), "", "   ".join(means)]
    lines.append(
        f"{result.images} images, {len(result.skipped)} skipped for want of labels, "
        f"{per_image:.0f} ms each in the model, {result.seconds_total:.1f} s in all\n"
    )
    if moves := move_rows(result):
        lines += [columns_text(moves), ""]
    if calibration := calibration_rows(result):
        lines += [columns_text(calibration), ""]
    return "\n".join(lines)


def sections_text(sections: Sequence[Section]) -> str:
    """Return what evaluations are beside each other and beside published ones, "" where they are neither."""
    from dedos_deploy.evaluation.report import summary_rows, tables_beside

    parts = [columns_text(summary_rows(sections))] if len(sections) > 1 else []
    for section in sections:
        parts += [columns_text(table) for table in tables_beside(section)]
        if section.published is not None:
            parts.append(f"{section.result.predictor}: {section.published.sentence()}")
    return "".join(f"{part}\n\n" for part in parts)


def comparison_text(comparison: Comparison) -> str:
    """Return what a comparison says."""
    miou = comparison.miou
    sure = "" if miou.certain else " (may be chance)"
    lines = [
        f"{comparison.second} against {comparison.first}: miou_present {miou.difference:+.4f}, "
        f"95 % interval [{miou.low:+.4f}, {miou.high:+.4f}]{sure}, {comparison.images} images"
    ]
    for name, change in comparison.moved.items():
        lines.append(f"  {name} {change.difference:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")
    if not comparison.moved:
        lines.append("  no class moved for certain")
    return "\n".join(lines)


def columns_text(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as columns, the first one to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
