"""Frames of the host on their way to the device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.picture_sizes import MOST_PIXELS
from dedos_deploy.runtime.gpu.cuda import Cuda, DeviceBuffer, Event, PinnedArray, Stream, close_all
from dedos_deploy.runtime.gpu.frame_marks import new_events
from dedos_deploy.runtime.gpu.resize_source import ResizeSource, bgr_source, nv12_source
from dedos_deploy.runtime.pixels import HostPixels


class Upload:
    """One copy to the device, between two events that later copies use, too."""

    def __init__(self, begun: Event, done: Event) -> None:
        self._begun, self._done = begun, done
        self._ms: float | None = None

    def wait(self) -> None:
        """Wait until it is done, and note how long it took while the events still tell."""
        if self._ms is None:
            self._done.synchronize()
            self._ms = self._done.ms_since(self._begun)

    def ms(self) -> float:
        """Return how long it took; waits for it."""
        self.wait()
        assert self._ms is not None, "noted by `wait`"
        return self._ms


@dataclass(frozen=True, eq=False)
class DeviceFrame:
    """A frame as kernels on one stream may read it."""

    source: ResizeSource
    """Where the device sees its pixels."""

    read: Event
    """To be recorded behind the last kernel that reads it."""

    upload: Upload | None = None
    """Its copy to the device, None where nothing is copied."""

    host_ms: float = 0.0
    """Milliseconds that the CPU took to bring it on its way."""

    writers: tuple[Stream, ...] = ()
    """Streams of others that may write to it again, once it was read."""

    def was_read(self, reader: Stream) -> None:
        """Note that its last kernel is on `reader`; its writers' next work waits for that."""
        self.read.record(reader)
        for writer in self.writers:
            writer.wait(self.read)

    def ms(self) -> float:
        """Return the milliseconds from the caller's memory to the device's, once it was read."""
        return self.host_ms + (0.0 if self.upload is None else self.upload.ms())


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
                self._resources += (events := new_events(cuda, 3))
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

    def place(self, pixels: HostPixels) -> DeviceFrame:
        """Bring a frame on its way, no larger than `fit` was told; NV12 as it is.

        Its array is the caller's again at once; what `compute` does from now on waits for it.
        """
        place = self._places[self._turn]
        self._turn = 1 - self._turn
        try:
            return place.fill(pixels, self._uploads, self._compute)
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
        self._upload: Upload | None = None
        self._host: PinnedArray | None = None
        self._device: DeviceBuffer | None = None

    def allocate(self, pixels: int) -> None:
        mapped = self._cuda.device.integrated
        if not mapped:
            self._device = self._cuda.allocate(3 * pixels, "a frame")
        self._host = self._cuda.pinned((3 * pixels,), np.uint8, "a frame", mapped=mapped)

    def fill(self, pixels: HostPixels, uploads: Stream, compute: Stream) -> DeviceFrame:
        assert self._host is not None, "allocated first"
        # Whoever reads the host's side, the copy or a kernel, must have done so.
        if self._device is None:
            self._read.synchronize()
        elif self._upload is not None:
            self._upload.wait()
        started = time.perf_counter()
        parts = (pixels,) if isinstance(pixels, np.ndarray) else (pixels.luma, pixels.chroma)
        size = _packed(parts, self._host.array)
        host_ms = 1e3 * (time.perf_counter() - started)
        if self._device is None:
            source = _source(pixels, self._host.device_pointer)
            return DeviceFrame(source, self._read, None, host_ms)
        uploads.wait(self._read)
        self._begun.record(uploads)
        self._cuda.upload(self._device.pointer, self._host.array[:size], uploads)
        self._uploaded.record(uploads)
        compute.wait(self._uploaded)
        self._upload = Upload(self._begun, self._uploaded)
        return DeviceFrame(_source(pixels, self._device.pointer), self._read, self._upload, host_ms)

    def release(self) -> None:
        """Give the memory back; events stay."""
        held: Sequence[Closing | None] = (self._device, self._host)
        self._device = self._host = None
        close_all([item for item in held if item is not None])

    def close(self) -> None:
        self.release()


def check_size(size_hw: tuple[int, int]) -> None:
    """Raise BadInputError for a frame of too many pixels."""
    height, width = size_hw
    if height * width > MOST_PIXELS:
        raise BadInputError(
            f"a frame of {height}x{width} has more than {MOST_PIXELS} pixels; make it smaller"
        )


def _packed(parts: Sequence[NDArray[np.uint8]], into: NDArray[np.uint8]) -> int:
    """Copy arrays behind each other without gaps and return their bytes."""
    size = 0
    for part in parts:
        np.copyto(into[size : size + part.size].reshape(part.shape), part)
        size += part.size
    return size


def _source(pixels: HostPixels, pointer: int) -> ResizeSource:
    """Return the pixels as they lie packed at `pointer`."""
    if isinstance(pixels, np.ndarray):
        height, width = pixels.shape[:2]
        return bgr_source(pointer, (height, width), (3 * width, 3, 1))
    height, width = pixels.luma.shape
    planes = pointer, pointer + height * width
    return nv12_source(planes, (height, width), (width, width), pixels.matrix_number)
