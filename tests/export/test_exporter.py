from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from export_micro import CONTEXT, copied, paired
from onnx import numpy_helper

from dedos_deploy.bundle import Bundle, BundleWriter
from dedos_deploy.errors import (
    BadInputError,
    EngineError,
    MissingExtraError,
    ParityError,
    SinkError,
)
from dedos_deploy.export import ExportOptions, TrainedModel, WeightsSource, export_bundle
from dedos_deploy.export import bundle_text as text_module
from dedos_deploy.export import exporter as exporter_module
from dedos_deploy.export import manifest as manifest_module
from dedos_deploy.export import target_graph as target_module
from dedos_deploy.export.graph import tensor_bytes
from dedos_deploy.export.shared_weights import SHARED_FROM, SharedWeights
from dedos_deploy.files import sha256_of_file
from dedos_deploy.installation import pip_install
from dedos_deploy.model import Dedos, FrozenDedos, load_checkpoint, save_checkpoint
from dedos_deploy.progress import Progress
from dedos_deploy.runtime import Segmentation, Segmenter
from dedos_deploy.spec import GraphSpec, Target
from dedos_deploy.tiles import Grid, Stride
from dedos_deploy.vocabulary import parse_vocabulary

QUICK = ExportOptions(frame_count=1)


class Recorder(Progress):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.ends: list[bool] = []

    def begin(self, number: int, count: int, what: str) -> None:
        self.stages.append(f"{number}/{count} {what}")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def end(self, *, completed: bool) -> None:
        self.ends.append(completed)


@pytest.fixture
def traced(
    monkeypatch: pytest.MonkeyPatch, float_graph: onnx.ModelProto, text_file: Path
) -> onnx.ModelProto:
    """Let the exporter find the session's graphs instead of tracing them again, for speed.

    Returns the graph it will use, which a test may break.
    """
    graph = copied(float_graph)
    monkeypatch.setattr(target_module, "image_graph", lambda module, spec: copied(graph))

    def save(tower: Any, path: Path, *, context_length: int, matrices: str) -> Path:
        assert context_length == CONTEXT and matrices == "half"
        return Path(shutil.copyfile(text_file, path))

    monkeypatch.setattr(text_module, "save_text_tower", save)
    return graph


def test_whole_export_from_a_checkpoint(
    model: Dedos, trained: TrainedModel, float_graph: onnx.ModelProto, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "last.safetensors"
    record = {
        "sources": ["made by a test"],
        "words": ["road", "Car", "car", "sky"],
        "licence": "CC0",
        "default_threshold": 0.25,
    }
    save_checkpoint(checkpoint, model, extra=record)
    progress = Recorder()
    report = export_bundle(
        WeightsSource(checkpoint), tmp_path / "micro.dedos", options=QUICK, progress=progress
    )
    assert report.path == tmp_path / "micro.dedos" and report.size == report.path.stat().st_size
    assert report.parity.passed and report.parity.frames_from == "embedded scenes"
    assert [stage.split(" ")[0] for stage in progress.stages] == [f"{i}/5" for i in range(1, 6)]
    assert progress.ends == [True] * 5 and not progress.warnings
    with Bundle.open(report.path) as bundle:
        manifest = bundle.manifest
        assert (manifest.preset, manifest.target, manifest.licence) == ("nano", "cpu", "CC0")
        assert manifest.sources == ["made by a test"] and manifest.default_threshold == 0.25
        assert manifest.precision["image"] == "fp32" and manifest.tools["onnx"] == onnx.__version__
        assert manifest.checkpoint_sha256 == exporter_module.sha256_of_file(checkpoint)
        # Words that the text tower cannot tell apart are kept once.
        assert sorted(word.lower() for word in bundle.base_words) == ["car", "road", "sky"]
        assert len(bundle.parity_frames()) == report.parity.frames
        stored = json.loads(bundle.path("report.json").read_text())
        assert stored["parity"]["agreement"] == report.parity.agreement
        assert stored["precision"]["half_weights"] == 0
        # A second trace of the same weights gives the same bytes.
        again = onnx.load(bundle.path("model.onnx"))
        assert again.SerializeToString(deterministic=True) == float_graph.SerializeToString(
            deterministic=True
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.safetensors", "micro.dedos"]
    # The bundle is what the runtime takes.
    with Segmenter.load(report.path, classes="road,car,zebra crossing", threads=1) as segmenter:
        result = segmenter.segment(np.zeros((50, 70, 3), np.uint8))
    assert result.label_map.shape == (50, 70)
    restored, _ = load_checkpoint(checkpoint)
    assert restored.config == model.config


WRITERS = {
    "write_tokenizer_json": text_module,
    **dict.fromkeys(
        ("freeze", "image_graph", "fuse_attention", "check_ops", "check_precision"), target_module
    ),
    "save_text_tower": text_module,
    "check_text_tower": text_module,
    "created_now": manifest_module,
}
"""Where the steps that are not the exporter's own stand."""

STEPS = (
    "sample_frames",
    "freeze",
    "image_graph",
    "fuse_attention",
    "check_ops",
    "check_precision",
    "save_graph",
    "write_tokenizer_json",
    "save_text_tower",
    "check_text_tower",
    "OnnxEngine",
    "measure_parity",
    "check_parity",
    "created_now",
)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["error", "interrupt", "disk"])
def test_failure_leaves_nothing_and_keeps_the_old_bundle(
    trained: TrainedModel,
    traced: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    kind: str,
    frames: Any,
) -> None:
    import cv2

    raised: BaseException = {
        "error": EngineError("told to fail"),
        "interrupt": KeyboardInterrupt(),
        "disk": OSError(errno.ENOSPC, "No space left on device"),
    }[kind]

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise raised

    place = tmp_path / "out"
    place.mkdir()
    old = place / "street.dedos"
    old.write_bytes(b"the bundle of yesterday")
    picture = tmp_path / "frame.png"
    cv2.imwrite(str(picture), frames[0])
    monkeypatch.setattr(WRITERS.get(step, exporter_module), step, fail)
    progress = Recorder()
    expected = {"error": EngineError, "interrupt": KeyboardInterrupt, "disk": SinkError}[kind]
    message = {"error": "told to fail", "interrupt": "^$", "disk": "street.dedos.*No space left"}
    with pytest.raises(expected, match=message[kind]):
        options = replace(QUICK, overwrite=True, frames=picture)
        export_bundle(trained, old, options=options, progress=progress)
    assert [path.name for path in place.iterdir()] == ["street.dedos"]
    assert old.read_bytes() == b"the bundle of yesterday"
    # The stage that failed says so, and no stage is left open.
    assert len(progress.ends) == len(progress.stages) and progress.ends[-1] is False


def test_failure_while_writing_leaves_nothing(
    trained: TrainedModel, traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: BundleWriter, name: str, content: bytes) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(BundleWriter, "add_bytes", fail)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(trained, tmp_path / "bundle", options=QUICK)
    assert not list(tmp_path.iterdir())


def test_drift_is_refused_unless_allowed(
    trained: TrainedModel, traced: onnx.ModelProto, tmp_path: Path
) -> None:
    name = "model.text_aggregation.class_embedding.weight"
    tensor = next(tensor for tensor in traced.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), name))
    with pytest.raises(ParityError, match="no bundle was written.*--allow-drift"):
        export_bundle(trained, tmp_path / "bundle", options=QUICK)
    assert not list(tmp_path.iterdir())
    progress = Recorder()
    allowed = replace(QUICK, allow_drift=True)
    report = export_bundle(trained, tmp_path / "bundle", options=allowed, progress=progress)
    assert not report.parity.passed and "written with drift" in progress.warnings[0]
    stored = json.loads((tmp_path / "bundle" / "report.json").read_text())
    assert stored["parity"]["drift_allowed"] and not stored["parity"]["passed"]
    assert stored["warnings"] == progress.warnings


@pytest.fixture
def traced_pair(traced: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """As `traced`, with a graph for two frames per run; returns that one."""
    graphs = {1: traced, 2: paired(traced)}
    monkeypatch.setattr(target_module, "image_graph", lambda _, spec: copied(graphs[spec.batch]))
    return graphs[2]


def test_a_bundle_holds_a_graph_for_every_batch_and_the_weights_once(
    trained: TrainedModel, traced_pair: onnx.ModelProto, tmp_path: Path
) -> None:
    progress = Recorder()
    options = replace(QUICK, batches=(1, 2))
    report = export_bundle(trained, tmp_path / "pair", options=options, progress=progress)
    assert [stage.split(" ")[0] for stage in progress.stages] == [f"{i}/6" for i in range(1, 7)]
    (pair,) = report.batches
    # One frame was given, and both rows were looked at.
    assert (pair.batch, pair.passed) == (2, True) and report.parity.batch == 1
    assert [row.frame for row in pair.rows if row.case == "base vocabulary"] == [0, 1]
    stored = json.loads((tmp_path / "pair" / "report.json").read_text())
    assert stored["batches"][0]["agreement"] == pair.agreement
    weights = sum(map(tensor_bytes, traced_pair.graph.initializer))
    with Bundle.open(report.path) as bundle:
        assert bundle.batches == (1, 2) and bundle.spec.batch == 1
        own, two = (bundle.graph(batch).path.stat().st_size for batch in (1, 2))
        beside = bundle.path("model.onnx.data").stat().st_size
    # Micro's constants are small; each begins a page.
    assert beside < weights + 4096 * len(traced_pair.graph.initializer) and own < 2 * two
    pictures = [np.random.default_rng(n).integers(0, 256, (50, 70, 3), np.uint8) for n in (1, 2)]
    with Segmenter.load(report.path, classes="road,car", threads=1, batch=2) as shared:
        views = [shared.share("road,car") for _ in pictures]
        asked = [(view, picture, 0.0) for view, picture in zip(views, pictures, strict=True)]
        for found, (view, picture, _) in zip(shared.together.segment(asked), asked, strict=True):
            assert isinstance(found, Segmentation)
            alone = view.segment(picture)
            assert np.mean(found.label_map == alone.label_map) > 0.999


def test_a_batch_whose_rows_drift_is_refused(
    trained: TrainedModel, traced_pair: onnx.ModelProto, tmp_path: Path
) -> None:
    name = "model.text_aggregation.class_embedding.weight"
    tensor = next(one for one in traced_pair.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), name))
    options = replace(QUICK, batches=(1, 2))
    with pytest.raises(ParityError, match="fp32 graph for 2 frames per run agrees .* no bundle"):
        export_bundle(trained, tmp_path / "pair", options=options)
    assert not list(tmp_path.iterdir())


def test_the_hash_of_a_graph_sees_weights_that_lie_beside_it(
    float_graph: onnx.ModelProto, tmp_path: Path
) -> None:
    def written(name: str, graph: onnx.ModelProto) -> str:
        (tmp_path / name).mkdir()
        SharedWeights(tmp_path / name / "model.onnx.data").save(
            graph, tmp_path / name / "model.onnx"
        )
        return sha256_of_file(tmp_path / name / "model.onnx")

    other = copied(float_graph)
    large = max(other.graph.initializer, key=tensor_bytes)
    assert tensor_bytes(large) >= SHARED_FROM
    large.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(large) * 2, large.name))
    first = written("first", copied(float_graph))
    assert written("again", copied(float_graph)) == first != written("other", other)


def test_vocabulary_templates_and_threshold_of_the_user(
    trained: TrainedModel, traced: Any, tmp_path: Path
) -> None:
    vocabulary = parse_vocabulary("car|automobile@0.4,road")
    options = replace(
        QUICK,
        vocabulary=vocabulary,
        templates="vild14",
        threshold=0.1,
        keep_frames=False,
        tiles=Grid(2, 3),
    )
    report = export_bundle(trained, tmp_path / "bundle", options=options)
    with Bundle.open(report.path) as bundle:
        assert bundle.parity_frames() == []
        assert bundle.base_words == ("car", "automobile", "road")
        assert bundle.manifest.thresholds == {"car": 0.4}
        assert bundle.manifest.default_threshold == 0.1
        assert bundle.manifest.tiles == "2x3"
        assert len(bundle.manifest.templates) == 14
        words, rows = bundle.vocabulary("base")
    assert words == ("car", "automobile", "road")
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_tiles_too_far_apart_for_the_network_are_refused_before_any_work(
    trained: TrainedModel, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match="tiles 5000 are a stride longer than"):
        export_bundle(trained, tmp_path / "b", options=replace(QUICK, tiles=Stride(5000)))
    assert not list(tmp_path.iterdir())


def test_random_weights_are_said_aloud(trained: TrainedModel, traced: Any, tmp_path: Path) -> None:
    progress = Recorder()
    random = TrainedModel(trained.model, random=True)
    report = export_bundle(random, tmp_path / "b.dedos", options=QUICK, progress=progress)
    assert progress.warnings == ["the weights are random: the labels of this bundle mean nothing"]
    with Bundle.open(report.path) as bundle:
        assert bundle.manifest.checkpoint_sha256 is None
        assert "nothing was learned" in bundle.manifest.sources[0]
        # Without a checkpoint's or a user's words, the built-in base vocabulary.
        assert "traffic light" in bundle.base_words


def test_existing_output_is_refused_before_any_work(trained: TrainedModel, tmp_path: Path) -> None:
    dest = tmp_path / "street.dedos"
    dest.write_bytes(b"here")
    progress = Recorder()
    with pytest.raises(BadInputError, match="already exists; use --overwrite"):
        export_bundle(trained, dest, progress=progress)
    assert not progress.stages and dest.read_bytes() == b"here"


def test_missing_tensorrt_is_said_before_any_work(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(
        MissingExtraError, match=r"--target rtx needs .*" + re.escape(pip_install("rtx"))
    ):
        export_bundle(trained, tmp_path / "b", options=ExportOptions(target="rtx"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp8"}, "precision 'fp8' is unknown; choose one of fp32, fp16"),
        ({"target": "tpu"}, "target 'tpu' is unknown; choose one of cpu, rtx, trt, cuda"),
        ({"templates": "many"}, "templates 'many' is unknown; choose one of single"),
        *(
            ({"batches": wrong}, "batches must grow from 1 to at most 64 frames per run, as 1,2,4")
            for wrong in ((), (0, 1), (2,), (1, 4, 2), (1, 1), (1, 65))
        ),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\], not 1.5"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        ExportOptions(**change)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightsSource(), "no weights were named"),
        (lambda: WeightsSource(preset="edge-b"), "no embedded weights.*--random-weights"),
        (lambda: WeightsSource(preset="edge-c"), "unknown preset 'edge-c', did you mean"),
        (lambda: WeightsSource(random=True), "random weights need a preset"),
        (lambda: WeightsSource("c", "nano", random=True), "random weights need a preset"),
    ],
)
def test_weights_must_be_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        make()


def test_the_default_size_is_the_one_trained_at(trained: TrainedModel) -> None:
    height, width = trained.model.config.size_hw
    export = object.__new__(exporter_module._Export)
    for size_hw in ((height, width), (2 * height, width)):
        export.options = ExportOptions()
        model = replace(trained, record={**trained.record, "size_hw": list(size_hw)})
        spec = export._spec(model)
        assert (spec.height, spec.width) == size_hw
        export.options = ExportOptions(size_hw=(height, 2 * width))
        spec = export._spec(model)
        assert (spec.height, spec.width) == (height, 2 * width)


@pytest.mark.parametrize(
    ("target", "precision", "dtype"),
    [
        ("cpu", "fp16", torch.float32),
        ("cuda", "fp16", torch.float16),
        ("rtx", "fp16", torch.float16),
        ("trt", "fp32", torch.float32),
    ],
)
def test_scores_leave_in_half_where_a_gpu_computes_them_so(
    trained: TrainedModel,
    half_graph: onnx.ModelProto,
    float_graph: onnx.ModelProto,
    monkeypatch: pytest.MonkeyPatch,
    target: Target,
    precision: Literal["fp16", "fp32"],
    dtype: torch.dtype,
) -> None:
    export = object.__new__(exporter_module._Export)
    export.options = ExportOptions(target=target, precision=precision)
    spec = export._spec(trained)
    assert getattr(torch, spec.score_dtype) == dtype
    given: list[torch.dtype] = []

    def traced(frozen: FrozenDedos, spec: GraphSpec) -> onnx.ModelProto:
        given.append(frozen.score_dtype)
        return copied(half_graph if precision == "fp16" else float_graph)

    monkeypatch.setattr(target_module, "image_graph", traced)
    monkeypatch.setattr(target_module, "check_ops", lambda *_: None)
    target_module.target_graph(trained.model, spec, precision, target)
    assert given == [dtype]


def test_record_of_the_wrong_kind_is_named(trained: TrainedModel) -> None:
    with pytest.raises(BadInputError, match="sources 'COCO', a list of texts is needed"):
        _ = TrainedModel(trained.model, {"sources": "COCO"}).sources
    with pytest.raises(BadInputError, match="default_threshold True, a number is needed"):
        TrainedModel(trained.model, {"default_threshold": True}).number("default_threshold", 0.5)
