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


Kept = tuple[OutputUnderWay | None, OutputUnderWay | None]
"""Scores [slots, h, w] and pooled features [P] of one frame; None for what is not kept."""


def array_of(output: OutputUnderWay | None) -> NDArray[Any] | None:
    """Return an output that has come, for its receiver alone; None for none."""
    return None if output is None else output.array()


class KeptOutputs(Closing):
    """Page-locked memory for outputs, lent with them as label maps are."""

    def __init__(self, engine: DeviceEngine) -> None:
        """engine: stays the caller's."""
        self._engine = engine
        # Blocks of a pool have one size, and features are a thousandth of the scores.
        self._of_scores = ResultPool(engine.cuda, mapped=False)
        self._of_pooled = ResultPool(engine.cuda, mapped=False)

    def fetch(self, slots: int | None, *, first: int = 0, row: int = 0) -> Kept:
        """Put the way of a frame's outputs on the stream.

        slots: of its scores, None to leave these; first: byte at which they begin; row: of the frame in
        the run. Features come wherever the graph gives them.
        """
        spec, pooled = self._engine.spec, self._engine.pooled
        scores: OutputUnderWay | None = None
        if slots is not None:
            begin = self._engine.scores.pointer + first
            shape = (slots, *spec.score_hw)
            scores = self._fetch(self._of_scores, begin, shape, spec.score_dtype)
        if pooled is None:
            return scores, None
        begin = pooled.pointer + row * pooled.size // spec.batch
        found = self._fetch(self._of_pooled, begin, (spec.pooled_width,), spec.pooled.dtype)
        return scores, found

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
