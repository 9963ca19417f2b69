"""What a run starts with: model, data, and the frozen diffusion model, from its settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dedos_deploy.assets import EMBEDDED_WEIGHTS, assets_path
from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.model import Dedos, build_model, load_checkpoint, load_open_clip
from dedos_deploy.model.checkpoint import is_checkpoint
from dedos_deploy.presets import DENSE_PRESETS, ModelConfig
from dedos_deploy.training.balance import word_weights
from dedos_deploy.training.components import COMPONENTS, config_for
from dedos_deploy.training.data import BatchSettings
from dedos_deploy.training.denoising import DenoisingLearning, LearningSource
from dedos_deploy.training.diffusion.cache import DiffusionCache
from dedos_deploy.training.diffusion.walk import (
    DiffusionSettings,
    LatentDiffusion,
    load_diffusion,
)
from dedos_deploy.training.diffusion.walker import LabelWalker, Walker
from dedos_deploy.training.distributed import Processes
from dedos_deploy.training.folders import LabelFolder
from dedos_deploy.training.kinds import parse_kind
from dedos_deploy.training.prediction import AnyLearning, FeaturePrediction
from dedos_deploy.training.settings import TrainSettings
from dedos_deploy.training.sources import open_data
from dedos_deploy.training.targets import IGNORE, OTHER

_LOG = logging.getLogger(__name__)

EMBEDDED = "embedded"
"""What `init` calls the nano weights that ship with the package."""

OPENAI = "openai"
"""The tag whose weights the CLIP of a dense preset has unless others are named."""

DETAIL_CREDIT = "Detail branch: "
"""Begins the credit of a checkpoint's pretrained branch."""

CLIP_PARTS = ("trunk", "text_tower")

LABELS = "labels"
"""Fingerprint of what the oracle reads in the place of a diffusion."""

_HAS_DETAIL = "mobile"


def initial_model(settings: TrainSettings) -> tuple[Dedos, dict[str, Any]]:
    """Return the model to start from and what its checkpoint recorded.

    Raises BadInputError when weights are missing or of another preset or component.
    """
    config = config_for(
        settings.config, settings.component, len(settings.walked), settings.query_sets
    )
    config = replace(config, clip_tune=settings.tuned)
    if settings.init and settings.init not in DENSE_PRESETS:
        return _initial_checkpoint(settings, settings.init, config)
    model = build_model(config, seed=settings.seed)
    clip_weights = settings.clip_weights or (OPENAI if settings.init else None)
    if clip_weights is not None:
        return model, _take_clip_weights(model, clip_weights)
    if model.config.clip_tune != "all":
        raise BadInputError(
            f"preset {settings.preset} does not train all of CLIP and needs its weights; give "
            f"--clip-weights openai, a local file, or --init CHECKPOINT"
        )
    if model.config.detail == _HAS_DETAIL:
        _LOG.info("the detail branch is that of the embedded weights, the rest starts anew")
        return model, {"sources": take_detail(model)}
    return model, {}


def _initial_checkpoint(
    settings: TrainSettings, init: str, config: ModelConfig
) -> tuple[Dedos, dict[str, Any]]:
    path = checkpoint_path(init)
    if not path.is_file():
        raise BadInputError(
            f"checkpoint {init} does not exist{nearest(init, DENSE_PRESETS)}; give a file written by "
            f"dedos-train, {EMBEDDED!r}, or a preset whose CLIP to start from: "
            f"{', '.join(DENSE_PRESETS)}"
        )
    model, record = load_checkpoint(path, preset=settings.preset)
    model.config = replace(model.config, clip_tune=config.clip_tune)
    if model.config.aggregation != config.aggregation:
        raise BadInputError(
            f"checkpoint {init} has {model.config.aggregation} cost aggregation, not "
            f"{config.aggregation}; give --cost {model.config.aggregation}, or take only its CLIP with "
            "--clip-weights"
        )
    if model.config != config:
        raise BadInputError(
            f"checkpoint {init} has other parts than component {settings.component} with "
            f"{len(settings.walked)} timesteps; take only its CLIP with --clip-weights"
        )
    return model, record


def _take_clip_weights(model: Dedos, name: str) -> dict[str, Any]:
    if name == EMBEDDED or is_checkpoint(Path(name)):
        return take_clip(model, name)
    return load_open_clip(model, name).record


def inherited_credits(record: Mapping[str, Any]) -> list[str]:
    """Return what the record of first weights asks to pass on: their sources and their licence."""
    licence = record.get("licence")
    began = [f"Weights it began with: {licence}"] if licence else []
    return [*record.get("sources", ()), *began]


def checkpoint_path(name: str) -> Path:
    """Return the checkpoint file meant by `name`, which may be `embedded`."""
    return assets_path(EMBEDDED_WEIGHTS) if name == EMBEDDED else Path(name)


def take_clip(model: Dedos, name: str) -> dict[str, Any]:
    """Copy trunk and text tower of the DEDOS checkpoint `name` into `model`; return its record.

    Raises BadInputError when its CLIP is another one.
    """
    other, record = load_checkpoint(checkpoint_path(name))
    if other.config.clip != model.config.clip:
        raise BadInputError(
            f"checkpoint {name} has CLIP {other.config.clip.architecture}, but preset "
            f"{model.config.preset} needs {model.config.clip.architecture} of the same sizes"
        )
    for part in CLIP_PARTS:
        getattr(model, part).load_state_dict(getattr(other, part).state_dict())
    if model.config.detail == other.config.detail == _HAS_DETAIL:
        _copy_detail(model, other)
    elif model.config.detail == _HAS_DETAIL:
        take_detail(model)
    return record


def take_detail(model: Dedos) -> list[str]:
    """Copy the pretrained detail branch of the embedded weights into `model`; return its credits."""
    other, record = load_checkpoint(checkpoint_path(EMBEDDED))
    if other.config.detail != _HAS_DETAIL:
        raise BadInputError(
            "the embedded weights have no pretrained detail branch; give --clip-weights with a "
            "checkpoint of `dedos-train trunk --detail NET`"
        )
    _copy_detail(model, other)
    return [line for line in record.get("sources", ()) if line.startswith(DETAIL_CREDIT)]


def _copy_detail(model: Dedos, other: Dedos) -> None:
    assert model.detail is not None and other.detail is not None
    model.detail.load_state_dict(other.detail.state_dict())


def open_folders(
    settings: TrainSettings, split: str, *, optional: bool = False
) -> list[LabelFolder]:
    """Return the checked folders of `split`; with `optional`, those that have that split."""
    background = OTHER if settings.background == "negative" else IGNORE
    return open_data(settings.data, split, background=background, optional=optional)


def settled(settings: TrainSettings, processes: Processes) -> TrainSettings:
    """Return settings with what they leave to the machine: the micro-batch, and autocast where CUDA is.

    Raises BadInputError unless the batch divides evenly.
    """
    return replace(
        settings,
        micro_batch=micro_batch_size(settings, processes.count),
        amp=processes.device.type == "cuda" if settings.amp is None else settings.amp,
    )


def micro_batch_size(settings: TrainSettings, processes: int) -> int:
    """Return images per micro-batch; raises BadInputError unless the batch divides evenly."""
    size = settings.micro_batch or max(1, settings.batch // processes)
    if settings.batch % (size * processes):
        raise BadInputError(
            f"batch {settings.batch} cannot be shared by {processes} processes in micro-batches of "
            f"{size}; make --batch a multiple of {size * processes}"
        )
    return size


def batch_settings(settings: TrainSettings, whole_hw: tuple[int, int] | None) -> BatchSettings:
    """Return the settings of the stream of micro-batches."""
    return BatchSettings(
        settings.network_hw,
        settings.micro_batch or settings.batch,
        settings.batch // (settings.micro_batch or settings.batch),
        seed=settings.seed,
        vocabulary=settings.vocabulary,
        drop_words=settings.drop_words,
        augmentation=settings.augmentation,
        whole_hw=whole_hw,
        scenes=bool(settings.keep),
        rare=settings.rare,
        paste=settings.paste,
        kinds=tuple(map(parse_kind, settings.kinds)),
    )


def open_word_weights(
    settings: TrainSettings,
    folders: Sequence[LabelFolder],
    words: Sequence[str],
    device: torch.device,
) -> torch.Tensor | None:
    """Return the weight of every word as `balance` asks for, float32 [len(words)], None for 1."""
    if not settings.balance:
        return None
    return torch.from_numpy(word_weights(folders, words, settings.balance)).to(device)


def open_diffusion(settings: TrainSettings, processes: Processes) -> LatentDiffusion | None:
    """Return the frozen diffusion model, None for a run without one."""
    parts = COMPONENTS[settings.component]
    if not settings.diffusion:
        if parts.queries and parts.reads != "labels":
            _LOG.info("no --diffusion: proxy queries learn from masks alone, the bank is static")
        return None
    chosen = DiffusionSettings(
        settings.diffusion,
        timesteps=settings.walked,
        size_hw=settings.diffusion_hw,
        add_noise=settings.add_noise,
        half=settings.diffusion_half,
        random=parts.reads == "random",
    )
    return load_diffusion(chosen, device=processes.device)


@dataclass(frozen=True)
class Opened:
    """What a run learns from beside its labels, all None for proxy queries that read nothing."""

    learning: AnyLearning | None = None
    """What learns."""
    walker: Walker | LabelWalker | None = None
    """What hands it what it reads."""
    source: LearningSource | None = None
    """Which diffusion that is."""


def open_learning(
    settings: TrainSettings,
    model: Dedos,
    diffusion: LatentDiffusion | None,
    *,
    words: int,
    device: torch.device,
) -> Opened:
    """Return what learns from the diffusion, or from labels, on `device`; words: of the union vocabulary."""
    parts = COMPONENTS[settings.component]
    if diffusion is None:
        if parts.reads != "labels":
            return Opened()
        opened = _open_oracle(settings, model, words, device)
    elif parts.use == "predict":
        opened = Opened(
            FeaturePrediction(model.config, diffusion.channels),
            Walker(diffusion, separation=False),
            _source(diffusion),
        )
    else:
        opened = _open_denoising(settings, model, diffusion)
    assert opened.learning is not None
    opened.learning.to(device).train()
    return opened


def _source(diffusion: LatentDiffusion) -> LearningSource:
    return LearningSource(asdict(diffusion.settings), diffusion.fingerprint)


def _open_denoising(settings: TrainSettings, model: Dedos, diffusion: LatentDiffusion) -> Opened:
    parts = COMPONENTS[settings.component]
    separation = parts.separation and settings.gamma > 0
    learning = DenoisingLearning(
        model.config,
        diffusion.channels,
        steps=diffusion.steps,
        mask_map=settings.mask_map,
        separation=separation,
    )
    cache = None
    if settings.diffusion_cache:
        cache = DiffusionCache(Path(settings.diffusion_cache), diffusion)
    shuffled = parts.reads == "shuffled"
    walker = Walker(diffusion, separation=separation, cache=cache, shuffled=shuffled)
    return Opened(learning, walker, _source(diffusion))


def _open_oracle(settings: TrainSettings, model: Dedos, words: int, device: torch.device) -> Opened:
    steps = len(settings.walked)
    learning = DenoisingLearning(
        model.config, (words,), steps=steps, mask_map=settings.mask_map, separation=False
    )
    return Opened(learning, LabelWalker(words, steps, device), LearningSource({}, LABELS))


def make_output(output: Path, state: Path | None) -> None:
    """Create the folder of a run; raises BadInputError where `state`, that of another run, is."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"cannot create output folder {output}: {error}") from error
    if state is not None and state.exists():
        raise BadInputError(
            f"{output} already holds a run; add --resume to go on with it, or choose another "
            "--output"
        )
