"""Frames labelled on the device: the frame goes up, the label map comes back, nothing between."""

from __future__ import annotations

import contextlib
import ctypes
import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError
from dedos_deploy.picture_sizes import MOST_PIXELS
from dedos_deploy.runtime.gpu.cuda import (
    Cuda,
    DeviceBuffer,
    DeviceLostError,
    Event,
    Kernels,
    PinnedArray,
    Stream,
    close_all,
)
from dedos_deploy.runtime.labelling import Labelled, unusable_scores
from dedos_deploy.runtime.pixels import Pixels, bgr_on_host
from dedos_deploy.runtime.slots import SlotTable
from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec

BLOCK = (32, 8)
LEADER_BYTES = 16
MOST_CELLS = 65536
"""Ids that are counted: every class id of a session and one for unlabelled pixels."""

_NOT_BROKEN = 2**64 - 1


class DeviceEngine(Protocol):
    """What a frame is labelled with on the device: an engine whose buffers lie there."""

    spec: GraphSpec
    cuda: Cuda
    stream: Stream
    image: DeviceBuffer
    scores: DeviceBuffer

    text_of: object
    """Owner of the text that is on the device, as `set_text` was told."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the engine for one frame."""
        ...

    def set_text(
        self, text: NDArray[np.float32], valid: NDArray[np.float32], owner: object = None
    ) -> int:
        """Put text float32 [K, D] and valid float32 [K] on the device; return the padded K."""
        ...

    def enqueue(self) -> None:
        """Put one run on the stream, from `image` to `scores`."""
        ...


class DeviceLabeller(Closing):
    """Resize, engine and label map on one stream; only label map, confidence and counts come back.

    Buffers of frame size are allocated for the first frame and again only for a larger one.
    """

    def __init__(self, engine: DeviceEngine, kernels: Kernels) -> None:
        """engine: stays the caller's; kernels: of this installation, closed with this."""
        self._engine = engine
        self._cuda: Cuda = engine.cuda
        self._kernels = kernels
        self._frame: _FrameBuffers | None = None
        self._resources: list[Closing] = [kernels]
        try:
            self._allocate()
        except BaseException:
            close_all(self._resources)
            raise

    @classmethod
    def open(cls, engine: DeviceEngine, kernels: Path) -> DeviceLabeller:
        """Return one with the kernels of a fat binary. Raises EngineError."""
        return cls(engine, engine.cuda.kernels(kernels.read_bytes()))

    def label(self, pixels: Pixels, table: SlotTable) -> Labelled:
        """Label a frame; see Labeller.label."""
        frame_bgr = bgr_on_host(pixels)
        height, width = frame_bgr.shape[:2]
        if height * width > MOST_PIXELS:
            raise BadInputError(
                f"a frame of {height}x{width} has more than {MOST_PIXELS} pixels; make it smaller"
            )
        with self._engine.exclusive():
            frame = self._buffers(height * width)
            self._use(table)
            self._start.record(self._engine.stream)
            self._resize(frame_bgr, frame)
            self._resized.record(self._engine.stream)
            self._engine.enqueue()
            self._inferred.record(self._engine.stream)
            label_map, confidence, counts = self._label(frame, table, (height, width))
            self._done.record(self._engine.stream)
            self._engine.stream.synchronize()
            self._check_scores()
            return Labelled(
                label_map.copy(),
                confidence.copy(),
                counts[:-1].astype(np.int64),
                {
                    "pre": self._resized.ms_since(self._start),
                    "engine": self._inferred.ms_since(self._resized),
                    "post": self._done.ms_since(self._inferred),
                },
            )

    def close(self) -> None:
        """Release what is held on the device; the engine stays open. May be called twice."""
        resources, self._resources = self._resources, []
        frame, self._frame = self._frame, None
        if not resources:
            return
        # Of a GPU that was lost nothing can be released any more; the driver did so.
        with contextlib.suppress(DeviceLostError):
            self._cuda.activate()
            close_all([*resources, *(frame.resources if frame is not None else [])])

    def _allocate(self) -> None:
        cells = math.prod(self._engine.spec.score_hw)
        most = SLOT_BUCKETS[-1]
        self._leaders = self._device(cells * LEADER_BYTES, "leaders of score cells")
        self._thresholds = self._device(most * 4, "thresholds")
        self._slot_ids = self._device(most * 2, "class ids of slots")
        # Counts and the mark of a broken score lie together, to come back in one copy.
        self._tally = self._device(8 + MOST_CELLS * 4, "pixel counts")
        self._host_tally = self._pinned((8 + MOST_CELLS * 4,), np.uint8, "pixel counts")
        self._host_thresholds = self._pinned((most,), np.float32, "thresholds")
        self._host_slot_ids = self._pinned((most,), np.uint16, "class ids of slots")
        self._start, self._resized, self._inferred, self._done = (self._event() for _ in range(4))

    def _device(self, size: int, purpose: str) -> DeviceBuffer:
        buffer = self._cuda.allocate(size, purpose)
        self._resources.append(buffer)
        return buffer

    def _pinned(
        self, shape: tuple[int, ...], dtype: DTypeLike, purpose: str
    ) -> NDArray[np.generic]:
        pinned = self._cuda.pinned(shape, dtype, purpose)
        self._resources.append(pinned)
        return pinned.array

    def _event(self) -> Event:
        event = self._cuda.event()
        self._resources.append(event)
        return event

    def _buffers(self, pixels: int) -> _FrameBuffers:
        if self._frame is None or self._frame.pixels < pixels:
            old, self._frame = self._frame, None
            if old is not None:
                close_all(old.resources)
            self._frame = _FrameBuffers(self._cuda, pixels)
        return self._frame

    def _use(self, table: SlotTable) -> None:
        """Upload a table unless it is the one of the last frame."""
        if table is self._engine.text_of:
            return
        slots, stream = len(table.valid), self._engine.stream
        for host, values, dest in (
            (self._host_thresholds, table.thresholds, self._thresholds),
            (self._host_slot_ids, table.slot_ids, self._slot_ids),
        ):
            host[:slots] = values
            self._cuda.upload(dest.pointer, host[:slots], stream)
        self._engine.set_text(table.text, table.valid, owner=table)

    def _resize(self, frame_bgr: NDArray[np.uint8], frame: _FrameBuffers) -> None:
        spec, stream = self._engine.spec, self._engine.stream
        height, width = frame_bgr.shape[:2]
        pinned = frame.host_source.array[: frame_bgr.size].reshape(frame_bgr.shape)
        np.copyto(pinned, frame_bgr)
        self._cuda.upload(frame.source.pointer, pinned, stream)
        self._kernels.launch(
            "dedos_resize",
            _grid(spec.height, spec.width),
            BLOCK,
            [
                (frame.source.pointer, ctypes.c_void_p),
                (height, ctypes.c_int),
                (width, ctypes.c_int),
                (3 * width, ctypes.c_longlong),
                (3, ctypes.c_longlong),
                (1, ctypes.c_longlong),
                (self._engine.image.pointer, ctypes.c_void_p),
                (spec.height, ctypes.c_int),
                (spec.width, ctypes.c_int),
            ],
            stream,
        )

    def _label(
        self, frame: _FrameBuffers, table: SlotTable, size_hw: tuple[int, int]
    ) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.uint8], NDArray[np.uint32]]:
        spec, stream, cuda = self._engine.spec, self._engine.stream, self._cuda
        rows, columns = spec.score_hw
        cells = len(table.names) + 1
        wide = table.empty_label_map((0, 0)).dtype == np.uint16
        kind = "f16" if spec.score_dtype == "float16" else "f32"
        scores = [
            (self._engine.scores.pointer, ctypes.c_void_p),
            (len(table.valid), ctypes.c_int),
            (rows, ctypes.c_int),
            (columns, ctypes.c_int),
            (self._leaders.pointer, ctypes.c_void_p),
        ]
        cuda.fill(self._tally.pointer, 0xFF, 8, stream)
        cuda.fill(self._tally.pointer + 8, 0, 4 * cells, stream)
        self._kernels.launch(
            f"dedos_leaders_{kind}",
            _grid(1, rows * columns, (256, 1)),
            (256, 1),
            [*scores, (self._tally.pointer, ctypes.c_void_p)],
            stream,
        )
        self._kernels.launch(
            f"dedos_labels_{kind}_{'u16' if wide else 'u8'}",
            _grid(*size_hw),
            BLOCK,
            [
                *scores,
                (self._thresholds.pointer, ctypes.c_void_p),
                (self._slot_ids.pointer, ctypes.c_void_p),
                (frame.ids.pointer, ctypes.c_void_p),
                (frame.confidence.pointer, ctypes.c_void_p),
                (size_hw[0], ctypes.c_int),
                (size_hw[1], ctypes.c_int),
                (self._tally.pointer + 8, ctypes.c_void_p),
                (cells, ctypes.c_int),
            ],
            stream,
        )
        pixels = size_hw[0] * size_hw[1]
        ids = frame.host_ids.array[: pixels * (2 if wide else 1)]
        confidence = frame.host_confidence.array[:pixels]
        tally = self._host_tally[: 8 + 4 * cells]
        cuda.download(ids, frame.ids.pointer, stream)
        cuda.download(confidence, frame.confidence.pointer, stream)
        cuda.download(tally, self._tally.pointer, stream)
        dtype = np.uint16 if wide else np.uint8
        return (
            ids.view(dtype).reshape(size_hw),
            confidence.reshape(size_hw),
            tally[8:].view(np.uint32),
        )

    def _check_scores(self) -> None:
        broken = int(self._host_tally[:8].view(np.uint64)[0])
        if broken == _NOT_BROKEN:
            return
        rows, columns = self._engine.spec.score_hw
        slot, cell = divmod(broken, rows * columns)
        raise unusable_scores(
            f"slot {slot} is not finite at row {cell // columns}, column {cell % columns}"
        )


class _FrameBuffers:
    """Buffers for frames of up to `pixels` pixels."""

    def __init__(self, cuda: Cuda, pixels: int) -> None:
        self.pixels = pixels
        self.resources: list[Closing] = []
        try:
            self.source = self._device(cuda, 3 * pixels, "a frame")
            self.ids = self._device(cuda, 2 * pixels, "a label map")
            self.confidence = self._device(cuda, pixels, "the confidence of a frame")
            self.host_source = self._pinned(cuda, 3 * pixels, "a frame")
            self.host_ids = self._pinned(cuda, 2 * pixels, "a label map")
            self.host_confidence = self._pinned(cuda, pixels, "the confidence of a frame")
        except BaseException:
            close_all(self.resources)
            raise

    def _device(self, cuda: Cuda, size: int, purpose: str) -> DeviceBuffer:
        buffer = cuda.allocate(size, purpose)
        self.resources.append(buffer)
        return buffer

    def _pinned(self, cuda: Cuda, size: int, purpose: str) -> PinnedArray:
        pinned = cuda.pinned((size,), np.uint8, purpose)
        self.resources.append(pinned)
        return pinned


def _grid(height: int, width: int, block: tuple[int, int] = BLOCK) -> tuple[int, int]:
    """Return blocks along x and y that cover an image."""
    return math.ceil(width / block[0]), math.ceil(height / block[1])
