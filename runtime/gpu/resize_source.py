"""Pixels on the device, as the resize kernels are told of them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong


@dataclass(frozen=True)
class ResizeSource:
    """What one of the kernels reads."""

    kernel: str

    size_hw: tuple[int, int]
    """Of the frame."""

    arguments: tuple[tuple[int, Any], ...]
    """The kernel's first ones, values with their ctypes types."""


def bgr_source(blue: int, size_hw: tuple[int, int], strides: tuple[int, int, int]) -> ResizeSource:
    """Return a frame of three channels.

    blue: address of the first pixel's; strides: bytes from row to row, pixel to pixel, and blue to
    green to red, each of which may be negative.
    """
    sizes = [(side, INT) for side in size_hw]
    steps = [(step, LONG) for step in strides]
    return ResizeSource("dedos_resize", size_hw, ((blue, POINTER), *sizes, *steps))


def nv12_source(
    planes: tuple[int, int], size_hw: tuple[int, int], pitches: tuple[int, int], matrix: int
) -> ResizeSource:
    """Return an NV12 frame: addresses of luma and chroma, and bytes from row to row of each.

    matrix: as `Nv12Frame.matrix_number`.
    """
    addresses = [(plane, POINTER) for plane in planes]
    sizes = [(side, INT) for side in size_hw]
    steps = [(pitch, LONG) for pitch in pitches]
    return ResizeSource("dedos_resize_nv12", size_hw, (*addresses, *sizes, *steps, (matrix, INT)))
