"""A frame under way on the device, and the marks between which it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.frame_marks import FrameMarks
from dedos_deploy.runtime.gpu.frame_places import DeviceFrame
from dedos_deploy.runtime.gpu.kept_outputs import Kept
from dedos_deploy.runtime.gpu.result_pool import ResultBlock, ResultLayout
from dedos_deploy.runtime.labelling import Labelled
from dedos_deploy.runtime.slots import SlotTable


class DevicePending:
    """A frame under way on the device."""

    def __init__(
        self, collect: Callable[[DevicePending], Labelled], table: SlotTable, frame: DeviceFrame
    ) -> None:
        """collect: of the labeller, waits for a frame and returns its result."""
        self._collect = collect
        self.layout = layout_of(frame, table)
        self.frame = frame
        self.block: ResultBlock | None = None
        self.kept: Kept = (None, None)
        self.latency_ms: dict[str, float] = {}
        self.error: EngineError | None = None
        """What came of it instead of a result."""

    @property
    def ready(self) -> bool:
        """Whether the device is known to be done with it."""
        return bool(self.latency_ms) or self.error is not None

    def result(self) -> Labelled:
        """Wait for it and return it; call it once. Raises EngineError."""
        return self._collect(self)


class PendingMarks(FrameMarks):
    """Marks of one frame after the other, and whose frame is under way."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__(cuda)
        self.pending: DevicePending | None = None

    def settle(self) -> None:
        """Wait for the frame, if one is under way, and note its times, or what it failed by."""
        pending = self.pending
        if pending is None:
            return
        try:
            self.done.synchronize()
            pending.latency_ms = self.latency_ms(pending.frame.ms())
        except EngineError as error:
            # For whoever asks for its result; the frame that comes now is none of it.
            pending.error = error
        self.pending = None


def layout_of(frame: DeviceFrame, table: SlotTable) -> ResultLayout:
    """Return where the parts of a frame's result lie."""
    wide = table.empty_label_map((0, 0)).dtype == np.uint16
    return ResultLayout(frame.source.size_hw, len(table.names) + 1, wide)
