"""The proxy bank of a finished run: calibrate it, fill it, compare its fillings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.result import EvaluationResult
from dedos_deploy.fields import FieldError, checked
from dedos_deploy.model import Dedos, load_checkpoint, save_checkpoint
from dedos_deploy.model.proxy_queries import BankFill
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.training.bank import CalibrationImages, Denoiser, calibrate_bank, fill_bank
from dedos_deploy.training.denoising import DenoisingLearning, LearningSource, load_learning
from dedos_deploy.training.evaluate import evaluate
from dedos_deploy.training.folders import LabelFolder, union_words
from dedos_deploy.training.sources import open_data

if TYPE_CHECKING:
    from dedos_deploy.training.diffusion.walk import DiffusionSettings, LatentDiffusion

CHECKPOINT, LEARNING = "checkpoint.safetensors", "learning.safetensors"


@dataclass(frozen=True)
class Run:
    """A run's output folder, read; learning and source are None after training without diffusion."""

    folder: Path
    model: Dedos
    extra: dict[str, Any]
    """What the checkpoint records beside the weights."""
    learning: DenoisingLearning | None
    source: LearningSource | None

    @property
    def device(self) -> torch.device:
        return self.model.proxy_queries.bank.device

    @property
    def size_hw(self) -> tuple[int, int]:
        """Network size that it was trained at."""
        height, width = self.extra.get("size_hw", self.model.config.size_hw)
        return height, width

    def require_learning(self) -> tuple[DenoisingLearning, LearningSource]:
        """Return learning and source, or raise BadInputError when the run had no diffusion."""
        if self.learning is None or self.source is None:
            raise BadInputError(
                f"run {self.folder} has no {LEARNING}, as no queries of it read a diffusion; its "
                "bank can only be static"
            )
        return self.learning, self.source

    def folders(self, split: str, data: Sequence[str] | None = None) -> list[LabelFolder]:
        """Return `split` of the folders in `data`, or of those that the run was trained on.

        Raises BadInputError when no folder has that split.
        """
        entries = data or self.extra.get("settings", {}).get("data", ())
        if not entries:
            raise BadInputError(
                f"{self.folder / CHECKPOINT} does not say what it was trained on; give --data"
            )
        found = open_data(entries, split, optional=True)
        if not found:
            raise BadInputError(
                f"none of {', '.join(entries)} has a split {split!r}; give --data with a folder "
                "that has one"
            )
        return found

    def save(self, record: dict[str, Any]) -> None:
        """Rewrite the checkpoint atomically with the bank as it is now, and `record` of it."""
        save_checkpoint(self.folder / CHECKPOINT, self.model, extra={**self.extra, "bank": record})


def open_run(folder: Path, device: torch.device | str = "cpu") -> Run:
    """Return the run in `folder`, on `device`.

    Raises BadInputError when its files are missing, damaged, or of two different models.
    """
    model, extra = load_checkpoint(folder / CHECKPOINT)
    model = model.to(device)
    if not (folder / LEARNING).exists():
        return Run(folder, model, extra, None, None)
    learning, source = load_learning(folder / LEARNING)
    if learning.config != model.config:
        raise BadInputError(
            f"{folder / LEARNING} belongs to another model than {folder / CHECKPOINT}; use both "
            "files of one run"
        )
    return Run(folder, model, extra, learning.to(device), source)


@dataclass(frozen=True)
class Calibrated:
    """Mean of q_{L,t}, [N, n, c], and the record of how it came to be, as JSON values."""

    stages: Tensor
    record: dict[str, Any]


def run_diffusion(run: Run, model: str | None = None) -> LatentDiffusion:
    """Return the diffusion that `run` learned on.

    model: its name or folder now, if not what it was then.

    Raises BadInputError when it cannot be loaded; `calibrate_run` sees whether it is the same.
    """
    _, source = run.require_learning()
    from dedos_deploy.training.diffusion.walk import load_diffusion

    settings = diffusion_settings(source)
    return load_diffusion(
        settings if model is None else replace(settings, model=model), device=str(run.device)
    )


def diffusion_settings(source: LearningSource) -> DiffusionSettings:
    """Return the settings of a run's diffusion.

    Raises BadInputError when a version with other settings wrote them.
    """
    from dedos_deploy.training.diffusion.walk import DiffusionSettings

    try:
        settings: DiffusionSettings = checked(DiffusionSettings, source.diffusion, "")
        return settings
    except (FieldError, BadInputError) as error:
        raise BadInputError(
            f"the diffusion settings in {LEARNING} do not fit this version ({error}); use the "
            "version that trained the run"
        ) from error


def calibrate_run(
    run: Run,
    denoiser: Denoiser,
    folders: Sequence[LabelFolder],
    count: int,
    *,
    progress: Progress = QUIET,
) -> Calibrated:
    """Return the calibrated mean of `run` over `count` images of `folders`, or all if fewer.

    Raises BadInputError when `denoiser` is not the diffusion that the run learned on.
    """
    learning, source = run.require_learning()
    if denoiser.fingerprint != source.fingerprint:
        raise BadInputError(
            f"this diffusion model is not the one that run {run.folder} learned on (its weights or "
            "settings differ); give that one with --diffusion"
        )
    images = CalibrationImages(folders, count)
    shown = progress.counted(images, images.count)
    stages = calibrate_bank(run.model, learning, denoiser, shown, images.count, size_hw=run.size_hw)
    record = {
        "images": images.count,
        "data": [folder.name for folder in folders],
        "data_sha256": images.sha256,
        "diffusion_fingerprint": source.fingerprint,
    }
    return Calibrated(stages, record)


def fill_run(run: Run, fill: BankFill, calibrated: Calibrated | None) -> dict[str, Any]:
    """Fill the bank of `run.model` and return the record for `Run.save`.

    Raises BadInputError for a filling that the run cannot have.
    """
    if fill != "calibrated":
        if fill == "ema":
            run.require_learning()
        fill_bank(run.model, run.learning, fill)
        return {"fill": fill}
    assert calibrated is not None
    run.model.proxy_queries.fill_bank(calibrated.stages, "calibrated")
    return {"fill": fill, **calibrated.record}


def compare_fillings(
    run: Run, folders: Sequence[LabelFolder], calibrated: Calibrated
) -> Iterator[tuple[BankFill, EvaluationResult]]:
    """Yield every filling with its result on every folder; leaves the last one in the bank."""
    fills: tuple[BankFill, ...] = get_args(BankFill)
    words = union_words(folders)
    template = run.extra.get("template", "single")
    embeddings = WordEmbeddings(run.model, words, template=template, tuned=False)
    index = {word: slot for slot, word in enumerate(words)}
    for fill in fills:
        fill_run(run, fill, calibrated)
        for folder in folders:
            yield (
                fill,
                evaluate(
                    run.model,
                    folder,
                    lambda wanted: embeddings([index[word] for word in wanted]),
                    run.size_hw,
                ),
            )
