"""Checkpoints, training states and vocabulary files."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.subject import Limits, Subject
from fuzzing.tensor_files import mutate_safetensors, settled

_ATTACKS = str(Path(__file__).parents[2] / "tests" / "attack")
_WORDS = ("red", "green", "blue")


class Checkpoints(Subject):
    """Files of safetensors by which models are kept, and runs go on."""

    name = "checkpoints"
    # Optimizers import the compiler late, which takes seconds: once is enough.
    preload = (
        "torch",
        "torch._dynamo",
        "safetensors.torch",
        "dedos_deploy.model",
        "dedos_deploy.training.state",
    )
    limits = Limits(memory_mb=1024)

    def write_seeds(self, folder: Path) -> None:
        import numpy as np

        from dedos_deploy.model.checkpoint import save_checkpoint
        from dedos_deploy.training.state import save_state
        from dedos_deploy.vocabulary_file import save_vocabulary

        training, settings = beginning()
        save_checkpoint(folder / "plain.checkpoint", training.model, extra={"sources": ["scenes"]})
        save_checkpoint(folder / "compact.checkpoint", training.model, compact=True)
        training.optimizer.zero_grad(set_to_none=False)
        for parameter in training.model.parameters():
            parameter.grad = parameter.detach() * 0
        training.optimizer.step()
        save_state(folder / "run.state", training, settings.to_json())
        rows = np.eye(len(_WORDS), 8, dtype=np.float32)
        save_vocabulary(folder / "words.vocabulary", _WORDS, rows, {"tower": "0f"})
        for path in folder.iterdir():
            path.write_bytes(settled(path.read_bytes()))

    def open(self, seeds: Path) -> None:
        self._files = {path.name: path.read_bytes() for path in sorted(seeds.iterdir())}
        self._training, self._settings = beginning()

    def whole(self, folder: Path) -> Iterator[Path]:
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
            yield folder / name

    def make(self, random: Random, folder: Path) -> Path:
        name = random.choice(sorted(self._files))
        path = folder / name
        path.write_bytes(mutate_safetensors(self._files[name], random))
        return path

    def attempt(self, made: Path) -> None:
        from dedos_deploy.model.checkpoint import load_checkpoint
        from dedos_deploy.vocabulary_file import read_vocabulary_file

        readers: dict[str, Callable[[Path], object]] = {
            ".checkpoint": load_checkpoint,
            ".vocabulary": read_vocabulary_file,
            ".state": self._go_on,
        }
        readers[made.suffix](made)

    def _go_on(self, path: Path) -> None:
        """Continue a run for a step, as training does."""
        from dedos_deploy.training.state import load_state, saved_settings

        self._settings.check_continues(saved_settings(path))
        training = copy.deepcopy(self._training)
        load_state(path, training)
        for parameter in training.model.parameters():
            parameter.grad = parameter.detach() * 0
        training.optimizer.step()


def beginning() -> tuple[Any, Any]:
    """Return a run of a model of a few channels before its first step, and its settings."""
    import torch

    if _ATTACKS not in sys.path:
        sys.path.insert(0, _ATTACKS)
    from attack_micro import micro

    from dedos_deploy.model import build_model
    from dedos_deploy.training.optimizer import build_optimizer
    from dedos_deploy.training.settings import TrainSettings
    from dedos_deploy.training.state import Training

    # One thread: what a fork leaves of more is not usable.
    torch.set_num_threads(1)
    model = build_model(micro(), seed=0)
    settings = TrainSettings("miniature", ("folder",))
    return Training(model, build_optimizer(model, settings), None), settings
