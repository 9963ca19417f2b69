"""The training state: one safetensors file from which a run goes on as if nothing had happened."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import replacing
from dedos_deploy.model import Dedos
from dedos_deploy.training.denoising import DenoisingLearning
from dedos_deploy.training.optimizer import WeightAverage, named_parameters

FORMAT = "dedos-training-state-1"


@dataclass
class Training:
    """What changes from step to step.

    learning: what reads the diffusion, None for a run without one; diffusion: fingerprint of that
    diffusion; step: optimizer steps done; elapsed_s: wall clock of all parts of the run together.
    """

    model: Dedos
    optimizer: torch.optim.AdamW
    average: WeightAverage | None
    learning: DenoisingLearning | None = None
    diffusion: str | None = None
    step: int = 0
    elapsed_s: float = 0.0

    @property
    def best_model(self) -> Dedos:
        """The weights to evaluate and ship: the average where there is one."""
        return self.average.model if self.average is not None else self.model


def save_state(path: Path, training: Training, settings_json: str) -> None:
    """Write weights, optimizer moments and averages to `path`, atomically.

    Random numbers need no state: every step draws its own from (seed, step).

    Raises BadInputError when the file cannot be written.
    """
    tensors = {f"model.{name}": value for name, value in training.model.state_dict().items()}
    if training.average is not None:
        tensors.update({f"average.{n}": v for n, v in training.average.model.state_dict().items()})
    if training.learning is not None:
        tensors.update({f"learning.{n}": v for n, v in training.learning.state_dict().items()})
    for name, parameter in named_parameters(training.model, training.learning):
        for key, value in training.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}/{key}"] = value
    record = {
        "step": training.step,
        "elapsed_s": training.elapsed_s,
        "diffusion": training.diffusion,
    }
    metadata = {"format": FORMAT, "record": json.dumps(record), "settings": settings_json}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(plain, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise BadInputError(
            f"cannot write training state {path}: {error}; free space or choose another --output"
        ) from error


def saved_settings(path: Path) -> str:
    """Return the settings, as JSON, of the run that wrote `path`.

    Raises BadInputError when there is no readable training state.
    """
    return _metadata(path)["settings"]


def load_state(path: Path, training: Training) -> None:
    """Bring `training` to where it was when `path` was written.

    Raises BadInputError when the file is missing, damaged, of another model, or of a run that read
    another diffusion model.
    """
    record = json.loads(_metadata(path)["record"])
    # The name of a diffusion may change (its folder moved), what it computes may not.
    if record.get("diffusion") != training.diffusion:
        raise BadInputError(
            f"the run to resume reads {_diffusion_name(record.get('diffusion'))}, not "
            f"{_diffusion_name(training.diffusion)}; repeat its --diffusion, or start a new run in "
            "another --output"
        )
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    try:
        training.model.load_state_dict(_part(tensors, "model."))
        if training.average is not None:
            training.average.model.load_state_dict(_part(tensors, "average."))
        if training.learning is not None:
            training.learning.load_state_dict(_part(tensors, "learning."))
    except RuntimeError as error:
        raise BadInputError(
            f"training state {path} is of another model; start a new run in another --output"
        ) from error
    moments = _part(tensors, "optimizer.")
    for name, parameter in named_parameters(training.model, training.learning):
        mine = {key: moments[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}/{key}" in moments}  # fmt: skip
        if mine:
            on_device = {key: value.to(parameter.device) for key, value in mine.items()}
            training.optimizer.state[parameter] = on_device
    training.step, training.elapsed_s = record["step"], record["elapsed_s"]


def _diffusion_name(fingerprint: str | None) -> str:
    return f"the diffusion model {fingerprint[:12]}" if fingerprint else "no diffusion model"


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise BadInputError(
            f"there is nothing to resume: {path} does not exist; leave out --resume to start"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadInputError(
            f"training state {path} is damaged ({error}); start a new run from --init checkpoint"
        ) from error
    if metadata.get("format") != FORMAT:
        raise BadInputError(
            f"{path} has training state format {metadata.get('format')!r}, expected {FORMAT!r}; "
            "resume with the version that wrote it, or start anew"
        )
    return metadata
