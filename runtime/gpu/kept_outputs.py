"""Outputs of an engine on their way from the device to the host: scores that explain labels, where they
are asked for, and pooled features, where the graph gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.runtime.gpu.cuda import close_all
from dedos_deploy.runtime.gpu.device_engine import DeviceEngine
from dedos_deploy.runtime.gpu.result_pool import ResultBlock, ResultPool


class OutputUnderWay:
    """An output of one frame; it is there when what was on the stream is done."""

    def __init__(self, block: ResultBlock, shape: tuple[int, ...], dtype: Any) -> None:
        self._block = block
        self._shape, self._dtype = shape, np.dtype(dtype)

    @property
    def bytes(self) -> NDArray[np.uint8]:
        """Where it comes to lie."""
        return self._block.bytes[: int(np.prod(self._shape)) * self._dtype.itemsize]

    def array(self) -> NDArray[Any]:
        """Return it, for its receiver alone."""
        values: NDArray[Any] = self.bytes.view(self._dtype).reshape(self._shape)
        return values if self._block.lends else values.copy()


class KeptOutputs(Closing):
    """Page-locked memory for outputs, lent with them as label maps are."""

    def __init__(self, engine: DeviceEngine) -> None:
        """engine: stays the caller's."""
        self._engine = engine
        # Blocks of a pool have one size, and features are a thousandth of the scores.
        self._of_scores = ResultPool(engine.cuda, mapped=False)
        self._of_pooled = ResultPool(engine.cuda, mapped=False)

    def scores(self, slots: int, first: int = 0) -> OutputUnderWay:
        """Put the way of a frame's scores, [slots, h, w], on the stream; first: byte at which they
        begin."""
        spec = self._engine.spec
        pointer = self._engine.scores.pointer + first
        return self._fetch(self._of_scores, pointer, (slots, *spec.score_hw), spec.score_dtype)

    def pooled(self, row: int = 0) -> OutputUnderWay | None:
        """Put the way of a row of pooled features, [P], on the stream; None where there are none."""
        spec, pooled = self._engine.spec, self._engine.pooled
        if pooled is None:
            return None
        shape, dtype = spec.pooled.shape[1:], np.dtype(spec.pooled.dtype)
        pointer = pooled.pointer + row * spec.pooled_width * dtype.itemsize
        return self._fetch(self._of_pooled, pointer, tuple(map(int, shape)), dtype)

    def close(self) -> None:
        """Free what is not lent; the rest frees itself. May be called twice."""
        close_all([self._of_scores, self._of_pooled])

    def _fetch(
        self, pool: ResultPool, pointer: int, shape: tuple[int, ...], dtype: Any
    ) -> OutputUnderWay:
        pool.fit_bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        output = OutputUnderWay(pool.take(), shape, dtype)
        self._engine.cuda.download(output.bytes, pointer, self._engine.stream)
        return output
