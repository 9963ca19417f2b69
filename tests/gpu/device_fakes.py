"""Arrays that other libraries have on a fake GPU, written and read on streams of theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
from fake_cuda import FakeCuda
from numpy.typing import NDArray

from dedos_deploy import _native


class FakeLibrary:
    """A library such as CuPy: memory on the device and a stream of its own."""

    def __init__(self, fake: FakeCuda) -> None:
        self.fake = fake
        fake.runtime.cudaSetDevice(0)
        self.stream: int = fake.runtime.cudaStreamCreateWithFlags(1)[1]
        self.lines: list[NDArray[Any]] = []

    def put(self, values: NDArray[Any], *, stream: int | None = None) -> Block:
        """Return memory into which `values` will be written, in order on a stream."""
        return Block(self, values, self.stream if stream is None else stream)

    def read(self, array: Any) -> list[NDArray[Any]]:
        """Read an array of another library, by its DLPack, in order on our stream; the list gets what
        was found once the stream came so far."""
        capsule = array.__dlpack__(stream=self.stream, max_version=(1, 1))
        address, shape, *_, held = _native.dlpack_take(capsule)
        return self.read_at(address, shape, array.dtype, held)

    def read_at(self, address: int, shape: Any, dtype: Any, held: Any) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = []
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize

        def copy() -> None:
            found.append(self.fake.must_view(address, size).view(dtype).reshape(shape).copy())

        assert self.fake.queue(self.stream, copy)
        del held  # let go at once: whoever lent the memory must wait for our stream
        return found

    def finish(self) -> None:
        assert self.fake.runtime.cudaStreamSynchronize(self.stream)[0] == 0


class Block:
    """Bytes on the device in the shape and strides of a numpy array."""

    def __init__(self, library: FakeLibrary, values: NDArray[Any], stream: int) -> None:
        self.library, self.stream, self.values = library, stream, values
        base = values
        while isinstance(base.base, np.ndarray):
            base = base.base
        self._base = base
        self.address = library.fake.allocate(base.nbytes, "device")
        self.pointer = self.address + values.ctypes.data - base.ctypes.data
        self.freed = False
        self.overwrite(base)

    def overwrite(self, values: NDArray[Any]) -> None:
        """Put a writing of the whole memory on the stream."""
        fake, size = self.library.fake, self._base.nbytes
        content = np.frombuffer(self._base.tobytes(order="A"), np.uint8)
        if values is not self._base:
            content = np.broadcast_to(values, self._base.shape).reshape(-1)

        def write() -> None:
            fake.must_view(self.address, size)[:] = content

        assert fake.queue(self.stream, write)

    def interface(self, **changes: Any) -> ByInterface:
        return ByInterface(self, changes)

    def dlpack(self, *, old: bool = False, device: int = 0) -> ByDlpack:
        return OldDlpack(self, device) if old else ByDlpack(self, device)


class ByInterface:
    """An array as CuPy, Numba and CV-CUDA tell of it."""

    def __init__(self, block: Block, changes: dict[str, Any]) -> None:
        self.block, self._changes = block, changes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        values = self.block.values
        told = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.block.pointer, False),
            "strides": None if values.flags.c_contiguous else values.strides,
            "stream": self.block.stream,
            "version": 3,
        }
        return {**told, **self._changes}


class ByDlpack:
    """An array as torch and JAX give it: the producer makes the consumer's stream wait."""

    def __init__(self, block: Block, device: int) -> None:
        self.block, self._device = block, device
        self.versions: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._device

    def __dlpack__(self, *, stream: int, max_version: Any = None) -> object:
        return self._capsule(stream, max_version)

    def _capsule(self, stream: int, max_version: Any) -> object:
        block, runtime = self.block, self.block.library.fake.runtime
        self.versions.append(max_version)
        event = runtime.cudaEventCreateWithFlags(0)[1]
        assert runtime.cudaEventRecord(event, block.stream)[0] == 0
        assert runtime.cudaStreamWaitEvent(stream, event, 0)[0] == 0
        runtime.cudaEventDestroy(event)
        shape = block.values.shape
        return _native.dlpack_give(
            self, block.pointer, shape, block.values.itemsize, 2, self._device, bool(max_version)
        )


class OldDlpack(ByDlpack):
    """Of before 2023."""

    def __dlpack__(self, *, stream: int) -> object:  # type: ignore[override]
        return self._capsule(stream, None)
