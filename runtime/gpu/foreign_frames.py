"""Frames that others have on the device already: read where they lie, in order with their streams."""

from __future__ import annotations

from collections import deque

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.gpu.cuda import Cuda, Event, Stream, close_all
from dedos_deploy.runtime.gpu.device_array import DeviceArray, device_array
from dedos_deploy.runtime.gpu.frame_places import DeviceFrame
from dedos_deploy.runtime.gpu.resize_source import ResizeSource, bgr_source, nv12_source
from dedos_deploy.runtime.nv12 import Nv12Frame, check_planes
from dedos_deploy.runtime.pixels import ForeignFrame


class ForeignFrames(Closing):
    """Makes the stream that computes wait for who writes a frame, and writers for who reads it.

    A frame is held until it was read, which shows when the next one comes or a result is waited for:
    whoever has only a few, as a camera's pool, gets them back.
    """

    def __init__(self, cuda: Cuda, compute: Stream) -> None:
        """compute: the stream of the kernels that read; stays the caller's."""
        self._cuda = cuda
        self._compute = compute
        self._written = cuda.event()
        self._idle: list[Event] = []
        self._reading: deque[tuple[Event, list[DeviceArray]]] = deque()

    def open(self, frame: ForeignFrame) -> DeviceFrame:
        """Return a frame that kernels put on `compute` from now on may read. Raises BadInputError."""
        self.let_go()
        given, compute = frame.given, self._compute
        if isinstance(given, Nv12Frame):
            arrays = [
                device_array(plane, self._cuda, compute) for plane in (given.luma, given.chroma)
            ]
            source = _nv12(given, *arrays)
        else:
            arrays = [device_array(given, self._cuda, compute)]
            source = _bgr(frame, arrays[0])
        handles = {array.writer for array in arrays} | {frame.stream}
        writers = tuple(Stream(self._cuda, handle) for handle in handles if handle is not None)
        for writer in writers:
            self._written.record(writer)
            compute.wait(self._written)
        read = self._idle.pop() if self._idle else self._cuda.event()
        self._reading.append((read, arrays))
        return DeviceFrame(source, read, writers=writers)

    def let_go(self) -> None:
        """Let go of the frames that were read, in their order. Not between `open` and reading."""
        while self._reading and self._reading[0][0].passed:
            self._idle.append(self._reading.popleft()[0])

    def close(self) -> None:
        """Release the events and all frames, which nothing may read any more; may be called twice."""
        events = [self._written, *self._idle, *(event for event, _ in self._reading)]
        self._idle.clear()
        self._reading.clear()
        close_all(events)


def _bgr(frame: ForeignFrame, array: DeviceArray) -> ResizeSource:
    shape, strides = array.shape, array.strides
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise BadInputError(
            f"a frame on the GPU must have shape [H, W, 3] and at least one pixel, not {list(shape)}; "
            "view channels first with permute(1, 2, 0), cut alpha off with [:, :, :3]"
        )
    blue, channel = array.pointer, strides[2]
    if frame.order == "rgb":
        blue, channel = blue + 2 * channel, -channel
    return bgr_source(blue, (shape[0], shape[1]), (strides[0], strides[1], channel))


def _nv12(frame: Nv12Frame, luma: DeviceArray, chroma: DeviceArray) -> ResizeSource:
    check_planes(luma.shape, chroma.shape)
    in_pairs = len(chroma.shape) == 3
    if luma.strides[1] != 1 or chroma.strides[1:] != ((2, 1) if in_pairs else (1,)):
        raise BadInputError(
            "planes of an NV12 frame on the GPU must have the pixels of a row side by side, not "
            f"strides of {list(luma.strides)} and {list(chroma.strides)} bytes; copy them"
        )
    return nv12_source(
        (luma.pointer, chroma.pointer),
        (luma.shape[0], luma.shape[1]),
        (luma.strides[0], chroma.strides[0]),
        frame.matrix_number,
    )
