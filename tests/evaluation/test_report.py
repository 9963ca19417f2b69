"""Reports: what stands in them, safe whatever names hold, whole or not at all."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from dedos_deploy.errors import SinkError
from dedos_deploy.evaluation.protocols import MESS, protocols
from dedos_deploy.evaluation.records import ImageRecord
from dedos_deploy.evaluation.reliability import reliability_of
from dedos_deploy.evaluation.report import Report, Section, class_rows, markdown, mess_rows
from dedos_deploy.evaluation.report_page import page, write_report
from dedos_deploy.evaluation.report_pictures import MOST_CLASSES, confusion_svg, reliability_svg
from dedos_deploy.evaluation.result import EvaluationResult, result_of
from dedos_deploy.evaluation.tables import placed

RECORDS = [
    ImageRecord(
        "a", (2, 5), ((0, 0, 6), (0, 1, 2), (1, 1, 1), (1, 2, 1)), ((0, 2, 8), (1, 1, 1)), 0.5
    ),
    ImageRecord("b", (2, 5), (), (), 0.0),
]


def result(data: str = "set/val", predictor: str = "net") -> EvaluationResult:
    return result_of(
        RECORDS,
        ("road", "<b>|car"),
        predictor=predictor,
        data=data,
        seconds_total=2.0,
        base=frozenset({"road"}),
    )


def test_measures_of_records_by_hand() -> None:
    found = result()
    assert found.iou == (6 / 8, 1 / 4) and found.miou_present == pytest.approx(0.5)
    assert found.boundary_iou == (2 / 8, 1.0) and found.boundary_miou == pytest.approx(0.625)
    assert found.class_accuracy == (6 / 8, 1 / 2) and found.mean_accuracy == pytest.approx(0.625)
    assert found.accuracy == pytest.approx(0.7)
    assert found.frequency_weighted_iou == pytest.approx((0.75 * 8 + 0.25 * 2) / 10)
    assert found.groups == {"base": 0.75, "novel": 0.25}
    assert [(p.label, p.predicted, p.pixels, p.part) for p in found.pairs] == [
        ("road", "<b>|car", 2, 0.25),
        ("<b>|car", None, 1, 0.5),
    ]
    assert (found.images, found.skipped, found.seconds_inference) == (1, ("b",), 0.5)
    assert found.to_dict()["iou"] == {"road": 0.75, "<b>|car": 0.25}


def test_names_cannot_break_the_page_or_the_table() -> None:
    report = Report([Section(result(predictor="<script>x"), {"k": "<&"})])
    shown, text = page(report), markdown(report)
    assert "<script>x" not in shown and "<b>|car" not in shown and "&lt;b&gt;|car" in shown
    assert "| <b>\\|car | 20.0 | 25.0 | 100.0 |" in text
    assert "nothing (50 %)" in text and "skipped: b." in text
    assert "base 75.0, novel 25.0" in text


def test_a_standing_is_shown_and_kept() -> None:
    standing = placed("A-150", 0.33)
    report = Report([Section(result("A-150"), {}, standing=standing)])
    assert "| 6 | this result | 33.0 |" in markdown(report) or "this result | 33.0" in markdown(
        report
    )
    assert report.to_dict()["results"][0]["standing"]["column"] == "A-150"
    assert report.to_dict()["miou_present"] == pytest.approx(0.5)


def test_mess_domains_stand_above_the_papers_rows() -> None:
    names = [name for name, one in protocols().items() if one.domain == "General"]
    sections = [
        Section(replace(result(name), miou_union=index / 10), {})
        for index, name in enumerate(names)
    ]
    rows = mess_rows(sections)
    assert rows[1][:3] == ("net", f"{100 * np.mean(np.arange(6)) / 10:.1f}", "-")
    assert len(rows) == 2 + 13 and rows[-1][0] == "DEDOS (Ours), CLIP ViT-L/14"
    assert mess_rows([Section(result(), {})]) == [] and names[0].startswith(MESS)


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    write_report(tmp_path / "new", Report([Section(result(), {})]))
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert files == ["report.html", "report.json", "report.md"]
    assert json.loads((tmp_path / "new" / "report.json").read_text())["images"] == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be written .* choose another --output"):
        write_report(tmp_path / "file", Report([Section(result(), {})]))


def drawn(svg: str) -> list[tuple[str, str, str]]:
    """Return (title, colour, number) of every cell of a drawing, which must be sound XML."""
    found = []
    for group in ET.fromstring(svg).iter("g"):
        title, rectangle = group.find("title"), group.find("rect")
        if title is not None and rectangle is not None:
            found.append(
                (title.text or "", rectangle.get("fill", ""), group.findtext("text") or "")
            )
    return found


def test_a_confusion_matrix_by_hand() -> None:
    matrix = np.array([[6, 2, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], np.int64)
    picture = confusion_svg(matrix, ("road", "<b>&道路", "never"))
    assert drawn(picture) == [
        ("road called road: 6 pixels (75.0%)", "var(--right)", "75"),
        ("road called <b>&道路: 2 pixels (25.0%)", "var(--wrong)", "25"),
        ("<b>&道路 called <b>&道路: 1 pixels (50.0%)", "var(--right)", "50"),
        ("<b>&道路 called no class: 1 pixels (50.0%)", "var(--wrong)", "50"),
    ]
    assert "never" not in picture and "<b>" not in picture


@pytest.mark.parametrize("name", ["横断歩道と自転車の信号機" * 2, "i" * 24])
def test_names_in_the_margin_are_not_cut(name: str) -> None:
    picture = confusion_svg(np.array([[1, 0]], np.int64), (name,))
    ends = [
        text for text in ET.fromstring(picture).iter("text") if text.get("text-anchor") == "end"
    ]
    full_width = 12  # the size of the font
    assert len(name) == 24 and [text.text for text in ends] == [name]
    wide = full_width if name[0] != "i" else full_width / 2
    assert float(ends[0].get("x", "")) >= 24 * wide


def test_many_classes_are_put_together() -> None:
    count = MOST_CLASSES + 3
    matrix = np.zeros((count, count + 1), np.int64)
    matrix[np.arange(count), np.arange(count)] = np.arange(count) + 10
    matrix[-1, 0] = 1
    cells = drawn(confusion_svg(matrix, [f"c{index}" for index in range(count)]))
    titles = [title for title, _, _ in cells]
    # Those with the fewest pixels: 10, 11 and 12, all their own.
    others = [cell for cell in cells if cell[0].startswith("3 others")]
    assert others == [
        ("3 others called 3 others: 33 pixels (100.0%)", "currentColor", "100"),
    ]
    assert f"c{count - 1} called 3 others: 1 pixels (1.9%)" in titles
    total = sum(int(re.search(r": (\d+) pixels", title)[1]) for title in titles)  # type: ignore[index]
    assert total == matrix.sum()


def test_a_reliability_diagram_by_hand() -> None:
    found = reliability_of([((0, 10, 1, 50), (14, 30, 30, 30 * 255))])
    assert found is not None
    bars = [
        (one.get("height"), one.get("fill-opacity"), one.findtext("title"))
        for one in ET.fromstring(reliability_svg(found)).iter("rect")
    ]
    assert bars == [
        ("30.0", "0.50", "10 pixels of confidence 0.020: 0.100 are right"),
        ("300.0", "1.00", "30 pixels of confidence 1.000: 1.000 are right"),
    ]


def test_command_and_date_stand_on_top() -> None:
    made = {"command": "dedos-eval --data 'a <b>'", "created": "2026-11-29T22:18:44+00:00"}
    section = Section(result(), {}, made=made)
    report = Report([section, replace(section, result=result(predictor="other"))])
    text, shown = markdown(report), page(report)
    assert text.startswith("# Evaluation\n\n2026-11-29 22:18 UTC: `dedos-eval --data 'a <b>'`\n\n|")
    top = shown[: shown.index("<table>")]
    assert "<code>dedos-eval --data &#x27;a &lt;b&gt;&#x27;</code>" in top
    assert top.count("2026-11-29 22:18 UTC") == 1  # one command made both
    assert "from Python" in page(Report([replace(section, made={**made, "command": None})]))
    assert "UTC" not in page(Report([Section(result(), {})]))  # kept by an earlier release
    assert report.to_dict()["results"][0]["made"] == made


def test_precision_and_recall_of_every_class() -> None:
    assert result().class_precision == (1.0, 1 / 3)
    rows = class_rows([Section(result(), {})])
    assert rows[0][-2:] == ("precision net", "recall net")
    assert [row[-2:] for row in rows[1:]] == [("100.0", "75.0"), ("33.3", "50.0")]
    assert result().to_dict()["class_precision"] == {"road": 1.0, "<b>|car": 1 / 3}
