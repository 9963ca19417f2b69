"""The report as one HTML page, and as files."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SinkError
from dedos_deploy.evaluation.overlays import Shown
from dedos_deploy.evaluation.report import (
    CALIBRATION,
    MEASURES,
    MOVES,
    Report,
    Section,
    by_data,
    calibration_rows,
    class_rows,
    made_by,
    markdown,
    mess_rows,
    move_rows,
    moved_rows,
    notes,
    percent,
    summary_rows,
    tables_beside,
    verdict,
)
from dedos_deploy.evaluation.report_pictures import confusion_svg, reliability_svg
from dedos_deploy.files import write_atomically
from dedos_deploy.version import __version__

REPORT_JSON, REPORT_MD, REPORT_HTML = "report.json", "report.md", "report.html"


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


def page(report: Report) -> str:
    """Return the report as one HTML page: pictures inside, light and dark, no script."""
    made = (
        f"<p>{html.escape(created)}<br><code>{html.escape(command)}</code></p>"
        for command, created in made_by(report.sections)
    )
    parts = [
        "<h1>Evaluation</h1>",
        *made,
        f"{_table_html(summary_rows(report.sections))}<p>{html.escape(MEASURES)}</p>",
    ]
    if mess := mess_rows(report.sections):
        parts.append(_table_html(mess))
    for one in report.comparisons:
        parts.append(
            f"<h2>{html.escape(f'{one.second} against {one.first} on {one.data}')}</h2>"
            f"<p>{html.escape(verdict(one))}</p>"
        )
        if one.moved:
            parts.append(_table_html(moved_rows(one)))
    for group in by_data(report.sections):
        parts.append(f"<h2>{html.escape(group[0].result.data)}</h2>")
        parts.append(_table_html(class_rows(group), bars=True))
        for section in group:
            parts.append(_section_html(section))
    return _PAGE.format(version=html.escape(__version__), body="\n".join(parts))


def _section_html(section: Section) -> str:
    name = html.escape(section.result.predictor)
    parts = [f"<p>{html.escape(note)}</p>" for note in notes(section)]
    if moves := move_rows(section.result):
        parts.append(f"<p>{name}: {html.escape(MOVES)}</p>{_table_html(moves)}")
    parts += [_table_html(table) for table in tables_beside(section)]
    if section.matrix is not None:
        caption = f"{name}: labels in rows, answers in columns, percent of the pixels of each label"
        parts.append(_figure(caption, confusion_svg(section.matrix, section.result.classes)))
    if section.result.reliability is not None:
        caption = (
            f"{name}: reliability. Accuracy of the pixels that got a class, by their confidence; on "
            f"the line both agree. ECE {percent(section.result.reliability.error)} %."
        )
        parts.append(_figure(caption, reliability_svg(section.result.reliability)))
    parts += _calibration_html(section)
    if section.shown:
        parts.append(f"<h3>{name}: images</h3>")
    parts += [_shown_html(shown) for shown in section.shown]
    identity = html.escape(json.dumps(section.identity, indent=1))
    parts.append(f"<details><summary>{name}: what was run</summary><pre>{identity}</pre></details>")
    return "\n".join(parts)


def _calibration_html(section: Section) -> list[str]:
    found, name = section.result.calibration, html.escape(section.result.predictor)
    if found is None:
        return []
    table = _table_html(calibration_rows(section.result))
    parts = [f"<p>{name}: {html.escape(CALIBRATION)}</p>{table}"]
    before = None if found.scores is None else found.scores[-1]
    if before is not None:
        caption = f"{name}: the same diagram of its scores, before its curves: ECE {percent(before.error)} %."
        parts.append(_figure(caption, reliability_svg(before)))
    return parts


def _figure(caption: str, picture: str) -> str:
    return f'<figure class="wide">{picture}<figcaption>{caption}</figcaption></figure>'


def _shown_html(shown: Shown) -> str:
    chosen = shown.chosen
    title = html.escape(f"{chosen.kind}: {chosen.name}, mIoU {percent(chosen.miou)}")
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
pre {{ overflow-x: auto; }} code {{ overflow-wrap: anywhere; }}
svg {{ display: block; font-size: 12px; fill: currentColor; --right: #2c8a4b; --wrong: #c8402c; }}
figure.wide {{ margin: 1rem 0; }}
</style>
{body}
</html>
"""
