"""Where the weights of an export come from, and what is known about them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dedos_deploy.assets import EMBEDDED_WEIGHTS, assets_path
from dedos_deploy.errors import BadInputError
from dedos_deploy.files import sha256_of_file
from dedos_deploy.model import Dedos, build_model, load_checkpoint
from dedos_deploy.presets import get_preset

EMBEDDED_PRESET = "nano"
RANDOM_SOURCE = "random weights: nothing was learned, labels mean nothing"
NO_LICENCE = "not stated by the checkpoint"


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model and its provenance."""

    model: Dedos
    record: dict[str, Any] = field(default_factory=dict)
    """JSON values that training saved beside the weights."""
    checkpoint_sha256: str | None = None
    """None for random weights."""
    random: bool = False
    """Drawn from a seed: the labels mean nothing."""

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
    """A choice of weights: a checkpoint, the embedded nano, or random ones for sizing.

    Raises BadInputError for a choice that names no weights, or two.
    """

    checkpoint: str | os.PathLike[str] | None = None
    """A file written by dedos-train."""
    preset: str | None = None
    """Preset of the checkpoint, or the one to take without a checkpoint."""
    random: bool = False
    """Weights drawn from a fixed seed, for builds that measure size and time."""

    def __post_init__(self) -> None:
        if self.preset is not None:
            get_preset(self.preset)
        if self.random and (self.checkpoint is not None or self.preset is None):
            raise BadInputError(
                "random weights need a preset and no checkpoint; give --preset NAME alone"
            )
        if self.checkpoint is not None or self.random or self.preset == EMBEDDED_PRESET:
            return
        if self.preset is None:
            raise BadInputError(
                "no weights were named; give --checkpoint FILE, or --preset nano for the embedded "
                "weights"
            )
        raise BadInputError(
            f"preset {self.preset!r} has no embedded weights, only {EMBEDDED_PRESET!r} has; give "
            f"--checkpoint FILE, or --random-weights to measure size and speed only"
        )

    @property
    def name(self) -> str:
        """A short name for files: the preset, or else the checkpoint's."""
        if self.preset is not None or self.checkpoint is None:
            return str(self.preset)
        return Path(self.checkpoint).stem

    def load(self) -> TrainedModel:
        """Return the model; raises BadInputError when its file is missing, damaged or another's."""
        if self.random:
            assert self.preset is not None
            return TrainedModel(build_model(get_preset(self.preset)), random=True)
        path = Path(self.checkpoint) if self.checkpoint is not None else _embedded()
        model, record = load_checkpoint(path, preset=self.preset)
        return TrainedModel(model, record, sha256_of_file(path))


def _embedded() -> Path:
    return assets_path(EMBEDDED_WEIGHTS)
