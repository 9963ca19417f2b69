"""Published results: the figures, which one fits a bundle, and what differs as the bundle tells it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from colours import write_bundle
from test_training_free import CASES, colours_of_words, write

from dedos_deploy.cli import eval as eval_cli
from dedos_deploy.config_json import AnyConfig
from dedos_deploy.evaluation.model_facts import model_facts
from dedos_deploy.evaluation.protocols import find_protocol, words_of
from dedos_deploy.evaluation.published import beside, published
from dedos_deploy.evaluation.records import ImageRecord
from dedos_deploy.evaluation.report import table_md
from dedos_deploy.evaluation.result import EvaluationResult, result_of
from dedos_deploy.head_numbers import NaclipHead, WindowConfig
from dedos_deploy.presets import PRESETS, any_preset

DOCS = Path(__file__).parents[2] / "docs"

OPENAI = "CLIP ViT-B-16-quickgelu 'openai': OpenAI, github.com/openai/CLIP (MIT)"
AS_PUBLISHED: dict[str, Any] = {
    "precision": {"image": "fp32"},
    "template": "imagenet80",
    "background": "threshold",
    "threshold": 0.15,
    "model": {
        "method": "SC-CLIP",
        "tower": "ViT-B/16",
        "weights": "openai",
        "preset": "dense-b",
        "size_hw": [336, 448],
        "windows": "224/112",
        "tau": 50.0,
        "null_words": 0,
    },
}
RESIZED = "every picture is resized to 448x336 (published: shorter side 336, proportions kept)"
NO_FILTER = "no area filter (published: classes below 10% of what is no background are dropped)"


def result(protocol: str, images: int) -> EvaluationResult:
    """Return a result of 0.6 over the one class that labels have, 0.3 over the two predicted."""
    records = [ImageRecord("0", (1, 10), ((0, 0, 6), (0, 1, 4)), (), 0.1)]
    records += [ImageRecord(str(index), (1, 1), (), (), 0.0) for index in range(1, images)]
    return result_of(
        records, find_protocol(protocol).scored, predictor="any", data=protocol, seconds_total=1.0
    )


def header(protocol: str, identity: dict[str, Any]) -> dict[str, Any]:
    asked = words_of(find_protocol(protocol).classes, synonyms=None)
    return {"identity": identity, "words": [list(words) for _, words in asked]}


def changed(**values: Any) -> dict[str, Any]:
    """Return what was published with other values; those of the model have its name before them."""
    identity = copy.deepcopy(AS_PUBLISHED)
    for name, value in values.items():
        if name.startswith("model_"):
            identity["model"][name.removeprefix("model_")] = value
        else:
            identity[name] = value
    return identity


def test_every_figure_has_its_source() -> None:
    rows = published()
    assert len(rows) == 5 + 4 + 16
    assert all(row.source.startswith(("https://", "Table 1 of")) for row in rows)
    by_label = {(row.label, row.source == "Table 1 of the paper"): row for row in rows}
    found = by_label["SC-CLIP, ViT-B/16", False]
    assert list(found.scores.values()) == [64.6, 36.8, 37.7, 84.3, 41.0, 40.1, 20.1, 26.6]
    assert by_label["NACLIP, ViT-B/16", False].scores["VOC21"] == 58.9
    assert by_label["SAN, ViT-B/16", False].scores == {"A-150": 27.6, "PC-59": 54.1, "PAS-20": 93.9}
    assert by_label["CAT-Seg, ViT-L/14", False].scores["PAS-20"] == 97.0
    assert by_label["DEDOS, ViT-L/14", True].scores["PC-459"] == 25.6
    for row in rows:
        for protocol in row.scores:
            find_protocol(protocol)


def test_a_model_says_what_it_is() -> None:
    dense = replace(any_preset("dense-b"), windows=WindowConfig(224, 112))
    facts = model_facts(dense, [OPENAI], (448, 672))
    assert facts == {
        "method": "SC-CLIP",
        "tower": "ViT-B/16",
        "weights": "openai",
        "preset": "dense-b",
        "size_hw": [448, 672],
        "windows": "224/112",
        "tau": 40.0,
        "null_words": 0,
    }
    naclip = replace(dense, head=NaclipHead())
    assert model_facts(naclip, ["CLIP weights of the file a.pt"], (448, 448))["weights"] == (
        "CLIP weights of the file a.pt"
    )
    paper = model_facts(PRESETS["paper-l"], [], (644, 644))
    assert (paper["method"], paper["tower"]) == ("DEDOS", "ViT-L/14")
    assert paper["weights"] == "random or not stated" and paper["windows"] is None


def test_what_is_as_published_differs_in_nothing_but_what_the_runtime_does() -> None:
    found = beside(result("VOC21", 1449), header("VOC21", AS_PUBLISHED))
    assert found is not None and found.fit is not None
    assert (found.fit.label, found.differs) == ("SC-CLIP, ViT-B/16", (RESIZED, NO_FILTER))
    # mmsegmentation's mean counts classes that were only ever predicted.
    assert found.score == pytest.approx(30.0) and found.points == pytest.approx(30.0 - 64.6)
    assert "is published with 64.6 on VOC21 (mIoU union, " in found.sentence()
    assert "this result is 34.6 points below. What differs: every picture" in found.sentence()
    assert "this result is 0.1 points above. What" in replace(found, score=64.66).sentence()
    assert "this result is as good. What differs" in replace(found, score=64.57).sentence()
    assert found.table()[-1] == ("this result", "openai", "224/112", "30.0", "-")
    assert [row[0] for row in found.table()[1:3]] == ["MaskCLIP, ViT-B/16", "SCLIP, ViT-B/16"]


@pytest.mark.parametrize(
    ("identity", "difference"),
    [
        (
            changed(model_weights="laion2b_s34b_b88k"),
            "weights: laion2b_s34b_b88k (published: openai)",
        ),
        (changed(model_windows=None), "windows none (published: 224/112)"),
        (changed(model_tau=40.0), "softmax factor 40 (published: 50)"),
        (changed(model_tower="dedos-nano"), "tower dedos-nano (published: ViT-B/16)"),
        (changed(template="single"), "templates single (published: imagenet80)"),
        (changed(threshold=0.3), "threshold 0.3 (published: 0.15)"),
        (changed(background="none", threshold=None), "threshold none (published: 0.15)"),
        (changed(background="negatives"), "negatives compete (published: none)"),
        (changed(model_null_words=26), "26 null words share the softmax"),
        (changed(precision={"image": "int8"}), "INT8 (published: floating point)"),
    ],
)
def test_what_differs_is_computed(identity: dict[str, Any], difference: str) -> None:
    found = beside(result("VOC21", 1449), header("VOC21", identity))
    assert found is not None
    others = [one for one in found.differs if one not in (RESIZED, NO_FILTER)]
    assert len(others) == 1 and others[0].startswith(difference)


def test_what_a_protocol_has_otherwise() -> None:
    few = beside(result("VOC21", 2), header("VOC21", AS_PUBLISHED))
    assert few is not None and few.differs[-1] == "2 of 1449 images"
    asked = {**header("VOC21", AS_PUBLISHED), "words": [["sky"], ["aeroplane"]]}
    words = beside(result("VOC21", 1449), asked)
    assert words is not None and "2 words asked for (published: 56)" in words.differs
    without = changed(background="none", threshold=None, model_tau=40.0)
    city = beside(result("Cityscapes-19", 500), header("Cityscapes-19", without))
    assert city is not None
    first, second = city.differs
    assert "shorter side 560" in first and second.startswith(
        "class names as of https://github.com/m"
    )
    stuff = beside(result("COCO-Stuff-171", 5000), header("COCO-Stuff-171", without))
    assert stuff is not None and stuff.differs == (RESIZED,)


def test_which_figure_fits() -> None:
    large = beside(result("VOC21", 1449), header("VOC21", changed(model_tower="ViT-L/14")))
    assert large is not None and large.fit is not None and large.fit.scores["VOC21"] == 65.0
    naclip = beside(result("PC-60", 5105), header("PC-60", changed(model_method="NACLIP")))
    assert naclip is not None and naclip.fit is not None and naclip.fit.scores["PC-60"] == 32.2
    assert "threshold 0.15 (published: 0.1)" in naclip.differs
    san = changed(model_method="SAN", model_windows=None, template="vild14")
    authors = beside(result("A-150", 2000), header("A-150", san))
    assert authors is not None and authors.fit is not None and authors.differs == ()
    assert authors.fit.scores["A-150"] == 27.6 and authors.score == pytest.approx(60.0)
    assert "What differs: nothing that the bundle tells." in authors.sentence()
    edge = changed(model_method="DEDOS", model_windows=None, model_preset="edge-b")
    own = beside(result("PC-459", 5105), header("PC-459", edge))
    assert own is not None and own.fit is not None and own.fit.scores["PC-459"] == 21.3
    assert own.differs == (
        "preset edge-b (published: paper-b)",
        "weights: openai (published: COCO-Stuff)",
    )
    assert own.rows == ()  # those of Table 1 are ranked already
    no_figure = beside(result("VOC21", 1449), header("VOC21", edge))
    assert no_figure is not None and no_figure.sentence() == (
        "No figure of DEDOS is known on VOC21."
    )
    net = beside(result("A-150", 2000), {"identity": {"net": "hash"}, "words": []})
    assert net is not None and net.fit is None and "a net of fixed classes" in net.sentence()
    assert beside(result("A-847", 1), header("A-847", AS_PUBLISHED)) is None


def dense_bundle(path: Path) -> Path:
    """Write a bundle that says of itself to be NACLIP of OpenAI's B/16, and sees four colours."""
    dense = any_preset("dense-b")
    config: AnyConfig = replace(
        dense, head=NaclipHead(), size_hw=(32, 48), clip=replace(dense.clip, text_width=3)
    )
    words = colours_of_words(CASES["VOC21"])
    return write_bundle(path, words=words, config=config, sources=[OPENAI])


def test_a_bundle_stands_beside_them_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "sets", CASES["VOC21"])
    bundle, out = dense_bundle(tmp_path / "any.dedos"), tmp_path / "out"
    given = ["--bundle", str(bundle), "--protocol", "VOC21", "--data", str(tmp_path / "sets")]
    assert eval_cli.main([*given, "--output", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)["published"]
    assert (found["fit"], found["figure"]) == ("NACLIP, ViT-B/16", 58.9)
    assert found["points"] == pytest.approx(100 * (1152 / 1792 + 1 + 0.5) / 4 - 58.9)
    assert found["differs"] == [
        "every picture is resized to 48x32 (published: shorter side 336, proportions kept)",
        "windows none (published: 224/112)",
        "templates plain (published: imagenet80)",
        "threshold 0.15 (published: 0.1)",
        "2 of 1449 images",
    ]
    sentence = "any: NACLIP, ViT-B/16 is published with 58.9 on VOC21"
    assert sentence in printed.err and "published on VOC21" in printed.err
    for name in ("report.md", "report.html"):
        assert sentence in (out / name).read_text(encoding="utf-8")
    # What was kept says the same later, without the bundle.
    bundle.unlink()
    assert eval_cli.main(["report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["published"] == found


def test_the_page_has_the_figures() -> None:
    text = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    columns = list(dict.fromkeys(name for row in published() for name in row.scores))
    rows = [
        (
            row.label,
            row.weights or "-",
            row.windows or "-",
            *(f"{row.scores[name]:.1f}" if name in row.scores else "-" for name in columns),
            row.source,
        )
        for row in published()
    ]
    assert "\n".join(table_md([("", "weights", "windows", *columns, "source"), *rows])) in text
