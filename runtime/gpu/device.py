"""A GPU, as it describes itself."""

from __future__ import annotations

from dataclasses import dataclass

from dedos_deploy.runtime.gpu.cuda_errors import dotted


@dataclass(frozen=True)
class Device:
    """A GPU: its index, name, compute capability such as (8, 7), bytes of memory, whether it shares
    that memory with the CPU (Jetson), and the CUDA version its driver supports, such as 12060."""

    index: int
    name: str
    capability: tuple[int, int]
    memory: int
    integrated: bool
    driver: int

    @property
    def sm(self) -> str:
        """Compute capability as `8.7`."""
        return f"{self.capability[0]}.{self.capability[1]}"

    @property
    def driver_cuda(self) -> str:
        """The CUDA version that its driver supports, as `12.6`."""
        return dotted(self.driver)
