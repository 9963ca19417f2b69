"""The files that ship with the package: small, honest about their sources, and of use."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy import Segmenter
from dedos_deploy.assets import EMBEDDED_WEIGHTS, assets_path
from dedos_deploy.bundle import Bundle
from dedos_deploy.scenes import class_names, render_image

MAX_BYTES = 15_000_000
NON_COMMERCIAL = ("camvid", "cwfid", "by-nc")


def test_demo_bundle_is_small_and_names_its_sources() -> None:
    assert assets_path("demo.dedos").stat().st_size <= MAX_BYTES
    with Bundle.open("demo") as bundle:
        manifest = bundle.manifest
    assert manifest.preset == "nano" and len(manifest.sources) >= 8
    text = " ".join(manifest.sources).lower()
    assert "procedural street and hall scenes" in text
    assert not [name for name in NON_COMMERCIAL if name in text]


def test_demo_bundle_is_the_embedded_weights() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra [export]")
    from dedos_deploy.model import load_checkpoint

    model, record = load_checkpoint(assets_path(EMBEDDED_WEIGHTS), preset="nano")
    with Bundle.open("demo") as bundle:
        assert record["sources"] == bundle.manifest.sources
        words, rows = bundle.vocabulary("base")
        size_hw = (bundle.spec.height, bundle.spec.width)
        image, _ = render_image("street", seed=5, size_hw=size_hw)
        with Segmenter.load(bundle, classes=words, background="none") as segmenter:
            found = segmenter.segment(image).label_map
    with torch.no_grad():
        scores = model(torch.from_numpy(image)[None], torch.from_numpy(rows), torch.ones(len(rows)))
        full = torch.nn.functional.interpolate(scores, size=size_hw, mode="bilinear")
    assert (full[0].argmax(0).numpy() == found).mean() > 0.99


def iou(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize(
    ("kind", "word", "least"),
    [
        ("street", "road", 0.75),
        ("street", "sky", 0.6),
        ("street", "tree", 0.5),
        ("hall", "floor", 0.6),
    ],
)
def test_demo_bundle_labels_scenes_it_never_saw(kind: str, word: str, least: float) -> None:
    names = class_names(kind)
    with Segmenter.load("demo", classes=names, background="none") as segmenter:
        found, true = [], []
        for seed in range(200_000, 200_012):
            image, labels = render_image(kind, seed=seed, size_hw=(240, 320))
            found.append(segmenter.segment(image).label_map == names.index(word))
            true.append(labels == names.index(word))
    assert iou(np.stack(found), np.stack(true)) >= least


def test_a_synonym_finds_what_the_word_finds() -> None:
    image, _ = render_image("street", seed=200_001, size_hw=(240, 320))
    with Segmenter.load("demo", classes="road,sky,building", background="none") as segmenter:
        plain = segmenter.segment(image).label_map
        segmenter.set_classes("street,sky,house")
        other = segmenter.segment(image)
        ids = [other.classes.index(name) for name in ("street", "sky", "house")]
        renamed = np.full(256, 255, np.uint8)
        renamed[ids] = range(3)
    assert (renamed[other.label_map] == plain).mean() > 0.85


def test_demo_bundle_says_nothing_of_the_machine_that_made_it() -> None:
    with Bundle.open("demo") as bundle:
        report = bundle.read("report.json").decode()
    assert '"/' not in report and "trust" in report
