"""Graphs of true size, made on the spot: random weights of a preset in FP16, as for TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.spec import GraphSpec


def write_graph(folder: Path, preset: str, batch: int = 1) -> tuple[Path, GraphSpec]:
    """Write the typed FP16 graph of a preset with random weights, as an export for TensorRT deploys
    it, and return it with its tensors."""
    from dedos_deploy.export.graph import save_graph
    from dedos_deploy.export.target_graph import score_dtype, target_graph
    from dedos_deploy.model import build_model
    from dedos_deploy.presets import get_preset

    config = get_preset(preset)
    height, width = config.size_hw
    model = build_model(config)
    kind = score_dtype(model, "fp16", "trt")
    spec = GraphSpec(height, width, config.clip.text_width, batch, kind)
    graph = target_graph(model, spec, "fp16", "trt").model
    return save_graph(graph, folder / f"{preset}-{batch}.onnx")[0], spec


def some_inputs(spec: GraphSpec, slots: int) -> dict[str, NDArray[Any]]:
    """Return scenes, unit rows, and all slots in use."""
    from dedos_deploy.scenes import render_image

    size_hw = spec.height, spec.width
    images = [render_image("street", seed=7 + row, size_hw=size_hw)[0] for row in range(spec.batch)]
    rows = np.random.default_rng(0).standard_normal((slots, spec.text_width))
    text = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return {
        "image": np.stack(images),
        "text": text.astype(np.float32),
        "valid": np.ones(slots, np.float32),
    }
