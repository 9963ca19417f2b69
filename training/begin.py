"""What a run trains with, made of its settings, its first weights and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dedos_deploy.model import Dedos
from dedos_deploy.model.tuned_clip import choose_trained
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.training.data import BatchStream
from dedos_deploy.training.denoising import LearningSource
from dedos_deploy.training.distributed import Processes
from dedos_deploy.training.folders import LabelFolder, union_words
from dedos_deploy.training.keep import Keeper
from dedos_deploy.training.objective import Objective
from dedos_deploy.training.optimizer import WeightAverage, build_optimizer
from dedos_deploy.training.settings import TrainSettings
from dedos_deploy.training.setup import (
    batch_settings,
    inherited_credits,
    open_diffusion,
    open_learning,
    open_word_weights,
)
from dedos_deploy.training.state import Training


@dataclass(frozen=True, eq=False)
class Begun:
    """A run before its first step."""

    stream: BatchStream
    words: tuple[str, ...]
    """What the model is to know: the words of the folders, then those that are kept."""

    embeddings: WordEmbeddings
    """Of `words`."""

    objective: Objective
    training: Training
    """What changes from step to step; it does not say yet what the data is."""

    source: LearningSource | None
    """Which diffusion is read, None for none."""

    credits: list[str]
    """Of the first weights, and of what is kept."""


def begin(
    settings: TrainSettings,
    processes: Processes,
    model: Dedos,
    record: Mapping[str, Any],
    folders: Sequence[LabelFolder],
) -> Begun:
    """Return what a run trains with; record: of the first weights, `model`.

    Raises BadInputError for a diffusion or a checkpoint to keep that cannot be read, and for settings that
    nothing would come of with these folders.
    """
    device = processes.device
    model = model.to(device).train()
    choose_trained(model, tune_text=settings.tune_text)
    diffusion = open_diffusion(settings, processes)
    opened = open_learning(
        settings, model, diffusion, words=len(union_words(folders)), device=device
    )
    whole_hw = diffusion.size_hw if diffusion and settings.view == "whole" else None
    stream = BatchStream(folders, batch_settings(settings, whole_hw))
    keeper = Keeper(settings, stream.words, device) if settings.keep else None
    words = keeper.words if keeper else stream.words
    embeddings = WordEmbeddings(model, words, template=settings.template, tuned=settings.tune_text)
    weights = open_word_weights(settings, folders, words, device)
    learning = opened.learning
    objective = Objective(settings, model, embeddings, learning, opened.walker, weights, keeper)
    training = Training(
        model,
        optimizer=build_optimizer(model, settings, learning),
        average=WeightAverage(model, settings.ema) if settings.ema else None,
        learning=learning,
        diffusion=diffusion.fingerprint if diffusion is not None else None,
        kept=keeper.fingerprint if keeper else None,
    )
    credits = [*inherited_credits(record), *(keeper.credits if keeper else ())]
    return Begun(stream, words, embeddings, objective, training, opened.source, credits)
