"""Logs of a run: one JSON line per ten steps, and TensorBoard event files where wanted."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import require

if TYPE_CHECKING:
    from dedos_deploy.evaluation.result import EvaluationResult

LOG, EVENTS = "log.jsonl", "tensorboard"

LOG_EVERY = 10


@dataclass(frozen=True)
class StepReport:
    """One step as the observer sees it."""

    step: int
    """Steps done so far."""
    loss: float
    terms: dict[str, float]
    """Loss terms of the final layer."""
    rate: float
    gradient_norm: float
    progress: float = 0.0
    """Part of the run that is over, [0, 1]."""
    images_per_s: float = 0.0
    waiting: float = 0.0
    """Part of the step's time spent waiting for data, [0, 1]."""
    elapsed_s: float = 0.0


class RunLog:
    """Writes log.jsonl and, with `tensorboard`, event files into a run's folder."""

    def __init__(self, output: Path, *, tensorboard: bool) -> None:
        self._path = output / LOG
        self._writer = None
        if tensorboard:
            require("tensorboard", extra="train", purpose="TensorBoard event files")
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(output / EVENTS))

    def step(self, report: StepReport) -> None:
        """Log every tenth step and the last one."""
        if report.step % LOG_EVERY and report.progress < 1.0:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(report)) + "\n")
        if self._writer is not None:
            scalars = {
                "loss": report.loss,
                "rate": report.rate,
                "waiting": report.waiting,
                "gradient_norm": report.gradient_norm,
                "images_per_s": report.images_per_s,
                **{f"terms/{name}": value for name, value in report.terms.items()},
            }
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, report.step)

    def evaluation(self, result: EvaluationResult, step: int) -> None:
        """Log the mean IoU of one validation folder."""
        if self._writer is not None:
            name = f"miou_present/{result.data}"
            self._writer.add_scalar(name, result.miou_present, step)

    def picture(self, name: str, image_bgr: NDArray[np.uint8], step: int) -> None:
        """Log a picture, uint8 BGR [H, W, 3]."""
        if self._writer is not None:
            rgb = np.ascontiguousarray(image_bgr[..., ::-1])
            self._writer.add_image(name, rgb, step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
