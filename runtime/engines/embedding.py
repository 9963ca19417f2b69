"""The graph of dense embeddings that words by example are made with, in ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.borders import NO_RETRY, foreign, spoken_reason
from dedos_deploy.closing import Closing
from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.engines.onnx_runtime import (
    failed_on_frame,
    release_freed_memory,
    session_options,
    tensors_of,
    unloadable,
)
from dedos_deploy.runtime.engines.tensors import check_tensors
from dedos_deploy.spec import GraphSpec


class EmbeddingEngine(Closing):
    """Pictures to what is where in them; on the CPU whatever the image graph runs on, since it is asked
    for a few frames at a time and never by the camera's loop."""

    def __init__(self, graph: Path, spec: GraphSpec, *, threads: int | None = None) -> None:
        """Load `graph`, an ONNX file image -> embedding of the sizes of `spec`.

        Raises EngineError when the file is damaged or another graph.
        """
        import onnxruntime

        self._spec = spec
        with foreign(partial(unloadable, graph.name), reason=spoken_reason):
            self._session: Any = onnxruntime.InferenceSession(
                os.fspath(graph),
                session_options(threads),
                providers=["CPUExecutionProvider"],
                **NO_RETRY,
            )
        release_freed_memory()
        found = tensors_of(self._session, graph.name)
        _, sides = found.get(spec.embedding.name, ("", []))
        # How fine they are is the model's own choice.
        hw = tuple(sides[2:]) if len(sides) == 4 else ("h", "w")
        embedding = replace(spec.embedding, shape=(*spec.embedding.shape[:2], *hw))
        check_tensors(found, (spec.image, embedding), graph.name)

    @property
    def size_hwc(self) -> tuple[int, int, int]:
        """Height, width and channels of the pictures that it takes."""
        return self._spec.height, self._spec.width, 3

    def embed(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 [D, h, w] of a picture uint8 [H0, W0, 3] BGR of network size.

        Raises EngineError when the graph fails or gives something that is not a number.
        """
        if self._session is None:
            raise EngineError("this engine is closed; open it again")
        with foreign(failed_on_frame, reason=spoken_reason):
            (found,) = self._session.run([self._spec.embedding.name], {"image": image[None]})
        embedding: NDArray[np.float32] = found[0]
        if not np.isfinite(embedding).all():
            raise EngineError(
                "the graph for words by example gave something that is not a number; export the bundle "
                "again"
            )
        return embedding

    def close(self) -> None:
        """Release the graph; may be called twice."""
        self._session = None
