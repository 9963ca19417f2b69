"""What a frame is labelled with on the device."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.gpu.cuda import Cuda, DeviceBuffer, Stream
from dedos_deploy.spec import GraphSpec


class DeviceEngine(Protocol):
    """What a frame is labelled with on the device: an engine whose buffers lie there."""

    spec: GraphSpec
    cuda: Cuda
    stream: Stream
    image: DeviceBuffer
    scores: DeviceBuffer
    pooled: DeviceBuffer | None
    """None for a graph that gives scores only."""

    text_of: object
    """Owner of the text that is on the device, as `set_text` was told."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the engine for one frame."""
        ...

    def set_text(
        self, text: NDArray[np.float32], valid: NDArray[np.float32], owner: object = None
    ) -> int:
        """Put text float32 [K, D] and valid float32 [K] on the device; return the padded K.

        Waits for what is on the stream, which may be a frame with other words.
        """
        ...

    def enqueue(self) -> None:
        """Put one run on the stream, from `image` to `scores` and `pooled`."""
        ...
