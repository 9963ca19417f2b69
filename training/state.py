"""The training state: one safetensors file from which a run goes on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.fields import FieldError, checked, load_json
from dedos_deploy.files import replacing
from dedos_deploy.model import Dedos
from dedos_deploy.model.tensor_files import load_strictly, read_metadata, read_tensors
from dedos_deploy.training.muon import MuonAdamW
from dedos_deploy.training.optimizer import WeightAverage, named_parameters
from dedos_deploy.training.prediction import AnyLearning
from dedos_deploy.training.survey import DataMark

FORMAT = "dedos-training-state-1"


@dataclass
class Training:
    """What changes from step to step."""

    model: Dedos
    optimizer: MuonAdamW
    average: WeightAverage[Dedos] | None
    learning: AnyLearning | None = None
    """What learns from the diffusion, None for a run without one."""
    diffusion: str | None = None
    """Fingerprint of the diffusion that `learning` learns from."""
    data: DataMark | None = None
    """What the data was; None in processes that write no state."""
    kept: str | None = None
    """Fingerprint of the checkpoint whose knowledge is kept, None for a run that keeps nothing."""
    step: int = 0
    """Optimizer steps done."""
    elapsed_s: float = 0.0
    """Wall clock of all parts of the run together."""

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
    named = named_parameters(training.model, training.learning)
    tensors |= {f"optimizer.{n}": v for n, v in training.optimizer.moments(named).items()}
    record = {
        "step": training.step,
        "elapsed_s": training.elapsed_s,
        "diffusion": training.diffusion,
        "kept": training.kept,
        "data_files": training.data.files if training.data is not None else None,
        "data_content": training.data.content if training.data is not None else None,
    }
    metadata = {"format": FORMAT, "record": json.dumps(record), "settings": settings_json}
    write_state(path, tensors, metadata)


def write_state(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata to `path`, whole or not at all.

    Raises BadInputError when the file cannot be written.
    """
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
    metadata = _metadata(path)
    if "settings" not in metadata:
        raise _damaged(path, "it has no settings")
    return metadata["settings"]


def saved_data(path: Path) -> DataMark | None:
    """Return what the data of the run that wrote `path` was; None for a state of earlier versions.

    Raises BadInputError when there is no readable training state.
    """
    record = _record(path)
    if record.data_files is None or record.data_content is None:
        return None
    return DataMark(record.data_files, record.data_content)


def load_state(path: Path, training: Training) -> None:
    """Bring `training` to where it was when `path` was written.

    Raises BadInputError when the file is missing, damaged, of another model, or of a run that read
    another diffusion model or kept what another checkpoint knew.
    """
    record = _record(path)
    # The name of a diffusion may change (its folder moved), what it computes may not.
    if record.diffusion != training.diffusion:
        raise BadInputError(
            f"the run to resume reads {_diffusion_name(record.diffusion)}, not "
            f"{_diffusion_name(training.diffusion)}; repeat its --diffusion and --diffusion-size, or "
            "start a new run in another --output"
        )
    if record.kept != training.kept:
        raise BadInputError(
            f"the run to resume keeps {_kept_name(record.kept)}, not {_kept_name(training.kept)}; repeat "
            "its --keep, or start a new run in another --output"
        )
    _, tensors = read_tensors(path, partial(_damaged, path))
    modules = {"model.": training.model, "learning.": training.learning}
    modules["average."] = training.average.model if training.average is not None else None
    for prefix, module in modules.items():
        if module is not None:
            load_strictly(module, part_of(tensors, prefix), partial(_of_another_model, path))
    training.optimizer.load_moments(
        named_parameters(training.model, training.learning),
        part_of(tensors, "optimizer."),
        partial(_of_another_model, path),
    )
    training.step, training.elapsed_s = record.step, record.elapsed_s


@dataclass(frozen=True)
class _Record:
    """See Training; what may be None is missing in states of earlier releases."""

    step: int
    elapsed_s: float
    diffusion: str | None
    kept: str | None
    data_files: str | None
    data_content: str | None


def _record(path: Path) -> _Record:
    try:
        values = load_json(_metadata(path).get("record", ""))
        if isinstance(values, dict):
            missing = dict.fromkeys(("diffusion", "kept", "data_files", "data_content"))
            values = {**missing, **values}
        record: _Record = checked(_Record, values, "")
    except FieldError as error:
        raise _damaged(path, f"its record: {error}") from error
    if record.step < 0 or record.elapsed_s < 0:
        raise _damaged(path, "its record: step and elapsed_s must not be negative")
    return record


def _damaged(path: Path, reason: str) -> BadInputError:
    return BadInputError(
        f"training state {path} is damaged ({reason}); start a new run from --init checkpoint"
    )


def _of_another_model(path: Path, reason: str) -> BadInputError:
    return BadInputError(
        f"training state {path} is of another model ({reason}); start a new run in another --output"
    )


def _diffusion_name(fingerprint: str | None) -> str:
    return f"the diffusion model {fingerprint[:12]}" if fingerprint else "no diffusion model"


def _kept_name(fingerprint: str | None) -> str:
    return f"what the checkpoint {fingerprint[:12]} knew" if fingerprint else "nothing"


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise BadInputError(
            f"there is nothing to resume: {path} does not exist; leave out --resume to start"
        )
    metadata = read_metadata(path, partial(_damaged, path))
    if metadata.get("format") != FORMAT:
        raise BadInputError(
            f"{path} has training state format {shown(metadata.get('format'))}, expected {FORMAT!r}; "
            "resume with the version that wrote it, or start anew"
        )
    return metadata
