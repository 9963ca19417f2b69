"""Results that stay on the device: memory that is lent with them, and arrays that others read there."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime.gpu.cuda import Cuda, DeviceBuffer, Event, Stream, close_all
from dedos_deploy.runtime.gpu.frame_marks import FrameMarks
from dedos_deploy.runtime.gpu.frame_places import DeviceFrame
from dedos_deploy.runtime.gpu.kept_outputs import Kept
from dedos_deploy.runtime.gpu.result_pool import ResultLayout
from dedos_deploy.runtime.labelling import Labelled
from dedos_deploy.runtime.pixels import DEFAULT_STREAM

MOST_LENT = 8
"""Results that may lie on the device at a time, and frames that may be under way without a wait."""

_CUDA = 2
"""DLPack's type of memory on an NVIDIA GPU."""


class DeviceMemory(Closing):
    """Memory of one result after the other, with its events."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self.cuda = cuda
        self._resources: list[Closing] = []
        self.left: list[Event] = []
        try:
            self.buffer: DeviceBuffer = cuda.allocate(size, "a result on the device")
            self._resources.append(self.buffer)
            self.marks = FrameMarks(cuda)
            self._resources += self.marks.events
        except BaseException:
            self.close()
            raise
        self.readers: set[int] = set()
        self.frame: DeviceFrame | None = None
        """That the result is of, for its times."""
        self.kept: Kept = (None, None)
        """Outputs of that frame, on their way to the host."""

    def leave(self) -> None:
        """Note what its readers have put on their streams so far, as it is let go of."""
        while len(self.left) < len(self.readers):
            self.left.append(self.cuda.event())
            self._resources.append(self.left[-1])
        for event, reader in zip(self.left, self.readers, strict=False):
            event.record(Stream(self.cuda, reader))

    def enter(self, writer: Stream) -> None:
        """Let `writer` wait for the readers of the result before.

        The host waits until that result was computed: no more frames than there is memory for are
        ever under way.
        """
        for event in self.left[: len(self.readers)]:
            writer.wait(event)
        self.readers.clear()
        self.marks.done.synchronize()

    def close(self) -> None:
        """Release everything; may be called twice. Freeing waits for all work of the device."""
        resources, self._resources = self._resources, []
        close_all(resources)


class DeviceBlock:
    """The memory of one result, until this and all that others hold of it are gone."""

    def __init__(self, memory: DeviceMemory, layout: ResultLayout, stream: int) -> None:
        """stream: of the caller, on which the result is ready in order."""
        self.memory = memory
        self.layout = layout
        self.stream = stream
        memory.readers.add(stream)

    def ready_on(self, stream: int) -> None:
        """Make the work that is put on a stream from now on wait for the result."""
        self.memory.readers.add(stream)
        with self.memory.cuda.borrowed_thread():
            Stream(self.memory.cuda, stream).wait(self.memory.marks.done)


class DeviceResultPool(Closing):
    """Device memory for results of one size, at most MOST_LENT of them at a time.

    Used in turns, so that a frame rarely waits for the readers of an earlier result. For one thread
    at a time; memory comes back from any. Closed, it frees what is not lent at once and the rest when
    it comes back.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._size = 0
        self._made = 0
        # Results end in the middle of anything, by the garbage collector: no lock can be taken
        # there, and a deque needs none.
        self._idle: deque[DeviceMemory] = deque()
        self._freed: deque[None] = deque()
        self._closed = False

    def take(self, layout: ResultLayout, writer: Stream, reader: int) -> DeviceBlock:
        """Return memory for a result that `writer` computes for the stream `reader`.

        Raises BadInputError while all results are held, EngineError without room.
        """
        self._size = max(self._size, ResultLayout.room_for(layout.size_hw[0] * layout.size_hw[1]))
        memory = self._fitting(writer)
        block = DeviceBlock(memory, layout, reader)
        back = weakref.finalize(block, self._take_back, memory)
        # The driver frees what a process still has at its end, and may be gone by then.
        back.atexit = False
        return block

    def close(self) -> None:
        """Free what is not lent; the rest frees itself. May be called twice."""
        self._closed = True
        self._free_returned()

    def _fitting(self, writer: Stream) -> DeviceMemory:
        if self._made - len(self._freed) < MOST_LENT:
            return self._new()
        if not self._idle:
            raise BadInputError(
                f"{MOST_LENT} results lie on the GPU and somebody holds every one; let go of those "
                "that are done with, or ask for result='host'"
            )
        memory = self._idle.popleft()
        if memory.buffer.size >= self._size:
            try:
                memory.enter(writer)
            except BaseException:
                self._free(memory)
                raise
            return memory
        self._free(memory)
        return self._new()

    def _new(self) -> DeviceMemory:
        memory = DeviceMemory(self._cuda, self._size)
        self._made += 1
        return memory

    def _take_back(self, memory: DeviceMemory) -> None:
        try:
            with self._cuda.borrowed_thread():
                memory.leave()
        except EngineError:
            # A stream that is gone cannot be waited for; freeing waits for all of them.
            self._free(memory)
            return
        self._idle.append(memory)
        if self._closed:
            self._free_returned()

    def _free_returned(self) -> None:
        with suppress(IndexError):
            while True:
                self._free(self._idle.popleft())

    def _free(self, memory: DeviceMemory) -> None:
        self._freed.append(None)
        # Of a GPU that was lost nothing can be released any more; the driver did so.
        with suppress(EngineError), self._cuda.borrowed_thread():
            memory.close()


class DeviceImage:
    """A label map or confidence, [H, W], on the GPU, for others to read in place.

    torch, CuPy, JAX and others take it by `from_dlpack` or `asarray`. Its memory is theirs until the
    last of what they made of it is gone; what reads it on another stream than the caller's must
    come by DLPack, which names that stream.
    """

    def __init__(self, block: DeviceBlock, offset: int, dtype: Any) -> None:
        self._block = block
        self._pointer = block.memory.buffer.pointer + offset
        self.shape = block.layout.size_hw
        self.dtype = np.dtype(dtype)

    @property
    def device(self) -> int:
        """Index of its GPU."""
        return self._block.memory.cuda.device.index

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._pointer, False),
            "strides": None,
            "stream": self._block.stream,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """Return a capsule whose memory is ready on `stream`: None for the default one, -1 for no wait.

        Raises BufferError for a copy or another device.
        """
        from dedos_deploy import _native

        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(
                "a result on the GPU is given where it lies; copy it, or use to_host()"
            )
        if stream == 0:
            raise ValueError("stream 0 is not told apart; 1 is the default stream, 2 the thread's")
        if stream != -1:
            self._block.ready_on(DEFAULT_STREAM if stream is None else stream)
        versioned = max_version is not None and max_version[0] >= 1
        where = self._block, self._pointer, self.shape, self.dtype.itemsize
        return _native.dlpack_give(*where, *self.__dlpack_device__(), versioned)

    def __repr__(self) -> str:
        height, width = self.shape
        return f"DeviceImage({height}x{width} {self.dtype}, GPU {self.device})"


class OnDevice:
    """A label map and its confidence that stay on the device."""

    def __init__(self, block: DeviceBlock, fetch: Callable[[DeviceBlock, bool], Labelled]) -> None:
        """fetch: waits for a result and returns it, only what was counted or all of it."""
        self._block = block
        self._fetch = fetch
        layout = block.layout
        self.label_map = DeviceImage(block, layout.ids, np.uint16 if layout.wide else np.uint8)
        self.confidence = DeviceImage(block, layout.confidence, np.uint8)

    def tally(self) -> tuple[NDArray[np.int64], dict[str, float]]:
        """Wait, and return pixels per class id and milliseconds. Raises EngineError."""
        fetched = self._fetch(self._block, False)
        return fetched.counts, fetched.latency_ms

    def to_host(self) -> Labelled:
        """Wait, and return everything on the host. Raises EngineError."""
        return self._fetch(self._block, True)
