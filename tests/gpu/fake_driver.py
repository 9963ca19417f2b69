"""A stand-in for cuda-python's `driver`: the kernels are the functions of the real ones, run on the CPU."""

from __future__ import annotations

import ctypes
import enum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fake_cuda import FakeCuda


class DriverStatus(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_INVALID_PTX = 218
    CUDA_ERROR_JIT_COMPILER_NOT_FOUND = 221
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222
    CUDA_ERROR_JIT_COMPILATION_DISABLED = 223
    CUDA_ERROR_SHARED_OBJECT_INIT_FAILED = 303
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
SIGNATURES = {
    "dedos_resize": (_POINTER, _INT, _INT, _LONG, _LONG, _LONG, _POINTER, _INT, _INT),
    "dedos_resize_nv12": (
        *(_POINTER, _POINTER, _INT, _INT, _LONG, _LONG, _INT),
        *(_POINTER, _INT, _INT),
    ),
    **{
        f"dedos_leaders_{kind}": (_POINTER, _INT, _INT, _INT, _POINTER, _POINTER)
        for kind in ("f32", "f16")
    },
    **{
        f"dedos_rivals_{kind}": (_POINTER, _INT, _INT, _INT, _POINTER, _POINTER)
        for kind in ("f32", "f16")
    },
    **{
        f"dedos_labels_{kind}_{ids}": (
            _POINTER,
            _INT,
            _INT,
            _INT,
            _POINTER,
            _POINTER,
            _POINTER,
            _POINTER,
            _POINTER,
            _POINTER,
            _INT,
            _INT,
            _POINTER,
            _INT,
        )
        for kind in ("f32", "f16")
        for ids in ("u8", "u16")
    },
}


class FakeDriver:
    """Functions of cuda.bindings.driver that the package calls."""

    CUresult = DriverStatus

    def __init__(self, fake: FakeCuda) -> None:
        self._fake = fake

    def cuModuleLoadData(self, image: bytes) -> Any:
        if "cuModuleLoadData" in self._fake.faults:
            return self._fake.fault("cuModuleLoadData")
        handle = self._fake.new_handle()
        self._fake.modules.add(handle)
        return DriverStatus.CUDA_SUCCESS, handle

    def cuModuleUnload(self, module: int) -> Any:
        self._fake.modules.remove(module)
        return (DriverStatus.CUDA_SUCCESS,)

    def cuModuleGetFunction(self, module: int, name: bytes) -> Any:
        assert module in self._fake.modules
        if "cuModuleGetFunction" in self._fake.faults:
            return self._fake.faults.pop("cuModuleGetFunction"), None
        if name.decode() not in SIGNATURES:
            return DriverStatus.CUDA_ERROR_NOT_FOUND, None
        return DriverStatus.CUDA_SUCCESS, name.decode()

    def cuLaunchKernel(
        self,
        function: str,
        gx: int,
        gy: int,
        gz: int,
        bx: int,
        by: int,
        bz: int,
        shared: int,
        stream: int,
        parameters: Any,
        extra: int,
    ) -> Any:
        if "cuLaunchKernel" in self._fake.faults:
            return self._fake.fault("cuLaunchKernel")[:1]
        values, types = parameters
        assert self._fake.ready.device, "no context in this thread"
        if tuple(types) != SIGNATURES[function] or bx * by * bz > 256 or min(gx, gy, gz) < 1:
            return (DriverStatus.CUDA_ERROR_INVALID_VALUE,)
        threads = (gx * bx, gy * by)
        queued = self._fake.queue(stream, lambda: self._run(function, values, threads))
        return (DriverStatus.CUDA_SUCCESS if queued else DriverStatus.CUDA_ERROR_INVALID_VALUE,)

    def _run(self, name: str, values: tuple[int, ...], threads: tuple[int, int]) -> None:
        assert self._fake.host is not None, "this test needs the compiled functions"
        self._fake.spend(name)
        if name == "dedos_resize":
            self._resize(values, threads)
        elif name == "dedos_resize_nv12":
            self._resize_nv12(values, threads)
        elif name.startswith("dedos_leaders"):
            self._leaders(name, values, threads)
        elif name.startswith("dedos_rivals"):
            self._rivals(name, values, threads)
        else:
            self._labels(name, values, threads)

    def _resize(self, values: tuple[int, ...], threads: tuple[int, int]) -> None:
        host = self._fake.host
        blue, height, width, pitch, step, channel, out, out_height, out_width = values
        assert host is not None and threads[0] >= out_width and threads[1] >= out_height
        frame = self._strided(blue, (height, width, 3), (pitch, step, channel))
        self._write(out, host.resize(frame, (out_height, out_width)))

    def _resize_nv12(self, values: tuple[int, ...], threads: tuple[int, int]) -> None:
        host = self._fake.host
        luma, chroma, height, width, luma_pitch, chroma_pitch, matrix = values[:7]
        out, out_height, out_width = values[7:]
        assert host is not None and threads[0] >= out_width and threads[1] >= out_height
        planes = (
            self._strided(luma, (height, width), (luma_pitch, 1)),
            self._strided(chroma, (height // 2, width), (chroma_pitch, 1)),
        )
        self._write(out, host.resize_nv12(*planes, (out_height, out_width), matrix=matrix))

    def _strided(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> np.ndarray[Any, Any]:
        """Return a view of which every byte lies in one live block."""
        ends = [step * (size - 1) for size, step in zip(shape, strides, strict=True)]
        first, last = sum(min(0, end) for end in ends), sum(max(0, end) for end in ends)
        block = self._fake.must_view(address + first, last - first + 1)
        return np.ndarray(shape, np.uint8, block, -first, strides)

    def _write(self, address: int, values: np.ndarray[Any, Any]) -> None:
        self._fake.must_view(address, values.size)[:] = values.reshape(-1)

    def _scores(self, name: str, values: tuple[int, ...]) -> np.ndarray[Any, Any]:
        dtype = np.dtype(np.float16 if "f16" in name else np.float32)
        address, *shape = values[:4]
        size = int(np.prod(shape)) * dtype.itemsize
        return self._fake.must_view(address, size).view(dtype).reshape(shape).copy()

    def _leaders(self, name: str, values: tuple[int, ...], threads: tuple[int, int]) -> None:
        scores = self._scores(name, values)
        cells = scores.shape[1] * scores.shape[2]
        assert threads[0] >= cells
        self._fake.must_view(values[4], 16 * cells)[:] = 0
        finite = np.isfinite(scores).reshape(-1)
        if not finite.all():
            mark = self._fake.must_view(values[5], 8).view(np.uint64)
            mark[0] = min(int(mark[0]), int(np.argmin(finite)))

    def _rivals(self, name: str, values: tuple[int, ...], threads: tuple[int, int]) -> None:
        scores = self._scores(name, values)
        cells = scores.shape[1] * scores.shape[2]
        assert threads[0] >= cells and scores.shape[0] <= 256
        leaders = self._fake.must_view(values[4], 16 * cells)
        assert not leaders.any(), "leaders come first"
        self._fake.must_view(values[5], 16 * cells)[:] = 1

    def _labels(self, name: str, values: tuple[int, ...], threads: tuple[int, int]) -> None:
        view, host = self._fake.must_view, self._fake.host
        scores = self._scores(name, values)
        slots, wide = scores.shape[0], name.endswith("u16")
        rivals = view(values[5], 16 * scores.shape[1] * scores.shape[2])
        assert (rivals == 1).all(), "rivals come first"
        thresholds, slot_ids, ids, confidence, height, width, counts, cells = values[6:]
        assert host is not None and threads[0] >= width and threads[1] >= height
        pixels = height * width
        labels, sure, tally, _ = host.label(
            scores,
            view(thresholds, 4 * slots).view(np.float32).copy(),
            view(slot_ids, 2 * slots).view(np.uint16).copy(),
            (height, width),
            cells=cells,
            wide=wide,
        )
        view(ids, pixels * (2 if wide else 1)).view(labels.dtype)[:] = labels.reshape(-1)
        view(confidence, pixels)[:] = sure.reshape(-1)
        view(counts, 4 * cells).view(np.uint32)[:] += tally
