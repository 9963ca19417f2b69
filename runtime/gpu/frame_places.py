"""Frames of the host on their way to the device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.gpu.cuda import Cuda, DeviceBuffer, Event, PinnedArray, Stream, close_all


@dataclass(frozen=True, eq=False)
class DeviceFrame:
    """A frame, uint8 [H, W, 3], as kernels on one stream may read it."""

    pointer: int
    """Where the device sees its first pixel."""

    size_hw: tuple[int, int]

    read: Event
    """To be recorded behind the last kernel that reads it."""

    uploaded: tuple[Event, Event] | None = None
    """Before and after its copy to the device, None where nothing is copied."""

    host_ms: float = 0.0
    """Milliseconds that the CPU took to bring it on its way."""

    def ms(self) -> float:
        """Return the milliseconds from the caller's memory to the device's, once it was read."""
        if self.uploaded is None:
            return self.host_ms
        begun, done = self.uploaded
        return self.host_ms + done.ms_since(begun)


class FramePlaces(Closing):
    """Two places that take turns: one is filled while the frame before is read in the other.

    A place is page-locked host memory. Where the GPU has memory of its own, a stream beside the
    one that computes copies it there; an integrated GPU reads it where it is.
    """

    def __init__(self, cuda: Cuda, compute: Stream) -> None:
        """compute: the stream of the kernels that read; stays the caller's."""
        self._cuda = cuda
        self._compute = compute
        self._pixels = 0
        self._turn = 0
        self._places: list[_Place] = []
        self._resources: list[Closing] = []
        try:
            self._uploads = cuda.stream()
            self._resources.append(self._uploads)
            for _ in range(2):
                self._resources += (events := [cuda.event() for _ in range(3)])
                self._places.append(_Place(cuda, *events))
        except BaseException:
            close_all(self._resources)
            raise

    def fit(self, pixels: int) -> bool:
        """Make room for frames of up to so many pixels; return whether more was needed.

        Waits for all that is under way in that case. Raises EngineError without room, and has
        room for no frame then.
        """
        if pixels <= self._pixels:
            return False
        self.finish()
        self._pixels = 0
        for place in self._places:
            place.release()
        for place in self._places:
            place.allocate(pixels)
        self._pixels = pixels
        return True

    def place(self, frame_bgr: NDArray[np.uint8]) -> DeviceFrame:
        """Bring a frame on its way, uint8 [H, W, 3], no larger than `fit` was told.

        Its array is the caller's again at once; what `compute` does from now on waits for it.
        """
        place = self._places[self._turn]
        self._turn = 1 - self._turn
        try:
            return place.fill(frame_bgr, self._uploads, self._compute)
        except BaseException:
            # Of a frame that failed nothing may still be read from the host when the next one comes.
            with suppress(EngineError):
                self._uploads.synchronize()
            raise

    def finish(self) -> None:
        """Wait until nothing is copied or read any more."""
        self._compute.synchronize()
        self._uploads.synchronize()

    def close(self) -> None:
        """Release everything; may be called twice."""
        resources, self._resources = self._resources, []
        close_all([*resources, *self._places])


class _Place(Closing):
    def __init__(self, cuda: Cuda, begun: Event, uploaded: Event, read: Event) -> None:
        """begun, uploaded: around its copy; read: behind what reads it."""
        self._cuda = cuda
        self._begun, self._uploaded, self._read = begun, uploaded, read
        self._host: PinnedArray | None = None
        self._device: DeviceBuffer | None = None

    def allocate(self, pixels: int) -> None:
        mapped = self._cuda.device.integrated
        if not mapped:
            self._device = self._cuda.allocate(3 * pixels, "a frame")
        self._host = self._cuda.pinned((3 * pixels,), np.uint8, "a frame", mapped=mapped)

    def fill(self, frame_bgr: NDArray[np.uint8], uploads: Stream, compute: Stream) -> DeviceFrame:
        assert self._host is not None, "allocated first"
        # Whoever reads the host's side, the copy or a kernel, must have done so.
        (self._read if self._device is None else self._uploaded).synchronize()
        started = time.perf_counter()
        pinned = self._host.array[: frame_bgr.size].reshape(frame_bgr.shape)
        np.copyto(pinned, frame_bgr)
        host_ms = 1e3 * (time.perf_counter() - started)
        height, width = frame_bgr.shape[:2]
        if self._device is None:
            pointer = self._host.device_pointer
            return DeviceFrame(pointer, (height, width), self._read, None, host_ms)
        uploads.wait(self._read)
        self._begun.record(uploads)
        self._cuda.upload(self._device.pointer, pinned, uploads)
        self._uploaded.record(uploads)
        compute.wait(self._uploaded)
        copied = self._begun, self._uploaded
        return DeviceFrame(self._device.pointer, (height, width), self._read, copied, host_ms)

    def release(self) -> None:
        """Give the memory back; events stay."""
        held: Sequence[Closing | None] = (self._device, self._host)
        self._device = self._host = None
        close_all([item for item in held if item is not None])

    def close(self) -> None:
        self.release()
