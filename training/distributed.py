"""Several processes, GPUs or machines under torchrun, through Hugging Face accelerate.

The trained part is small (25 M parameters, 100 MB of gradients), so gradients are added up once
per step, after the last micro-batch, instead of wrapping the model: no unused-parameter search, and
a step means the same however many processes share it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Protocol

import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError, require

WAIT = timedelta(hours=6)
"""How long a process waits for the others before it gives up."""


class Processes(Protocol):
    """The processes of one run: `rank` of `count`; rank 0 writes files and talks."""

    rank: int
    count: int
    device: torch.device

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the values added up over processes, in float64."""
        ...

    def add_tensor(self, value: Tensor) -> Tensor:
        """Return `value` added up over processes."""
        ...

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in place; the same ones must be missing in all."""
        ...

    def wait(self) -> None:
        """Return when every process has come here."""
        ...

    def close(self) -> None:
        """End the connection to the other processes."""
        ...


class OneProcess:
    """A run without torchrun."""

    rank, count = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def sum(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def add_tensor(self, value: Tensor) -> Tensor:
        return value

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        pass

    def wait(self) -> None:
        pass

    def close(self) -> None:
        pass


class Launched:
    """One of the processes that torchrun started; gloo on CPUs, NCCL on GPUs."""

    def __init__(self, *, cpu: bool) -> None:
        accelerate = require("accelerate", extra="train", purpose="training in several processes")
        # The others wait while the first one evaluates, which may take longer than the usual limit.
        patient = accelerate.utils.InitProcessGroupKwargs(timeout=WAIT)
        self._accelerator = accelerate.Accelerator(cpu=cpu, kwargs_handlers=[patient])
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self.device: torch.device = self._accelerator.device

    def sum(self, values: Sequence[float]) -> list[float]:
        total = self.add_tensor(torch.tensor(values, dtype=torch.float64, device=self.device))
        return [float(value) for value in total]

    def add_tensor(self, value: Tensor) -> Tensor:
        total: Tensor = self._accelerator.reduce(value, reduction="sum")
        return total

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        found = [p.grad for p in parameters if p.grad is not None]
        total = self.add_tensor(torch.cat([gradient.flatten() for gradient in found]))
        start = 0
        for gradient in found:
            part = total[start : start + gradient.numel()]
            gradient.copy_(part.view_as(gradient))
            start += gradient.numel()

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        self._accelerator.end_training()


def choose_device(name: str) -> torch.device:
    """Return the device that `name`, auto, cpu or cuda, means here.

    Raises BadInputError for cuda where torch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInputError(
            "torch finds no CUDA device; use --device cpu or install its CUDA build"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def open_processes(device: str) -> Processes:
    """Return the processes of this run, as torchrun's environment says.

    device: auto, cpu or cuda. Raises BadInputError for cuda without a CUDA device.
    """
    cpu = choose_device(device).type == "cpu"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Launched(cpu=cpu)
    return OneProcess(torch.device("cpu" if cpu else "cuda"))
