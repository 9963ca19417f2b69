"""Arrays of other libraries on the GPU, by DLPack or the CUDA array interface: where their bytes lie
and which stream writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.foreign_arrays import type_name
from dedos_deploy.runtime.gpu.cuda import Cuda, Stream
from dedos_deploy.runtime.pixels import DEFAULT_STREAM

_MAX_VERSION = (1, 1)
"""Newest DLPack that is understood."""

_BYTES = ("|u1", "<u1", ">u1")


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array uint8 on the GPU that somebody else owns; nothing was copied and nothing waited for."""

    pointer: int
    """Address of its first element."""

    shape: tuple[int, ...]

    strides: tuple[int, ...]
    """In bytes."""

    writer: int | None
    """Stream whose work so far must be done before it is read, None where nothing must."""

    held: object
    """Keeps the memory; let go of when nothing reads it any more."""


def device_array(given: Any, cuda: Cuda, reader: Stream) -> DeviceArray:
    """Return what a library says of its array.

    reader: the stream that will read it; a DLPack producer makes it wait by itself. Raises
    BadInputError for memory of another device or dtype, or a protocol that is not kept.
    """
    if hasattr(given, "__dlpack__") and hasattr(given, "__dlpack_device__"):
        return _by_dlpack(given, cuda, reader)
    try:
        return _by_interface(given, cuda, given.__cuda_array_interface__)
    except BadInputError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadInputError(
            f"a {type_name(given)} keeps neither to DLPack nor to __cuda_array_interface__ "
            f"({type(error).__name__}: {error}); give an array of a library that does"
        ) from error


def _by_dlpack(given: Any, cuda: Cuda, reader: Stream) -> DeviceArray:
    from dedos_deploy import _native

    device = int(given.__dlpack_device__()[1])
    if device != cuda.device.index:
        raise _elsewhere(given, device, cuda)
    try:
        capsule = _capsule(given, reader.handle)
        taken = _native.dlpack_take(capsule)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        # What a library says of its own tensor, such as torch of one that has a gradient.
        raise BadInputError(f"a {type_name(given)} cannot be read as it is: {error}") from error
    pointer, shape, strides, is_bytes, _, _, _, held = taken
    if not is_bytes:
        raise _not_bytes(given)
    return DeviceArray(pointer, shape, strides, None, held)


def _capsule(given: Any, stream: int) -> Any:
    try:
        return given.__dlpack__(stream=stream, max_version=_MAX_VERSION)
    except TypeError:
        # Of before 2023, when the version was not asked for yet.
        return given.__dlpack__(stream=stream)


def _by_interface(given: Any, cuda: Cuda, told: Any) -> DeviceArray:
    version = told.get("version", 0)
    if version > 3:
        raise BadInputError(
            f"a {type_name(given)} has version {version} of __cuda_array_interface__, but 3 is the "
            "newest that is understood"
        )
    if told["typestr"] not in _BYTES:
        raise _not_bytes(given)
    if told.get("mask") is not None:
        raise BadInputError(
            f"a {type_name(given)} has a mask, which a frame cannot have; fill it in"
        )
    pointer, shape = int(told["data"][0]), tuple(map(int, told["shape"]))
    place = cuda.device_of(pointer)
    if place != cuda.device.index and 0 not in shape:
        raise _elsewhere(given, place, cuda)
    strides = told.get("strides")
    # Before version 3 nothing was said of streams, and most wrote on the default one.
    writer = told.get("stream") if version >= 3 else DEFAULT_STREAM
    if writer == 0:
        raise BadInputError(
            f"a {type_name(given)} names stream 0, which __cuda_array_interface__ forbids; 1 is the "
            "default stream, 2 that of the thread"
        )
    steps = _steps(shape) if strides is None else tuple(map(int, strides))
    return DeviceArray(pointer, shape, steps, writer, given)


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of an array of bytes in C order."""
    steps, step = [], 1
    for side in reversed(shape):
        steps.append(step)
        step *= side
    return tuple(reversed(steps))


def _elsewhere(given: object, device: int | None, cuda: Cuda) -> BadInputError:
    where = "not on a GPU" if device is None else f"on GPU {device}"
    return BadInputError(
        f"a {type_name(given)} lies {where}, but this engine is on GPU {cuda.device.index}; copy it "
        "there, or open the engine with that gpu"
    )


def _not_bytes(given: object) -> BadInputError:
    return BadInputError(
        f"a {type_name(given)} as a frame must have dtype uint8 with values 0 to 255; convert it "
        "before segmenting"
    )
