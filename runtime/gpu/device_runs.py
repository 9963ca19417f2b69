"""Several frames in one run on the device: each resized into its row, each row's scores labelled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from dedos_deploy.errors import BadInputError, DedosError, EngineError
from dedos_deploy.runtime.gpu.cuda import Kernels
from dedos_deploy.runtime.gpu.device_engine import DeviceEngine
from dedos_deploy.runtime.gpu.device_labeller import DeviceLabeller
from dedos_deploy.runtime.gpu.device_pending import layout_of
from dedos_deploy.runtime.gpu.frame_places import DeviceFrame
from dedos_deploy.runtime.gpu.kept_outputs import Kept
from dedos_deploy.runtime.gpu.kernels_file import KernelsError
from dedos_deploy.runtime.gpu.result_pool import ResultBlock, ResultLayout
from dedos_deploy.runtime.labelling import Asked, Labelled
from dedos_deploy.runtime.pixels import Pixels
from dedos_deploy.runtime.slots import SlotTable
from dedos_deploy.spec import bucket_for

_LOG = logging.getLogger(__name__)

_Device = TypeVar("_Device", bound=DeviceLabeller)
_Place = DeviceFrame | BadInputError
_OnItsWay = tuple[ResultLayout, ResultBlock, Kept] | BadInputError


class DeviceRunLabeller(DeviceLabeller):
    """Labels as many frames in one run as its engine takes; all work of a run is waited for."""

    def __init__(self, engine: DeviceEngine, kernels: Kernels) -> None:
        super().__init__(engine, kernels)
        self._host_tables = [self._host_table]
        try:
            for _ in range(1, engine.spec.batch):
                host = self._cuda.pinned((self._table.size,), np.uint8, "thresholds and class ids")
                self._resources.append(host)
                self._host_tables.append(host.array)
        except BaseException:
            self.close()
            raise

    def label_all(self, frames: Sequence[Asked]) -> list[Labelled | DedosError]:
        """Label frames in one run; see RunLabeller.label_all."""
        with self._engine.exclusive():
            marks, stream = self._marks[0], self._engine.stream
            row_bytes = self._use_words(frames[0].table)
            marks.started.record(stream)
            places = [self._place(row, frame.pixels) for row, frame in enumerate(frames)]
            marks.resized.record(stream)
            self._engine.enqueue()
            marks.inferred.record(stream)
            under_way = [
                self._begun(place, frame, row, row * row_bytes)
                for row, (place, frame) in enumerate(zip(places, frames, strict=True))
            ]
            marks.done.record(stream)
            marks.done.synchronize()
            self._foreign.let_go()
            upload_ms = sum(place.ms() for place in places if isinstance(place, DeviceFrame))
            latency_ms = marks.latency_ms(upload_ms)
            return [self._outcome(one, latency_ms) for one in under_way]

    def _use_words(self, table: SlotTable) -> int:
        """Upload the words of a table unless they are there; return the bytes of a row's scores."""
        if self._engine.text_of != table.words:
            self._engine.set_text(table.text, table.valid, owner=table.words)
        spec = self._engine.spec
        cells = bucket_for(len(table.valid)) * int(np.prod(spec.score_hw))
        return cells * np.dtype(spec.score_dtype).itemsize

    def _place(self, row: int, pixels: Pixels) -> _Place:
        try:
            frame = self._brought(pixels)
        except BadInputError as error:
            return error
        self._resize(frame.source, row)
        frame.was_read(self._engine.stream)
        return frame

    def _begun(self, place: _Place, frame: Asked, row: int, first: int) -> _OnItsWay:
        """Put a row's label map on the stream; first: byte of the scores at which it begins."""
        if isinstance(place, BadInputError):
            return place
        table = frame.table
        self._fit(place.source.size_hw)
        layout, block = layout_of(place, table), self._pool.take()
        self._put(table, self._host_tables[row])
        self._label(layout, table, block, first)
        slots = len(table.valid) if frame.explain else None
        return layout, block, self._kept.fetch(slots, first=first, row=row)

    def _outcome(self, one: _OnItsWay, latency_ms: dict[str, float]) -> Labelled | DedosError:
        if isinstance(one, BadInputError):
            return one
        try:
            layout, block, kept = one
            return self._labelled(layout, block, dict(latency_ms), kept)
        except EngineError as error:
            return error


def on_device(kind: type[_Device], engine: DeviceEngine, kernels: Path | None) -> _Device | None:
    """Return a labeller with the kernels of a fat binary; None, with a warning that says why, without
    one and where the GPU's driver does not take it. Raises EngineError."""
    try:
        if kernels is None:
            raise KernelsError(
                "this installation has no CUDA kernels; install from source with nvcc to have them"
            )
        engine.cuda.activate()
        return kind(engine, engine.cuda.kernels(kernels.read_bytes()))
    except KernelsError as error:
        _LOG.warning("frames are resized and labelled on the CPU: %s", error)
        return None
