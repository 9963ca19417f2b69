"""Memory of an engine's tensors, as large as its largest slot bucket needs."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.runtime.gpu.cuda import Cuda, DeviceBuffer, PinnedArray
from dedos_deploy.spec import SLOT_BUCKETS, TensorSpec

_Owned = TypeVar("_Owned", bound=Closing)


class TensorMemory:
    """What is held of a GPU and of the host for one engine, until it is given up to be closed."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._held: list[Closing] = []
        self._pinned: dict[str, PinnedArray] = {}

    @property
    def device_bytes(self) -> int:
        """Bytes that are held on the device."""
        return sum(item.size for item in self._held if isinstance(item, DeviceBuffer))

    def device(self, tensor: TensorSpec) -> DeviceBuffer:
        """Return new memory on the device. Raises EngineError, as `host` does."""
        size = int(np.prod(_most_shape(tensor))) * np.dtype(tensor.dtype).itemsize
        return self.own(self._cuda.allocate(size, f"the engine's tensor {tensor.name!r}"))

    def host(self, tensor: TensorSpec) -> NDArray[Any]:
        """Return the page-locked side of a tensor on the host, the same one every time."""
        name = tensor.name
        if name not in self._pinned:
            shape, purpose = _most_shape(tensor), f"the host side of tensor {name!r}"
            self._pinned[name] = self.own(self._cuda.pinned(shape, tensor.dtype, purpose))
        return self._pinned[name].array

    def own(self, item: _Owned) -> _Owned:
        """Hold what was made elsewhere, and return it."""
        self._held.append(item)
        return item

    def given_up(self) -> list[Closing]:
        """Return all that is held, in the order in which it came, for the caller to close; nothing is then."""
        held, self._held, self._pinned = self._held, [], {}
        return held


def _most_shape(tensor: TensorSpec) -> tuple[int, ...]:
    return tuple(SLOT_BUCKETS[-1] if dim == "K" else int(dim) for dim in tensor.shape)
