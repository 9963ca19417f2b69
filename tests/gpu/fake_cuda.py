"""A stand-in for cuda-python's `runtime` and `driver` that keeps CUDA's promises and no others.

Work on a stream is only queued: it runs when the stream is synchronised, so a result that is read too
early, or memory that is freed too soon, shows. Every address must lie inside a live allocation of the
right kind. Every thread must choose the device for itself. What cannot be captured spoils a capture.
Kernels are the functions of the real ones, run on the CPU.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_driver import FakeDriver
from pixel_host import PixelHost

Work = Callable[[], None]


class Status(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorDevicesUnavailable = 46
    cudaErrorNoDevice = 100
    cudaErrorDeviceUninitialized = 201
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchTimeout = 702
    cudaErrorInvalidAddressSpace = 717
    cudaErrorSystemNotReady = 802
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


OK = Status.cudaSuccess
POISON = 0xCD
DEFAULT_STREAMS = (1, 2)
"""Those of the process and of the thread, which need no creation."""

MAPPED = 2**52
"""Between the addresses of mapped memory for the host and for the device."""


@dataclass
class Mark:
    """One recording of an event: its stream, and whether the device is past it."""

    stream: FakeStream
    passed: bool = False


class FakeStream:
    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.queue: deque[Work] = deque()
        self.captured: list[Work] | None = None
        self.spoiled = False


class FakeCuda:
    """`runtime` and `driver` to hand to Cuda; counters and faults for the tests.

    memory: bytes of the device; devices: how many there are; integrated: it shares the CPU's memory;
    elsewhere: addresses of blocks on GPU 1; last_error: of an event that was not passed, until asked for; durations: ticks of the clock that a kernel, `engine`,
    `upload` or `download` takes. faults: name of a call to the status that it gives next time, or to
    what it raises; live: blocks that were not freed, by kind; calls: how often each was made;
    sleepers: events that do not spin.
    """

    def __init__(
        self,
        host: PixelHost | None = None,
        *,
        memory: int = 2**34,
        devices: int = 1,
        capability: tuple[int, int] = (8, 9),
        integrated: bool = False,
    ) -> None:
        self.host = host
        self.memory = memory
        self.devices = devices
        self.capability = capability
        self.integrated = integrated
        self.driver_version = 13000
        self.faults: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.blocks: dict[int, tuple[str, Any, int]] = {}
        self.streams = {handle: FakeStream(handle) for handle in DEFAULT_STREAMS}
        self.elsewhere: set[int] = set()
        self.events: dict[int, int | None] = {}
        self.sleepers: set[int] = set()
        self.marks: dict[int, Mark] = {}
        self.mapped: dict[int, int] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.modules: set[int] = set()
        self.sticky = OK
        self.last_error = OK
        self.durations: Counter[str] = Counter()
        self.ready = threading.local()
        self._next = 1000
        self._clock = 0
        self.runtime: Any = _Runtime(self)
        self.driver: Any = FakeDriver(self)

    # For the tests

    @property
    def live(self) -> dict[str, int]:
        """What is still there, by kind."""
        kinds = Counter(kind for kind, _, _ in self.blocks.values())
        rest = {
            "stream": len(self.streams) - len(DEFAULT_STREAMS),
            "event": len(self.events),
            "graph": len(self.graphs),
            "module": len(self.modules),
        }
        return {name: count for name, count in {**kinds, **rest}.items() if count}

    @property
    def used(self) -> int:
        return sum(size for kind, _, size in self.blocks.values() if kind == "device")

    def stream_of(self, handle: int) -> FakeStream | None:
        return self.streams.get(int(handle))

    def queue(self, handle: int, work: Work) -> bool:
        stream = self.stream_of(handle)
        if stream is None:
            return False
        target = stream.queue if stream.captured is None else stream.captured
        target.append(work)
        return True

    def view(self, address: int, size: int, kind: str) -> np.ndarray[Any, Any] | None:
        """Return the bytes at an address if all lie in one live block of that kind."""
        for seen, start in self.mapped.items():
            length = self.blocks[start][2]
            if kind == "device" and seen <= address and address + size <= seen + length:
                return self.view(address - MAPPED, size, "pinned")
        for start, (what, block, length) in self.blocks.items():
            if what == kind and start <= address and address + size <= start + length:
                return np.frombuffer(block, np.uint8)[address - start : address - start + size]
        return None

    def must_view(self, address: int, size: int, kind: str = "device") -> np.ndarray[Any, Any]:
        found = self.view(address, size, kind)
        if found is None:
            raise MemoryError(f"{size} bytes at {address:#x} are not in a live {kind} block")
        return found

    # Machinery

    def new_handle(self) -> int:
        self._next += 8
        return self._next

    def allocate(self, size: int, kind: str) -> int:
        block = (ctypes.c_uint8 * size)()
        ctypes.memset(block, POISON, size)
        address = ctypes.addressof(block)
        self.blocks[address] = (kind, block, size)
        return address

    def release(self, address: int, kind: str) -> bool:
        if address not in self.blocks or self.blocks[address][0] != kind:
            return False
        _, block, size = self.blocks.pop(address)
        ctypes.memset(block, POISON, size)
        return True

    def run(self, stream: FakeStream, until: Mark | None = None) -> None:
        """Do what is queued: all of it, or no more than what a mark stands behind."""
        while stream.queue and not (until is not None and until.passed):
            work = stream.queue.popleft()
            if self.sticky != OK:
                stream.queue.clear()
                return
            try:
                work()
            except MemoryError:
                self.sticky = Status.cudaErrorIllegalAddress

    def tick(self) -> int:
        self._clock += 1
        return self._clock

    def spend(self, what: str) -> None:
        """Let the device's clock run on by what `durations` say of it."""
        self._clock += self.durations[what]

    def capturing(self) -> bool:
        return any(stream.captured is not None for stream in self.streams.values())

    def fault(self, name: str) -> Any:
        """Return what a call gives that is to fail once, or raise it."""
        fault = self.faults.pop(name)
        if isinstance(fault, Exception):
            raise fault
        return fault, None

    def spoil(self) -> None:
        for stream in self.streams.values():
            stream.spoiled = stream.spoiled or stream.captured is not None


_ANYWHERE = (
    "cudaGetDeviceCount",
    "cudaSetDevice",
    "cudaGetDevice",
    "cudaGetErrorString",
    "cudaDriverGetVersion",
    "cudaRuntimeGetVersion",
)
"""What needs no device of the calling thread, and works when the device is lost."""


class _Runtime:
    """Functions of cuda.bindings.runtime that the package calls."""

    cudaError_t = Status
    cudaMemcpyKind = Kind
    cudaMemoryType = SimpleNamespace(cudaMemoryTypeDevice=2, cudaMemoryTypeManaged=3)
    cudaStreamNonBlocking = 1
    cudaEventDefault = 0
    cudaEventBlockingSync = 1
    cudaHostAllocMapped = 2
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, fake: FakeCuda) -> None:
        self._fake = fake

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(value) or isinstance(value, type):
            return value
        fake: FakeCuda = object.__getattribute__(self, "_fake")

        def call(*arguments: Any) -> Any:
            fake.calls[name] += 1
            if name in fake.faults:
                return fake.fault(name)
            if name in _ANYWHERE:
                return value(*arguments)
            if not getattr(fake.ready, "device", False):
                return Status.cudaErrorDeviceUninitialized, None
            if fake.sticky != OK:
                return fake.sticky, None
            return value(*arguments)

        return call

    def cudaGetDeviceCount(self) -> Any:
        return (OK, self._fake.devices) if self._fake.devices else (Status.cudaErrorNoDevice, None)

    def cudaSetDevice(self, index: int) -> Any:
        if index >= self._fake.devices:
            return (Status.cudaErrorInvalidValue,)
        self._fake.ready.device = True
        self._fake.ready.index = index
        return (OK,)

    def cudaGetDevice(self) -> Any:
        return OK, getattr(self._fake.ready, "index", 0)

    def cudaGetDeviceProperties(self, index: int) -> Any:
        major, minor = self._fake.capability
        return OK, SimpleNamespace(
            name=b"Fake GPU",
            major=major,
            minor=minor,
            totalGlobalMem=self._fake.memory,
            integrated=int(self._fake.integrated),
        )

    def cudaDriverGetVersion(self) -> Any:
        return OK, self._fake.driver_version

    def cudaRuntimeGetVersion(self) -> Any:
        return OK, 13040

    def cudaGetErrorString(self, error: Status) -> Any:
        return OK, f"words on {error.name}".encode()

    def cudaMemGetInfo(self) -> Any:
        return OK, self._fake.memory - self._fake.used, self._fake.memory

    def cudaMalloc(self, size: int) -> Any:
        if self._fake.capturing():
            self._fake.spoil()
            return Status.cudaErrorStreamCaptureUnsupported, None
        if self._fake.used + size > self._fake.memory:
            return Status.cudaErrorMemoryAllocation, None
        return OK, self._fake.allocate(size, "device")

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        if self._fake.capturing():
            self._fake.spoil()
            return Status.cudaErrorStreamCaptureUnsupported, None
        address = self._fake.allocate(size, "pinned")
        if flags & self.cudaHostAllocMapped:
            self._fake.mapped[address + MAPPED] = address
        return OK, address

    def cudaHostGetDevicePointer(self, address: int, flags: int) -> Any:
        if address not in self._fake.mapped.values():
            return Status.cudaErrorInvalidValue, None
        return OK, address + MAPPED

    def cudaFree(self, address: int) -> Any:
        if address == 0:
            return (OK,)
        return (OK,) if self._fake.release(address, "device") else (Status.cudaErrorInvalidValue,)

    def cudaFreeHost(self, address: int) -> Any:
        self._fake.mapped.pop(address + MAPPED, None)
        return (OK,) if self._fake.release(address, "pinned") else (Status.cudaErrorInvalidValue,)

    def cudaPointerGetAttributes(self, address: int) -> Any:
        fake = self._fake
        for start, (kind, _, size) in fake.blocks.items():
            if start <= address < start + size:
                there = {"device": 2, "pinned": 1}[kind]
                return OK, SimpleNamespace(type=there, device=int(start in fake.elsewhere))
        return OK, SimpleNamespace(type=0, device=0)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        assert flags == self.cudaStreamNonBlocking
        handle = self._fake.new_handle()
        self._fake.streams[handle] = FakeStream(handle)
        return OK, handle

    def cudaStreamDestroy(self, handle: int) -> Any:
        return (OK,) if self._fake.streams.pop(handle, None) else (_HANDLE,)

    def cudaStreamSynchronize(self, handle: int) -> Any:
        stream = self._fake.stream_of(handle)
        if stream is None:
            return (_HANDLE,)
        if stream.captured is not None:
            self._fake.spoil()
            return (Status.cudaErrorStreamCaptureUnsupported,)
        self._fake.run(stream)
        return (self._fake.sticky,)

    def cudaMemcpyAsync(self, dest: int, source: int, size: int, kind: Kind, stream: int) -> Any:
        up = kind == Kind.cudaMemcpyHostToDevice
        device, host = (dest, source) if up else (source, dest)
        fake = self._fake
        # Only page-locked memory is copied asynchronously.
        if fake.view(device, size, "device") is None or fake.view(host, size, "pinned") is None:
            return (Status.cudaErrorInvalidValue,)

        def copy() -> None:
            there = fake.must_view(device, size)
            here = fake.must_view(host, size, "pinned")
            target, origin = (there, here) if up else (here, there)
            fake.spend("upload" if up else "download")
            target[:] = origin

        return (OK,) if fake.queue(stream, copy) else (_HANDLE,)

    def cudaMemsetAsync(self, dest: int, value: int, size: int, stream: int) -> Any:
        fake = self._fake
        if fake.view(dest, size, "device") is None:
            return (Status.cudaErrorInvalidValue,)

        def fill() -> None:
            fake.must_view(dest, size)[:] = value

        return (OK,) if fake.queue(stream, fill) else (_HANDLE,)

    def cudaStreamBeginCapture(self, handle: int, mode: int) -> Any:
        stream = self._fake.stream_of(handle)
        if stream is None or stream.captured is not None:
            return (Status.cudaErrorInvalidValue,)
        stream.captured, stream.spoiled = [], False
        return (OK,)

    def cudaStreamEndCapture(self, handle: int) -> Any:
        stream = self._fake.stream_of(handle)
        if stream is None or stream.captured is None:
            return Status.cudaErrorInvalidValue, None
        work, stream.captured = stream.captured, None
        if stream.spoiled:
            return Status.cudaErrorStreamCaptureInvalidated, None
        graph = self._fake.new_handle()
        self._fake.graphs[graph] = work
        return OK, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> Any:
        if graph not in self._fake.graphs:
            return _HANDLE, None
        ready = self._fake.new_handle()
        self._fake.graphs[ready] = list(self._fake.graphs[graph])
        return OK, ready

    def cudaGraphDestroy(self, graph: int) -> Any:
        return (OK,) if self._fake.graphs.pop(graph, None) is not None else (_HANDLE,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: int, stream: int) -> Any:
        if graph not in self._fake.graphs:
            return (_HANDLE,)
        for work in self._fake.graphs[graph]:
            if not self._fake.queue(stream, work):
                return (_HANDLE,)
        return (OK,)

    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        handle = self._fake.new_handle()
        self._fake.events[handle] = None
        if flags == self.cudaEventBlockingSync:
            self._fake.sleepers.add(handle)
        return OK, handle

    def cudaEventSynchronize(self, event: int) -> Any:
        fake = self._fake
        if event not in fake.events:
            return (_HANDLE,)
        if fake.capturing():
            fake.spoil()
            return (Status.cudaErrorStreamCaptureUnsupported,)
        # Work before the event is done when it is passed; an event on no stream is passed already.
        mark = fake.marks.get(event)
        if mark is not None and not mark.passed:
            fake.run(mark.stream, mark)
        return (fake.sticky,)

    def cudaEventQuery(self, event: int) -> Any:
        fake = self._fake
        if event not in fake.events:
            return (_HANDLE,)
        mark = fake.marks.get(event)
        if mark is None or mark.passed:
            return (OK,)
        fake.last_error = Status.cudaErrorNotReady
        return (Status.cudaErrorNotReady,)

    def cudaGetLastError(self) -> Any:
        last, self._fake.last_error = self._fake.last_error, OK
        return (last,)

    def cudaStreamWaitEvent(self, handle: int, event: int, flags: int) -> Any:
        fake = self._fake
        if event not in fake.events:
            return (_HANDLE,)
        mark = fake.marks.get(event)
        if mark is None or mark.passed:
            return (OK,) if fake.stream_of(handle) is not None else (_HANDLE,)
        # No more of the other stream is done than is waited for: a wait that is missing shows.
        return (OK,) if fake.queue(handle, lambda: fake.run(mark.stream, mark)) else (_HANDLE,)

    def cudaEventRecord(self, event: int, stream: int) -> Any:
        fake = self._fake
        if event not in fake.events:
            return (_HANDLE,)
        known = fake.stream_of(stream)
        if known is None:
            return (_HANDLE,)
        fake.events[event] = None
        fake.marks[event] = mark = Mark(known)

        def pass_it() -> None:
            mark.passed = True
            if event in fake.events:  # one may be destroyed before it is passed
                fake.events[event] = fake.tick()

        fake.queue(stream, pass_it)
        return (OK,)

    def cudaEventElapsedTime(self, start: int, end: int) -> Any:
        times = self._fake.events.get(start), self._fake.events.get(end)
        if times[0] is None or times[1] is None:
            return Status.cudaErrorNotReady, None
        return OK, float(times[1] - times[0])

    def cudaEventDestroy(self, event: int) -> Any:
        known = event in self._fake.events
        self._fake.events.pop(event, None)
        return (OK,) if known else (_HANDLE,)


_HANDLE = Status.cudaErrorInvalidResourceHandle
