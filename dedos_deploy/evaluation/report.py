"""Reports of one or several evaluations: JSON, markdown, and one HTML file that needs no other."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SinkError
from dedos_deploy.evaluation.compare import Comparison, Interval
from dedos_deploy.evaluation.overlays import Shown
from dedos_deploy.evaluation.protocols import MESS, mess_means
from dedos_deploy.evaluation.published import Beside
from dedos_deploy.evaluation.result import EvaluationResult
from dedos_deploy.evaluation.tables import Standing, paper_tables
from dedos_deploy.files import write_atomically
from dedos_deploy.version import __version__

REPORT_JSON, REPORT_MD, REPORT_HTML = "report.json", "report.md", "report.html"


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
                "standing": None if section.standing is None else section.standing.to_dict(),
                "published": None if section.published is None else section.published.to_dict(),
            }
            for section in self.sections
        ]
        alone = results[0] if len(results) == 1 else {}
        return {
            **alone,
            "version": __version__,
            "results": results,
            "comparisons": [one.to_dict() for one in self.comparisons],
        }


def write_report(folder: Path, report: Report) -> Path:
    """Write report.json, report.md and report.html into `folder`; return the last one.

    Raises SinkError when they cannot be written; each appears whole or not at all.
    """
    texts = {
        REPORT_JSON: json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n",
        REPORT_MD: markdown(report),
        REPORT_HTML: page(report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(folder / name, text.encode())
    except OSError as error:
        raise SinkError(
            f"the report in {str(folder)!r} cannot be written ({error.strerror}); make room or "
            "choose another --output"
        ) from error
    return folder / REPORT_HTML


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
                _percent(result.miou_present),
                _percent(result.miou_union),
                _percent(result.accuracy),
                _percent(result.frequency_weighted_iou),
                _percent(result.boundary_miou),
                str(result.images),
                str(len(result.skipped)),
                f"{1000 * result.seconds_inference / counted:.0f}",
            )
        )
    return rows


def class_rows(sections: Sequence[Section]) -> list[tuple[str, ...]]:
    """Return header and one row per class of evaluations on the same data, IoU in percent."""
    results = [section.result for section in sections]
    boundary = [result for result in results if result.boundary_iou is not None]
    header = ["class", "share"]
    header += [f"IoU {result.predictor}" for result in results]
    header += [f"boundary {result.predictor}" for result in boundary]
    total = max(1, sum(results[0].labelled))
    rows = [tuple(header)]
    for index, name in enumerate(results[0].classes):
        row = [name, f"{100 * results[0].labelled[index] / total:.1f}"]
        row += [_percent(result.iou[index]) for result in results]
        row += [_percent(result.boundary_iou[index]) for result in boundary if result.boundary_iou]
        rows.append(tuple(row))
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
        rows.append((name, *(_percent(means.get(column)) for column in table.columns)))
    for row in table.rows:
        cells = [row.scores[column] for column in table.columns]
        rows.append((row.label, *("-" if cell is None else f"{cell:.1f}" for cell in cells)))
    return rows


def markdown(report: Report) -> str:
    """Return the report as markdown."""
    lines = ["# Evaluation", "", *table_md(summary_rows(report.sections)), "", _DENOMINATORS, ""]
    if mess := mess_rows(report.sections):
        lines += [*table_md(mess), ""]
    for group in _by_data(report.sections):
        lines += [f"## {group[0].result.data}", "", *table_md(class_rows(group)), ""]
        for section in group:
            lines += _notes(section)
    for one in report.comparisons:
        lines += [f"## {one.second} against {one.first} on {one.data}", "", _verdict(one), ""]
        if one.moved:
            lines += [*table_md(_moved_rows(one)), ""]
    return "\n".join(lines)


_DENOMINATORS = (
    "mIoU present: mean over the classes that labels contain, as published tables have it. mIoU "
    "union: classes that were only ever predicted count with 0, too. Pixels without a class count "
    "as wrong. All in percent."
)


def _notes(section: Section) -> list[str]:
    result, lines = section.result, []
    if result.groups:
        means = ", ".join(f"{name} {_percent(value)}" for name, value in result.groups.items())
        lines.append(f"- {result.predictor}: classes that masks taught and others: {means}.")
    if result.skipped:
        shown = ", ".join(result.skipped[:5]) + (", ..." if len(result.skipped) > 5 else "")
        lines.append(
            f"- {result.predictor}: {len(result.skipped)} images without a pixel that counts were "
            f"skipped: {shown}."
        )
    if result.pairs:
        pairs = "; ".join(
            f"{pair.label} as {pair.predicted or 'nothing'} ({100 * pair.part:.0f} %)"
            for pair in result.pairs[:5]
        )
        lines.append(f"- {result.predictor}, most frequent mistakes: {pairs}.")
    if section.published is not None:
        lines.append(f"- {result.predictor}: {section.published.sentence()}")
    for table in tables_beside(section):
        lines += ["", *table_md(table)]
    return [*lines, ""] if lines else []


def tables_beside(section: Section) -> list[list[tuple[str, ...]]]:
    """Return the tables that other people's results stand in, with or beside this one."""
    tables = [] if section.standing is None else [section.standing.rows()]
    if section.published is not None and section.published.rows:
        tables.append(section.published.table())
    return tables


def _verdict(one: Comparison) -> str:
    sure = "" if one.miou.certain else ", which may be chance"
    return (
        f"mIoU present changes by {_change(one.miou)} points{sure}: paired bootstrap of {one.draws} "
        f"draws over {one.images} images, 95 % interval. Classes that moved for certain: "
        f"{', '.join(one.moved) or 'none'}."
    )


def _moved_rows(one: Comparison) -> list[tuple[str, str]]:
    return [("class", "change of IoU"), *((n, _change(i)) for n, i in one.moved.items())]


def _change(interval: Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.difference:+.2f} [{low:+.2f}, {high:+.2f}]"


def _by_data(sections: Sequence[Section]) -> list[list[Section]]:
    groups: dict[tuple[str, tuple[str, ...]], list[Section]] = {}
    for section in sections:
        groups.setdefault((section.result.data, section.result.classes), []).append(section)
    return list(groups.values())


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def table_md(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a markdown table; the first row is its header."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def page(report: Report) -> str:
    """Return the report as one HTML page: pictures inside, light and dark, no script."""
    parts = [
        f"<h1>Evaluation</h1>{_table_html(summary_rows(report.sections))}",
        f"<p>{html.escape(_DENOMINATORS)}</p>",
    ]
    if mess := mess_rows(report.sections):
        parts.append(_table_html(mess))
    for one in report.comparisons:
        parts.append(
            f"<h2>{html.escape(f'{one.second} against {one.first} on {one.data}')}</h2>"
            f"<p>{html.escape(_verdict(one))}</p>"
        )
        if one.moved:
            parts.append(_table_html(_moved_rows(one)))
    for group in _by_data(report.sections):
        parts.append(f"<h2>{html.escape(group[0].result.data)}</h2>")
        parts.append(_table_html(class_rows(group), bars=True))
        for section in group:
            parts.append(_section_html(section))
    return _PAGE.format(version=html.escape(__version__), body="\n".join(parts))


def _section_html(section: Section) -> str:
    notes = [line.removeprefix("- ") for line in _notes(section) if line.startswith("- ")]
    parts = [f"<p>{html.escape(note)}</p>" for note in notes]
    parts += [_table_html(table) for table in tables_beside(section)]
    if section.shown:
        parts.append(f"<h3>{html.escape(section.result.predictor)}</h3>")
    for shown in section.shown:
        parts.append(_shown_html(shown))
    identity = json.dumps(section.identity, indent=1)
    parts.append(
        f"<details><summary>{html.escape(section.result.predictor)}: what was run"
        f"</summary><pre>{html.escape(identity)}</pre></details>"
    )
    return "\n".join(parts)


def _shown_html(shown: Shown) -> str:
    chosen = shown.chosen
    title = html.escape(f"{chosen.kind}: {chosen.name}, mIoU {_percent(chosen.miou)}")
    panels = (
        ("image", shown.image),
        ("labels", shown.labels),
        ("answer", shown.answer),
        ("mistakes", shown.mistakes),
    )
    figures = "".join(
        f'<figure><img alt="{name} of {html.escape(chosen.name)}" src="{_data_url(picture)}">'
        f"<figcaption>{name}</figcaption></figure>"
        for name, picture in panels
    )
    legend = "".join(
        f'<li><span style="background:{colour}"></span>{html.escape(name)}</li>'
        for name, colour in shown.legend
    )
    return f'<section><h4>{title}</h4><div class="row">{figures}</div><ul>{legend}</ul></section>'


def _data_url(picture: NDArray[np.uint8]) -> str:
    import cv2

    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _table_html(rows: Sequence[Sequence[str]], *, bars: bool = False) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = []
    for row in rows[1:]:
        cells = []
        for column, cell in enumerate(row):
            bar = bars and column >= 2 and cell != "-"
            style = f' style="--part:{float(cell):.1f}%" class="bar"' if bar else ""
            cells.append(f"<td{style}>{html.escape(cell)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(body)}</table></div>'


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="dedos-eval {version}">
<title>Evaluation</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --bar: #4a8fe744; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
.wide {{ overflow-x: auto; }}
.bar {{ background: linear-gradient(90deg, var(--bar) var(--part), transparent var(--part)); }}
.row {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: .5rem; }}
figure {{ margin: 0; }} img {{ width: 100%; height: auto; }} figcaption {{ font-size: .85em; }}
ul {{ list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem .9rem; }}
li span {{ display: inline-block; width: .9em; height: .9em; margin-right: .3em; }}
pre {{ overflow-x: auto; }}
</style>
{body}
</html>
"""
