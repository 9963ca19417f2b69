"""What whole training runs of a second need, for tests and the programs they start."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy import presets
from dedos_deploy.evaluation.result import EvaluationResult
from dedos_deploy.presets import ModelConfig, TextTowerConfig
from dedos_deploy.training.logs import StepReport

Write = Callable[..., Path]
"""What the fixture `write_folder` is."""


def micro_config() -> ModelConfig:
    """Return a model of a few channels at 32x32 with every part of the nano preset in it."""
    nano = presets.get_preset("nano")
    clip = replace(
        nano.clip,
        patch=8,
        width=16,
        layers=4,
        heads=2,
        grid=4,
        text_width=16,
        text=TextTowerConfig(16, 1, 2, context_length=16),
    )
    return replace(
        nano,
        preset="micro",
        clip=clip,
        size_hw=(32, 32),
        refine_blocks=(1,),
        decoder_layers=2,
        queries=6,
        query_width=16,
        basic_kernel=(3, 8),
        diffusion_kernel=(2, 2),
        decoder_heads=2,
        decoder_ffn=16,
        pixel_ffn=16,
        detail="conv",
        detail_width=4,
        aggregation_width=4,
    )


class Recorder:
    """Keeps losses; `stop_after` sends Ctrl-C to this process after that step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.losses: list[float] = []
        self.results: list[EvaluationResult] = []
        self._stop_after = stop_after

    def on_step(self, report: StepReport) -> None:
        self.losses.append(report.loss)
        if report.step == self._stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    def on_evaluation(self, result: EvaluationResult) -> None:
        self.results.append(result)


def write_net(path: Path, pads: list[int], *, seed: int | None = None, words: int = 2) -> Path:
    """A net with two halving convolutions and a residual sum; averaging unless seeded."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)

    def weights(out: int, channels: int, size: int) -> NDArray[np.float32]:
        if seed is None:
            return np.full((out, channels, size, size), 1 / (channels * size**2), np.float32)
        return random.normal(0, 0.02, (out, channels, size, size)).astype(np.float32)

    arrays = {"a": weights(4, 3, 3), "b": weights(4, 4, 3), "c": weights(6, 4, 1)}
    down = {"kernel_shape": [3, 3], "strides": [2, 2], "dilations": [1, 1], "pads": pads}
    flat = {"kernel_shape": [1, 1], "strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4}
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["x"], **down),
        helper.make_node("Conv", ["x", "b"], ["y"], **down),
        helper.make_node("Identity", ["y"], ["z"]),
        helper.make_node("Add", ["y", "z"], ["sum"]),
        helper.make_node("Conv", ["sum", "c"], ["features"], **flat),
        helper.make_node("Conv", ["features", "d"], ["logits"], **flat),
    ]
    arrays["d"] = weights(words, 6, 1)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("features", "logits")],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path
