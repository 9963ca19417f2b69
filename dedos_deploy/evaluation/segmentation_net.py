"""Segmentation nets of fixed classes in ONNX, such as DeepLab's."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.borders import NO_RETRY, foreign, spoken_reason
from dedos_deploy.errors import BadInputError
from dedos_deploy.files import check_regular


class SegmentationNet:
    """`image` float32 [1, 3, h, w] RGB 0..255 to `logits` [1, C, h', w'], on the CPU.

    channels: C that is expected; threads: None for one per usable core.

    Raises BadInputError when the file is no such net.
    """

    def __init__(
        self, path: str | os.PathLike[str], channels: int, *, threads: int | None = None
    ) -> None:
        import onnxruntime

        from dedos_deploy.runtime.engines.onnx_runtime import session_options

        name = self._name = repr(os.fspath(path))
        with foreign(self._refused, reason=spoken_reason):
            check_regular(path)
            self._session = onnxruntime.InferenceSession(
                os.fspath(path),
                session_options(threads),
                providers=["CPUExecutionProvider"],
                **NO_RETRY,
            )
            shapes = {output.name: output.shape for output in self._session.get_outputs()}
        if len(shapes.get("logits", [])) < 2:
            raise self._refused("it has no output `logits` of pictures")
        found = shapes["logits"][1]
        if found != channels:
            raise BadInputError(
                f"{name} has {found} channels, but {channels} words were given for them; give one "
                "word for each"
            )

    def _refused(self, reason: str) -> BadInputError:
        return BadInputError(
            f"{self._name} is no segmentation net with an input `image` and an output `logits` in "
            f"ONNX ({reason}); convert it to one"
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
        with foreign(self._refused, reason=spoken_reason):
            (found,) = self._session.run(["logits"], {"image": image})
        maps = np.ascontiguousarray(found[0].transpose(1, 2, 0)[:, ::step])
        full = cv2.resize(maps, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(full, np.float32).reshape(height, width, -1)


def _aligned(edge: float) -> int:
    return max(1, round((edge - 1) / 16)) * 16 + 1
