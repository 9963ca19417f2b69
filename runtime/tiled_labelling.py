"""From a frame to its label map through windows: each resized and run, their scores blended, one arg max."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.runtime.engines.tensors import Infer
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.runtime.labelling import Asked, HostLabeller, Labelled, Seen
from dedos_deploy.runtime.pixels import Pixels, bgr_on_host
from dedos_deploy.runtime.results import DeviceLabelled
from dedos_deploy.runtime.slots import SlotTable
from dedos_deploy.runtime.tiling import Plan, Tiling, Window
from dedos_deploy.spec import GraphSpec


class TiledLabeller(HostLabeller):
    """Labels frames through the windows of a tiling, on the CPU, around any engine.

    A frame that is looked at whole goes the way of HostLabeller. Of another one as many windows as the
    largest graph takes go into a run; little is allocated while frames keep their size and words: mirrored
    pictures.
    """

    def __init__(
        self, spec: GraphSpec, runs: Mapping[int, Infer], tiling: Tiling, *, threads: int
    ) -> None:
        """spec: of the graph for one image; runs: ways to run so many images, 1 among them, which
        stay the caller's; threads: for blending and the label map. Raises BadInputError for a stride
        that is too long for the network."""
        super().__init__(spec, runs[1], threads=threads)
        self._network_hw = spec.height, spec.width
        tiling.check(self._network_hw)
        self._tiling = tiling
        self._runs = dict(sorted(runs.items()))
        self._images = {
            batch: np.zeros((batch, *self._network_hw, 3), dtype=np.uint8) for batch in runs
        }
        self._images[1] = self._image
        self._blended = np.empty((0, 0, 0), dtype=np.float32)

    def label_all(self, frames: Sequence[Asked]) -> list[Labelled | DedosError]:
        """Label frames one after the other; see RunLabeller.label_all."""
        return [self._label(frame) for frame in frames]

    def label_on_device(self, pixels: Pixels, table: SlotTable, stream: int) -> DeviceLabelled:
        raise BadInputError(
            "frames that are looked at through tiles are labelled on the host; leave result='device' out, "
            "or load with tiles='off'"
        )

    def _label(self, frame: Asked) -> Labelled | DedosError:
        try:
            frame_bgr = bgr_on_host(frame.pixels)
            size_hw = frame_bgr.shape[0], frame_bgr.shape[1]
            plan = self._tiling.plan(size_hw, self._network_hw)
        except BadInputError as error:
            return error
        if plan.is_whole:
            return super().label_all([frame])[0]
        ms = {"pre": 0.0, "engine": 0.0, "post": 0.0}
        blended, of_the_whole = self._empty(len(frame.table.valid), plan), None
        for windows in self._shared_runs(plan.windows):
            pooled = self._add(windows, frame_bgr, frame.table, blended, ms)
            of_the_whole = pooled if of_the_whole is None else of_the_whole
        if frame.stabiliser is not None:
            resize_frame(frame_bgr, self._image[0])
        inferred, count = time.perf_counter(), len(plan.windows)
        seen = Seen(frame, size_hw, self._image[0], ms, inferred, of_the_whole, count)
        return self._labelled(blended, seen)

    def _shared_runs(self, windows: Sequence[Window]) -> Iterator[Sequence[Window]]:
        """Yield the windows of one run after the other, each as many as the largest graph they fill."""
        left = windows
        while left:
            size = max(batch for batch in self._runs if batch <= len(left))
            yield left[:size]
            left = left[size:]

    def _add(
        self,
        windows: Sequence[Window],
        frame_bgr: NDArray[np.uint8],
        table: SlotTable,
        blended: NDArray[np.float32],
        ms: dict[str, float],
    ) -> NDArray[np.float32] | None:
        """Run some windows, add their scores, and to `ms` what that took.

        Returns pooled features float32 [P] of the one among them that shows the frame as a whole.
        """
        image = self._images[len(windows)]
        started = time.perf_counter()
        for window, picture in zip(windows, image, strict=True):
            _show(window, frame_bgr, picture)
        resized = time.perf_counter()
        scores, pooled = self._run(self._runs[len(windows)], image, table)
        inferred = time.perf_counter()
        for window, its in zip(windows, scores, strict=True):
            window.blend(its, blended, threads=self._threads)
        ms["pre"] += 1e3 * (resized - started)
        ms["engine"] += 1e3 * (inferred - resized)
        ms["post"] += 1e3 * (time.perf_counter() - inferred)
        if pooled is None:
            return None
        shown = zip(windows, pooled, strict=True)
        return next((row.copy() for window, row in shown if window.is_whole(frame_bgr.shape)), None)

    def _empty(self, slots: int, plan: Plan) -> NDArray[np.float32]:
        if self._blended.shape != (slots, *plan.score_hw):
            self._blended = np.empty((slots, *plan.score_hw), dtype=np.float32)
        self._blended.fill(0.0)
        return self._blended


def _show(window: Window, frame_bgr: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Write a window at the network's size, uint8 [H0, W0, 3]."""
    top, left, bottom, right = window.box
    resize_frame(frame_bgr[top:bottom, left:right], out)
    if window.flipped:
        np.copyto(out, out[:, ::-1].copy())
