"""The INT8 graph of the true nano parses and builds, strongly typed, FP16 around Q/DQ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from dedos_deploy.assets import assets_path
from dedos_deploy.calib.placement import quantize, site_tensors
from dedos_deploy.export.graph import check_ops, image_graph, save_graph
from dedos_deploy.export.rtx import build_rtx_engine
from dedos_deploy.export.weights import EMBEDDED_WEIGHTS
from dedos_deploy.model import freeze, load_checkpoint
from dedos_deploy.spec import GraphSpec

pytest.importorskip("tensorrt_rtx", reason="needs pip install 'dedos-deploy[rtx]'")


def test_nano_in_int8(tmp_path: Path) -> None:
    model, _ = load_checkpoint(assets_path(EMBEDDED_WEIGHTS), preset="nano")
    spec = GraphSpec(*model.config.size_hw, model.config.clip.text_width)
    frozen = freeze(model, size_hw=model.config.size_hw, precision="fp16", deformable="gather")
    graph = image_graph(frozen, spec)
    runs = site_tensors(graph)
    ranges = {name: 6.0 for run in runs for name in (run.activation, run.result) if name}
    assert quantize(graph, ranges, {run.site for run in runs}, target="rtx") == len(runs) > 100
    check_ops(graph, "rtx")
    scales = {
        t.name: t.data_type for t in graph.graph.initializer if t.name.endswith(".int8.scale")
    }
    assert set(scales.values()) <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}
    path = save_graph(graph, tmp_path / "model.onnx")[0]
    engine = build_rtx_engine(
        path,
        tmp_path,
        spec=spec,
        precision="int8",
        model_sha256="0" * 64,
        compute_capabilities=("8.9",),
    )
    assert engine.size > 1_000_000 and "int8" in engine.path.name
    assert np.frombuffer(engine.path.read_bytes()[:4], "S4")[0] == b"vtrt"
