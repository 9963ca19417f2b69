"""What whole training runs of a second need, for tests and the programs they start."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
