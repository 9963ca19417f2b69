"""Statistics of frames at export: the second output of the graph, and bundles that are as before without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from export_micro import CONTEXT, micro_config
from numpy.typing import NDArray

from dedos_deploy.bundle import TRUST, Bundle
from dedos_deploy.calib.options import Int8Options
from dedos_deploy.calib.selection import CalibrationFrames
from dedos_deploy.calib.verdict import SideBySide
from dedos_deploy.errors import BadInputError
from dedos_deploy.export import ExportOptions, TrainedModel, export_bundle
from dedos_deploy.export import bundle_text as text_module
from dedos_deploy.export import int8_judge as judge_module
from dedos_deploy.export import trust as trust_module
from dedos_deploy.export.graph import check_ops, image_graph
from dedos_deploy.export.precision import check_precision
from dedos_deploy.export.trust import measure_trust, trust_frames
from dedos_deploy.model import Dedos, build_model, freeze
from dedos_deploy.model.pooled import PooledDedos, check_has_pooled, pooled_widths
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.spec import TRUST_LINE, GraphSpec
from dedos_deploy.trust import Kind


def walk(folder: Path, count: int = 24) -> Path:
    """A folder of pictures of one kind: soft, reddish, each a little other than the one before."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        picture = cv2.resize(rng.integers(60, 120, (5, 6, 3), np.uint8), (96, 64))
        picture[..., 2] += 80
        cv2.imwrite(str(folder / f"{index:03}.png"), picture)
    return folder


@pytest.fixture(scope="module")
def wide(model: Dedos, spec: GraphSpec) -> GraphSpec:
    return replace(spec, pooled_width=sum(pooled_widths(model)))


@pytest.fixture(scope="module")
def pooled_graph(model: Dedos, wide: GraphSpec) -> onnx.ModelProto:
    return image_graph(PooledDedos(freeze(model, size_hw=(wide.height, wide.width))), wide)


@pytest.fixture(scope="module")
def bundle(
    trained: TrainedModel, text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    def save(tower: Any, path: Path, *, context_length: int, matrices: str) -> Path:
        assert context_length == CONTEXT
        return Path(shutil.copyfile(text_file, path))

    folder = tmp_path_factory.mktemp("trust")
    options = ExportOptions(frame_count=1, storage="half", trust=(walk(folder / "walk"),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "save_text_tower", save)
        report = export_bundle(trained, folder / "bundle", options=options)
    assert report.trust is not None and list(report.trust.frames.values()) == [24]
    assert report.to_dict()["trust"]["frames"] == report.trust.frames
    return folder / "bundle"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bundles in FP32 and in INT8 of a model with a detail branch, which learned and calibrates on one walk."""
    folder = tmp_path_factory.mktemp("both")
    walked = walk(folder / "walk", 48)
    cv2.imwrite(str(walked / "black.png"), np.zeros((64, 96, 3), np.uint8))
    model = build_model(replace(micro_config(), detail_width=4), seed=3)
    trained = TrainedModel(model, {"sources": ["a test"], "words": ["road", "car"]})
    given: dict[str, Any] = {"trust": (walked,), "frame_count": 1}
    export_bundle(trained, folder / "fp32", options=ExportOptions(**given))
    given |= {"precision": "int8", "allow_drift": True}
    given["int8"] = Int8Options(walked, frames=16, budget=1.0, force=True)
    with pytest.MonkeyPatch.context() as patch:
        # Speed is no matter here, and takes its time.
        once = SideBySide(1.0, 0.5, 2.0, 1)
        patch.setattr(judge_module, "side_by_side", lambda *_: once)
        report = export_bundle(trained, folder / "int8", options=ExportOptions(**given))
    assert report.image_precision == "int8" and report.int8 is not None
    # Of what is pooled: the coarsest level, and both maps of the detail branch.
    pooled = {"pixel_decoder.encoder.layers.0.proj", "detail.stem.1.0", "detail.stage8.1.0"}
    assert pooled <= set(report.int8.plan.sites)
    return folder / "fp32", folder / "int8"


def test_scores_are_bit_for_bit_those_of_the_graph_without(
    pooled_graph: onnx.ModelProto,
    float_graph: onnx.ModelProto,
    wide: GraphSpec,
    spec: GraphSpec,
    base_text: NDArray[np.float32],
    open_graph: Any,
) -> None:
    image = np.random.default_rng(1).integers(0, 256, wide.image.shape, np.uint8)
    inputs = {"image": image, "text": base_text, "valid": np.ones(len(base_text), np.float32)}
    found = open_graph(pooled_graph, wide).infer(inputs)
    wanted = open_graph(float_graph, spec).infer(inputs)
    np.testing.assert_array_equal(found["scores"], wanted["scores"])
    fewer = {**inputs, "text": base_text[:2].copy(), "valid": np.ones(2, np.float32)}
    pooled = found["pooled"].copy()
    again = open_graph(pooled_graph, wide).infer(fewer)["pooled"]
    np.testing.assert_array_equal(again, pooled)  # no word has a part in it


def test_features_are_means_and_deviations_of_the_maps(
    model: Dedos, pooled_graph: onnx.ModelProto, wide: GraphSpec, open_graph: Any
) -> None:
    image = np.random.default_rng(2).integers(0, 256, wide.image.shape, np.uint8)
    row = np.ones((1, wide.text_width), np.float32)
    inputs = {"image": image, "text": row, "valid": np.ones(1, np.float32)}
    found = open_graph(pooled_graph, wide).infer(inputs)["pooled"][0]
    with torch.no_grad():
        features = model.image_features(torch.from_numpy(image))
    maps = [features.levels[0], *features.detail[:2]]
    flat = [each[0].flatten(1).double().numpy() for each in maps]
    wanted = np.concatenate([np.r_[each.mean(1), each.std(1)] for each in flat])
    assert len(wanted) == wide.pooled_width
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_half_graphs_give_features_in_float32(model: Dedos, wide: GraphSpec) -> None:
    frozen = freeze(model, size_hw=(wide.height, wide.width), precision="fp16", deformable="gather")
    graph = image_graph(PooledDedos(frozen), wide)  # which checks the tensors' types
    check_ops(graph, "trt")
    check_precision(graph, "fp16")


def test_the_bundle_tells_frames_apart(bundle: Path) -> None:
    with Bundle.open(bundle) as opened:
        statistics = opened.trust()
        assert statistics is not None and statistics.frames == (24,)
        assert statistics.width == opened.spec.pooled_width
        graph = opened.graph()
        with OnnxEngine(graph.path, graph.spec) as engine:
            assert engine.spec.pooled_width == statistics.width
    frames = [cv2.imread(str(path)) for path in sorted((bundle.parent / "walk").iterdir())]
    noise = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)
    with Segmenter.load(bundle, classes="road,car", threads=1) as segmenter:
        trusts = [segmenter.segment(frame).trust or 0.0 for frame in frames]
        assert np.mean(np.less(trusts, TRUST_LINE)) <= 0.05
        assert segmenter.segment(noise).trust == 0.0
    assert (bundle / TRUST).stat().st_size < 50_000


def test_no_file_of_a_bundle_says_where_frames_lie(both: tuple[Path, Path]) -> None:
    for bundle in both:
        files = [path for path in bundle.rglob("*") if path.is_file()]
        assert not [path for path in files if str(bundle.parent).encode() in path.read_bytes()]
        report = json.loads((bundle / "report.json").read_text())
        assert report["trust"]["frames"] == {"walk": 48}
    assert report["int8"]["source"] == "walk"
    assert report["int8"]["skipped"] == "1 constant (first: 'black.png')"


def test_kinds_of_one_name_are_told_apart(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [tmp_path / part / "images" / "train" for part in ("a/street", "b/street", "hall")]
    kinds = [
        CalibrationFrames((np.full((4, 4, 3), at, np.uint8),), str(at), str(path))
        for at, path in enumerate(asked)
    ]
    found: list[Sequence[Kind]] = []
    monkeypatch.setattr(trust_module, "fit_trust", lambda named, _: found.append(named))
    widths = SimpleNamespace(text_width=2)
    _, report = measure_trust(
        lambda _: {"pooled": np.zeros((1, 2), np.float32)},
        widths,
        [2],
        kinds,  # type: ignore[arg-type]
    )
    names = ["street/images/train", "street/images/train (2)", "hall/images/train"]
    assert report.frames == dict.fromkeys(names, 1)
    assert [kind.source for kind in found[0]] == names


def test_a_model_without_such_features_is_refused() -> None:
    with pytest.raises(
        BadInputError, match="trust needs a DEDOS model or a dense CLIP, not a Linear"
    ):
        check_has_pooled(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_the_same_frames_are_no_two_kinds(tmp_path: Path, spec: GraphSpec) -> None:
    one = walk(tmp_path / "walk", 16)
    other = Path(shutil.copytree(one, tmp_path / "copy"))
    with pytest.raises(BadInputError, match="the same frames twice, of .*walk.* and of .*copy"):
        trust_frames(ExportOptions(trust=(one, other)), spec)


def test_too_few_frames_are_refused_before_anything_is_written(
    trained: TrainedModel, tmp_path: Path
) -> None:
    options = ExportOptions(trust=(walk(tmp_path / "walk", 5),))
    with pytest.raises(BadInputError, match="has 5 usable frames for calibration, at least 16"):
        export_bundle(trained, tmp_path / "bundle", options=options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["walk"]


def pooled_of(bundle: Path, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Return what the graph of a bundle pools of frames, [N, P]."""
    with Bundle.open(bundle) as opened:
        graph = opened.graph()
        with OnnxEngine(graph.path, graph.spec, threads=1) as engine:
            found = []
            for frame in frames:
                image = np.empty(graph.spec.image.shape, np.uint8)
                resize_frame(frame, image[0])
                row = np.ones((1, graph.spec.text_width), np.float32)
                inputs = {"image": image, "text": row, "valid": np.ones(1, np.float32)}
                found.append(engine.infer(inputs)["pooled"][0].astype(float))
    return np.stack(found)


def trusts_of(bundle: Path, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    with Segmenter.load(bundle, classes="road,car", threads=1) as segmenter:
        found = [segmenter.segment(frame).trust for frame in frames]
    assert None not in found
    return np.array(found, float)


def test_int8_pools_and_trusts_as_float_does(both: tuple[Path, Path]) -> None:
    fp32, int8 = both
    frames = [cv2.imread(str(path)) for path in sorted((fp32.parent / "walk").glob("0*.png"))]
    found, wanted = (pooled_of(path, frames) for path in (int8, fp32))
    with Bundle.open(int8) as opened:
        statistics = opened.trust()
    assert statistics is not None
    assert [len(block.scale) for block in statistics.blocks] == [32, 16, 32]
    for off, block in zip(parted(found - wanted), parted(wanted), strict=True):
        # Seen: 0.8 % of the features, and 7 % of what tells the frames of the walk apart.
        assert rms(off) < 0.02 * rms(block) and rms(off) < 0.15 * rms(block.std(axis=0))
    # Between a frame of the walk and noise there is all trust that there can be.
    noise = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)
    mixed = [
        cv2.addWeighted(frame, 1 - part, noise, part, 0)
        for frame, part in zip(frames[:10], np.linspace(0.07, 0.16, 10), strict=True)
    ]
    strange = [noise, 255 - frames[0], np.zeros_like(noise)]
    trusts = [trusts_of(path, [*frames, *mixed, *strange]) for path in (int8, fp32)]
    for trust in trusts:
        assert trust.min() >= 0.0 and trust.max() <= 1.0
        assert np.mean(trust[: len(frames)] < TRUST_LINE) <= 0.05 and not trust[-3:].any()
    assert np.sum((trusts[1] > 0.05) & (trusts[1] < 0.95)) >= 3
    np.testing.assert_allclose(trusts[0], trusts[1], atol=0.15)  # seen: 0.03


def parted(pooled: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the features of the level and of the detail branch at strides 4 and 8."""
    return np.split(pooled, [32, 48], axis=1)


def rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))
