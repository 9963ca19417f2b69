"""A frame that was begun and is asked for later."""

from __future__ import annotations

import threading

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.labelling import Pending
from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.results import host_segmentation
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.slots import SlotTable


class PendingSegmentation:
    """A frame under way, of `Segmenter.submit`."""

    def __init__(
        self,
        pending: Pending,
        table: SlotTable,
        captured_s: float,
        *,
        busy: threading.Lock,
        process: OneProcess,
    ) -> None:
        """table: whose words it was begun with; busy: held by whoever uses the engine."""
        self._pending: Pending | None = pending
        self._table = table
        self._captured_s = captured_s
        self._busy = busy
        self._process = process

    @property
    def ready(self) -> bool:
        """Whether `result` would not wait."""
        pending = self._pending
        return pending is None or pending.ready

    def result(self) -> Segmentation:
        """Wait for the frame and return its label map; call it once.

        Raises EngineError, and BadInputError when it was returned before.
        """
        self._process.check()
        with self._busy:
            if self._pending is None:
                raise BadInputError(
                    "the result of this frame was returned before and is kept by nobody else; keep "
                    "what `result` returned"
                )
            labelled = self._pending.result()
            self._pending = None
        return host_segmentation(labelled, self._table, self._captured_s)
