"""The contract that every engine fulfils, and what an engine is opened with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.engines.tensors import Infer, Tensors
from dedos_deploy.runtime.labelling import HostLabeller, Labeller, RunLabeller
from dedos_deploy.spec import GraphSpec


class Engine(Closing):
    """A compiled graph of `spec`, for one caller at a time; a `with` block closes it."""

    spec: GraphSpec
    """Names, shapes and dtypes of its tensors; set when it is opened."""

    max_slots: int | None = None
    """Largest number of slots K that it takes, None for any."""

    labels_on_device: bool = False
    """Whether `labeller` may leave frames on a GPU until they are labelled."""

    @abstractmethod
    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run `image`, `text` and `valid`, return the outputs of `spec`: `scores`, and `pooled` of a
        graph that gives it.

        The returned arrays are overwritten by the next call; copy what must outlive it.
        Raises EngineError.
        """

    def labeller(self, *, threads: int) -> Labeller:
        """Return the way to label whole frames on this engine; unless it has its own, on the host.

        threads: for the label map on the host. The caller closes what is returned, before the
        engine.
        """
        return self.host_labeller(threads=threads)

    def host_labeller(self, *, threads: int) -> HostLabeller:
        """Return the way to label on the host, where labels that are stable in time are made; as
        `labeller`."""
        return HostLabeller(self.spec, self.infer, threads=threads)

    def run_labellers(self, *, threads: int, on_host: bool = False) -> dict[int, RunLabeller]:
        """Return the ways to label several frames in one run, by their number; as `labeller`, which
        is for one, or, `on_host`, as `host_labeller`."""
        if self.spec.batch == 1:
            return {}
        return {self.spec.batch: HostLabeller(self.spec, self.infer, threads=threads)}

    def runs(self) -> dict[int, Infer]:
        """Return the ways to run the graph, `infer` and others, by the number of images that each takes."""
        return {self.spec.batch: self.infer}

    def facts(self) -> dict[str, Any]:
        """Return what reports say of this engine, as JSON values; nothing, unless it says more."""
        return {}

    def device_memory(self) -> int | None:
        """Return the bytes in use on its GPU, other programs included; None where it cannot tell."""
        return None


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is opened with."""

    threads: int | None = None
    """CPU threads, at most one per usable core, None for as many."""

    gpu: int = 0
    """Index of the GPU."""

    on_progress: Progress = QUIET
    """Told what is being done while an engine is built or checked, many times a second."""

    batch: int = 1
    """Most frames per run; the graphs for fewer that the bundle holds are opened, too."""
