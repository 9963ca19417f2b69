"""Pictures as cameras and video decoders have them: luma, and chroma at half the size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.foreign_arrays import host_array, is_array, type_name

Matrix = Literal["bt601", "bt709"]
_MATRICES = ("bt601", "bt709")


@dataclass(frozen=True, eq=False, repr=False)
class Nv12Frame:
    """A picture in NV12, both planes on the host or both on one GPU.

    `segment` takes it wherever a frame in BGR goes: an engine on the GPU converts while it resizes,
    on the host it is converted once, to the same levels to the bit.
    """

    luma: Any
    """uint8 [H, W], H and W even: of numpy, or with `__dlpack__` or `__cuda_array_interface__`; rows
    may be apart (pitch)."""

    chroma: Any
    """uint8 [H / 2, W], U and V in turn, or [H / 2, W / 2, 2]; of the same kind."""

    matrix: Matrix = "bt601"
    """What chroma means: `bt601`, which OpenCV assumes, or `bt709`, usual from 720 rows on."""

    full_range: bool = False
    """Whether luma goes from 0 to 255 and not from 16 to 235."""

    def __post_init__(self) -> None:
        if self.matrix not in _MATRICES:
            raise BadInputError(
                f"matrix {self.matrix!r} is unknown; it is one of {', '.join(_MATRICES)}"
            )
        for name in ("luma", "chroma"):
            given = getattr(self, name)
            if not is_array(given):
                raise BadInputError(
                    f"{name} of an NV12 frame must be an array uint8, of numpy or with __dlpack__ or "
                    f"__cuda_array_interface__, not a {type_name(given)}"
                )
            there = host_array(given)
            object.__setattr__(self, name, given if there is None else there)
        planes = self.luma, self.chroma
        if len({isinstance(plane, np.ndarray) for plane in planes}) == 2:
            raise BadInputError(
                "luma and chroma of an NV12 frame must both lie on the host or both on a GPU; copy one"
            )
        if not self.on_device:
            luma, chroma = planes
            if luma.dtype != np.uint8 or chroma.dtype != np.uint8:
                raise BadInputError(
                    f"planes of an NV12 frame must have dtype uint8, not {luma.dtype} and "
                    f"{chroma.dtype}; 10 bits (P010) must be shifted down first"
                )
            check_planes(luma.shape, chroma.shape)
            object.__setattr__(self, "chroma", _in_rows(chroma))

    @classmethod
    def from_rows(
        cls, rows: NDArray[np.uint8], *, matrix: Matrix = "bt601", full_range: bool = False
    ) -> Nv12Frame:
        """Return the frame in uint8 [H * 3 / 2, W], chroma below luma, as OpenCV has it."""
        height = len(rows) * 2 // 3
        return cls(rows[:height], rows[height:], matrix, full_range)

    @property
    def on_device(self) -> bool:
        """Whether the planes lie on a GPU."""
        return not isinstance(self.luma, np.ndarray)

    @property
    def matrix_number(self) -> int:
        """The matrix as `_native.nv12_to_bgr` and the kernels count them."""
        return 2 * _MATRICES.index(self.matrix) + self.full_range

    @cached_property
    def frame_bgr(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3], converted when it is first asked for; of planes on the host."""
        import cv2

        assert not self.on_device, "whoever reads planes on a GPU does so there"
        height, width = self.luma.shape
        bgr = np.empty((height, width, 3), np.uint8)
        # The same levels to the bit, and several times faster, for the one matrix that OpenCV has.
        if self.matrix_number == 0 and self.luma.strides[1] == self.chroma.strides[1] == 1:
            pairs = self.chroma.reshape(height // 2, width // 2, 2)
            cv2.cvtColorTwoPlane(self.luma, pairs, cv2.COLOR_YUV2BGR_NV12, dst=bgr)
            return bgr
        from dedos_deploy import _native

        luma, chroma = (np.ascontiguousarray(plane) for plane in (self.luma, self.chroma))
        _native.nv12_to_bgr(luma, chroma, bgr, self.matrix_number)
        return bgr

    def __repr__(self) -> str:
        where = type_name(self.luma) if self.on_device else "{}x{}".format(*self.luma.shape)
        scale = ", full range" if self.full_range else ""
        return f"Nv12Frame({where}, {self.matrix}{scale})"


def check_planes(size: tuple[int, ...], half: tuple[int, ...]) -> None:
    """Raise BadInputError unless luma and chroma of these shapes make an NV12 frame."""
    even = len(size) == 2 and min(size) > 0 and not any(side % 2 for side in size)
    if not even or tuple(half) not in (
        (size[0] // 2, size[1]),
        (size[0] // 2, size[1] // 2, 2),
    ):
        raise BadInputError(
            "an NV12 frame must have luma [H, W] with even sides and chroma [H / 2, W] or "
            f"[H / 2, W / 2, 2], not {list(size)} and {list(half)}; crop the padding of a decoder"
        )


def _in_rows(chroma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return chroma if chroma.ndim == 2 else chroma.reshape(len(chroma), -1)
