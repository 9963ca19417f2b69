"""Engines of one model, each for another number of frames per run, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from numpy.typing import NDArray

from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.engines.tensors import Infer, Tensors
from dedos_deploy.runtime.labelling import HostLabeller, Labeller, RunLabeller


class BatchedEngine(Engine):
    """An engine for one frame per run, with others for more beside it."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        """engines: by growing number of frames; closed with this."""
        self._engines = tuple(engines)
        self._first = engines[0]
        self.spec, self.max_slots = self._first.spec, self._first.max_slots
        self.labels_on_device = self._first.labels_on_device

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run the graph for one frame; see Engine.infer."""
        return self._first.infer(inputs)

    def labeller(self, *, threads: int) -> Labeller:
        return self._first.labeller(threads=threads)

    def host_labeller(self, *, threads: int) -> HostLabeller:
        return self._first.host_labeller(threads=threads)

    def run_labellers(self, *, threads: int, on_host: bool = False) -> dict[int, RunLabeller]:
        found: dict[int, RunLabeller] = {}
        with ExitStack() as opened:
            for engine in self._engines:
                several = engine.run_labellers(threads=threads, on_host=on_host)
                for batch, labeller in several.items():
                    opened.callback(labeller.close)
                    found[batch] = labeller
            opened.pop_all()
        return found

    def runs(self) -> dict[int, Infer]:
        return {batch: infer for engine in self._engines for batch, infer in engine.runs().items()}

    def facts(self) -> dict[str, Any]:
        """Return what the first says of itself, and `batches`, the numbers of frames per run."""
        return {**self._first.facts(), "batches": [one.spec.batch for one in self._engines]}

    def device_memory(self) -> int | None:
        return self._first.device_memory()

    def close(self) -> None:
        """Close all of them, the last first; may be called twice."""
        with ExitStack() as closing:
            for engine in self._engines:
                closing.callback(engine.close)
