"""Segmentation nets of fixed classes in ONNX, such as DeepLab's."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError


class SegmentationNet:
    """`image` float32 [1, 3, h, w] RGB 0..255 to `logits` [1, C, h', w'], on the CPU.

    channels: C that is expected; threads: None for one per usable core.

    Raises BadInputError when the file is no such net.
    """

    def __init__(
        self, path: str | os.PathLike[str], channels: int, *, threads: int | None = None
    ) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        from dedos_deploy.runtime.onnx_engine import session_options

        name = repr(os.fspath(path))
        unreadable = (state.Fail, state.InvalidProtobuf, state.InvalidGraph, state.NoSuchFile)
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), session_options(threads), providers=["CPUExecutionProvider"]
            )
            outputs = {output.name: output.shape for output in self._session.get_outputs()}
            found = outputs["logits"][1]
        except (KeyError, *unreadable) as error:
            raise BadInputError(
                f"{name} is no segmentation net with an input `image` and an output `logits` in "
                "ONNX; convert it to one"
            ) from error
        if found != channels:
            raise BadInputError(
                f"{name} has {found} channels, but {channels} words were given for them; give one "
                "word for each"
            )

    def logits(
        self, image_bgr: NDArray[np.uint8], side: float, *, mirrored: bool = False
    ) -> NDArray[np.float32]:
        """Return logits float32 [H, W, C] for uint8 [H, W, 3], seen with its longest side at `side`.

        mirrored: show the net the mirror image, and mirror its answer back. What it sees has sides
        16 k + 1, at which these nets keep the pixel grid aligned.
        """
        import cv2

        height, width = image_bgr.shape[:2]
        scale = side / max(height, width)
        size_wh = (_aligned(width * scale), _aligned(height * scale))
        step = -1 if mirrored else 1
        seen = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_LINEAR)[:, ::step]
        image = seen[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        (found,) = self._session.run(["logits"], {"image": image})
        maps = np.ascontiguousarray(found[0].transpose(1, 2, 0)[:, ::step])
        full = cv2.resize(maps, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(full, np.float32).reshape(height, width, -1)


def _aligned(edge: float) -> int:
    return max(1, round((edge - 1) / 16)) * 16 + 1
