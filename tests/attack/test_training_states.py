"""Training states under attack: refused in one short sentence, before a step is taken with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attack_micro import micro
from safetensors.torch import load_file, save_file
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import build_model, load_checkpoint
from dedos_deploy.training.optimizer import build_optimizer
from dedos_deploy.training.settings import TrainSettings
from dedos_deploy.training.state import Training, load_state, save_state, saved_settings

LONG = "[" * 70_000
LINES = "one\ntwo\x1b[2J" * 1000
SETTINGS = TrainSettings("miniature", ("folder",), muon=0.01)


def beginning() -> Training:
    model = build_model(micro(), seed=0)
    return Training(model, build_optimizer(model, SETTINGS), None)


def take_a_step(training: Training) -> None:
    for parameter in training.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    training.optimizer.step()


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What a run has written after its first step."""
    path = tmp_path_factory.mktemp("state") / "run.state"
    training = beginning()
    take_a_step(training)
    save_state(path, training, SETTINGS.to_json())
    return load_file(path)


def written(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    record = json.dumps({"step": 1, "elapsed_s": 2.0, "diffusion": None})
    known = {"format": "dedos-training-state-1", "record": record, "settings": SETTINGS.to_json()}
    save_file(tensors, path, metadata=known | metadata)
    return path


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(BadInputError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500, message[:600]
    return message


@pytest.mark.parametrize("text", [LONG, LINES])
def test_what_a_file_says_of_itself_is_not_repeated(text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "f", {"a": torch.zeros(1)}, format=text)
    assert "training state format" in refusal(lambda: saved_settings(path))
    assert "is not a DEDOS checkpoint" in refusal(lambda: load_checkpoint(path))


@pytest.mark.parametrize("value", [LONG, LINES, [1] * 9999, [[LONG]], {LINES: LONG}])
def test_settings_of_the_run_before_are_not_repeated(value: object) -> None:
    earlier = json.dumps(json.loads(SETTINGS.to_json()) | {"lr": value})
    assert "the run to resume has lr" in refusal(lambda: SETTINGS.check_continues(earlier))


@pytest.mark.parametrize("settings", ["", "{", "[1]", "null", '"text"', "NaN", LONG, "9" * 9999])
def test_settings_that_are_none(settings: str, tmp_path: Path) -> None:
    path = written(tmp_path / "run.state", {"a": torch.zeros(1)}, settings=settings)
    message = refusal(lambda: SETTINGS.check_continues(saved_settings(path)))
    assert "start a new run from --init checkpoint" in message


@pytest.mark.parametrize("kind", ["step", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("fault", ["missing", "shape", "whole numbers"])
def test_moments_that_its_optimizer_does_not_have(
    kind: str, fault: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    damaged = dict(tensors)
    for name in [name for name in tensors if name.endswith(f"/{kind}")]:
        if fault == "missing":
            del damaged[name]
        elif fault == "shape":
            damaged[name] = torch.zeros(3, 2)
        else:
            damaged[name] = tensors[name].to(torch.int32)
    path = written(tmp_path / "run.state", damaged)
    message = refusal(lambda: load_state(path, beginning()))
    assert "are not those of its optimizer" in message


def test_a_state_with_all_of_its_moments_goes_on(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    training = beginning()
    load_state(written(tmp_path / "run.state", tensors), training)
    take_a_step(training)
    assert training.step == 1


@pytest.mark.parametrize("record", [{"step": -1}, {"elapsed_s": -1.0}])
def test_a_record_before_the_beginning(record: dict[str, float], tmp_path: Path) -> None:
    values = {"step": 1, "elapsed_s": 2.0, "diffusion": None} | record
    path = written(tmp_path / "run.state", {"a": torch.zeros(1)}, record=json.dumps(values))
    assert "must not be negative" in refusal(lambda: load_state(path, beginning()))


def test_tensors_of_many_dimensions(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    name = next(name for name in tensors if name.startswith("model."))
    odd = dict(tensors) | {name: torch.zeros([1] * 5000)}
    path = written(tmp_path / "run.state", odd)
    assert "..., not [" in refusal(lambda: load_state(path, beginning()))
