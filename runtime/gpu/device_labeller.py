"""Frames labelled on the device: the frame goes up, the label map comes back, nothing between."""

from __future__ import annotations

import contextlib
import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.runtime.gpu.cuda import Cuda, DeviceBuffer, Kernels, close_all
from dedos_deploy.runtime.gpu.cuda_calls import DeviceLostError
from dedos_deploy.runtime.gpu.device_engine import DeviceEngine
from dedos_deploy.runtime.gpu.device_pending import DevicePending, PendingMarks, layout_of
from dedos_deploy.runtime.gpu.device_results import DeviceBlock, DeviceResultPool, OnDevice
from dedos_deploy.runtime.gpu.foreign_frames import ForeignFrames
from dedos_deploy.runtime.gpu.frame_marks import FrameMarks
from dedos_deploy.runtime.gpu.frame_places import DeviceFrame, FramePlaces, check_size
from dedos_deploy.runtime.gpu.kept_outputs import Kept, KeptOutputs, array_of
from dedos_deploy.runtime.gpu.resize_source import ResizeSource
from dedos_deploy.runtime.gpu.result_pool import (
    MARK_BYTES,
    MOST_CELLS,
    ResultBlock,
    ResultLayout,
    ResultPool,
)
from dedos_deploy.runtime.labelling import Asked, Labelled, unusable_scores
from dedos_deploy.runtime.pixels import ForeignFrame, Pixels
from dedos_deploy.runtime.slots import SlotTable
from dedos_deploy.spec import SLOT_BUCKETS

BLOCK = (32, 8)
LEADER_BYTES = RIVALS_BYTES = 16
_THRESHOLD_BYTES = 4 * SLOT_BUCKETS[-1]
"""Of thresholds, before the class ids of slots, so that both go up in one copy."""


class DeviceLabeller(Closing):
    """Resize, engine and label map on one stream; only label map, confidence and counts come back.

    Two frames may be under way: the second one's way up runs beside the work of the first. Results
    lie in page-locked memory that their receiver owns, into which a GPU that shares the CPU's memory
    writes by itself. Only a frame larger than all before allocates; other words do not.
    """

    def __init__(self, engine: DeviceEngine, kernels: Kernels) -> None:
        """engine: stays the caller's; kernels: of this installation, closed with this."""
        self._engine = engine
        self._cuda: Cuda = engine.cuda
        self._kernels = kernels
        self._mapped = self._cuda.device.integrated
        self._turn = 0
        self._copied = 0
        self._landing: DeviceBuffer | None = None
        self._resources: list[Closing] = [kernels]
        try:
            self._allocate()
        except BaseException:
            close_all(self._resources)
            raise

    def label(self, pixels: Pixels, table: SlotTable, *, explain: bool = False) -> Labelled:
        """Label a frame; see Labeller.label."""
        with self._engine.exclusive():
            return self._collect(self._submit(Asked(pixels, table, explain=explain)))

    def submit(self, pixels: Pixels, table: SlotTable, *, explain: bool = False) -> DevicePending:
        """Put a frame on its way and return at once; its array on the host is the caller's again.

        A third one waits for the first. Raises as `label` does.
        """
        with self._engine.exclusive():
            return self._submit(Asked(pixels, table, explain=explain))

    def label_on_device(self, pixels: Pixels, table: SlotTable, stream: int) -> OnDevice:
        """Put a frame on its way; its result is ready in order on `stream`. Nothing is waited for."""
        with self._engine.exclusive():
            self._use(table)
            frame = self._brought(pixels)
            layout = layout_of(frame, table)
            block = self._lent.take(layout, self._engine.stream, stream)
            memory = block.memory
            self._infer(frame, memory.marks)
            self._launch_labels(layout, table, memory.buffer.pointer, memory.buffer.pointer)
            memory.kept = self._kept.fetch(None)
            memory.marks.done.record(self._engine.stream)
            memory.frame = frame
            block.ready_on(stream)
            return OnDevice(block, self._fetch)

    def _fetch(self, block: DeviceBlock, whole: bool) -> Labelled:
        layout, marks = block.layout, block.memory.marks
        with self._engine.exclusive():
            self._pool.fit(layout.size_hw[0] * layout.size_hw[1])
            there = self._pool.take()
            self._fetches.wait(marks.done)
            wanted = there.bytes[: layout.size if whole else layout.tally_bytes]
            self._cuda.download(wanted, block.memory.buffer.pointer, self._fetches)
            self._fetches.synchronize()
            self._foreign.let_go()
            frame = block.memory.frame
            assert frame is not None, "labelled before"
            ms, kept = marks.latency_ms(frame.ms()), block.memory.kept
            return self._labelled(layout, there, ms, kept, whole=whole)

    def collect(self, pending: DevicePending) -> Labelled:
        """Wait for a frame of `submit` and return its result."""
        if pending.ready:
            return self._collect(pending)
        with self._engine.exclusive():
            return self._collect(pending)

    def facts(self) -> dict[str, Any]:
        """Return what can be said of the results so far, as JSON values."""
        return {"results_copied": self._copied}

    def close(self) -> None:
        """Release what is held on the device; the engine stays open. May be called twice.

        Frames under way are waited for, and results stay with their receivers.
        """
        resources, self._resources = self._resources, []
        landing, self._landing = self._landing, None
        if not resources:
            return
        # Of a GPU that was lost nothing can be released any more; the driver did so.
        with contextlib.suppress(DeviceLostError):
            self._cuda.activate()
            for marks in self._marks:
                marks.settle()
            self._frames.finish()
            close_all([*resources, *([landing] if landing is not None else [])])

    # One frame

    def _submit(self, asked: Asked) -> DevicePending:
        marks = self._marks[self._turn]
        marks.settle()
        self._turn = 1 - self._turn
        self._use(asked.table)
        frame = self._brought(asked.pixels)
        self._fit(frame.source.size_hw)
        return self._enqueue(frame, asked, marks)

    def _brought(self, pixels: Pixels) -> DeviceFrame:
        """Return the frame where the device sees it."""
        if isinstance(pixels, ForeignFrame):
            frame = self._foreign.open(pixels)
            check_size(frame.source.size_hw)
            return frame
        height, width = (pixels if isinstance(pixels, np.ndarray) else pixels.luma).shape[:2]
        check_size((height, width))
        self._frames.fit(height * width)
        return self._frames.place(pixels)

    def _enqueue(self, frame: DeviceFrame, asked: Asked, marks: PendingMarks) -> DevicePending:
        """Put all work of a frame on the stream."""
        pending = DevicePending(self.collect, asked.table, frame)
        pending.block = block = self._pool.take()
        self._infer(frame, marks)
        self._label(pending.layout, asked.table, block)
        pending.kept = self._kept.fetch(len(asked.table.valid) if asked.explain else None)
        marks.done.record(self._engine.stream)
        marks.pending = pending
        return pending

    def _infer(self, frame: DeviceFrame, marks: FrameMarks) -> None:
        """From a frame to its scores."""
        stream = self._engine.stream
        marks.started.record(stream)
        self._resize(frame.source)
        frame.was_read(stream)
        marks.resized.record(stream)
        self._engine.enqueue()
        marks.inferred.record(stream)

    def _collect(self, pending: DevicePending) -> Labelled:
        for marks in self._marks:
            if marks.pending is pending:
                marks.settle()
                self._foreign.let_go()
        if pending.error is not None:
            raise pending.error
        block, pending.block = pending.block, None
        assert block is not None, "collected once"
        return self._labelled(pending.layout, block, pending.latency_ms, pending.kept)

    def _labelled(
        self,
        layout: ResultLayout,
        block: ResultBlock,
        ms: dict[str, float],
        kept: Kept,
        whole: bool = True,
    ) -> Labelled:
        """whole: whether the maps are in the block, too."""
        self._check_scores(layout.broken(block.bytes))
        label_map, confidence = layout.maps_in(block.bytes)
        if whole and not block.lends:
            self._copied += 1
            label_map, confidence = label_map.copy(), confidence.copy()
        counts = layout.counts_in(block.bytes)[:-1].astype(np.int64)
        scores, pooled = map(array_of, kept)
        return Labelled(label_map, confidence, counts, ms, scores, pooled)

    # Memory

    def _allocate(self) -> None:
        cells = math.prod(self._engine.spec.score_hw)
        most = SLOT_BUCKETS[-1]
        self._leaders = self._device(cells * LEADER_BYTES, "leaders of score cells")
        self._rivals = self._device(cells * RIVALS_BYTES, "rivals between score cells")
        self._table = self._device(_THRESHOLD_BYTES + 2 * most, "thresholds and class ids")
        # Atomics stay in the device's own memory, which an integrated GPU caches.
        self._tally = self._device(MARK_BYTES + 4 * MOST_CELLS, "pixel counts")
        host_table = self._cuda.pinned((self._table.size,), np.uint8, "thresholds and class ids")
        self._resources.append(host_table)
        self._host_table = host_table.array
        self._marks: list[PendingMarks] = []
        for _ in range(2):
            self._marks.append(PendingMarks(self._cuda))
            self._resources += self._marks[-1].events
        self._resources.append(frames := FramePlaces(self._cuda, self._engine.stream))
        self._resources.append(foreign := ForeignFrames(self._cuda, self._engine.stream))
        self._resources.append(fetches := self._cuda.stream())
        self._frames, self._foreign, self._fetches = frames, foreign, fetches
        self._lent, self._kept = DeviceResultPool(self._cuda), KeptOutputs(self._engine)
        self._pool = ResultPool(self._cuda, mapped=self._mapped)
        self._resources += [self._lent, self._pool, self._kept]

    def _device(self, size: int, purpose: str) -> DeviceBuffer:
        buffer = self._cuda.allocate(size, purpose)
        self._resources.append(buffer)
        return buffer

    def _fit(self, size_hw: tuple[int, int]) -> None:
        """Make room for results of that size."""
        pixels = size_hw[0] * size_hw[1]
        self._pool.fit(pixels)
        size = ResultLayout.room_for(pixels)
        if self._mapped or (self._landing is not None and self._landing.size >= size):
            return
        self._frames.finish()
        old, self._landing = self._landing, None
        if old is not None:
            old.close()
        self._landing = self._cuda.allocate(size, "a label map")

    # What is put on the stream

    def _use(self, table: SlotTable) -> None:
        """Upload a table unless it is the one of the last frame.

        Its host side is free again when `set_text` has waited for the stream.
        """
        if table is self._engine.text_of:
            return
        self._put(table, self._host_table)
        self._engine.set_text(table.text, table.valid, owner=table)

    def _put(self, table: SlotTable, host: NDArray[np.uint8]) -> None:
        """Upload thresholds and class ids by way of `host`."""
        slots = len(table.valid)
        host[: 4 * slots].view(np.float32)[:] = table.thresholds
        ids = host[_THRESHOLD_BYTES : _THRESHOLD_BYTES + 2 * slots]
        ids.view(np.uint16)[:] = table.slot_ids
        self._cuda.upload(self._table.pointer, host, self._engine.stream)

    def _resize(self, source: ResizeSource, row: int = 0) -> None:
        """From a frame to a row of the engine's image."""
        spec = self._engine.spec
        image = self._engine.image.pointer + row * spec.height * spec.width * 3
        size = ((spec.height, ctypes.c_int), (spec.width, ctypes.c_int))
        self._kernels.launch(
            source.kernel,
            _grid(spec.height, spec.width),
            BLOCK,
            [*source.arguments, (image, ctypes.c_void_p), *size],
            self._engine.stream,
        )

    def _label(
        self, layout: ResultLayout, table: SlotTable, block: ResultBlock, first: int = 0
    ) -> None:
        """From scores, whose first byte is `first`, to a block of the host."""
        stream = self._engine.stream
        if self._landing is None:
            self._launch_labels(layout, table, self._tally.pointer, block.device_pointer, first)
            tally = block.bytes[: layout.tally_bytes]
            self._cuda.download(tally, self._tally.pointer, stream)
        else:
            landing = self._landing.pointer
            self._launch_labels(layout, table, landing, landing, first)
            self._cuda.download(block.bytes[: layout.size], landing, stream)

    def _launch_labels(
        self, layout: ResultLayout, table: SlotTable, tally: int, maps: int, first: int = 0
    ) -> None:
        """From scores to mark and counts at `tally`, ids and confidence in a block at `maps`."""
        spec, stream, cuda = self._engine.spec, self._engine.stream, self._cuda
        rows, columns = spec.score_hw
        kind = "f16" if spec.score_dtype == "float16" else "f32"
        scores = [
            (self._engine.scores.pointer + first, ctypes.c_void_p),
            (len(table.valid), ctypes.c_int),
            (rows, ctypes.c_int),
            (columns, ctypes.c_int),
            (self._leaders.pointer, ctypes.c_void_p),
        ]
        cuda.fill(tally, 0xFF, MARK_BYTES, stream)
        cuda.fill(tally + MARK_BYTES, 0, 4 * layout.cells, stream)
        rivals = (self._rivals.pointer, ctypes.c_void_p)
        for name, last in (("leaders", (tally, ctypes.c_void_p)), ("rivals", rivals)):
            grid = _grid(1, rows * columns, (256, 1))
            self._kernels.launch(f"dedos_{name}_{kind}", grid, (256, 1), [*scores, last], stream)
        self._kernels.launch(
            f"dedos_labels_{kind}_{'u16' if layout.wide else 'u8'}",
            _grid(*layout.size_hw),
            BLOCK,
            [
                *scores,
                rivals,
                (self._table.pointer, ctypes.c_void_p),
                (self._table.pointer + _THRESHOLD_BYTES, ctypes.c_void_p),
                (maps + layout.ids, ctypes.c_void_p),
                (maps + layout.confidence, ctypes.c_void_p),
                (layout.size_hw[0], ctypes.c_int),
                (layout.size_hw[1], ctypes.c_int),
                (tally + MARK_BYTES, ctypes.c_void_p),
                (layout.cells, ctypes.c_int),
            ],
            stream,
        )

    def _check_scores(self, broken: int | None) -> None:
        if broken is None:
            return
        rows, columns = self._engine.spec.score_hw
        slot, cell = divmod(broken, rows * columns)
        raise unusable_scores(
            f"slot {slot} is not finite at row {cell // columns}, column {cell % columns}"
        )


def _grid(height: int, width: int, block: tuple[int, int] = BLOCK) -> tuple[int, int]:
    """Return blocks along x and y that cover an image."""
    return math.ceil(width / block[0]), math.ceil(height / block[1])
