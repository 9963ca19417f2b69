"""A thin layer over cuda-python: every call checked, every resource owned.

Only `dedos_deploy.runtime.gpu` speaks to CUDA, and only through this module. `Cuda` takes the two
modules of cuda-python as arguments, so that tests can put strict stand-ins in their place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime.gpu.bindings import bindings
from dedos_deploy.runtime.gpu.cuda_calls import CudaCalls, final
from dedos_deploy.runtime.gpu.cuda_errors import no_pinned_memory
from dedos_deploy.runtime.gpu.device import Device
from dedos_deploy.runtime.gpu.kernels_file import KERNEL_NAMES, kernels_refused

MIB = 2**20


class Cuda(CudaCalls):
    """One GPU through cuda-python's `runtime` and `driver` modules."""

    def __init__(self, runtime: Any, driver: Any, index: int = 0) -> None:
        super().__init__(runtime, driver)
        count = self._call(self._runtime.cudaGetDeviceCount())
        if not 0 <= index < count:
            raise BadInputError(
                f"there is no GPU number {index}; this machine has {count}, counted from 0"
            )
        self._index = index
        self.activate()
        self.device = self._describe(index)

    @classmethod
    def open(cls, index: int = 0) -> Cuda:
        """Return the GPU number `index`.

        Raises MissingExtraError without cuda-python, EngineError without a usable GPU,
        BadInputError when there are fewer.
        """
        runtime, driver = bindings()
        return cls(runtime, driver, index)

    def activate(self) -> None:
        """Make this GPU the one of the calling thread; every thread has its own, at first GPU 0."""
        self._call(self._runtime.cudaSetDevice(self._index))

    @contextmanager
    def borrowed_thread(self) -> Iterator[None]:
        """Make this GPU the one of a thread that is not ours for the length of the block."""
        before = self._call(self._runtime.cudaGetDevice())
        self.activate()
        try:
            yield
        finally:
            self._call(self._runtime.cudaSetDevice(before))

    # Memory

    def allocate(self, size: int, purpose: str) -> DeviceBuffer:
        """Return `size` bytes on the device; purpose: for the message when there is no room."""
        error, pointer = self._runtime.cudaMalloc(size)
        if error != self._runtime.cudaError_t.cudaSuccess:
            self._refuse_memory(error, size, purpose)
        return DeviceBuffer(self, int(pointer), size)

    def pinned(
        self, shape: Sequence[int], dtype: DTypeLike, purpose: str, *, mapped: bool = False
    ) -> PinnedArray:
        """Return an array in page-locked host memory, to and from which the device copies by itself.

        mapped: kernels can read and write it, too, at its `device_pointer`.
        """
        size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        flags = self._runtime.cudaHostAllocMapped if mapped else 0
        error, pointer = self._runtime.cudaHostAlloc(size, flags)
        if error != self._runtime.cudaError_t.cudaSuccess:
            self._refuse_memory(error, size, purpose, on_host=True)
        return PinnedArray(self, int(pointer), tuple(shape), np.dtype(dtype))

    def free_memory(self) -> tuple[int, int]:
        """Return free and total bytes of the device."""
        free, total = map(int, self._call(self._runtime.cudaMemGetInfo()))
        return free, total

    def free(self, pointer: int) -> None:
        self._call(self._runtime.cudaFree(pointer))

    def free_host(self, pointer: int) -> None:
        self._call(self._runtime.cudaFreeHost(pointer))

    def device_pointer(self, pointer: int) -> int:
        """Return where the device sees mapped host memory."""
        return int(self._call(self._runtime.cudaHostGetDevicePointer(pointer, 0)))

    def device_of(self, pointer: int) -> int | None:
        """Return the index of the GPU on which an address lies, None for one that is on none."""
        found = self._call(self._runtime.cudaPointerGetAttributes(pointer))
        kinds = self._runtime.cudaMemoryType
        on_device = found.type in (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged)
        return int(found.device) if on_device else None

    # Work

    def stream(self) -> Stream:
        """Return a stream that does not wait for the legacy default stream.

        Who waits for it spins, the quickest way. On an integrated GPU that takes power from the GPU and
        a core from the robot, so there the thread sleeps on an event; the device's own flag,
        cudaDeviceScheduleBlockingSync, would be for torch in this process, too.
        """
        flags = self._runtime.cudaStreamNonBlocking
        done = self.event() if self.device.integrated else None
        return Stream(self, int(self._call(self._runtime.cudaStreamCreateWithFlags(flags))), done)

    def upload(self, dest: int, source: NDArray[Any], stream: Stream) -> None:
        """Copy a contiguous host array to device memory; it must live until the stream got there."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(dest, source.ctypes.data, source.nbytes, kind, stream)

    def download(self, dest: NDArray[Any], source: int, stream: Stream) -> None:
        """Copy device memory into a contiguous host array; it is there after `synchronize`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(dest.ctypes.data, source, dest.nbytes, kind, stream)

    def fill(self, dest: int, value: int, size: int, stream: Stream) -> None:
        """Set `size` bytes of device memory to `value`, 0 to 255."""
        self._call(self._runtime.cudaMemsetAsync(dest, value, size, stream.handle))

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Return the graph of what `work` puts on `stream`; nothing of it runs yet."""
        api = self._runtime
        mode = api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(api.cudaStreamBeginCapture(stream.handle, mode))
        try:
            work()
        except BaseException:
            # Ending the capture is what brings the stream back; its own failure says nothing new.
            error, graph = api.cudaStreamEndCapture(stream.handle)
            if error == api.cudaError_t.cudaSuccess and graph is not None:
                api.cudaGraphDestroy(graph)
            raise
        graph = self._call(api.cudaStreamEndCapture(stream.handle))
        try:
            ready = self._call(api.cudaGraphInstantiate(graph, 0))
        finally:
            self._call(api.cudaGraphDestroy(graph))
        return Graph(self, ready)

    def kernels(self, image: bytes) -> Kernels:
        """Return the kernels of a fat binary.

        Raises KernelsError, which says why, when this GPU or its driver does not take them.
        """
        # The runtime creates the context that the driver's calls then find.
        self._call(self._runtime.cudaFree(0))
        kernels = Kernels(self, self._load_call(self._driver.cuModuleLoadData(image)))
        try:
            # Now, since a driver may put off compiling until it is asked for a function.
            kernels.find(KERNEL_NAMES)
        except EngineError:
            kernels.close()
            raise
        return kernels

    def event(self) -> Event:
        """Return an event; on an integrated GPU whoever waits for it sleeps."""
        api = self._runtime
        flags = api.cudaEventBlockingSync if self.device.integrated else api.cudaEventDefault
        return Event(self, self._call(api.cudaEventCreateWithFlags(flags)))

    # What the resources below need

    def _copy(self, dest: int, source: int, size: int, kind: Any, stream: Stream) -> None:
        self._call(self._runtime.cudaMemcpyAsync(dest, source, size, kind, stream.handle))

    def _describe(self, index: int) -> Device:
        properties = self._call(self._runtime.cudaGetDeviceProperties(index))
        name = properties.name
        return Device(
            index=index,
            name=name.decode() if isinstance(name, bytes) else str(name),
            capability=(int(properties.major), int(properties.minor)),
            memory=int(properties.totalGlobalMem),
            integrated=bool(properties.integrated),
            driver=int(self._call(self._runtime.cudaDriverGetVersion())),
        )

    def _refuse_memory(self, error: Any, size: int, purpose: str, on_host: bool = False) -> None:
        if getattr(error, "name", "") != "cudaErrorMemoryAllocation":
            self._call((error,))
        if on_host:
            raise no_pinned_memory(purpose, size / MIB)
        status, *amounts = self._runtime.cudaMemGetInfo()
        known = status == self._runtime.cudaError_t.cudaSuccess
        free = (
            f"{int(amounts[0]) / MIB:.0f} MiB are free" if known else "how much is free is unknown"
        )
        raise EngineError(
            f"the GPU has no room for {purpose}: {size / MIB:.0f} MiB are needed and {free}; close "
            "other programs on it, or use a smaller bundle or network size"
        )

    def _load_call(self, result: tuple[Any, ...]) -> Any:
        error, *values = result
        if error == self._driver.CUresult.CUDA_SUCCESS:
            return values[0]
        name = getattr(error, "name", str(error))
        raise final(int(error), name) or kernels_refused(
            name, sm=self.device.sm, driver=self.device.driver_cuda
        )


class DeviceBuffer(Closing):
    """Bytes on the device; closed by a thread in which the GPU is active."""

    def __init__(self, cuda: Cuda, pointer: int, size: int) -> None:
        self._cuda = cuda
        self.pointer = pointer
        self.size = size

    def close(self) -> None:
        """Free it; may be called twice."""
        pointer, self.pointer = self.pointer, 0
        if pointer:
            self._cuda.free(pointer)


class PinnedArray(Closing):
    """A numpy array in page-locked host memory; not to be used once closed."""

    def __init__(self, cuda: Cuda, pointer: int, shape: tuple[int, ...], dtype: Any) -> None:
        self._cuda = cuda
        self._pointer = pointer
        self.size = size = max(1, int(np.prod(shape)) * dtype.itemsize)
        block = (ctypes.c_uint8 * size).from_address(pointer)
        self.array: NDArray[Any] = (
            np.frombuffer(block, np.uint8)[: int(np.prod(shape)) * dtype.itemsize]
            .view(dtype)
            .reshape(shape)
        )

    @property
    def pointer(self) -> int:
        """Its address for the host."""
        return self._pointer

    @property
    def device_pointer(self) -> int:
        """Its address for kernels, of mapped memory only."""
        return self._cuda.device_pointer(self._pointer)

    def close(self) -> None:
        """Free it; may be called twice."""
        pointer, self._pointer = self._pointer, 0
        if pointer:
            self.array = np.empty(0, self.array.dtype)
            self._cuda.free_host(pointer)


class Stream(Closing):
    """An ordered queue of work for the device; `done`, closed with it, is waited for in its place."""

    def __init__(self, cuda: Cuda, handle: int, done: Event | None = None) -> None:
        self._cuda = cuda
        self.handle = handle
        self._done = done

    def synchronize(self) -> None:
        """Wait until everything on it is done; errors of that work are raised here."""
        if self._done is None:
            self._cuda._call(self._cuda.runtime.cudaStreamSynchronize(self.handle))
        else:
            self._done.record(self)
            self._done.synchronize()

    def wait(self, event: Event) -> None:
        """Let what is put on it from now on wait for `event` as last recorded; returns at once."""
        self._cuda._call(self._cuda.runtime.cudaStreamWaitEvent(self.handle, event.handle, 0))

    def close(self) -> None:
        """Destroy it; may be called twice."""
        handle, self.handle = self.handle, 0
        if self._done is not None:
            self._done.close()
        if handle:
            self._cuda._call(self._cuda.runtime.cudaStreamDestroy(handle))


class Event(Closing):
    """A mark on a stream, with the time at which the device passed it."""

    def __init__(self, cuda: Cuda, handle: Any) -> None:
        self._cuda = cuda
        self._handle = handle

    def record(self, stream: Stream) -> None:
        self._cuda._call(self._cuda.runtime.cudaEventRecord(self._handle, stream.handle))

    def synchronize(self) -> None:
        """Wait until the device has passed it; errors of what came before are raised here."""
        self._cuda._call(self._cuda.runtime.cudaEventSynchronize(self._handle))

    @property
    def handle(self) -> Any:
        return self._handle

    @property
    def passed(self) -> bool:
        """Whether the device is past it, or it was never recorded; returns at once."""
        (error, *_) = self._cuda.runtime.cudaEventQuery(self._handle)
        if error == self._cuda.runtime.cudaError_t.cudaErrorNotReady:
            # Else whoever asks this thread for its last error takes it for one of theirs.
            self._cuda.runtime.cudaGetLastError()
            return False
        self._cuda._call((error,))
        return True

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds of device time since `earlier`; both must have been passed."""
        call = self._cuda.runtime.cudaEventElapsedTime(earlier._handle, self._handle)
        return float(self._cuda._call(call))

    def close(self) -> None:
        """Destroy it; may be called twice."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._cuda._call(self._cuda.runtime.cudaEventDestroy(handle))


class Graph(Closing):
    """Captured work, launched with one call."""

    def __init__(self, cuda: Cuda, handle: Any) -> None:
        self._cuda = cuda
        self._handle = handle

    def launch(self, stream: Stream) -> None:
        self._cuda._call(self._cuda.runtime.cudaGraphLaunch(self._handle, stream.handle))

    def close(self) -> None:
        """Destroy it; may be called twice."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._cuda._call(self._cuda.runtime.cudaGraphExecDestroy(handle))


class Kernels(Closing):
    """Functions of a fat binary, by name."""

    def __init__(self, cuda: Cuda, module: Any) -> None:
        self._cuda = cuda
        self._module = module
        self._functions: dict[str, Any] = {}

    def find(self, names: Sequence[str]) -> None:
        """Look up functions, to be launched by name. Raises KernelsError."""
        for name in names:
            found = self._cuda.driver.cuModuleGetFunction(self._module, name.encode())
            self._functions[name] = self._cuda._load_call(found)

    def launch(
        self,
        name: str,
        grid: tuple[int, int],
        block: tuple[int, int],
        arguments: Sequence[tuple[int, Any]],
        stream: Stream,
    ) -> None:
        """Put one launch on `stream`; arguments: pairs of a value and its ctypes type."""
        driver = self._cuda.driver
        values = tuple(value for value, _ in arguments)
        types = tuple(kind for _, kind in arguments)
        self._cuda._driver_call(
            driver.cuLaunchKernel(
                self._functions[name], *grid, 1, *block, 1, 0, stream.handle, (values, types), 0
            )
        )

    def close(self) -> None:
        """Unload it; may be called twice."""
        module, self._module = self._module, None
        self._functions.clear()
        if module is not None:
            self._cuda._driver_call(self._cuda.driver.cuModuleUnload(module))


def close_all(items: Sequence[Closing]) -> None:
    """Close the last first; every one of them, even if one fails, whose error comes at the end."""
    with ExitStack() as stack:
        for item in items:
            stack.callback(item.close)
