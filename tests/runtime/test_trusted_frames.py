"""Trust from the bundle to every result: on each engine, alone and together, and where it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import stripes, tiny_spec, write_tiny_bundle

from dedos_deploy.bundle import Bundle, BundleWriter, Manifest
from dedos_deploy.cli._status import status_text, summary_table
from dedos_deploy.cli.run import main
from dedos_deploy.errors import BadBundleError
from dedos_deploy.runtime import Segmentation, Segmenter
from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.engines.openvino_engine import OpenVinoEngine
from dedos_deploy.runtime.flow.statistics import Meter
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.gpu import onnx_cuda_engine
from dedos_deploy.spec import TRUST_LINE
from dedos_deploy.trust import Kind, fit_trust

WORDS = "red,green,blue"
LEARNED, OTHER = (40, 120, 200), (220, 30, 60)
"""Mean BGR of frames of the kind that was learned, and of others."""


def pictures(middle: tuple[int, ...], count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(middle)
    return [
        np.full((40, 60, 3), np.clip(np.array(middle) + rng.normal(0, 6, 3), 0, 255), np.uint8)
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = np.stack([picture.mean(axis=(0, 1)) for picture in pictures(LEARNED, 80)])
    trust = fit_trust([Kind("frames", "0" * 64, rows.astype(np.float32))], [3])
    return write_tiny_bundle(tmp_path_factory.mktemp("trust") / "tiny", trust=trust, batches=(2,))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("plain") / "tiny")


@pytest.fixture
def segmenter(bundle: Path) -> Iterator[Segmenter]:
    with Segmenter.load(bundle, classes=WORDS, threads=1, batch=2) as opened:
        yield opened


def trust_of(result: object) -> float:
    assert isinstance(result, Segmentation) and result.trust is not None
    return result.trust


def test_results_say_how_far_they_can_be_trusted(segmenter: Segmenter) -> None:
    near, far = pictures(LEARNED, 1)[0], pictures(OTHER, 1)[0]
    assert trust_of(segmenter.segment(near)) == 1.0
    assert trust_of(segmenter.segment(far)) < TRUST_LINE
    pending = [segmenter.submit(frame) for frame in (near, far)]
    assert [trust_of(one.result()) for one in pending] == [1.0, 0.0]


def test_frames_of_a_run_each_have_their_own(segmenter: Segmenter) -> None:
    views = [segmenter.share(WORDS) for _ in range(2)]
    frames = [pictures(LEARNED, 1)[0], pictures(OTHER, 1)[0]]
    for order in (frames, frames[::-1]):
        asked = [(view, frame, 0.0) for view, frame in zip(views, order, strict=True)]
        found = segmenter.together.segment(asked)
        assert [trust_of(one) >= TRUST_LINE for one in found] == [one is frames[0] for one in order]


def test_stable_labels_have_it_too(bundle: Path) -> None:
    with Segmenter.load(bundle, classes=WORDS, threads=1, stable=True) as segmenter:
        assert trust_of(segmenter.segment(pictures(LEARNED, 1)[0])) == 1.0
        assert trust_of(segmenter.segment(pictures(OTHER, 1)[0])) == 0.0


def test_without_statistics_there_is_none_and_labels_are_the_same(
    segmenter: Segmenter, plain: Path
) -> None:
    manifest = json.loads((plain / "manifest.json").read_text())
    assert "pooled_width" not in manifest["spec"]
    frame = stripes()
    with Segmenter.load(plain, classes=WORDS, threads=1) as other:
        result, wanted = other.segment(frame), segmenter.segment(frame)
    assert result.trust is None
    np.testing.assert_array_equal(result.label_map, wanted.label_map)
    np.testing.assert_array_equal(result.confidence, wanted.confidence)


@pytest.mark.parametrize("name", ["cpu", "openvino", "cuda"])
def test_engines_give_the_features(
    bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bundle.open(bundle) as opened:
        graph = opened.graph(2)
    if name == "openvino":
        pytest.importorskip("openvino", reason="needs pip install 'dedos-deploy[openvino]'")
        engine: Engine = OpenVinoEngine(graph.path, graph.spec, arithmetic="fp32", threads=1)
    elif name == "cuda":
        # On the CPU, whose arrays are bound in the same way.
        monkeypatch.setattr(onnx_cuda_engine, "PROVIDER", "CPUExecutionProvider")
        monkeypatch.setattr(onnx_cuda_engine, "DEVICE", "cpu")
        monkeypatch.setattr(onnx_cuda_engine, "_options", lambda gpu: {})
        engine = onnx_cuda_engine.OnnxCudaEngine(graph.path, graph.spec)
    else:
        engine = OnnxEngine(graph.path, graph.spec, threads=1)
    rng, spec = np.random.default_rng(0), tiny_spec()
    with engine:
        for slots in (3, 5, 3):
            image = rng.integers(0, 256, (2, spec.height, spec.width, 3), np.uint8)
            rows = np.eye(slots, spec.text_width, dtype=np.float32)
            inputs: dict[str, Any] = {"image": image, "text": rows, "valid": np.ones(slots, "f4")}
            found = engine.infer(inputs)
            assert found["scores"].shape[:2] == (2, slots)
            np.testing.assert_allclose(found["pooled"], image.mean(axis=(1, 2)), rtol=1e-5)


def test_a_run_tells_of_it(
    bundle: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, middle in enumerate((LEARNED, OTHER)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), pictures(middle, 1)[0])
    said = {}
    for name, path in (("trusted", bundle), ("plain", plain)):
        source, output = f"{tmp_path}/*.png", tmp_path / f"{name}.jsonl"
        arguments = ["--bundle", str(path), "--source", source, "--classes", WORDS]
        assert main([*arguments, "--output", str(output)]) == 0
        said[name] = capsys.readouterr().out
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        trusts = [line.get("trust") for line in lines]
        assert trusts == ([1.0, 0.0] if name == "trusted" else [None, None])
        assert all(("trust" in line) == (name == "trusted") for line in lines)
    assert "1 of 2 frames look unlike those that the model learned" in said["trusted"]
    assert "trust" not in said["plain"]


def test_the_status_line_marks_what_is_low(segmenter: Segmenter) -> None:
    meter = Meter()
    for index, (middle, shown) in enumerate(((LEARNED, "trust 1.00  "), (OTHER, "0.00 (low)"))):
        frame = Frame(pictures(middle, 1)[0], index, 0.0, "test", str(index))
        meter.add(frame, segmenter.segment(frame.frame_bgr))
        statistics = meter.snapshot(drops={}, outcome="running")
        assert shown in status_text(statistics, None)
        assert (statistics.trust, statistics.untrusted) == (1.0 - index, index)
        assert statistics.to_dict()["untrusted"] == index
    assert "1 of 2 frames look unlike" in summary_table("test", statistics, [])


@pytest.mark.parametrize(
    ("width", "listed", "message"),
    [
        (0, True, "'spec.pooled_width' is 0, but 'files' lists 'trust.safetensors'"),
        (3, False, "'spec.pooled_width' is 3, but 'files' does not list 'trust.safetensors'"),
        (-1, True, r"'spec.pooled_width' must lie in \[0, 16384\], not -1"),
    ],
)
def test_graph_and_statistics_need_each_other(
    bundle: Path, width: int, listed: bool, message: str
) -> None:
    values = json.loads((bundle / "manifest.json").read_text())
    values["spec"]["pooled_width"] = width
    if not listed:
        del values["files"]["trust.safetensors"]
    with pytest.raises(BadBundleError, match=message):
        Manifest.from_json(json.dumps(values))


def test_damaged_statistics_are_refused(bundle: Path, tmp_path: Path) -> None:
    with Bundle.open(bundle) as opened, BundleWriter(tmp_path / "damaged") as writer:
        for name in opened.manifest.files:
            content = opened.read(name)
            writer.add_bytes(name, content[:-4] if name == "trust.safetensors" else content)
        writer._vocabularies += opened.manifest.vocabularies
        writer.commit(opened.manifest)
    with pytest.raises(BadBundleError, match=r"damaged.*'trust.safetensors' is damaged"):
        Segmenter.load(tmp_path / "damaged", classes=WORDS)
