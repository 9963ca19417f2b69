"""Scores that explain labels, on their way from the device to the host; only where they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.runtime.gpu.device_engine import DeviceEngine
from dedos_deploy.runtime.gpu.result_pool import ResultBlock, ResultPool


class ScoresUnderWay:
    """The scores of one frame; they are there when what was on the stream is done."""

    def __init__(self, block: ResultBlock, shape: tuple[int, ...], dtype: Any) -> None:
        self._block = block
        self._shape, self._dtype = shape, np.dtype(dtype)

    @property
    def bytes(self) -> NDArray[np.uint8]:
        """Where they come to lie."""
        return self._block.bytes[: int(np.prod(self._shape)) * self._dtype.itemsize]

    def array(self) -> NDArray[Any]:
        """Return them, [slots, h, w], for their receiver alone."""
        scores: NDArray[Any] = self.bytes.view(self._dtype).reshape(self._shape)
        return scores if self._block.lends else scores.copy()


class KeptScores(Closing):
    """Page-locked memory for scores, lent with them as label maps are."""

    def __init__(self, engine: DeviceEngine) -> None:
        """engine: stays the caller's."""
        self._engine = engine
        self._pool = ResultPool(engine.cuda, mapped=False)

    def fetch(self, slots: int, first: int = 0) -> ScoresUnderWay:
        """Put the way of a frame's scores on the stream; first: byte at which they begin."""
        engine = self._engine
        shape = (slots, *engine.spec.score_hw)
        self._pool.fit_bytes(int(np.prod(shape)) * np.dtype(engine.spec.score_dtype).itemsize)
        scores = ScoresUnderWay(self._pool.take(), shape, engine.spec.score_dtype)
        engine.cuda.download(scores.bytes, engine.scores.pointer + first, engine.stream)
        return scores

    def close(self) -> None:
        """Free what is not lent; the rest frees itself. May be called twice."""
        self._pool.close()
