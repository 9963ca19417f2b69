"""Results of frames: what a labeller gives, under the words of the table it was made with."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.explaining import Evidence
from dedos_deploy.runtime.foreign_arrays import CudaArray, DlpackArray
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.slots import SlotTable


class DeviceMap(DlpackArray, CudaArray, Protocol):
    """An array [H, W] on a GPU for others to read in place, by either protocol."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]


class HostMaps(Protocol):
    """A label map and what goes with it, on the host."""

    @property
    def label_map(self) -> NDArray[np.uint8] | NDArray[np.uint16]: ...

    @property
    def confidence(self) -> NDArray[np.uint8]: ...

    @property
    def counts(self) -> NDArray[np.int64]: ...

    @property
    def latency_ms(self) -> Mapping[str, float]: ...

    @property
    def scores(self) -> NDArray[Any] | None: ...

    @property
    def pooled(self) -> NDArray[np.float32] | None: ...

    @property
    def windows(self) -> int: ...


class DeviceLabelled(Protocol):
    """A label map and its confidence on a GPU; one caller at a time."""

    @property
    def label_map(self) -> DeviceMap: ...

    @property
    def confidence(self) -> DeviceMap: ...

    def tally(self) -> tuple[NDArray[np.int64], Mapping[str, float]]:
        """Wait, and return pixels per class id and milliseconds. Raises EngineError."""
        ...

    def to_host(self) -> HostMaps:
        """Wait, and return everything on the host. Raises EngineError."""
        ...


@dataclass(frozen=True, eq=False)
class DeviceSegmentation:
    """The label map of one frame, on the GPU; nothing was waited for when it was returned.

    What is put from now on on the stream that `segment` was told finds it there. Its memory is the
    receiver's until this and all that others made of the arrays are gone; eight such results may be
    held at a time. Scores that are no numbers show with the first wait.
    """

    label_map: DeviceMap
    """uint8 [H, W] class ids, `none_id` where nothing was named; uint16 while a vocabulary has more
    than 254 classes."""

    confidence: DeviceMap
    """uint8 [H, W], 255 times the winning score, also of a calibrated bundle: what stays on the GPU gives
    raw scores, `to_host` what they are worth."""

    classes: tuple[str, ...]
    """Name of every class id of this result."""

    class_ids: tuple[int, ...]
    """Ids that this frame was asked for, in the order of the vocabulary."""

    none_id: int
    """Id of unlabelled pixels."""

    vocabulary_version: int
    """1 for the first class list, one more per change."""

    timestamp_s: float
    """`time.monotonic()` of the frame's capture."""

    _table: SlotTable = field(repr=False)
    _labelled: DeviceLabelled = field(repr=False)
    _busy: threading.Lock = field(repr=False)

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 [len(classes)] pixels per class id; waits for the frame. Raises EngineError."""
        with self._busy:
            return self._labelled.tally()[0]

    @property
    def latency_ms(self) -> Mapping[str, float]:
        """Milliseconds of `pre`, `engine` and `post`; waits for the frame. Raises EngineError."""
        with self._busy:
            return self._labelled.tally()[1]

    def synchronize(self) -> None:
        """Wait until the frame is done. Raises EngineError for scores that are no numbers."""
        with self._busy:
            self._labelled.tally()

    def to_host(self) -> Segmentation:
        """Wait for the frame and return its result on the host. Raises EngineError."""
        with self._busy:
            there = self._labelled.to_host()
        return host_segmentation(there, self._table, self.timestamp_s)

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        return (
            f"DeviceSegmentation({height}x{width} {self.label_map.dtype}, "
            f"{len(self.class_ids)} classes, version {self.vocabulary_version})"
        )


def read_curves(
    label_map: NDArray[Any], confidence: NDArray[np.uint8], curves: NDArray[np.uint8]
) -> None:
    """Replace scores by what they are worth, in place.

    label_map: uint8 or uint16 [H, W]; confidence: uint8 [H, W], 255 times the winning score; curves:
    as `SlotTable.curves` has them.
    """
    from dedos_deploy import _native

    _native.read_curves(label_map, curves, confidence)


def host_segmentation(labelled: HostMaps, table: SlotTable, captured_s: float) -> Segmentation:
    """Return a labelled frame with the words of its table; its confidence is written to in place."""
    pooled, latency_ms = labelled.pooled, labelled.latency_ms
    if table.curves is not None:
        started = time.perf_counter()
        read_curves(labelled.label_map, labelled.confidence, table.curves)
        spent_ms = 1e3 * (time.perf_counter() - started)
        latency_ms = {**latency_ms, "post": latency_ms["post"] + spent_ms}
    return Segmentation(
        label_map=labelled.label_map,
        confidence=labelled.confidence,
        classes=table.names,
        class_ids=table.class_ids,
        counts=labelled.counts,
        none_id=table.none_id,
        vocabulary_version=table.version,
        timestamp_s=captured_s,
        latency_ms=latency_ms,
        colours_bgr=table.colours_bgr,
        calibrated=table.curves is not None,
        evidence=None if labelled.scores is None else Evidence(labelled.scores, table.contest),
        trust=None if table.trust is None or pooled is None else table.trust.of(pooled),
        windows=labelled.windows,
    )


def device_segmentation(
    labelled: DeviceLabelled, table: SlotTable, captured_s: float, busy: threading.Lock
) -> DeviceSegmentation:
    """Return a labelled frame with the words of its table; busy: held by whoever uses the engine."""
    return DeviceSegmentation(
        label_map=labelled.label_map,
        confidence=labelled.confidence,
        classes=table.names,
        class_ids=table.class_ids,
        none_id=table.none_id,
        vocabulary_version=table.version,
        timestamp_s=captured_s,
        _table=table,
        _labelled=labelled,
        _busy=busy,
    )
