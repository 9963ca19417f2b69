"""Reports: what stands in them, safe whatever names hold, whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dedos_deploy.errors import SinkError
from dedos_deploy.evaluation.protocols import MESS, protocols
from dedos_deploy.evaluation.records import ImageRecord
from dedos_deploy.evaluation.report import Report, Section, markdown, mess_rows, page, write_report
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
