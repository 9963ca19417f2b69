"""Where the weights of an export come from, and what is known about them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dedos_deploy.assets import EMBEDDED_WEIGHTS, assets_path
from dedos_deploy.errors import BadInputError
from dedos_deploy.files import sha256_of_file
from dedos_deploy.head_numbers import HEADS, HeadKind, ScClipHead, WindowConfig
from dedos_deploy.model import build_model, load_checkpoint, load_open_clip
from dedos_deploy.model.freeze import AnyModel
from dedos_deploy.model.heads import build_dense
from dedos_deploy.model.peers import load_peer
from dedos_deploy.peer_configs import PeerKind, PublishedFile
from dedos_deploy.presets import DENSE_PRESETS, DenseConfig, ModelConfig, any_preset

EMBEDDED_PRESET = "nano"
RANDOM_SOURCE = "random weights: nothing was learned, labels mean nothing"
OTHER_CLIP = (
    "the published figures of sc-clip are of OpenAI's weights; with others its numbers may not fit, so "
    "compare --head naclip and --head maskclip on your pictures"
)
NO_LICENCE = "not stated by the checkpoint"
_PEER_CREDITS: dict[PeerKind, str] = {
    "san": "SAN (Xu et al., CVPR 2023), github.com/MendelXu/SAN (MIT)",
    "catseg": "CAT-Seg (Cho et al., CVPR 2024), github.com/cvlab-kaist/CAT-Seg (MIT)",
}
_CLIP_CREDIT = "CLIP, which it began with: OpenAI, github.com/openai/CLIP (MIT)"


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model and its provenance."""

    model: AnyModel
    """A dense CLIP gets the null rows of its bundle while it is exported."""
    record: dict[str, Any] = field(default_factory=dict)
    """JSON values that training saved beside the weights."""
    checkpoint_sha256: str | None = None
    """None for random weights."""
    random: bool = False
    """Drawn from a seed: the labels mean nothing."""
    warnings: tuple[str, ...] = ()
    """What whoever exports it should know."""

    @property
    def sources(self) -> list[str]:
        """Credits of the training data."""
        return [RANDOM_SOURCE] if self.random else self._texts("sources")

    @property
    def words(self) -> list[str]:
        """Words the model was trained with, empty if the checkpoint does not say."""
        return self._texts("words")

    @property
    def licence(self) -> str:
        value = self.record.get("licence", NO_LICENCE)
        return "none needed, the weights are random" if self.random else str(value)

    def number(self, name: str, default: float) -> float:
        """Return a number that training saved as `name`."""
        value = self.record.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInputError(
                f"the checkpoint's record has {name} {value!r}, a number is needed; train it again"
            )
        return float(value)

    def _texts(self, name: str) -> list[str]:
        value = self.record.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise BadInputError(
                f"the checkpoint's record has {name} {str(value)[:80]!r}, a list of texts is "
                f"needed; train it again"
            )
        return value


@dataclass(frozen=True)
class WeightsSource:
    """A choice of weights: a checkpoint, the embedded nano, published CLIP weights, a checkpoint that
    others published, or random ones.

    Raises BadInputError for a choice that names no weights, or two, or that does not fit the preset.
    """

    checkpoint: str | os.PathLike[str] | None = None
    """A file written by dedos-train."""
    preset: str | None = None
    """Preset of the checkpoint, or the one to take without a checkpoint."""
    random: bool = False
    """Weights drawn from a fixed seed, for builds that measure size and time."""
    clip_weights: str | None = None
    """Of a dense preset: a tag of open_clip, or a file."""
    head: HeadKind | None = None
    """Of a dense preset: its head, None for sc-clip."""
    windows: WindowConfig | None = None
    """Of a dense preset: windows to look through, None to see the picture at once."""
    published: PublishedFile | None = None
    """A SAN or CAT-Seg of its authors, which decides everything else."""

    def __post_init__(self) -> None:
        if self.published is not None:
            self._check_published()
            return
        config = any_preset(self.preset) if self.preset is not None else None
        if self.random and (self.checkpoint is not None or config is None):
            raise BadInputError(
                "random weights need a preset and no checkpoint; give --preset NAME alone"
            )
        if isinstance(config, DenseConfig):
            self._check_dense()
            self._dense_config(config)
        else:
            self._check_dedos()

    def _check_published(self) -> None:
        others = {
            "checkpoint": self.checkpoint,
            "preset": self.preset,
            "random-weights": self.random or None,
            "clip-weights": self.clip_weights,
            "head": self.head,
            "windows": self.windows,
        }
        odd = [f"--{name}" for name, value in others.items() if value is not None]
        if odd:
            raise BadInputError(
                f"--from names a checkpoint that decides everything, and {', '.join(odd)} was given "
                "too; give one or the other"
            )

    def _check_dense(self) -> None:
        if self.checkpoint is not None:
            raise BadInputError(
                f"preset {self.preset!r} has no checkpoint, as nothing of it is trained; give "
                f"--clip-weights TAG_OR_FILE"
            )
        if self.random == (self.clip_weights is not None):
            raise BadInputError(
                f"preset {self.preset!r} needs the weights of a CLIP, once; give --clip-weights "
                f"openai or a file, or --random-weights to measure size and speed only"
            )

    def _dense_config(self, config: DenseConfig) -> DenseConfig:
        """Return the preset with the head and the windows that were chosen."""
        if self.head is not None:
            config = replace(config, head=HEADS[self.head](config.clip.layers))
        if self.windows is None:
            return config
        height, width = (max(side, self.windows.size) for side in config.size_hw)
        return replace(config, windows=self.windows, size_hw=(height, width))

    def _check_dedos(self) -> None:
        dense = {"clip-weights": self.clip_weights, "head": self.head, "windows": self.windows}
        odd = [f"--{name}" for name, value in dense.items() if value is not None]
        if odd:
            raise BadInputError(
                f"{odd[0]} is for a CLIP with a head without training; give it with --preset "
                f"{', '.join(DENSE_PRESETS)}"
            )
        if self.checkpoint is not None or self.random or self.preset == EMBEDDED_PRESET:
            return
        if self.preset is None:
            raise BadInputError(
                "no weights were named; give --checkpoint FILE, --preset nano for the embedded "
                "weights, --preset dense-b --clip-weights openai for a published CLIP, or --from "
                "san:FILE for a published SAN or CAT-Seg"
            )
        raise BadInputError(
            f"preset {self.preset!r} has no embedded weights, only {EMBEDDED_PRESET!r} has; give "
            f"--checkpoint FILE, or --random-weights to measure size and speed only"
        )

    @property
    def name(self) -> str:
        """A short name for files: the preset, or else the checkpoint's."""
        if self.published is not None:
            return self.published.path.stem
        if self.preset is not None or self.checkpoint is None:
            return str(self.preset)
        return Path(self.checkpoint).stem

    def load(self) -> TrainedModel:
        """Return the model; raises BadInputError when its file is missing, damaged or another's."""
        if self.published is not None:
            return _peer(self.published)
        config = any_preset(self.preset) if self.preset is not None else None
        if isinstance(config, DenseConfig):
            return self._dense(self._dense_config(config))
        if self.random:
            assert isinstance(config, ModelConfig)
            return TrainedModel(build_model(config), random=True)
        path = Path(self.checkpoint) if self.checkpoint is not None else _embedded()
        model, record = load_checkpoint(path, preset=self.preset)
        return TrainedModel(model, record, sha256_of_file(path))

    def _dense(self, config: DenseConfig) -> TrainedModel:
        model = build_dense(config)
        if self.clip_weights is None:
            return TrainedModel(model, random=True)
        found = load_open_clip(model, self.clip_weights)
        warnings = () if _as_published(config, self.clip_weights) else (OTHER_CLIP,)
        return TrainedModel(model, found.record, found.sha256, warnings=warnings)


def _peer(file: PublishedFile) -> TrainedModel:
    model = load_peer(file.path, file.kind, preset=file.size)
    record = {"licence": "MIT", "sources": [_PEER_CREDITS[file.kind], _CLIP_CREDIT]}
    return TrainedModel(model, record, sha256_of_file(file.path))


def _as_published(config: DenseConfig, clip_weights: str) -> bool:
    """Return whether a head meets the weights that its figures are of, as far as can be told."""
    openai = config.clip.activation == "quick_gelu" and (
        clip_weights == "openai" or Path(clip_weights).is_file()
    )
    return openai or not isinstance(config.head, ScClipHead)


def _embedded() -> Path:
    return assets_path(EMBEDDED_WEIGHTS)
